"""What picks kernels is told apart."""

import platform

import pytest
import torch

from m2fedsa import machine

TOLD = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Intel(R) Xeon(R)

processor\t: 1
model name\t: another
"""


@pytest.fixture(autouse=True)
def _afresh():
    machine.model.cache_clear()
    yield
    machine.model.cache_clear()


def test_machines_of_one_name_and_other_families_differ(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    machine.CPUINFO.write_text(TOLD)
    capability = torch.backends.cpu.get_cpu_capability()
    assert machine.processor(torch.device("cpu")) == f"cpu {platform.machine()} {capability} Intel(R) Xeon(R) 6 85"
    machine.model.cache_clear()
    machine.CPUINFO.write_text(TOLD.replace("85", "106"))
    assert machine.model() == "Intel(R) Xeon(R) 6 106"


def test_arm_has_names_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    machine.CPUINFO.write_text("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n")
    assert machine.model() == "0x41 0xd40"


def test_a_system_that_tells_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert machine.processor(torch.device("cpu")).endswith(" arm")
