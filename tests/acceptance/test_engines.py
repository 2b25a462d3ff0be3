"""`engine: auto` from push to prediction: measured by a job, followed by deployments, shown, kept through restarts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import InvalidInput
from tests.acceptance.conftest import Server, make_server, stop_all
from tests.integration.tasks.test_measure import save_classifier

Dummies = Callable[..., Path]
SLOW = {"delay": 0.1}  # seconds a run of the version's own engine
QUICK = {"delay": 0.0}


@pytest.fixture(scope="module")
def measuring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that measures what is pushed, as it does where nobody says otherwise."""
    server = make_server(tmp_path_factory.mktemp("home"), hold_timeout=10, measure="push")
    server.up()
    yield server
    stop_all(server)


def test_pushed_measured_deployed_shown_and_kept(measuring: Server, dummy: Dummies) -> None:
    path = dummy("pair", **SLOW, variants=[QUICK, {"fail_load": "this one never loads"}])
    pushed = measuring.json("push", str(path), "--name", "pair")
    (job,) = pushed["jobs"]
    info = measuring.json("deploy", "pair")  # waits for the measurement, then for the replica
    assert (info["state"], info["measuring"]) == ("ready", None)
    assert info["engine"]["name"] == "dummy:delay"
    assert info["engine"]["why"].startswith("measured: ")
    assert measuring.json("jobs", "show", job)["state"] == "succeeded"

    version = measuring.json("show", "pair:1")
    assert version["measurement"]["job"] == job
    tried = {(one["choice"]["options"].get("delay", "own"), one["state"]) for one in version["measurement"]["tried"]}
    assert ("own", "fit") in tried
    assert (0.0, "fit") in tried
    text = measuring.run("show", "pair:1").stdout
    assert "load_failed" in text
    assert "this one never loads" in text
    assert "★" in text
    assert "dummy:delay" in measuring.run("ps").stdout

    answer_within(measuring, 0.08)
    replica = measuring.replicas("pair")[0]
    os.kill(replica["pid"], signal.SIGKILL)
    wait_until(
        lambda: any(one["pid"] not in (None, replica["pid"]) and one["state"] == "ready" for one in measuring.replicas("pair"))
    )
    answer_within(measuring, 0.08)
    measuring.down()
    measuring.up()
    wait_until(lambda: [one["state"] for one in measuring.replicas("pair")] == ["ready"])
    kept = measuring.client().deployment("pair").engine
    assert kept is not None
    assert (kept.name, kept.why) == (info["engine"]["name"], info["engine"]["why"])
    answer_within(measuring, 0.08)


def answer_within(server: Server, seconds: float) -> None:
    """The best of twenty: the version's own engine takes 100 ms for each."""
    client = server.client()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        client.predict("pair", np.ones((1, 2), np.float32))
        times.append(time.perf_counter() - start)
    assert min(times) < seconds


def wait_until(true: Callable[[], Any], seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_deployment_says_what_it_waits_for_and_goes_on_when_that_is_cancelled(measuring: Server, dummy: Dummies) -> None:
    client = measuring.client()
    pushed = client.push(dummy("waiting", variants=[{"load_delay": 60, "n": 1}]), name="waiting")
    (job,) = pushed.jobs
    info = client.deploy("waiting", wait=False)
    assert (info.state, info.measuring, info.engine, info.replicas) == ("starting", job, None, 1)
    assert f"engines are being measured by {job}" in measuring.run("ps").stdout
    assert client.show("waiting").measuring == job
    assert measuring.replicas("waiting") == []
    client.cancel_job(job)
    wait_until(lambda: client.deployment("waiting").state == "ready")
    engine = client.deployment("waiting").engine
    assert engine is not None
    assert (engine.name, engine.why) == ("dummy", f"not measured: the job {job} was cancelled")


def test_forced_engines(measuring: Server, dummy: Dummies) -> None:
    client = measuring.client()
    measuring.run("push", str(dummy("forced", variants=[QUICK, {"answer": "nan"}])), "--name", "forced", "--wait")
    deployed = client.deploy("forced", engine="dummy:delay")
    assert deployed.engine is not None
    assert deployed.engine.name == "dummy:delay"
    with pytest.raises(InvalidInput, match="dummy:answer cannot run this version: not_finite") as caught:
        client.deploy("forced", engine="dummy:answer")
    assert caught.value.next_step == "These can: dummy, dummy:delay."
    with pytest.raises(InvalidInput, match="No engine here is called 'warp'"):
        client.deploy("forced", engine="warp")
    assert client.deployment("forced").state == "ready"
    client.deploy("forced", engine="dummy")
    assert client.rollback("forced").engine == deployed.engine


@pytest.mark.slow
def test_a_real_model_measured_again_by_hand(measuring: Server, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    measuring.run("push", str(save_classifier(tmp_path / "files")), "--name", "classifier", "--wait")
    first = measuring.json("show", "classifier")["measurement"]
    labels = {one["choice"]["engine"] for one in first["tried"] if one["state"] == "fit"}
    assert labels == {"onnxruntime", "openvino"}
    again = measuring.json("measure", "classifier", "--seconds", "20", "--wait")
    assert again["job"] != first["job"]
    assert measuring.json("show", "classifier")["measurement"]["job"] == again["job"]
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    answers = []
    for engine in ("onnxruntime", "openvino"):
        info = measuring.json("deploy", "classifier", "--engine", engine)
        assert info["engine"]["name"] == engine
        answers.append(measuring.client().predict("classifier", x))
    np.testing.assert_allclose(answers[0]["probabilities"], answers[1]["probabilities"], rtol=1e-4, atol=1e-6)


def test_never_means_the_version_s_own_engine(server: Server, dummy: Dummies) -> None:
    pushed = server.json("push", str(dummy("plain", variants=[QUICK])), "--name", "plain")
    assert pushed["jobs"] == []
    info = server.json("deploy", "plain")
    assert info["engine"] == {"name": "dummy", "threads": 0, "why": "not measured: OPENMAAS_MEASURE is never"}
    assert server.json("show", "plain")["measurement"] is None


def test_measured_at_the_first_deploy_where_it_is_so_set(own_server: Callable[..., Server], dummy: Dummies) -> None:
    server = own_server(measure="deploy")
    client = server.client()
    assert client.push(dummy("late", **SLOW, variants=[QUICK]), name="late").jobs == []
    info = client.deploy("late")
    assert info.engine is not None
    assert info.engine.name == "dummy:delay"
    (job,) = client.jobs(kind="measure")
    client.deploy("late", replicas=2)
    assert [one.id for one in client.jobs(kind="measure")] == [job.id], "once is enough"
