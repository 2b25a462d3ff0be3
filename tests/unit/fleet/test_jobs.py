"""Processes of jobs, with scripts in their place."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from openmaas.core.contracts import SERVER_STOPPED, Desired, JobSpec, JobStatus
from openmaas.core.settings import Settings
from openmaas.fleet import job_run, output
from openmaas.fleet.jobs import Jobs
from openmaas.fleet.process import Launch
from tests.unit.fleet.conftest import until

_NOTED = "import os, sys, time; os.write(int(sys.argv[1]), str(os.getpid()).encode());"
SLEEPS = _NOTED + "print('working', flush=True); time.sleep(100)"


class Scripts:
    """The command of every job; `began` counts how often one was started."""

    def __init__(self, code: str = SLEEPS) -> None:
        self.code = code
        self.began: list[str] = []

    def __call__(self, spec: JobSpec, lock: int) -> Launch:
        self.began.append(spec.name)
        return Launch((sys.executable, "-c", self.code, str(lock)), dict(os.environ), stdin=b"told")


def spec(number: int = 1, attempt: int = 1, key: str = "omk_x") -> JobSpec:
    return JobSpec(id=f"job-{number:06d}", attempt=attempt, kind="dummy", project="default", key=key)


def desired(*specs: JobSpec, version: int = 1) -> Desired:
    return Desired(version=version, jobs=specs)


def home(settings: Settings) -> Path:
    path = settings.home_path
    (path / "run").mkdir(exist_ok=True)
    return path


@asynccontextmanager
async def watching(settings: Settings, scripts: Scripts) -> AsyncIterator[Jobs]:
    """Jobs as a supervisor has them. Leaving it is the supervisor's death: processes stay."""
    home(settings)
    jobs = Jobs(settings, scripts, lambda: None)
    jobs.adopt()
    task = asyncio.create_task(jobs.watch())
    try:
        yield jobs
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        _ORPHANS.extend(run._child for run in jobs._runs.values() if run._child is not None)


_ORPHANS: list[subprocess.Popen[bytes]] = []
"""Children of supervisors that are dead here; else nobody would wait for them, as init does."""


@pytest.fixture(autouse=True)
def orphans() -> Iterator[None]:
    yield
    for child in _ORPHANS:
        child.kill()
        child.wait(60)
    _ORPHANS.clear()


def gone(pid: int) -> bool:
    for child in _ORPHANS:
        child.poll()
    return not running(pid)


def only(jobs: Jobs) -> JobStatus:
    [status] = jobs.statuses()
    return status


def log(settings: Settings, number: int = 1) -> str:
    path = home(settings) / "logs" / "jobs" / f"job-{number:06d}.log"
    return path.read_text() if path.exists() else ""


def left(settings: Settings) -> list[str]:
    return sorted(path.name for path in (home(settings) / "run" / "jobs").iterdir())


async def test_it_runs_once_and_is_forgotten_when_it_is_not_wanted(settings: Settings) -> None:
    scripts = Scripts(_NOTED + "print(sys.stdin.read())")
    async with watching(settings, scripts) as jobs:
        jobs.apply(desired(spec()))
        jobs.apply(desired(spec(), version=2))
        await until(lambda: only(jobs).state == "ended")
        jobs.apply(desired(spec(), version=3))
        assert scripts.began == ["job-000001.1"]
        status = only(jobs)
        assert status.cause is not None
        assert (status.pid, status.cause.code, status.cause.stderr) == (None, "job_ended", ("told",))
        assert left(settings) == ["job-000001.1"]
        jobs.apply(desired(version=4))
        assert jobs.statuses() == ()
        await until(lambda: left(settings) == [])
    assert log(settings) == "[supervisor] start 1\ntold\n"


async def test_without_a_key_nothing_is_started(settings: Settings) -> None:
    scripts = Scripts()
    async with watching(settings, scripts) as jobs:
        jobs.apply(desired(spec(key="")))
        assert jobs.statuses() == () and scripts.began == []


@pytest.mark.parametrize(
    ("code", "cause", "words"),
    [
        ("raise SystemExit(0)", "job_ended", "exit status 0"),
        ("raise SystemExit(5)", "job_ended", "exit status 5"),
        ("os.kill(os.getpid(), 9)", "job_killed", "out of memory"),
        ("os.kill(os.getpid(), 11)", "job_killed", "SIGSEGV"),
        ("""print('{"openmaas_cause":{"code":"told","message":"It said so."}}')""", "told", "It said so."),
    ],
)
async def test_its_end_has_a_cause(settings: Settings, code: str, cause: str, words: str) -> None:
    async with watching(settings, Scripts(_NOTED + "print('last words', flush=True);" + code)) as jobs:
        jobs.apply(desired(spec()))
        await until(lambda: only(jobs).state == "ended")
        found = only(jobs).cause
        assert found is not None
        assert (found.code, words in found.message, found.stderr) == (cause, True, ("last words",))


async def test_a_cause_never_shows_another_starts_words(settings: Settings) -> None:
    scripts = Scripts(_NOTED + "print('first', flush=True); raise SystemExit(1)")
    async with watching(settings, scripts) as jobs:
        jobs.apply(desired(spec()))
        await until(lambda: only(jobs).state == "ended")
        scripts.code = _NOTED + "print('second', flush=True); raise SystemExit(1)"
        jobs.apply(desired(spec(attempt=2), version=2))
        await until(lambda: only(jobs).attempt == 2 and only(jobs).state == "ended")
        cause = only(jobs).cause
        assert cause is not None and cause.stderr == ("second",)


async def test_what_the_system_cannot_start_has_ended(settings: Settings) -> None:
    home(settings)
    jobs = Jobs(settings, lambda spec, lock: Launch(("/does/not/exist",), {}), lambda: None)
    jobs.adopt()
    jobs.apply(desired(spec()))
    status = only(jobs)
    assert status.state == "ended" and status.cause is not None and status.cause.code == "spawn_failed"


async def test_one_that_is_not_wanted_is_asked_and_then_killed_with_what_it_started(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_run, "GRACE", 0.5)
    code = _NOTED + (
        "import signal, subprocess; signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True));"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)']).pid, flush=True);"
        "[time.sleep(0.1) for _ in range(1000)]"
    )
    async with watching(settings, Scripts(code)) as jobs:
        jobs.apply(desired(spec()))
        await until(lambda: log(settings).count("\n") == 2)
        pid, child = only(jobs).pid or 0, int(log(settings).splitlines()[1])
        jobs.apply(desired(version=2))
        assert only(jobs).state == "running"
        await until(lambda: jobs.statuses() == ())
        assert "asked" in log(settings)
        await until(lambda: not running(pid) and not running(child))


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_the_next_supervisor_takes_over_what_runs_and_starts_nothing_twice(settings: Settings) -> None:
    scripts = Scripts()
    async with watching(settings, scripts) as first:
        first.apply(desired(spec()))
        await until(lambda: "working" in log(settings))
        pid = only(first).pid or 0
    async with watching(settings, scripts) as second:
        assert (only(second).state, only(second).pid) == ("running", pid)
        second.apply(desired(spec()))
        await asyncio.sleep(0.3)
        assert scripts.began == ["job-000001.1"] and only(second).state == "running"
        assert only(second).memory > 2**20
        second.apply(desired(version=2))
        await until(lambda: second.statuses() == ())
    assert gone(pid)


async def test_one_that_ended_meanwhile_is_told_by_the_next_supervisor(settings: Settings) -> None:
    scripts = Scripts()
    async with watching(settings, scripts) as first:
        first.apply(desired(spec()))
        await until(lambda: "working" in log(settings))
        pid = only(first).pid or 0
    os.kill(pid, signal.SIGKILL)
    await until(lambda: gone(pid))
    async with watching(settings, scripts) as second:
        status = only(second)
        assert status.state == "ended" and status.cause is not None
        assert (status.cause.code, status.cause.stderr) == ("job_ended", ("working",))
        second.apply(desired(spec()))
        assert scripts.began == ["job-000001.1"], "it is not run again under the same start"


async def test_a_stop_puts_jobs_back_and_a_start_that_finds_them_alive_does_not(settings: Settings) -> None:
    scripts = Scripts()
    async with watching(settings, scripts) as first:
        first.apply(desired(spec(1), spec(2)))
        await until(lambda: "working" in log(settings, 1) and "working" in log(settings, 2))
        await first.stop()
        first.apply(desired(version=9))  # too late to be heard
        assert {status.state for status in first.statuses()} == {"ended"}
    async with watching(settings, scripts) as second:
        causes = [status.cause.code for status in second.statuses() if status.cause]
        assert causes == [SERVER_STOPPED] * 2
        second.apply(desired(spec(1, attempt=2), version=10))
        await until(lambda: left(settings) == ["job-000001.2"])
        pid = only(second).pid or 0
        stopped = home(settings) / "run" / "jobs" / "job-000001.2.stopped"
        await until(lambda: (home(settings) / "run" / "jobs" / "job-000001.2").read_text() == str(pid))
    stopped.touch()  # a supervisor that was killed while it stopped
    async with watching(settings, scripts) as third:
        assert only(third).state == "running" and not stopped.exists()
        third.kill()
        await until(lambda: gone(pid))


async def test_what_nobody_uses_any_more_is_removed_at_the_start(settings: Settings) -> None:
    scratch = home(settings) / "jobs" / "job-000007.1"
    scratch.mkdir(parents=True)
    (scratch / "large").write_text("x")
    async with watching(settings, Scripts()):
        assert not scratch.exists()


async def test_a_log_that_grows_too_long_begins_anew(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LONGEST_LOG", 1000)
    code = _NOTED + "[(print('x' * 99, flush=True), time.sleep(0.01)) for _ in range(200)]; print('end')"
    async with watching(settings, Scripts(code)) as jobs:
        jobs.apply(desired(spec()))
        await until(lambda: only(jobs).state == "ended")
    assert log(settings).endswith("end\n") and len(log(settings)) < 6000
    assert (home(settings) / "logs" / "jobs" / "job-000001.log.1").exists()


async def test_files_are_for_this_user_alone(settings: Settings) -> None:
    before = os.umask(0)
    try:
        async with watching(settings, Scripts("pass")) as jobs:
            jobs.apply(desired(spec()))
            await until(lambda: only(jobs).state == "ended")
    finally:
        os.umask(before)
    for path in (home(settings) / "logs" / "jobs" / "job-000001.log", home(settings) / "run" / "jobs" / "job-000001.1"):
        assert path.stat().st_mode & 0o077 == 0
