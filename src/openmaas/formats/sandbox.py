"""Look into a pushed model or dataset without ever parsing it here: a child of limited means does, and may die of it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

import msgspec

from openmaas.core.errors import OpenMaaSError, Refused, Unavailable, without_paths
from openmaas.core.manifest import Parity
from openmaas.formats.base import Examined, ExaminedDataset
from openmaas.formats.examiner import Reply, Request

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
_THREADS = "2"
_MAX_REPLY = 16 << 20
_SLOTS = threading.BoundedSemaphore(max(1, (os.cpu_count() or 2) // 2))
"""Children at the same time; each may take all the memory that one is allowed."""


def examine(
    folder: Path,
    *,
    sample: str | None = None,
    parity: Parity | None = None,
    approved: frozenset[str] = frozenset(),
    output: Path,
    timeout: float,
    memory: int,
) -> Examined:
    """Find out in a child process what the files in `folder` are, and convert them where that serves. Blocks.

    folder: the pushed files, regular files only (hard links are fine). output: an empty folder for files that are added.
    sample: path in `folder`. approved: SHA-256 digests. timeout in seconds, memory in bytes.
    Raises InvalidInput, TooLarge or Refused with the cause, also for a child that crashed, took too long or too much;
    Unavailable when other models are being examined all that time.
    """
    request = Request(
        folder=str(folder.absolute()),
        output=str(output.absolute()),
        sample=sample,
        parity=parity,
        approved=sorted(approved),
        memory=memory,
        seconds=_processor_time(timeout),
        parent=os.getpid(),
    )
    reply = _ask(request, timeout)
    if reply.examined is None:
        raise Refused("Examining the model ended without a result.", code="examine_failed")
    return reply.examined


def examine_dataset(folder: Path, *, label: str | None, timeout: float, memory: int) -> ExaminedDataset:
    """Find out in a child process what the dataset in `folder` is: every row of it is read. Blocks.

    label: the column that is predicted, where the pusher says it. timeout in seconds, memory in bytes. Raises as `examine`.
    """
    request = Request(
        kind="dataset",
        folder=str(folder.absolute()),
        output="",
        label=label,
        memory=memory,
        seconds=_processor_time(timeout),
        parent=os.getpid(),
    )
    reply = _ask(request, timeout)
    if reply.dataset is None:
        raise Refused("Examining the dataset ended without a result.", code="examine_failed")
    return reply.dataset


def _processor_time(timeout: float) -> int:
    return math.ceil(timeout * int(_THREADS)) + 1


def _ask(request: Request, timeout: float) -> Reply:
    if not _SLOTS.acquire(timeout=timeout):
        raise Unavailable(
            "Other models or datasets are being examined.", code="examine_busy", retry_after=10.0, next_step="Push again later."
        )
    try:
        with tempfile.TemporaryDirectory(prefix="openmaas-examine-") as scratch:
            return _run(request, Path(scratch), timeout)
    finally:
        _SLOTS.release()


def _run(request: Request, scratch: Path, timeout: float) -> Reply:
    with (scratch / "stdout").open("w+b") as stdout, (scratch / "stderr").open("w+b") as stderr:
        code = _wait(_start(scratch, stdout, stderr), request, timeout)
        if code != 0:
            raise _death(code, request, _last_line(stderr))
        reply = _read_reply(stdout)
    if reply.error is not None:
        raise OpenMaaSError.from_wire(reply.error)
    return reply


def _read_reply(stdout: IO[bytes]) -> Reply:
    stdout.seek(0)
    try:
        return msgspec.json.decode(stdout.read(_MAX_REPLY), type=Reply)
    except msgspec.DecodeError:
        return Reply()


def _start(scratch: Path, stdout: IO[bytes], stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "openmaas.formats.examiner"],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        cwd=scratch,
        env=environment
        | {"HOME": str(scratch), "TMPDIR": str(scratch), "OMP_NUM_THREADS": _THREADS, "OPENBLAS_NUM_THREADS": _THREADS},
        process_group=0,
    )


def _wait(child: subprocess.Popen[bytes], request: Request, timeout: float) -> int:
    """The child's exit code. Whatever happens, it and what it has started are gone afterwards."""
    try:
        child.communicate(msgspec.json.encode(request), timeout)
    except subprocess.TimeoutExpired:
        raise Refused(
            f"Examining the {request.kind} took longer than {timeout:g} s.",
            code="examine_timeout",
            next_step="Raise OPENMAAS_EXAMINE_TIMEOUT, or push a smaller one.",
        ) from None
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return child.returncode


def _death(code: int, request: Request, line: str) -> Refused:
    said, what = f" It said: {line}" if line else "", f"Examining the {request.kind}"
    if code == -signal.SIGXCPU:
        return Refused(f"{what} took more than {request.seconds} s of processor time.", code="examine_timeout",
                       next_step="Raise OPENMAAS_EXAMINE_TIMEOUT, or push a smaller one.")  # fmt: skip
    if code == -signal.SIGXFSZ:
        return Refused(f"Converting the model wrote a file of more than {request.memory} bytes.", code="examine_memory")
    if "bad_alloc" in line or "MemoryError" in line or code == -signal.SIGKILL:
        return Refused(f"{what} takes more than {request.memory} bytes of memory.{said}", code="examine_memory",
                       next_step="Raise OPENMAAS_EXAMINE_MEMORY.")  # fmt: skip
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Refused(
        f"The library that reads this {request.kind} crashed ({name}); nothing else was harmed.{said}", code="examine_crashed"
    )


def _last_line(stderr: IO[bytes]) -> str:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - 4096))
    lines = [line.strip() for line in stderr.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return without_paths(lines[-1])[:300] if lines else ""
