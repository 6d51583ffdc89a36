"""What of a machine picks kernels, and with them the last bits of what it computes."""

import platform
from functools import cache
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
"""Where Linux tells of processors."""
_TELLING = ("model name", "cpu family", "model", "CPU implementer", "CPU part")
"""The last two where it runs on ARM."""


def processor(device: torch.device) -> str:
    """What decides bits beside packages and threads, as far as a system tells."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {model()}".strip()


@cache
def model() -> str:
    """Name, family and model of the first processor, as far as the system tells: libraries choose by them."""
    try:
        first = CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return platform.processor()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    return " ".join(value for name in _TELLING if (value := told.get(name)))
