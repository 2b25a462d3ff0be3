"""The log of a deployment or a job, as it is kept on this machine: the last lines, or what came since."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from openmaas.core.errors import InvalidInput

MOST_LOG_LINES = 10_000
_MOST_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class LogLines:
    """`offset` asks for what comes after these lines."""

    lines: list[str]
    offset: int


def check_window(lines: int, offset: int | None) -> None:
    """Raises InvalidInput for what cannot be asked of a log."""
    if not 1 <= lines <= MOST_LOG_LINES:
        raise InvalidInput(f"lines is {lines}; it must be from 1 to {MOST_LOG_LINES}.", code="invalid_limit")
    if offset is not None and offset < 0:
        raise InvalidInput(f"offset is {offset}; it must not be negative.", code="invalid_page")


def read_log(path: Path, lines: int, replica: str | None = None, offset: int | None = None) -> LogLines:
    """The last `lines` lines, from the last 1 MiB; with `offset`, those after that byte instead, up to 1 MiB of them.

    A deployment's lines begin with the id of a replica and ' | '; `replica` keeps that one's alone. A file that has become
    shorter than `offset` was begun anew and is read from its start.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = max(0, size - _MOST_BYTES) if offset is None else offset if offset <= size else 0
            file.seek(start)
            data = file.read(_MOST_BYTES)
    except FileNotFoundError:
        return LogLines(lines=[], offset=0)
    data = data[: data.rfind(b"\n") + 1]
    kept = [
        line.decode("utf-8", "replace")
        for line in data.splitlines()
        if replica is None or line.startswith(f"{replica} | ".encode())
    ]
    return LogLines(lines=kept[-lines:] if offset is None else kept, offset=start + len(data))
