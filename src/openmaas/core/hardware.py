"""The processor that we run on: what figures belong to, and what an engine may count on."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import msgspec

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_DEVICES = Path("/dev")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Processor flags (x86, and `bf16` on Arm) of which each one means that bfloat16 is multiplied by the hardware."""


class Processor(msgspec.Struct, frozen=True, kw_only=True):
    """model: as the system names it. cores: that this process may use."""

    model: str
    cores: int

    @property
    def label(self) -> str:
        """What figures are filed under: another model or another number of cores gives other figures."""
        return f"{self.model} × {self.cores}"


def processor() -> Processor:
    """The processor, and the cores that this process may use now."""
    return Processor(model=_model(), cores=usable_cores())


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def computes_bf16() -> bool:
    """Whether bfloat16 is any faster here than float32."""
    return not BF16_FLAGS.isdisjoint(_flags())


def sees_nvidia() -> bool:
    """Whether the system gives this process a GPU of NVIDIA's: /dev/nvidia0 …, or /dev/dxg where Linux runs under Windows.

    It asks no library, and so it is no promise that the driver works.
    """
    return any(_DEVICES.glob("nvidia[0-9]*")) or (_DEVICES / "dxg").exists()


def free_memory() -> int:
    """Bytes that a process can still take without anything else giving way; 4 GiB where the system does not say."""
    try:
        return int(_MEMINFO.read_text().partition("MemAvailable:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return 4 << 30


@cache
def _model() -> str:
    """Family and stepping tell processors apart that hypervisors give one name."""
    fields = _fields()
    name = fields.get("model name") or platform.processor() or platform.machine() or "unknown"
    detail = [fields[key] for key in ("cpu family", "model", "stepping") if fields.get(key)]
    return " ".join(name.split())[:160] + (f" ({'/'.join(detail)})" if detail else "")


@cache
def _flags() -> frozenset[str]:
    fields = _fields()
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())


def _fields() -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo; empty where there is none."""
    try:
        block = _CPUINFO.read_text("utf-8", "replace").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
