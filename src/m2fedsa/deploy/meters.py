"""What a main server counts of itself, in the form of Prometheus, and how it answers whoever asks after its health."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from m2fedsa.errors import LinkError

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Meters:
    """See `links.grpc_server.Meter`; no figure names a client, so that their number never makes the figures many."""

    def __init__(self) -> None:
        """All at zero, in a registry of their own."""
        self.registry = CollectorRegistry()
        self._opened = self._counter("streams_opened", "Streams that were opened.", "kind")
        self._ended = self._counter("streams_ended", "Streams that have ended, and how.", "kind", "how")
        self._refused = self._counter("refusals", "What was refused, by the class of the error.", "error")
        self._bytes = self._counter("bytes", "Bytes of frames; up: from clients.", "direction")
        self._computed = self._counter("computations", "Forwards, backwards and evaluations.", "what")
        self._samples = self._histogram("batch_samples", "Samples of a computation.", _SAMPLES, "what")
        self._seconds = self._histogram("answer_seconds", "From a message to its answer.", _SECONDS, "what")
        self._together = self._histogram("window_clients", "Clients whose steps ran as one batch.", _SAMPLES[:6])
        self._gauge("resident_bytes", "Memory of the process.").set_function(lambda: psutil.Process().memory_info().rss)

    def watch(self, name: str, told: str, value: Callable[[], float]) -> None:
        """A figure that is looked up when somebody asks."""
        self._gauge(name, told).set_function(value)

    def opened(self, kind: str) -> None:
        """See `Meter`."""
        self._opened.labels(kind).inc()

    def ended(self, kind: str, how: str) -> None:
        """See `Meter`."""
        self._ended.labels(kind, how).inc()

    def refused(self, why: str) -> None:
        """See `Meter`."""
        self._refused.labels(why).inc()

    def moved(self, direction: str, number: int) -> None:
        """See `Meter`."""
        self._bytes.labels(direction).inc(number)

    def computed(self, what: str, samples: int, seconds: float) -> None:
        """See `Meter`."""
        self._computed.labels(what).inc()
        self._samples.labels(what).observe(samples)
        self._seconds.labels(what).observe(seconds)

    def together(self, clients: int) -> None:
        """Steps of so many clients ran as one batch."""
        self._together.observe(clients)

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(f"m2fedsa_{name}", told, labels, registry=self.registry)

    def _gauge(self, name: str, told: str) -> Gauge:
        return Gauge(f"m2fedsa_{name}", told, registry=self.registry)

    def _histogram(self, name: str, told: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"m2fedsa_{name}", told, labels, registry=self.registry, buckets=buckets)


class Desk:
    """Answers `/metrics` and `/health` over HTTP; it takes no other request, and tells nothing of clients."""

    def __init__(self, host: str, port: int, meters: Meters, health: Callable[[], dict[str, Any]]) -> None:
        """`health`: what `/health` says; its `status` is `serving` where all is well, else the answer has the code 503. `LinkError` if
        the address cannot be had."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(meters.registry))
                elif self.path == "/health":
                    found = health()
                    code = 200 if found["status"] == "serving" else 503
                    self._answer(code, "application/json", json.dumps(found).encode() + b"\n")
                else:
                    self._answer(404, "text/plain", b"/metrics or /health\n")

            def _answer(self, code: int, kind: str, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nobody needs to know who asked."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise LinkError(f"{host}:{port}: /metrics cannot be served ({error.strerror}). Is another program there already?") from error
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="desk", daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
