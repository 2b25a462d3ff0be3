"""One child that is kept running, with scripts as children."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from openmaas.core.contracts import Cause
from openmaas.fleet.keeper import Keeper, Watched
from openmaas.fleet.output import LogFile, Output
from openmaas.fleet.process import Launch
from openmaas.fleet.restarts import CRASH_LOOP, Restarts

from .conftest import python, until

FOR_EVER = "import time; print('here', flush=True); time.sleep(100)"


async def forever(run: Watched) -> Cause:
    run.became_ready()
    await asyncio.Event().wait()
    raise AssertionError


async def never_ready(run: Watched) -> Cause:
    await asyncio.Event().wait()
    raise AssertionError


def keep(
    tmp_path: Path, launch: Callable[[], Launch], watch: Callable[[Watched], Awaitable[Cause]] = never_ready, **more: object
) -> Keeper:
    output = Output(LogFile(tmp_path / "child.log"))
    return Keeper("child-1-0", launch, watch, output, grace=5, next_step="openmaas logs child", **more)  # type: ignore[arg-type]


class Sleeps:
    """An injected clock: notes how long each pause would be and takes none."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


async def test_a_crash_loop_backs_off_stops_and_says_so(tmp_path: Path) -> None:
    sleeps = Sleeps()
    code = "import sys; print('out'); sys.exit('no such file: model.onnx')"
    keeper = keep(tmp_path, lambda: python(code), sleep=sleeps)
    keeper.start()
    await until(lambda: keeper.state == "failed")
    assert sleeps.taken == [0.1, 0.2, 0.4, 0.8]
    assert keeper.restarts.starts == CRASH_LOOP
    cause = keeper.cause
    assert cause is not None
    assert cause.code == "load_failed"
    assert "5 times in a row" in cause.message
    assert "exit status 1" in cause.message
    assert cause.stderr == ("out", "no such file: model.onnx")
    assert cause.next_step == "openmaas logs child"
    assert keeper.running_pid is None
    await keeper.stop()
    assert keeper.state == "stopped"


async def test_a_child_that_says_why_and_not_to_retry_fails_at_once(tmp_path: Path) -> None:
    code = """import sys
sys.stderr.write('trace\\n{"openmaas_cause": {"code": "digest_mismatch", "message": "Wrong."}}\\n')
sys.exit(3)"""
    keeper = keep(tmp_path, lambda: python(code))
    keeper.start()
    await until(lambda: keeper.state == "failed")
    assert keeper.restarts.starts == 1
    assert keeper.cause == Cause(code="digest_mismatch", message="Wrong.", stderr=("trace",), next_step="openmaas logs child")
    await keeper.stop()


async def test_a_cause_with_another_status_is_tried_again(tmp_path: Path) -> None:
    code = """import sys
sys.stderr.write('{"openmaas_cause": {"code": "busy", "message": "Later."}}\\n')
sys.exit(1)"""
    keeper = keep(tmp_path, lambda: python(code), sleep=Sleeps())
    keeper.start()
    await until(lambda: keeper.state == "failed")
    assert keeper.restarts.starts == CRASH_LOOP
    assert keeper.cause is not None
    assert keeper.cause.code == "busy"
    await keeper.stop()


async def test_progress_makes_every_crash_the_first(tmp_path: Path) -> None:
    async def useful(run: Watched) -> Cause:
        run.became_ready()
        run.made_progress()
        await asyncio.Event().wait()
        raise AssertionError

    sleeps = Sleeps()
    keeper = keep(tmp_path, lambda: python("import time; time.sleep(0.02)"), useful, sleep=sleeps)
    keeper.start()
    await until(lambda: keeper.restarts.starts > 2 * CRASH_LOOP)
    assert set(sleeps.taken) == {0.1}
    await keeper.stop()


async def test_killed_from_outside_it_comes_back_with_another_pid(tmp_path: Path) -> None:
    keeper = keep(tmp_path, lambda: python(FOR_EVER), forever)
    keeper.start()
    await until(lambda: keeper.state == "ready")
    first = keeper.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: keeper.restarts.starts == 2 and keeper.state == "ready")
    assert keeper.pid != first
    assert keeper.cause is not None
    assert "SIGKILL" in keeper.cause.message
    await keeper.stop()


async def test_what_its_watch_condemns_is_killed_even_when_stopped(tmp_path: Path) -> None:
    states: list[str] = []

    async def condemn(run: Watched) -> Cause:
        run.became_ready()
        await until(lambda: (tmp_path / "child.log").exists())
        os.kill(run.pid, signal.SIGSTOP)
        return Cause(code="hung", message="It gave no sign of life.")

    keeper = keep(tmp_path, lambda: python(FOR_EVER), condemn, restarts=Restarts(attempts=1))
    keeper._on_change = lambda: states.append(keeper.state)
    keeper.start()
    await until(lambda: keeper.state == "failed")
    assert states == ["starting", "ready", "hung", "failed"]
    assert keeper.cause is not None
    assert keeper.cause.code == "hung"
    await keeper.stop()


async def test_a_watch_that_breaks_does_not_leave_its_child_unwatched(tmp_path: Path) -> None:
    async def broken(run: Watched) -> Cause:
        raise RuntimeError("a mistake")

    keeper = keep(tmp_path, lambda: python(FOR_EVER), broken, restarts=Restarts(attempts=1))
    keeper.start()
    await until(lambda: keeper.state == "failed")
    assert keeper.cause is not None
    assert keeper.cause.code == "internal"
    await keeper.stop()


async def test_stopping_lets_it_drain(tmp_path: Path) -> None:
    code = """import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.1), print('drained', flush=True), sys.exit(0)))
print('here', flush=True)
time.sleep(100)"""
    keeper = keep(tmp_path, lambda: python(code), forever)
    keeper.start()
    await until(lambda: keeper._output.tail(1) == ("here",))
    await keeper.stop()
    assert keeper._output.tail(1) == ("drained",)
    assert keeper.state == "stopped"


async def test_one_that_does_not_stop_is_killed_when_its_grace_is_over(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(100)"
    keeper = keep(tmp_path, lambda: python(code), forever)
    keeper._grace = 0.2
    keeper.start()
    await until(lambda: keeper._output.tail(1) == ("here",))
    pid = keeper.pid
    await asyncio.wait_for(keeper.stop(), 60)
    assert not Path(f"/proc/{pid}").exists()


async def test_stopping_between_two_starts_does_not_wait_for_the_next(tmp_path: Path) -> None:
    keeper = keep(tmp_path, lambda: python("raise SystemExit(1)"), restarts=Restarts(attempts=None))
    keeper.restarts.fruitless = 9
    keeper.start()
    await until(lambda: keeper.state == "backoff")
    await asyncio.wait_for(keeper.stop(), 8)
    assert keeper.restarts.starts == 1


async def test_what_cannot_be_started_says_so(tmp_path: Path) -> None:
    keeper = keep(tmp_path, lambda: Launch(("/does/not/exist",), {}), sleep=Sleeps())
    keeper.start()
    await until(lambda: keeper.state == "failed")
    assert keeper.cause is not None
    assert keeper.cause.code == "spawn_failed"
    await keeper.stop()


async def test_children_of_the_child_end_with_it(tmp_path: Path) -> None:
    code = """import subprocess, sys, time
print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)']).pid, flush=True)
time.sleep(100)"""
    keeper = keep(tmp_path, lambda: python(code), forever)
    keeper.start()
    await until(lambda: keeper._output.tail(1))
    grandchild = int(keeper._output.tail(1)[0])
    keeper.kill()
    await keeper.stop()

    def gone() -> bool:
        try:
            return Path(f"/proc/{grandchild}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    await until(gone)
