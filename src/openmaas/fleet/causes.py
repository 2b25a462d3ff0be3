"""Why a child ended, in words."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import msgspec

from openmaas.core.contracts import Cause
from openmaas.core.errors import OpenMaaSError

DO_NOT_RETRY = 3
"""Exit status of a child that would fail the same way again: a wrong digest, a missing engine, a model that does not load."""

_SHOWN_LINES = 20
_LOOKED_AT = 5  # the interpreter may still say something after the cause


class _Told(msgspec.Struct):
    code: str
    message: str
    next_step: str = ""


class _CauseLine(msgspec.Struct):
    openmaas_cause: _Told


def told_cause(lines: Sequence[str]) -> Cause | None:
    """The cause that the child itself printed as one JSON line near its end."""
    for line in reversed(lines[-_LOOKED_AT:]):
        if line.startswith('{"openmaas_cause"'):
            try:
                told = msgspec.json.decode(line, type=_CauseLine).openmaas_cause
            except msgspec.DecodeError:
                return None
            return Cause(code=told.code, message=told.message, next_step=told.next_step)
    return None


def cause_line(error: OpenMaaSError) -> str:
    """The line by which a child tells its supervisor why it ends."""
    told = _Told(code=error.code, message=error.message, next_step=error.next_step or "")
    return msgspec.json.encode(_CauseLine(told)).decode()


def exit_cause(status: int, was_ready: bool) -> Cause:
    """The cause that an exit status tells by itself."""
    code = "crash_loop" if was_ready else "load_failed"
    when = "after it was ready" if was_ready else "before it was ready"
    if status >= 0:
        return Cause(code=code, message=f"It ended with exit status {status} {when}.")
    hint = "; the system may have run out of memory" if -status == signal.SIGKILL else ""
    return Cause(code=code, message=f"{_signal_name(-status)} ended it {when}{hint}.")


def job_exit_cause(status: int | None) -> Cause:
    """Why a job's process ended that had not told its end; None where it was not this process's child."""
    if status is None:
        return Cause(code="job_ended", message="Its process ended without a result, while nothing watched it.")
    if status >= 0:
        return Cause(code="job_ended", message=f"Its process ended with exit status {status} and without a result.")
    hint = "; the system may have run out of memory" if -status == signal.SIGKILL else ""
    return Cause(code="job_killed", message=f"{_signal_name(-status)} ended its process{hint}.")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def with_evidence(cause: Cause, lines: Sequence[str], next_step: str) -> Cause:
    """The cause with the last lines that the child wrote and a next step, where it has none of its own."""
    shown = tuple(line for line in lines[-_SHOWN_LINES:] if not line.startswith('{"openmaas_cause"'))
    return msgspec.structs.replace(cause, stderr=shown, next_step=cause.next_step or next_step)
