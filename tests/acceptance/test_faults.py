"""Kill, stop and swap things under load, and count what the callers saw."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Server, alive
from .load import Load

pytestmark = pytest.mark.timeout(400)


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - started


def test_a_replica_killed_every_second_loses_no_request(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy(delay=0.005), name="killed")
    client.deploy("killed", replicas=3)
    with Load(server, "killed", callers=8, seconds=300) as load:
        load.wait_for(50)
        for turn in range(10):
            ready = [replica for replica in server.replicas("killed") if replica["state"] == "ready" and replica["pid"]]
            if ready:
                os.kill(ready[turn % len(ready)]["pid"], signal.SIGKILL)
            time.sleep(1.0)
        load.wait_for(50)
    assert load.failures() == [], load.statuses()
    assert sum(replica["restarts"] for replica in server.replicas("killed")) >= 5
    client.undeploy("killed")


def test_a_stopped_replica_leaves_the_rotation_and_its_calls_go_elsewhere(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy(), name="stopped")
    client.deploy("stopped", replicas=2)
    victim = server.replicas("stopped")[0]["pid"]
    with Load(server, "stopped", callers=8, seconds=300) as load:
        load.wait_for(50)
        os.kill(victim, signal.SIGSTOP)
        stopped_at = time.monotonic()
        _wait(lambda: not alive(victim), 60, "the hung replica is killed")
        load.wait_for(200)
    assert load.failures() == [], load.statuses()
    slow = [outcome for outcome in load.outcomes if outcome.seconds > 1]
    assert all(outcome.at + outcome.seconds < stopped_at + 30 for outcome in slow)
    _wait(lambda: all(replica["state"] == "ready" for replica in server.replicas("stopped")), 60, "it is back")
    client.undeploy("stopped")


def test_twenty_swaps_one_of_them_broken_drop_nothing(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    for number in range(1, 4):
        client.push(dummy(f"swap-{number}", note=number), name="swapped")
    broken = client.push(dummy("swap-broken", fail_load="this one is broken on purpose"), name="swapped").version.number
    client.deploy("swapped:1")
    with Load(server, "swapped", callers=6, seconds=300) as load:
        load.wait_for(20)
        for turn in range(20):
            if turn == 10:
                with pytest.raises(openmaas_error()) as caught:
                    client.deploy(f"swapped:{broken}")
                assert "broken on purpose" in str(caught.value)
                state = client.deployment("swapped")
                assert state.state == "failed" and state.serving == 1 + 9 % 3, state
            else:
                client.deploy(f"swapped:{1 + turn % 3}")
            load.wait_for(5)
    assert load.failures() == [], load.statuses()
    served = {outcome.body["model_version"] for outcome in load.outcomes}
    assert served == {"1", "2", "3"}
    client.undeploy("swapped")


def openmaas_error() -> type[Exception]:
    from openmaas import OpenMaaSError

    return OpenMaaSError


def test_predictions_go_on_while_control_is_dead_and_after_it_is_back(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy(), name="survivor")
    client.deploy("survivor", replicas=2)
    control = server.processes()["control"]
    with Load(server, "survivor", callers=6, seconds=300) as load:
        load.wait_for(50)
        os.kill(control, signal.SIGKILL)
        load.wait_for(300)
        _wait(lambda: server.run("status", "--json", check=False).returncode == 0, 60, "control is back")
        _wait(lambda: server.processes().get("control") not in (None, control), 60, "a new control process")
        client.push(dummy("second", factor=1), name="survivor")
        client.deploy("survivor", replicas=2)
        load.wait_for(50)
    assert load.failures() == [], load.statuses()
    assert client.deployment("survivor").state == "ready"
    client.undeploy("survivor")


def test_terminating_a_replica_or_the_server_under_load_answers_what_is_in_flight(
    own_server: Callable[..., Server], dummy: Callable[..., Path]
) -> None:
    server = own_server()
    client = server.client()
    client.push(dummy(delay=0.05), name="drained")
    client.deploy("drained", replicas=2)
    with Load(server, "drained", callers=6, seconds=300) as load:
        load.wait_for(20)
        os.kill(server.replicas("drained")[0]["pid"], signal.SIGTERM)
        load.wait_for(50)
        assert load.failures() == [], load.statuses()
        pids = server.pids()
        os.kill(server.processes()["supervisor"], signal.SIGTERM)
        _wait(lambda: not any(alive(pid) for pid in pids), 60, "everything has stopped")
    # Once the door has closed, new connections are refused; nothing that was accepted is lost.
    broken = [outcome for outcome in load.failures() if "ConnectError" not in str(outcome.body)]
    assert broken == [], load.statuses()


def test_a_replica_that_somebody_terminates_may_take_its_time_to_drain(server: Server, dummy: Callable[..., Path]) -> None:
    """Its long call, begun before the signal, outlasts the time after which a silent replica counts as hung."""
    client = server.client()
    client.push(dummy(delay=10.0), name="patient")
    client.deploy("patient")
    pid = server.replicas("patient")[0]["pid"]
    with Load(server, "patient", callers=1, limit=1) as load:
        time.sleep(3)
        os.kill(pid, signal.SIGTERM)
        terminated = time.monotonic()
        load.wait_for(1)
    (outcome,) = load.outcomes
    assert outcome.status == 200, outcome
    assert outcome.at + outcome.seconds < terminated + 10, "it was answered by the replica that began it"
    client.undeploy("patient")
