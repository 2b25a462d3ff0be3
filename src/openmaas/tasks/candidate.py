"""One way to run a version, held at arm's length: a child process that is asked, timed out, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from openmaas.core.errors import without_paths
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.core.measurement import TriedState
from openmaas.tasks.trial import Answer, Arrays, Clock, Decode, GoOn, Load, Order, Report, pack, receive, send, unpack

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "HOME")
_NAMED: frozenset[TriedState] = frozenset({"memory_limit", "wrong_type"})
_LAST_BYTES = 4096  # of its output, where a crash says what it is


class Failed(Exception):
    """It cannot be used, and why: a named state and a sentence."""

    def __init__(self, state: TriedState, cause: str) -> None:
        super().__init__(cause)
        self.state: TriedState = state
        self.cause = cause


class Candidate:
    """Started when it is first asked, and again after `close`. Raises Failed from whatever goes wrong in the child.

    choice: its threads are those to run with. scratch: an empty folder of its own. memory: bytes that the child's data may
    take. patience: seconds that it has for an order from now on.
    """

    def __init__(self, choice: EngineChoice, manifest: Manifest, folder: Path, scratch: Path, *, memory: int) -> None:
        self.choice = choice
        self.library = ""
        self.memory = 0
        self.load = 0.0
        self.patience = 60.0
        self._load_order = Load(
            folder=str(folder),
            manifest=manifest,
            choice=choice,
            threads=choice.threads,
            memory=memory,
            parent=os.getpid(),
        )
        self._scratch = scratch
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        return self._child is not None

    def answer(self, inputs: Arrays, step: int) -> Arrays:
        """Answers to all rows, `step` in each call; 0 asks for all in one."""
        return unpack(self._ask(Answer(pack(inputs), step), "run_failed").answers)

    def clock(self, inputs: Arrays, seconds: float) -> tuple[float, ...]:
        """Seconds that each run of this batch took, within about so many seconds."""
        return self._ask(Clock(pack(inputs), seconds), "run_failed").times

    def timed(self, inputs: Arrays, seconds: float) -> tuple[tuple[float, ...], float]:
        """As `clock`, after a run that does not count, and with the processor seconds of all runs together."""
        report = self._ask(Clock(pack(inputs), seconds, again=True), "run_failed")
        return report.times, report.processor

    def decode(self, prompts: list[list[int]], context: int, seconds: float) -> float:
        """Tokens a second of all prompts at once, counted for about so many seconds."""
        return self.decoded(prompts, context, seconds)[0]

    def decoded(self, prompts: list[list[int]], context: int, seconds: float) -> tuple[float, float]:
        """As `decode`, with the processor seconds that were spent, those before the first tokens included."""
        report = self._ask(Decode(prompts, context, seconds), "run_failed")
        return report.rate, report.processor

    def go_on(self, prompts: list[list[int]], most: int) -> list[list[int]]:
        """How each of these prompts goes on by so many tokens, always the likeliest."""
        return self._ask(GoOn(prompts, most), "run_failed").tokens

    def close(self) -> None:
        """End the child and whatever it has started."""
        if self._connection is not None:
            self._connection.close()
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        self._child = self._connection = None

    def _ask(self, order: Order, state: TriedState) -> Report:
        if self._child is None:
            start = time.monotonic()
            self._start()
            self.library = self._exchange(self._load_order, "load_failed").library
            self.load = time.monotonic() - start
        return self._exchange(order, state)

    def _exchange(self, order: Order, state: TriedState) -> Report:
        assert self._connection is not None
        self._connection.settimeout(self.patience)
        try:
            send(self._connection, order)
            report = msgspec.msgpack.decode(receive(self._connection), type=Report)
        except TimeoutError:
            doing = "Loading" if isinstance(order, Load) else "A run"
            raise Failed("timed_out", f"{doing} took longer than {self.patience:.0f} s.") from None
        except (EOFError, OSError, msgspec.MsgspecError):
            raise self._death() from None
        self.memory = max(self.memory, report.memory)
        if report.error is not None:
            code, message = report.error
            raise Failed(code if code in _NAMED else state, message)
        return report

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        threads = str(self.choice.threads)
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {"TMPDIR": str(self._scratch), "OPENBLAS_NUM_THREADS": threads}
        environment |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        with theirs, self._output.open("wb") as output:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-m", "openmaas.tasks.trial", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._scratch,
                env=environment,
                pass_fds=(theirs.fileno(),),
                process_group=0,
            )
        self._connection = ours

    @property
    def _output(self) -> Path:
        return self._scratch / "output"

    def _death(self) -> Failed:
        """Why the child is gone."""
        assert self._child is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(5.0)
        code = self._child.returncode
        said = _last_line(self._output)
        if "bad_alloc" in said or "MemoryError" in said:
            return Failed("memory_limit", f"It takes more memory than there is for it. It said: {said}")
        how = _describe_end(code)
        return Failed("crashed", f"Its process ended with {how}.{f' It said: {said}' if said else ''}")


def _describe_end(code: int | None) -> str:
    if code is None:
        return "a closed connection"
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _last_line(output: Path) -> str:
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - _LAST_BYTES))
        lines: list[Any] = file.read().decode("utf-8", "replace").split("\n")
    kept = [line.strip() for line in lines if line.strip()]
    return without_paths(kept[-1])[:300] if kept else ""
