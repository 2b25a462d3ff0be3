"""A step that will not end in time is ended as soon as that is seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from openmaas.tasks.base import Job
from openmaas.tasks.optimization.watching import TooSlow, Watched


def watched(deadline: float | None) -> tuple[Watched, list[float], list[Any]]:
    """With its clock, and what was told of."""
    now, told = [0.0], list[Any]()
    job = SimpleNamespace(progress=lambda *said: told.append(said), scratch="folder")
    found = Watched(cast(Job, job), clock=lambda: now[0])
    found.deadline = deadline
    return found, now, told


def train(job: Watched, now: list[float], steps: int, seconds: float) -> None:
    for step in range(steps):
        job.progress(f"training, epoch {step}", step, steps)
        now[0] += seconds


def test_it_is_ended_when_its_speed_is_known_and_not_at_the_deadline() -> None:
    job, now, _ = watched(20.0)
    with pytest.raises(TooSlow, match="it would have taken 97 s more") as slow:
        train(job, now, 100, 1.0)
    assert now[0] == 3.0
    assert slow.value.seconds == pytest.approx(100.0)


def test_what_ends_in_time_or_has_no_deadline_goes_on() -> None:
    job, now, told = watched(120.0)
    train(job, now, 100, 1.0)
    assert len(told) == 100 and job.scratch == "folder"
    train(watched(None)[0], now, 1000, 10.0)


def test_each_part_of_a_step_is_watched_by_itself() -> None:
    """A second round of training has another beginning, and what cannot tell how far it is tells nothing."""
    job, now, _ = watched(300.0)
    job.progress("asking the teacher")
    now[0] = 100.0
    train(job, now, 50, 1.0)
    train(job, now, 50, 1.0)
    assert now[0] == 200.0
