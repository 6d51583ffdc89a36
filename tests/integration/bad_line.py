"""Lines between network namespaces that are slow and lose packets.

Each is a pair of TUN devices, one on this side and one in a namespace of its own; a thread carries IP packets from one to the other, late,
and not all of them. The kernel's own netem would do the same, but many kernels lack it.
"""

import fcntl
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager, suppress

_TUNSETIFF, _TUN_WITHOUT_HEADER = 0x400454CA, 0x1001
_LARGEST = 65536
HERE = "10.213.7.1"


class CannotError(Exception):
    """There can be no such line on this machine; says why."""


class Line(threading.Thread):
    """Carries packets both ways until it is told to end."""

    def __init__(self, devices, delay, loss, seed):
        """`devices`: names of the two TUN devices; `delay`: seconds, each way; `loss`: the share of packets that get lost."""
        super().__init__(daemon=True)
        self.ends = [tun(name) for name in devices]
        self.delay, self.loss, self.draw = delay, loss, random.Random(seed)
        self.carried = self.lost = 0
        self._over = threading.Event()

    def run(self):
        under_way = {end: deque() for end in self.ends}
        other = dict(zip(self.ends, reversed(self.ends), strict=True))
        while not self._over.is_set():
            first = min((queue[0][0] for queue in under_way.values() if queue), default=time.monotonic() + 0.2)
            for end in select.select(self.ends, [], [], max(0.0, first - time.monotonic()))[0]:
                packet = os.read(end, _LARGEST)
                if self.draw.random() < self.loss:
                    self.lost += 1
                else:
                    under_way[other[end]].append((time.monotonic() + self.delay, packet))
            for end, queue in under_way.items():
                while queue and queue[0][0] <= time.monotonic():
                    with suppress(OSError):  # the device is down
                        os.write(end, queue.popleft()[1])
                    self.carried += 1

    def end(self):
        self._over.set()
        self.join()
        for end in self.ends:
            os.close(end)


def tun(name):
    """A TUN device of this name, as a file of IP packets."""
    try:
        end = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN_WITHOUT_HEADER))
    except OSError as error:
        raise CannotError(f"/dev/net/tun: {error}") from error
    return end


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise CannotError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def lines(names, delay, loss):
    """name -> what stands before a command that is to run at the other end of a bad line of its own; name -> the line. This side has the
    address `HERE`. `CannotError` where that cannot be made."""
    if shutil.which("ip") is None:
        raise CannotError("the program ip is not installed")
    tag, prefixes, made = f"m2{os.getpid() % 100000}", {}, {}
    with ExitStack() as stack:
        for number, name in enumerate(names):
            here, there, space, address = f"{tag}h{number}", f"{tag}t{number}", f"{tag}n{number}", f"10.213.7.{10 + number}"
            ip("netns", "add", space)
            stack.callback(subprocess.run, ["ip", "netns", "del", space], capture_output=True)
            made[name] = Line((here, there), delay, loss, seed=number)
            made[name].start()
            stack.callback(made[name].end)
            ip("link", "set", there, "netns", space)
            for device, mine, yours, where in ((here, HERE, address, []), (there, address, HERE, ["-n", space])):
                ip(*where, "addr", "add", mine, "peer", yours, "dev", device)
                ip(*where, "link", "set", device, "up")
            ip("-n", space, "link", "set", "lo", "up")
            prefixes[name] = ["ip", "netns", "exec", space]
        yield prefixes, made
