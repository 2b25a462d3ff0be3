"""The processor that we run on: what figures belong to, and what an engine may count on."""

from __future__ import annotations

import os
import platform
import resource
from functools import cache
from pathlib import Path

import msgspec

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup")
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
    """Bytes that this process can still take: of the machine's, of its container's, and of its own limit. 4 GiB where the
    system does not say."""
    free = [room for room in (_named(_MEMINFO, "MemAvailable:"), _container_room(), _own_room()) if room is not None]
    return max(0, min(free, default=4 << 30))


def _container_room() -> int | None:
    try:
        used, limit = ((_CGROUP / name).read_text().strip() for name in ("memory.current", "memory.max"))
    except OSError:
        return None
    return int(limit) - int(used) if limit.isdecimal() else None


def _own_room() -> int | None:
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    used = _named(_STATUS, "VmData:")
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used


def _named(path: Path, name: str) -> int | None:
    """Bytes, from a file of the kernel's with a name and kibibytes a line."""
    try:
        return int(path.read_text().partition(name)[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return None


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
