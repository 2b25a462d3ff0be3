"""Which jobs start now, and what an Observed means for one that has a process: rules without a database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

from openmaas.core.contracts import SERVER_STOPPED, JobStatus


class Scheduled(Protocol):
    @property
    def measures(self) -> bool: ...


Row = TypeVar("Row", bound=Scheduled)
Verdict = Literal["failed", "put back", "start again", "cancelled"]


def due(waiting: Sequence[Row], live: Sequence[Scheduled], limit: int) -> list[Row]:
    """Those of the waiting that start beside the live ones; waiting: in their order, from which none is passed over.

    One that measures runs alone. So it waits until everything has ended, and nothing that came after it starts before it.
    """
    started: list[Row] = []
    for row in waiting:
        running: list[Scheduled] = [*live, *started]
        alone = row.measures or any(one.measures for one in running)
        if len(running) >= (1 if alone else limit):
            break
        started.append(row)
    return started


def verdict(state: str, status: JobStatus | None, *, has_key: bool, told: bool) -> Verdict | None:
    """What becomes of a job that runs or is being cancelled; None while it goes on.

    status: of the process that was asked for last, None where the supervisor knows of none. has_key: control still holds that
    process's key, so the supervisor may not have heard of it. told: the supervisor follows the newest Desired.
    """
    if state == "cancelling":
        gone = status is None or status.state == "ended"
        return "cancelled" if gone and (told or status is not None) else None
    if status is None:
        return None if has_key else "start again"  # control was restarted between asking for it and its start
    if status.state == "running":
        return None
    return "put back" if status.cause is not None and status.cause.code == SERVER_STOPPED else "failed"
