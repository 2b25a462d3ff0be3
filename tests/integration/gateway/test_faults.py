"""Replicas that are killed, stopped and swapped under load; control that goes away; a gateway that is told to stop."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from openmaas.core.contracts import Snapshot, encode
from openmaas.core.keys import make_key
from tests.integration.gateway.load import Loading
from tests.integration.gateway.plane import Plane, infer_body, read_rest, wait_until

Make = Callable[..., Plane]
DOUBLE = {"factor": 2, "delay": 0.002}


def started(make_plane: Make, *identities: str, options: dict[str, object] | None = None, **settings: object) -> Plane:
    """A gateway with one deployment `m` behind these replicas, all ready."""
    plane = make_plane(**settings)
    plane.publish()
    for identity in identities:
        plane.replica(identity, options=DOUBLE | (options or {}))
    plane.start_gateway()
    plane.deploy("m", *identities)
    for identity in identities:
        wait_until(lambda identity=identity: identity in plane.replica_counts(), what=identity)
    return plane


def test_killing_replicas_loses_no_request(make_plane: Make) -> None:
    plane = started(make_plane, "a", "b")
    with Loading(plane) as loading:
        for identity in ("a", "b", "a"):
            replica = plane.replicas[identity]
            replica.end()
            loading.wait_for(50)
            replica.start()
            wait_until(lambda identity=identity: identity in plane.replica_counts(), what=identity)
            loading.wait_for(50)
        load = loading.stop()
    assert load.wrong == []
    assert load.count > 300


def test_killing_the_only_replica_holds_requests_until_it_is_back(make_plane: Make) -> None:
    plane = started(make_plane, "a", hold_timeout=60)
    with Loading(plane, clients=4) as loading:
        plane.replicas["a"].end()
        time.sleep(0.3)
        plane.replicas["a"].start()
        loading.wait_for(50)
        load = loading.stop()
    assert load.wrong == []
    assert load.slowest > 0.3


def test_nothing_runs_and_that_is_said_with_a_time_to_come_back(make_plane: Make) -> None:
    plane = started(make_plane, "a", hold_timeout=0.3)
    plane.replicas["a"].end()
    begun = time.monotonic()
    answer = plane.infer([1, 2])
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "no_replica", "1")
    assert 0.2 < time.monotonic() - begun < 10
    assert plane.get("/v2/models/m/ready").status_code == 503
    assert plane.get("/v2/health/ready").status_code == 200


def test_a_request_that_kills_its_replicas_ends_and_others_are_served(make_plane: Make) -> None:
    plane = started(make_plane, "a", "b", "c", options={"exit_on": 99.0})
    with Loading(plane) as loading:
        answer = plane.infer([99, 1])
        assert (answer.status_code, answer.json()["code"]) == (503, "replica_lost")
        loading.wait_for(100)
        load = loading.stop()
    assert load.wrong == []
    assert sum(replica.process.poll() is None for replica in plane.replicas.values()) == 1


def test_a_stopped_replica_leaves_the_rotation_and_its_requests_are_answered_elsewhere(make_plane: Make) -> None:
    plane = started(make_plane, "a", "b", hang_timeout=1.0)
    with Loading(plane) as loading:
        plane.replicas["a"].signal(signal.SIGSTOP)
        wait_until(lambda: "a" not in plane.replica_counts(), what="the stopped replica is still in the rotation")
        loading.wait_for(100)
        plane.replicas["a"].signal(signal.SIGCONT)
        wait_until(lambda: "a" in plane.replica_counts(), what="back in the rotation")
        loading.wait_for(50)
        load = loading.stop()
    assert load.wrong == []
    assert load.slowest < 20, "none waited for the replica itself"


def test_swaps_under_load_drop_nothing_and_no_answer_mixes_versions(make_plane: Make) -> None:
    plane = started(make_plane, "v1")
    plane.deploy("m", "v1", aliases={"champion": 1})
    with Loading(plane) as loading, Loading(plane, clients=2, path="/v2/models/m@champion/infer") as by_alias:
        for version in range(2, 8):
            old, new = f"v{version - 1}", f"v{version}"
            plane.replica(new, version=version, options=DOUBLE)
            plane.deploy("m", old, new, traffic={version - 1: 1.0, version: 0.0}, aliases={"champion": version - 1})
            wait_until(lambda new=new: new in plane.replica_counts(), what=new)
            plane.replicas[old].signal(signal.SIGTERM)  # its farewell and the snapshot come in any order
            plane.deploy("m", new, aliases={"champion": version})
            plane.replicas[old].process.wait(60)
            assert plane.replicas.pop(old).process.returncode == 0
            loading.wait_for(20)
        load, aliased = loading.stop(), by_alias.stop()
    assert load.wrong == []
    assert aliased.wrong == []
    assert set(load.versions) == {str(version) for version in range(1, 8)}


def test_a_long_request_ends_at_the_replica_that_drains(make_plane: Make) -> None:
    plane = started(make_plane, "v1", options={"delay": 1.0})
    plane.replica("v2", version=2, options=DOUBLE)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(plane.infer, [1, 2])
        wait_until(lambda: plane.sample("openmaas_requests_in_flight") == 1)
        plane.replicas["v1"].signal(signal.SIGTERM)
        time.sleep(0.1)
        plane.deploy("m", "v2")
        answer = long.result()
    assert (answer.status_code, answer.json()["model_version"]) == (200, "1")
    assert plane.replicas["v1"].process.wait(60) == 0


def test_two_versions_share_the_traffic(make_plane: Make) -> None:
    plane = started(make_plane, "a")
    plane.replica("b", version=2, options=DOUBLE)
    plane.deploy("m", "a", "b", traffic={1: 80.0, 2: 20.0})
    wait_until(lambda: "b" in plane.replica_counts())
    with Loading(plane) as loading:
        loading.wait_for(300)
        load = loading.stop()
    assert load.wrong == []
    assert 0.05 < load.versions["2"] / load.count < 0.4


# ── control ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_predictions_go_on_without_control_and_it_is_heard_when_it_is_back(make_plane: Make) -> None:
    plane = started(make_plane, "a")
    with Loading(plane) as loading:
        plane.control.stop()
        loading.wait_for(100)
        key = make_key()
        plane.keys["new"] = key
        snapshot = plane.snapshot()
        plane.control.start()
        plane.control.publish(snapshot)
        wait_until(
            lambda: httpx.get(plane.url + "/v2", headers={"x-api-key": key}, timeout=60, trust_env=False).status_code == 200
        )
        load = loading.stop()
    assert load.wrong == []
    assert plane.control.peers[-1] == "gateway-0"


def test_a_gateway_starts_without_control_from_what_it_kept(make_plane: Make) -> None:
    plane = started(make_plane, "a")
    assert plane.gateway is not None
    plane.gateway.kill()
    plane.gateway.wait(60)
    plane.control.stop()
    plane.start_gateway()
    assert plane.infer([1, 2]).status_code == 200
    assert plane.infer([1, 2], name="nobody").status_code == 404


@pytest.mark.parametrize("kept", [None, b"", b"rubbish", encode(Snapshot(version=1))[:-2]])
def test_a_gateway_that_knows_nothing_is_live_and_not_ready(make_plane: Make, kept: bytes | None) -> None:
    plane = make_plane(control=False)
    if kept is not None:
        (plane.folder / "home" / "run").mkdir(parents=True)
        (plane.folder / "home" / "run" / "snapshot-0.msgpack").write_bytes(kept)
    plane.start_gateway(ready=False)
    assert plane.get("/v2/health/ready").status_code == 503
    assert plane.infer([1, 2]).status_code == 401
    plane.control.start()
    plane.publish()
    wait_until(lambda: plane.answers("/v2/health/ready"))
    assert plane.get("/v2").status_code == 200


def test_a_revoked_key_is_refused_within_a_second(make_plane: Make) -> None:
    plane = started(make_plane, "a")
    seconds = []
    for _ in range(5):  # the best of them: a busy machine may be late once
        key = plane.keys["guest"] = make_key()
        plane.publish()
        with httpx.Client(base_url=plane.url, headers={"x-api-key": key}, timeout=60, trust_env=False) as client:
            wait_until(lambda client=client: client.get("/v2").status_code == 200)
            del plane.keys["guest"]
            begun = time.monotonic()
            plane.publish()
            wait_until(lambda client=client: client.get("/v2").status_code == 401, what="refused over the connection it had")
            seconds.append(time.monotonic() - begun)
            assert client.post("/v2/models/m/infer", content=infer_body([1, 2])).status_code == 401
    assert min(seconds) < 1.0


def test_an_undeployed_model_is_gone(make_plane: Make) -> None:
    plane = started(make_plane, "a")
    plane.deployments.clear()
    plane.publish()
    wait_until(lambda: plane.infer([1, 2]).status_code == 404)


# ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_gateway_that_is_told_to_stop_answers_what_it_has(make_plane: Make) -> None:
    plane = started(make_plane, "a", options={"delay": 2.0})
    assert plane.gateway is not None
    request = plane.head("POST /v2/models/m/infer", f"Content-Length: {len(infer_body([1, 2]))}") + infer_body([1, 2])
    waiting = [plane.connect(request) for _ in range(5)]
    half = plane.connect(request[:-10])
    wait_until(lambda: plane.sample("openmaas_requests_in_flight") == 6)
    plane.gateway.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    half.sendall(request[-10:])
    for client in (*waiting, half):
        with client:
            said = read_rest(client)
            assert said.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" in said
    assert plane.gateway.wait(60) == 0
    with pytest.raises(OSError):
        plane.connect()


def test_a_gateway_that_is_told_to_stop_under_load_drops_nothing_that_it_took(make_plane: Make) -> None:
    """Every request that was sent over a connection gets its answer; only connecting anew fails."""
    plane = started(make_plane, "a")
    assert plane.gateway is not None
    with Loading(plane) as loading:
        loading.wait_for(100)
        plane.gateway.send_signal(signal.SIGTERM)
        assert plane.gateway.wait(60) == 0
        load = loading.stop()
    assert {wrong.split()[0] for wrong in load.wrong} <= {"ConnectError"}, load.wrong[:3]
    assert load.statuses[200] > 100


def test_a_client_that_never_ends_does_not_keep_a_gateway(make_plane: Make) -> None:
    plane = started(make_plane, "a", drain_timeout=1.0)
    assert plane.gateway is not None
    idle = plane.connect()
    slow = plane.connect(plane.head("POST /v2/models/m/infer", "Content-Length: 1000"))
    wait_until(lambda: plane.sample("openmaas_requests_in_flight") == 1)
    plane.connect(plane.head("POST /v2/models/m/infer", "Content-Length: 1000")).close()
    begun = time.monotonic()
    plane.gateway.send_signal(signal.SIGTERM)
    assert plane.gateway.wait(60) == 0
    assert 0.8 < time.monotonic() - begun < 20, "the default of drain_timeout is longer"
    idle.close()
    slow.close()


def test_a_port_that_is_taken_stops_the_start(make_plane: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        plane = make_plane(http_port=taken.getsockname()[1])
        with pytest.raises(AssertionError):
            plane.start_gateway(ready=False)
        assert plane.gateway is not None
        assert plane.gateway.poll() not in (None, 0)
        assert "address already in use" in plane.log.lower()


# ── much ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_large_bodies_and_answers_pass_whole(make_plane: Make) -> None:
    plane = make_plane(max_body=64 * 2**20)
    plane.publish()
    plane.replica("a", options={"factor": 2}, max_batch=10_000_000)
    plane.start_gateway()
    plane.deploy()
    values = b"\x00\x00\x80\x3f" * (50 * 2**20 // 4)  # 50 MiB of ones
    answer = httpx.post(
        f"{plane.url}/v2/models/m/infer",
        content=values,
        headers=plane.headers | {"inference-header-content-length": "0"},
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == 200
    size = int(answer.headers["inference-header-content-length"])
    assert answer.content[size:] == b"\x00\x00\x00\x40" * (len(values) // 4)


def test_the_gateway_holds_no_more_than_it_may(make_plane: Make) -> None:
    plane = started(make_plane, "a", options={"delay": 2.0}, max_in_flight=3, max_in_flight_bytes=300_000, max_body=200_000)
    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(plane.infer, [1, 2]) for _ in range(3)]
        wait_until(lambda: plane.sample("openmaas_requests_in_flight") == 3)
        answer = plane.infer([1, 2])
        assert (answer.status_code, answer.json()["code"]) == (503, "gateway_full")
        assert answer.headers["retry-after"] == "1"
        assert {one.result().status_code for one in waiting} == {200}
    held = [plane.connect(plane.head("POST /v2/models/m/infer", "Content-Length: 140000")) for _ in range(2)]
    wait_until(lambda: plane.sample("openmaas_requests_in_flight") == 2)
    assert plane.infer([1, 2] * 1000).json()["code"] in ("gateway_full", "shape_mismatch")
    assert plane.infer(*[[1, 2]] * 10_000).json()["code"] == "gateway_full"
    growing = plane.connect(plane.head("POST /v2/models/m/infer", "Transfer-Encoding: chunked"))
    for _ in range(3):
        growing.sendall(b"4000\r\n" + bytes(0x4000) + b"\r\n")
    assert growing.recv(100).startswith(b"HTTP/1.1 503 ")  # a body of unknown size counts as it grows
    for client in (*held, growing):
        client.close()
    wait_until(lambda: plane.infer([1, 2]).status_code == 200)
    assert plane.sample("openmaas_requests_in_flight") == 0
