"""gRPC servers as the link and the coordination both need them: bound with certificates, and pinged."""

from concurrent.futures import ThreadPoolExecutor

import grpc

from m2fedsa.errors import LinkError
from m2fedsa.identity import Identity, fingerprint, pem

KEEP_ALIVE = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A busy machine sends its pings in a heap; that is no reason to hang up.
    ("grpc.http2.max_ping_strikes", 0),
]
"""Pings on both ends: a line that a router has forgotten is noticed within a minute."""


def serve(handler: grpc.GenericRpcHandler, calls: int, options: list[tuple[str, int]]) -> grpc.Server:
    """A gRPC server that takes so many calls at once, and refuses more."""
    pool = ThreadPoolExecutor(calls, thread_name_prefix="stream")
    everything = [*KEEP_ALIVE, ("grpc.so_reuseport", 0), *options]
    return grpc.server(pool, [handler], options=everything, maximum_concurrent_rpcs=calls)


def listen(server: grpc.Server, address: str, identity: Identity | None) -> int:
    """Bind; with an identity, nobody passes whose certificate is not by the same authority. `LinkError` if the address cannot be had."""
    try:
        if identity is None:
            if not address.startswith(("127.", "localhost:", "unix:", "[::1]")):
                raise LinkError(f"{address}: without certificates only this machine is served. Listen on 127.0.0.1.")
            return int(server.add_insecure_port(address))
        pairs = [(identity.key_pem, pem(identity.certificate))]
        credentials = grpc.ssl_server_credentials(pairs, pem(identity.authority), require_client_auth=True)
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise LinkError(f"{address}: cannot be listened on ({str(error)[:120]}). Is another program there already?") from error


def peer_name(context: grpc.ServicerContext) -> str:
    """The name on the peer's certificate, by which the authority knows it; empty without TLS."""
    found = context.auth_context().get("x509_common_name")
    return found[0].decode(errors="replace") if found else ""


def peer_key(context: grpc.ServicerContext) -> str | None:
    """Fingerprint of the key that the peer has proved to hold; None without TLS."""
    from cryptography import x509

    from m2fedsa.identity import public_key

    shown = context.auth_context().get("x509_pem_cert")
    return fingerprint(public_key(x509.load_pem_x509_certificate(shown[0]))) if shown else None
