"""Echoes through a plain TCP socket to another process: the yardstick of every other way. Needs nothing but the standard library.

`python tcp.py` is the other process.
"""

import socket
import subprocess
import sys
import threading
from types import TracebackType


class Tcp:
    """A socket to a process of its own that sends back what it receives, whole."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._socket = socket.create_connection(("127.0.0.1", int(self._process.stdout.readline())))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def echo(self, content: memoryview) -> bytearray:
        """What was sent, come back."""
        self._socket.sendall(len(content).to_bytes(8, "little"))
        sender = threading.Thread(target=self._socket.sendall, args=(content,))
        sender.start()
        back = bytearray(len(content))
        received(self._socket, back)
        sender.join()
        return back

    def __enter__(self) -> "Tcp":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._socket.close()
        self._process.kill()
        self._process.communicate()


def received(peer: socket.socket, into: bytearray) -> None:
    view = memoryview(into)
    while view:
        view = view[peer.recv_into(view) :]


def serve() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        print(door.getsockname()[1], flush=True)
        with door.accept()[0] as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while size := int.from_bytes(peer.recv(8, socket.MSG_WAITALL), "little"):
                content = bytearray(size)
                received(peer, content)
                peer.sendall(content)


if __name__ == "__main__":
    serve()
