"""The main server's end of the link: one stream per client and round, any number at once, one computation at a time."""

from collections.abc import Callable, Iterator

import grpc

from m2fedsa.errors import M2FedSAError
from m2fedsa.identity import Identity
from m2fedsa.links.admission import Gate, Limits, Meter
from m2fedsa.links.desk import Desk
from m2fedsa.links.frames import HEADER
from m2fedsa.links.grpc_ports import listen, peer_key, peer_name, serve
from m2fedsa.links.port import Link
from m2fedsa.links.stream import Stream
from m2fedsa.links.talk import DESCRIBE, SERVICE, STREAM, Description
from m2fedsa.links.wire import to_bytes
from m2fedsa.links.worker import Worker


class LinkServer(Desk):
    """Lets clients reach a main server over gRPC."""

    def __init__(self, host: Link, worker: Worker, gate: Gate | None, limits: Limits | None = None, meter: Meter | None = None) -> None:
        """See `Desk`; nobody is served yet."""
        super().__init__(host, worker, gate, limits, meter)
        self.describe: Callable[[], Description] | None = None
        """answers clients that want to know the server before they open a stream"""
        self._server: grpc.Server | None = None

    def start(self, address: str, identity: Identity | None) -> int:
        """Listen; the port. Without an identity the bytes are not encrypted, and only this machine is served."""
        self.secure = identity is not None
        largest = 2 * (self.limits.frame + HEADER)
        self._server = serve(
            grpc.method_handlers_generic_handler(SERVICE, self._handlers()),
            self.limits.sessions,
            [("grpc.max_receive_message_length", largest), ("grpc.max_send_message_length", largest)],
        )
        port = listen(self._server, address, identity)
        self._server.start()
        return port

    def stop(self, grace: float | None = None) -> None:
        """End all streams, at once or after so many seconds."""
        self.admitting = False
        if self._server is not None:
            self._server.stop(grace).wait()
        self.close()

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        found = {STREAM: grpc.stream_stream_rpc_method_handler(self._stream)}
        if self.describe is not None:
            # One message each way; but gRPC would wait for the one up in a thread, without end and before anybody is looked at.
            found[DESCRIBE] = grpc.stream_stream_rpc_method_handler(self._described)
        return found

    def _stream(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        return Stream(self, frames, context).answers()

    def _described(self, _request: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """What anybody may know whose key was not revoked; it is answered without being asked anything."""
        key, describe = peer_key(context), self.describe
        assert describe is not None
        with self.door.guard(context.cancel):
            try:
                self.enter(key, peer_name(context))
            except M2FedSAError as error:
                self.meter.refused(type(error).__name__)
                context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            try:
                yield to_bytes(describe())
            finally:
                self.leave(key)
