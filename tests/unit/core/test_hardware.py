from __future__ import annotations

import os
from pathlib import Path

import pytest

from openmaas.core import hardware

X86 = """processor\t: 0
cpu family\t: 25
model\t\t: 17
model name\t: AMD  EPYC
stepping\t: 1
flags\t\t: fpu avx512f avx512_bf16 sse

processor\t: 1
model name\t: another
flags\t\t: none
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\nCPU part\t: 0xd40\n"


@pytest.fixture(autouse=True)
def _forget() -> None:
    for cached in (hardware._model, hardware._flags):
        cached.cache_clear()


def written(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(hardware, "_CPUINFO", tmp_path / "cpuinfo")


def test_the_first_processor_s_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, X86, monkeypatch)
    found = hardware.processor()
    assert found.model == "AMD EPYC (25/17/1)"
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.label == f"AMD EPYC (25/17/1) × {found.cores}"


@pytest.mark.parametrize(("text", "has"), [(X86, True), (ARM, True), (X86.replace("avx512_bf16", "avx2"), False), ("", False)])
def test_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, has: bool) -> None:
    written(tmp_path, text, monkeypatch)
    assert hardware.computes_bf16() is has


def test_without_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_CPUINFO", tmp_path / "missing")
    assert hardware.processor().model
    assert not hardware.computes_bf16()


def test_fewer_cores_are_another_processor() -> None:
    assert hardware.Processor(model="P", cores=2).label != hardware.Processor(model="P", cores=1).label


def test_a_gpu_of_nvidias_is_a_device_that_the_process_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_DEVICES", tmp_path)
    (tmp_path / "nvidia-uvm").touch()
    assert not hardware.sees_nvidia()
    (tmp_path / "nvidia1").touch()
    assert hardware.sees_nvidia()


@pytest.mark.parametrize(
    ("text", "free"), [("MemTotal: 9 kB\nMemAvailable:    2048 kB\nBuffers: 1 kB\n", 2 << 20), ("MemTotal: 9 kB\n", 4 << 30)]
)
def test_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, free: int) -> None:
    (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr(hardware, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    assert hardware.free_memory() == free


def test_free_memory_is_what_the_tightest_limit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("5000\n")
    assert hardware.free_memory() == 4000
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.free_memory() > 4000
    (tmp_path / "status").write_text("VmPeak: 9 kB\nVmData:\t   3 kB\n")
    monkeypatch.setattr(hardware, "_STATUS", tmp_path / "status")
    monkeypatch.setattr(hardware.resource, "getrlimit", lambda _: (5120, 5120))
    assert hardware.free_memory() == 2048
    monkeypatch.setattr(hardware.resource, "getrlimit", lambda _: (1024, 1024))
    assert hardware.free_memory() == 0
