"""What children write to stdout and stderr: kept line by line in log files of bounded size, the last lines in memory."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import deque
from pathlib import Path

LONGEST_LOG = 10 * 2**20
"""Bytes of a log, of which the one before is kept too."""

_KEPT_LINES = 200
_LONGEST_LINE = 4096


class LogFile:
    """Appends to `path`, mode 0600. At `max_bytes` the file becomes `NAME.1` (the one before is dropped) and a new one begins.

    A log that cannot be written (disk full) never stops a child: what does not fit is left out.
    """

    def __init__(self, path: Path, max_bytes: int = LONGEST_LOG) -> None:
        self._path = path
        self._max_bytes = max_bytes

    def append(self, data: bytes) -> None:
        """Take whole lines. The file is opened for each chunk of output: it may be removed at any time."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "ab", buffering=0) as file:
                if 0 < file.tell() > self._max_bytes - len(data):
                    self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                    self.append(data)
                else:
                    file.write(data)


def bound_log(path: Path) -> None:
    """Copy a log that has become too long to `NAME.1` and empty it: who writes to it keeps it open, to append."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > LONGEST_LOG:
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
            os.truncate(path, 0)


class Output:
    """The lines of one child. In a log that several children share each line begins with `label`."""

    def __init__(self, log: LogFile, label: str = "") -> None:
        self._log = log
        self._prefix = f"{label} | ".encode() if label else b""
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._partial = b""

    def write(self, data: bytes) -> None:
        """Take bytes as they came from the pipe; a line is kept when it is whole or too long."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _LONGEST_LINE:
            lines.append(self._partial)
            self._partial = b""
        self._keep(lines)

    def begin(self) -> None:
        """A new start of the child: a cause never shows another start's words."""
        self._lines.clear()
        self._partial = b""

    def end(self) -> None:
        """The child has ended: its last line may lack its end."""
        if self._partial:
            self._keep([self._partial])
            self._partial = b""

    def note(self, text: str) -> None:
        """A line of the supervisor's own in the log, not among the child's."""
        self._log.append(self._prefix + f"[supervisor] {text}\n".encode())

    def tail(self, count: int) -> tuple[str, ...]:
        """The last lines of this start, oldest first."""
        return tuple(list(self._lines)[-count:])

    def _keep(self, lines: list[bytes]) -> None:
        if lines:
            self._log.append(b"".join(b"%b%b\n" % (self._prefix, line) for line in lines))
            self._lines.extend(line[:_LONGEST_LINE].decode("utf-8", "replace").rstrip("\r") for line in lines)
