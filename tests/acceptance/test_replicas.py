"""Replicas at their limits: memory, crash loops, several doors."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from openmaas import OpenMaaSError

from .conftest import Server
from .load import Load

pytestmark = pytest.mark.timeout(300)


def test_a_model_beyond_its_memory_limit_says_so_and_harms_no_neighbour(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy("small"), name="small")
    client.deploy("small")
    client.push(dummy("large", allocate=600 * 2**20), name="large")
    with pytest.raises(OpenMaaSError) as refused:
        client.deploy("large", memory=400 * 2**20)
    assert refused.value.code == "memory_limit", refused.value
    assert "400" in str(refused.value)
    assert client.deployment("large").state == "failed"
    assert client.predict("small", [[1.0, 2.0]])["Y"].tolist() == [[1.0, 2.0]]
    client.deploy("large", memory=1200 * 2**20)
    assert client.predict("large", [[1.0, 2.0]])["Y"].tolist() == [[1.0, 2.0]]
    client.undeploy("large")
    client.undeploy("small")


def test_a_crash_loop_stops_says_so_and_ends_with_the_next_deploy(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy(), name="crashing")
    client.deploy("crashing")
    killed: set[int] = set()
    until = time.monotonic() + 120
    while client.deployment("crashing").state != "failed":
        assert time.monotonic() < until
        (replica,) = server.replicas("crashing")
        if replica["state"] == "ready" and replica["pid"] not in killed:
            os.kill(replica["pid"], signal.SIGKILL)
            killed.add(replica["pid"])
    told = client.deployment("crashing")
    assert told.cause is not None
    assert told.cause.code == "crash_loop"
    assert "5 times in a row" in told.cause.message
    assert told.cause.next_step == "openmaas logs crashing"
    (replica,) = server.replicas("crashing")
    assert (replica["state"], replica["pid"], replica["restarts"]) == ("failed", None, 4)
    assert "SIGKILL ended it" in server.run("logs", "crashing").stdout
    client.deploy("crashing")
    assert client.predict("crashing", [[1.0, 2.0]])["Y"].tolist() == [[1.0, 2.0]]
    client.undeploy("crashing")


def test_with_two_gateways_one_may_end(own_server: Callable[..., Server], dummy: Callable[..., Path]) -> None:
    server = own_server(gateways=2)
    client = server.client()
    client.push(dummy(), name="doors")
    client.deploy("doors")
    first = server.processes()["gateway-0"]
    os.kill(first, signal.SIGTERM)
    until = time.monotonic() + 60
    while server.processes().get("gateway-0") in (None, first):
        assert time.monotonic() < until
        time.sleep(0.1)
    with Load(server, "doors", callers=4, limit=200) as load:
        load.wait_for(200)
    assert load.failures() == [], load.statuses()


def test_a_deployment_that_starts_for_the_first_time_says_so(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy(load_delay=2), name="slow")
    client.deploy("slow", wait=False)
    until = time.monotonic() + 60
    codes: set[str] = set()
    while client.deployment("slow").state == "starting":
        assert time.monotonic() < until
        answer = httpx.post(
            f"{server.gateway}/v2/models/slow/infer", headers={"x-api-key": server.key}, json={}, timeout=60, trust_env=False
        )
        if answer.status_code == 503:
            assert answer.headers["retry-after"] == "1"
        codes.add(answer.json()["code"])
    assert "deployment_starting" in codes
    assert not codes & {"internal", ""}
    assert client.predict("slow", [[1.0, 2.0]])["Y"].tolist() == [[1.0, 2.0]]
    client.undeploy("slow")
