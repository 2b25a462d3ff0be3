from __future__ import annotations

from typing import Any

import pytest

import openmaas
from openmaas.client import DeployFailed
from openmaas.client.steps import Request, Response
from openmaas.core.errors import DeadlineExceeded, InvalidInput
from tests.unit.client.transport import FakeTransport, json_answer

INFO = {
    "name": "digits", "project": "default", "model": "digits", "state": "starting", "revision": 2, "version": 3,
    "serving": None, "replicas": 1, "ready": 0, "options": {}, "cause": None, "updated_at": 0.0, "actor": "admin",
}  # fmt: skip


class Control:
    """Answers the states in their order, the last one again and again."""

    def __init__(self, *states: dict[str, Any]) -> None:
        self._states = list(states)

    def __call__(self, request: Request) -> Response:
        change = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        return json_answer({**INFO, **change}, 202 if request.method == "POST" else 200)


def _client(*states: dict[str, Any]) -> openmaas.Client:
    return openmaas.Client("http://server", transport=FakeTransport(Control(*states)))


def test_deploy_waits_until_it_is_ready_and_tells_each_look() -> None:
    seen: list[str] = []
    info = _client({}, {}, {"state": "ready"}).deploy("digits", watch=lambda info: seen.append(info.state))
    assert info.state == "ready"
    assert seen == ["starting", "starting", "ready"]


def test_deploy_returns_at_once_when_told_so() -> None:
    assert _client({}).deploy("digits", wait=False).state == "starting"


def test_a_version_that_does_not_come_up_raises_its_cause() -> None:
    cause = {
        "code": "out_of_memory",
        "message": "It needed more.",
        "stderr": ["Killed"],
        "next_step": "openmaas deploy --memory 4GiB",
    }
    with pytest.raises(DeployFailed, match="Version 2 goes on serving") as raised:
        _client({}, {"state": "failed", "cause": cause, "serving": 2}).deploy("digits")
    assert raised.value.code == "out_of_memory"
    assert raised.value.cause.stderr == ["Killed"]
    assert raised.value.next_step == "openmaas deploy --memory 4GiB"


def test_waiting_has_an_end() -> None:
    with pytest.raises(DeadlineExceeded, match="0 of 1 replicas"):
        _client({}).deploy("digits", timeout=0.01)


def test_a_later_revision_decides() -> None:
    assert _client({}, {"revision": 3}).deploy("digits").revision == 3


def test_a_name_that_is_none_is_told_before_anything_is_sent() -> None:
    client = openmaas.Client("http://server", transport=FakeTransport(lambda _: pytest.fail("sent")))
    with pytest.raises(InvalidInput, match="not a deployment name"):
        client.deploy("digits", name="a/b")
