"""A data plane for a whole file of tests, and one that a test may break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.gateway.plane import WORDS, Plane


@pytest.fixture(scope="package")
def plane() -> Iterator[Plane]:
    """A gateway with a quick model `m`, one for words, two slow ones, one whose answers are infinite. Nobody breaks it."""
    one = Plane(body_timeout=1.0, hold_timeout=1.0, max_body=20_000_000)
    try:
        one.publish()
        one.replica("m-1-0", options={"factor": 2})
        one.replica("words-1-0", version=3, signature=WORDS)
        one.replica("slow-1-0", options={"delay": 0.4}, max_batch=1, max_queue=2)
        one.replica("stuck-1-0", options={"delay": 3.0}, max_batch=1, max_queue=2)
        one.replica("odd-1-0", options={"factor": 1e39, "poison": 13.0, "exit_on": 99.0})
        one.start_gateway()
        one.deploy("m", "m-1-0", aliases={"champion": 1})
        one.deploy("words", "words-1-0")
        one.deploy("slow", "slow-1-0")
        one.deploy("stuck", "stuck-1-0")
        one.deploy("odd", "odd-1-0")
        for name in ("m", "words", "slow", "stuck", "odd"):
            one.wait_ready(name)
        yield one
    finally:
        one.close()


@pytest.fixture
def make_plane() -> Iterator[Callable[..., Plane]]:
    """A data plane of a test's own, to be broken. The test starts its gateway and replicas."""
    made: list[Plane] = []

    def make(**settings: Any) -> Plane:
        made.append(Plane(**settings))
        return made[-1]

    yield make
    for one in made:
        one.close()
