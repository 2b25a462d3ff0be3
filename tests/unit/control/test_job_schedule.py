from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmaas.control.job_schedule import due, verdict
from openmaas.core.contracts import SERVER_STOPPED, Cause, JobStatus


@dataclass(frozen=True)
class Row:
    measures: bool = False


PLAIN, MEASURES = Row(), Row(measures=True)


@pytest.mark.parametrize(
    ("waiting", "live", "limit", "started"),
    [
        ([], [], 2, 0),
        ([PLAIN], [], 1, 1),
        ([PLAIN, PLAIN, PLAIN], [], 2, 2),
        ([PLAIN, PLAIN], [PLAIN], 2, 1),
        ([PLAIN], [PLAIN, PLAIN], 2, 0),
        ([MEASURES], [], 1, 1),
        ([MEASURES, PLAIN], [], 8, 1),
        ([PLAIN, MEASURES, PLAIN], [], 8, 1),
        ([MEASURES], [PLAIN], 8, 0),
        ([PLAIN], [MEASURES], 8, 0),
        ([MEASURES, MEASURES], [], 8, 1),
        ([PLAIN], [PLAIN] * 3, 2, 0),
    ],
)
def test_what_is_due(waiting: list[Row], live: list[Row], limit: int, started: int) -> None:
    assert due(waiting, live, limit) == waiting[:started]


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 4), st.randoms(use_true_random=False))
def test_whatever_the_order_of_ends_all_run_in_turn_and_measurements_alone(
    measures: list[bool], limit: int, random: object
) -> None:
    waiting = [Row(one) for one in measures]
    live: list[Row] = []
    begun = 0
    while waiting or live:
        started = due(waiting, live, limit)
        assert started == waiting[: len(started)], "nothing is passed over"
        waiting, live, begun = waiting[len(started) :], live + started, begun + len(started)
        assert live, "something always runs"
        assert len(live) <= limit
        assert len(live) == 1 or not any(row.measures for row in live)
        live.pop(random.randrange(len(live)))  # type: ignore[attr-defined]
    assert begun == len(measures)


def status(state: str = "running", cause: str | None = None) -> JobStatus:
    told = None if cause is None else Cause(code=cause, message="")
    return JobStatus(id="job-000001", attempt=1, state=state, cause=told)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "seen", "has_key", "told", "expected"),
    [
        ("running", status(), False, True, None),
        ("running", status(), True, True, None),
        ("running", None, True, True, None),
        ("running", None, False, True, "start again"),
        ("running", None, False, False, "start again"),
        ("running", status("ended"), False, True, "failed"),
        ("running", status("ended", "job_killed"), False, True, "failed"),
        ("running", status("ended", SERVER_STOPPED), False, True, "put back"),
        ("cancelling", status(), False, True, None),
        ("cancelling", None, False, False, None),
        ("cancelling", None, True, True, "cancelled"),
        ("cancelling", status("ended", SERVER_STOPPED), False, False, "cancelled"),
    ],
)
def test_what_a_report_of_the_supervisor_means(
    state: str, seen: JobStatus | None, has_key: bool, told: bool, expected: str | None
) -> None:
    assert verdict(state, seen, has_key=has_key, told=told) == expected
