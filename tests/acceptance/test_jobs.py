"""Jobs in a real server: what is killed around them, what is killed of them, and that each ends once."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import openmaas
from openmaas.client import JobFailed, find_server
from openmaas.client.blocking import BlockingTransport
from openmaas.core.errors import Cancelled, Conflict, Forbidden, Unauthenticated
from openmaas.core.keys import make_key
from openmaas.core.resources import JobInfo, JobReport

from .conftest import BIN, Server, alive, make_server, stop_all

pytestmark = pytest.mark.timeout(400)


def wait(condition: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    until = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return result


def working(client: openmaas.Client, job: JobInfo) -> JobInfo:
    """As it is once its task has told progress from a process that is known."""

    def look() -> JobInfo | None:
        info = client.job(job.id)
        return info if info.stage == "working" and info.pid is not None else None

    found: JobInfo = wait(look, f"{job.id} works")
    return found


def starts(server: Server, job: JobInfo) -> int:
    """How many processes it had."""
    return (server.home / "logs" / "jobs" / f"{job.id}.log").read_text().count("[supervisor] start ")


def kill_server(server: Server, processes: dict[str, int] | None = None) -> None:
    """The supervisor without a word; control and the gateway end with it. processes: as they are, where time presses."""
    processes = processes or server.processes()
    os.kill(processes["supervisor"], signal.SIGKILL)
    wait(lambda: not any(alive(pid) for pid in processes.values()), "the server is gone")


def test_a_job_is_submitted_followed_and_read(server: Server) -> None:
    client = server.client()
    looks: list[JobInfo] = []
    job = client.submit_job("dummy", {"seconds": 1.5, "lines": 3})
    assert job.state in ("queued", "running")
    done = client.wait_job(job.id, progress=looks.append)
    assert done.state == "succeeded" and done.result is not None
    assert (done.cause, done.pid, done.attempt) == (None, None, 1)
    assert 1.5 <= done.result["ended"] - done.result["began"] < 60
    shares = [look.done / look.total for look in looks if look.total]
    assert shares == sorted(shares) and len(set(shares)) > 3 and shares[-1] == 1
    lines = client.job_logs(job.id).lines
    assert [line.split("  ")[1] for line in lines if "line" in line] == ["line 0", "line 1", "line 2"]
    assert server.json("jobs", "show", job.id)["result"] == done.result
    assert job.id in server.run("jobs", "ls").stdout
    assert "line 2" in server.run("jobs", "logs", job.id, "--follow").stdout
    assert not (server.home / "jobs" / f"{job.id}.1").exists(), "its scratch is gone"


def test_the_bar_becomes_lines_where_nobody_watches(server: Server) -> None:
    job = server.client().submit_job("dummy", {"seconds": 1.0, "note": "lines"})
    done = server.run("jobs", "show", job.id, "--wait")
    assert f"{job.id}  running  working" in done.stderr and f"{job.id}  succeeded" in done.stderr
    assert "\x1b[" not in done.stderr


def test_ctrl_c_leaves_a_job_running_and_says_how_to_come_back(server: Server) -> None:
    client = server.client()
    job = client.submit_job("dummy", {"seconds": 60, "note": "ctrl-c"})
    watcher = subprocess.Popen(
        [str(BIN), "jobs", "show", job.id, "--wait"],
        env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watcher.stderr is not None
    while "working" not in (line := watcher.stderr.readline()):  # then it waits
        assert line, "it has ended"
    watcher.send_signal(signal.SIGINT)
    _, told = watcher.communicate(timeout=60)
    assert watcher.returncode == 130
    assert f"openmaas jobs show {job.id} --wait" in told
    assert client.job(job.id).state == "running"
    client.cancel_job(job.id)
    with pytest.raises(Cancelled):
        client.wait_job(job.id, timeout=60)


def test_a_job_that_fails_tells_its_cause_and_may_be_retried(server: Server) -> None:
    client = server.client()
    job = client.submit_job("dummy", {"fail": "this one fails on purpose"})
    with pytest.raises(JobFailed, match="fails on purpose") as failed:
        client.wait_job(job.id)
    assert (failed.value.code, failed.value.next_step) == ("dummy_failed", "Do not ask it to fail.")
    again = client.retry_job(job.id)
    assert again.attempt == 2 and again.cause is None
    with pytest.raises(JobFailed):
        client.wait_job(job.id)
    assert client.job(job.id).attempt == 2
    assert starts(server, job) == 2


def test_a_crash_is_a_failure_with_what_it_said_last(server: Server) -> None:
    client = server.client()
    crashed = client.submit_job("dummy", {"exit": 139, "lines": 2})
    with pytest.raises(JobFailed, match="exit status 139") as failed:
        client.wait_job(crashed.id)
    assert failed.value.code == "job_ended"
    assert any("line 1" in line for line in failed.value.cause.stderr)
    killed = client.submit_job("dummy", {"seconds": 60, "note": "killed"})
    os.kill(working(client, killed).pid or 0, signal.SIGKILL)
    with pytest.raises(JobFailed, match="SIGKILL") as failed:
        client.wait_job(killed.id, timeout=60)
    assert failed.value.code == "job_killed"
    stopped = client.submit_job("dummy", {"seconds": 60, "note": "stopped by somebody else"})
    os.kill(working(client, stopped).pid or 0, signal.SIGTERM)
    with pytest.raises(JobFailed, match="asked to end before") as failed:
        client.wait_job(stopped.id, timeout=60)
    assert (failed.value.code, failed.value.next_step) == ("asked_to_end", f"openmaas jobs retry {stopped.id}")
    again = client.retry_job(killed.id)
    assert working(client, again).attempt == 2
    client.cancel_job(killed.id)
    with pytest.raises(Cancelled):
        client.wait_job(killed.id, timeout=60)


def test_a_cancelled_job_is_gone_and_says_nothing_more(server: Server) -> None:
    client = server.client()
    job = client.submit_job("dummy", {"seconds": 60, "note": "cancel"})
    pid = working(client, job).pid or 0
    asked = client.cancel_job(job.id)
    assert asked.state in ("cancelling", "cancelled")
    with pytest.raises(Cancelled):
        client.wait_job(job.id, timeout=120)
    assert not alive(pid)
    ended = client.job(job.id)
    assert (ended.state, ended.result, ended.cause) == ("cancelled", None, None)
    with pytest.raises(Conflict):
        client.cancel_job(job.id)


@pytest.mark.slow
def test_one_that_does_not_heed_is_killed_when_its_grace_is_over(server: Server) -> None:
    client = server.client()
    job = client.submit_job("dummy", {"seconds": 60, "stubborn": True, "lines": 1})
    pid = wait(lambda: "line 0" in "".join(client.job_logs(job.id).lines) and client.job(job.id).pid, "it works")
    time.sleep(0.5)
    client.cancel_job(job.id)
    time.sleep(2)
    assert client.job(job.id).state == "cancelling" and alive(pid)
    with pytest.raises(Cancelled):
        client.wait_job(job.id, timeout=120)
    assert not alive(pid)


def test_control_killed_in_the_middle_changes_nothing(server: Server) -> None:
    client = server.client()
    job = client.submit_job("dummy", {"seconds": 4.0, "note": "control"})
    pid = working(client, job).pid
    os.kill(server.processes()["control"], signal.SIGKILL)
    done = client.wait_job(job.id, timeout=120)
    assert done.state == "succeeded" and done.result is not None
    assert (done.result["pid"], done.attempt, starts(server, job)) == (pid, 1, 1)


def test_control_killed_while_a_result_is_due_gets_it_when_it_is_back(server: Server) -> None:
    client = server.client()
    job = client.submit_job("dummy", {"seconds": 1.5, "push": "from-a-job"})
    working(client, job)
    for _ in range(3):
        killed = server.processes()["control"]
        os.kill(killed, signal.SIGKILL)
        wait(lambda killed=killed: server.control_is_back(killed), "control is back")
    done = client.wait_job(job.id, timeout=120)
    assert done.result is not None and done.result["pushed"] == "from-a-job:1"
    assert done.result["by"] == f"{job.id}-1"
    assert [version.number for version in client.versions("from-a-job")] == [1]
    assert starts(server, job) == 1


def test_a_killed_supervisor_leaves_its_jobs_to_the_next_one(own_server: Callable[..., Server]) -> None:
    server = own_server(jobs=8)
    client = server.client()
    going = client.submit_job("dummy", {"seconds": 20.0, "note": "goes on"})
    doomed = client.submit_job("dummy", {"seconds": 60.0, "note": "is killed meanwhile"})
    pids = {job.id: working(client, job).pid or 0 for job in (going, doomed)}
    processes = server.processes()
    brief = client.submit_job("dummy", {"seconds": 4.0, "note": "ends, and tells the next control"})
    pids[brief.id] = working(client, brief).pid or 0
    kill_server(server, processes)
    assert all(alive(pid) for pid in pids.values())
    os.kill(pids[doomed.id], signal.SIGKILL)
    time.sleep(4)
    server.up()
    with pytest.raises(JobFailed, match="without a result"):
        client.wait_job(doomed.id, timeout=60)
    for job in (brief, going):
        done = client.wait_job(job.id, timeout=120)
        assert done.result is not None
        assert (done.result["pid"], done.attempt, starts(server, job)) == (pids[job.id], 1, 1)
    wait(lambda: not list((server.home / "run" / "jobs").iterdir()), "no note is left")
    assert not list((server.home / "jobs").iterdir()), "no scratch is left"


def test_a_job_that_was_taken_over_can_be_cancelled_and_its_death_is_seen(own_server: Callable[..., Server]) -> None:
    server = own_server(jobs=8)
    client = server.client()
    cancelled = client.submit_job("dummy", {"seconds": 60.0, "note": "cancelled"})
    killed = client.submit_job("dummy", {"seconds": 60.0, "note": "killed"})
    pids = [working(client, job).pid or 0 for job in (cancelled, killed)]
    kill_server(server)
    server.up()
    wait(lambda: client.job(killed.id).pid == pids[1], "it is known again")
    client.cancel_job(cancelled.id)
    with pytest.raises(Cancelled):
        client.wait_job(cancelled.id, timeout=60)
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(JobFailed):
        client.wait_job(killed.id, timeout=60)
    assert not any(alive(pid) for pid in pids)


def test_down_puts_jobs_back_and_up_runs_them_again(own_server: Callable[..., Server]) -> None:
    server = own_server(jobs=1)
    client = server.client()
    job = client.submit_job("dummy", {"seconds": 10.0, "note": "put back"})
    waiting = client.submit_job("dummy", {"note": "waits behind it"})
    pid = working(client, job).pid or 0
    assert client.job(waiting.id).state == "queued"
    server.run("down")
    assert not alive(pid)
    server.up()
    done = client.wait_job(job.id, timeout=120)
    assert done.result is not None and done.result["pid"] != pid
    assert (done.attempt, starts(server, job)) == (1, 2)
    behind = client.wait_job(waiting.id, timeout=60)
    assert behind.result is not None and behind.result["began"] >= done.result["ended"]


def test_one_that_takes_more_memory_than_it_may_fails_and_says_so(own_server: Callable[..., Server]) -> None:
    server = own_server(job_memory=400 * 2**20)
    client = server.client()
    assert client.wait_job(client.submit_job("dummy", {"allocate": 10 * 2**20}).id).state == "succeeded"
    with pytest.raises(JobFailed, match="OPENMAAS_JOB_MEMORY") as failed:
        client.wait_job(client.submit_job("dummy", {"allocate": 2**30}).id)
    assert failed.value.code == "memory_limit"


def test_measurements_are_never_disturbed(own_server: Callable[..., Server]) -> None:
    """Neither by another job of the same server, nor by a measurement of another server on this machine."""
    servers = [own_server(jobs=4), own_server(jobs=4)]
    clients = [server.client() for server in servers]
    submitted = [
        (client, kind, client.submit_job(kind, {"seconds": 0.7 if number < 4 else 3.0, "note": str(number)}))
        for number, kind in enumerate(("dummy", "dummy-measure", "dummy", "dummy-measure", "dummy", "dummy"))
        for client in clients
    ]
    spans = [(client, kind, client.wait_job(job.id, timeout=180).result or {}) for client, kind, job in submitted]

    def overlap(one: dict[str, float], other: dict[str, float]) -> bool:
        return one["began"] < other["ended"] and other["began"] < one["ended"]

    for index, (client, kind, span) in enumerate(spans):
        for other_client, other_kind, other in spans[index + 1 :]:
            if "dummy-measure" in (kind, other_kind) and (client is other_client or kind == other_kind):
                assert not overlap(span, other), (kind, span, other_kind, other)
    plain = [span for client, kind, span in spans[-4:] if client is clients[0]]
    assert overlap(*plain), "those that do not measure run side by side"


def test_a_jobs_process_has_no_secret_but_its_own_key(tmp_path: Path) -> None:
    server = make_server(tmp_path / "home-secret", database_url=f"sqlite:///{tmp_path}/elsewhere.db")
    server.environment |= {"GITHUB_TOKEN": "not-for-jobs", "AWS_SECRET_ACCESS_KEY": "not-for-jobs"}
    server.up()
    try:
        client = server.client()
        job = client.submit_job("dummy", {"seconds": 30})
        pid = working(client, job).pid
        seen = Path(f"/proc/{pid}/environ").read_text() + Path(f"/proc/{pid}/cmdline").read_text()
        assert "not-for-jobs" not in seen and "omk_" not in seen and "elsewhere.db" not in seen
        log = (server.home / "logs" / "jobs" / f"{job.id}.log").read_text()
        assert "omk_" not in log
    finally:
        stop_all(server)


def test_the_key_of_a_job_is_worthless_after_its_end(server: Server) -> None:
    """Seen in the database of the server: every key of a job that has ended is revoked."""
    client = server.client()
    client.wait_job(client.submit_job("dummy", {"note": "key"}).id)
    with sqlite3.connect(server.home / "openmaas.db") as database:
        keys = database.execute("SELECT id, revoked_at FROM keys WHERE role = 'job'").fetchall()
    running = {job.id for job in client.jobs(state="running")}
    assert keys
    assert [key for key, revoked in keys if revoked is None and key.rpartition("-")[0] not in running] == []


def test_the_same_job_is_not_begun_twice(server: Server) -> None:
    client = server.client()
    first = client.submit_job("dummy", {"seconds": 2.0, "note": "twice"})
    assert client.submit_job("dummy", {"note": "twice", "seconds": 2.0}).id == first.id
    client.wait_job(first.id)
    assert client.submit_job("dummy", {"seconds": 2.0, "note": "twice"}).id != first.id


def test_a_version_with_a_job_stays_until_the_job_has_ended(server: Server, dummy: Callable[..., Path]) -> None:
    client = server.client()
    client.push(dummy("used"), name="used")
    job = client.submit_job("dummy", {"version": "used", "seconds": 3.0})
    assert job.subject == "used:1"
    for delete in (lambda: client.delete_version("used:1"), lambda: client.delete_model("used")):
        with pytest.raises(Conflict, match=job.id):
            delete()
    client.gc(apply=True)
    done = client.wait_job(job.id)
    assert done.result is not None and done.result["files"] == 1
    client.delete_model("used")


def test_nobody_reports_for_a_job_but_its_own_process(server: Server) -> None:
    client = server.client()
    job = client.submit_job("dummy", {"seconds": 2.0, "note": "report"})
    working(client, job)
    with pytest.raises(Forbidden):
        client.report_job(job.id, JobReport(result={"forged": True}))
    with openmaas.Client(client.server.control_url, api_key=make_key()) as stranger, pytest.raises(Unauthenticated):
        stranger.report_job(job.id, JobReport(result={"forged": True}))
    assert "forged" not in (client.wait_job(job.id).result or {})


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_behind_tls_a_job_finds_its_own_server_by_whatever_name(tmp_path: Path) -> None:
    """The certificate is for the name that others use; the job comes over the loopback."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    make += ["-subj", "/CN=models.example", "-addext", "subjectAltName=DNS:models.example"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    server = make_server(tmp_path / "home", tls_cert=certificate, tls_key=key)
    server.up()
    try:
        trust = ssl.create_default_context(cafile=str(certificate))
        trust.check_hostname = False
        url = f"https://127.0.0.1:{server.control_port}"
        transport = BlockingTransport(find_server(url, api_key=server.key), trust)
        with openmaas.Client(url, api_key=server.key, transport=transport) as client:
            done = client.wait_job(client.submit_job("dummy", {"seconds": 0.5, "push": "secure"}).id, timeout=60)
            assert done.result is not None and done.result["pushed"] == "secure:1"
    finally:
        server.down()
