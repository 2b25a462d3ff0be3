"""What a run was measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Machine:
    """The part of a machine that explains a figure."""

    processor: str
    cores: int
    memory: int
    """Bytes."""
    system: str
    python: str

    def __str__(self) -> str:
        return f"{self.cores} cores ({self.processor}), {self.memory / 2**30:.0f} GiB, {self.system}, Python {self.python}"


def this_machine() -> Machine:
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release().split('-')[0]}",
        python=platform.python_version(),
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
