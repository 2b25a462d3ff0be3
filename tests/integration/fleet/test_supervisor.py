"""The supervisor with children that are scripts: order of start and stop, restarts, and what it tells control."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from openmaas.core.contracts import Desired, JobSpec, Observed, ReplicaSpec, encode
from openmaas.core.errors import Conflict, Unavailable
from openmaas.core.manifest import Manifest
from openmaas.core.settings import Settings
from openmaas.core.types import Signature
from openmaas.fleet.environment import child_environment
from openmaas.fleet.home import Running, read_note
from openmaas.fleet.process import Launch
from openmaas.fleet.supervisor import Supervisor
from tests.ports import free_port

SERVICE = Path(__file__).parent / "service.py"
MANIFEST = Manifest(format="dummy", engine="dummy", entry="", signature=Signature(inputs=(), outputs=()), files=())
REPLICA = ReplicaSpec(
    id="digits-1-0", deployment="digits", revision=1, project="default", model="digits", version=1, digest="", manifest=MANIFEST
)


class Scripts:
    """The commands of a supervisor whose children are all `service.py`."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder

    def control(self) -> Launch:
        return self._launch("control", self.settings.control_port, self.settings.control_address)

    def gateway(self, index: int) -> Launch:
        return self._launch(f"gateway-{index}", self.settings.http_port, "")

    def replica(self, spec: ReplicaSpec, address: str) -> Launch:
        return self._launch(spec.id, 0, address)

    def job(self, spec: JobSpec, lock: int) -> Launch:
        return self._launch(spec.name, 0, "")

    def _launch(self, kind: str, port: int, address: str) -> Launch:
        command = (sys.executable, str(SERVICE), kind, str(self.folder), str(port), address)
        return Launch(command, child_environment(self.settings, "replica"))


class Scene:
    """A supervisor that runs in this process, and the files by which its children tell what they do."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.ready: list[Running] = []
        (folder / "desired").write_bytes(encode(Desired(version=5, replicas=(REPLICA,))))
        self.supervisor = Supervisor(settings, Scripts(settings, folder), self.ready.append)
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self.supervisor.run())

    async def stop(self) -> None:
        assert self.task is not None
        if not self.task.done():
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(self.task, 60)

    @property
    def order(self) -> list[list[str]]:
        path = self.folder / "order"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def pids(self, kind: str) -> list[int]:
        return [int(line[2]) for line in self.order if line[:2] == ["start", kind]]

    def observed(self) -> Observed | None:
        path = self.folder / "observed"
        return msgspec.msgpack.decode(path.read_bytes(), type=Observed) if path.exists() else None

    def replica_state(self) -> str | None:
        observed = self.observed()
        return observed.replicas[0].state if observed is not None and observed.replicas else None


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def sockets() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="oms") as folder:
        yield Path(folder) / "run"


@pytest.fixture
async def scene(tmp_path: Path, sockets: Path) -> AsyncIterator[Scene]:
    settings = Settings(
        home=str(tmp_path / "home"),
        runtime_dir=str(sockets),
        http_port=free_port(),
        control_port=free_port(),
        drain_timeout=60.0,
        hang_timeout=3.0,
    )
    scene = Scene(settings, tmp_path)
    scene.start()
    yield scene
    await scene.stop()


async def test_all_come_up_and_stop_in_order(scene: Scene) -> None:
    await until(lambda: scene.ready)
    assert scene.ready[0].pid == os.getpid()
    assert scene.ready[0].gateway_url == f"http://127.0.0.1:{scene.settings.http_port}"
    assert read_note(scene.settings) == scene.ready[0]
    await until(lambda: scene.replica_state() == "ready")
    observed = scene.observed()
    assert observed is not None
    assert observed.desired == 5
    assert observed.replicas[0].pid == scene.pids("digits-1-0")[0]
    assert {process.name: process.state for process in observed.processes} == {
        "supervisor": "ready",
        "control": "ready",
        "gateway-0": "ready",
    }
    await scene.stop()
    assert [line[1] for line in scene.order if line[0] == "end"] == ["gateway-0", "digits-1-0", "control"]
    assert read_note(scene.settings) is None
    assert not scene.settings.runtime_path.exists()


async def test_replicas_go_on_while_control_is_away_and_it_hears_of_them_when_it_is_back(scene: Scene) -> None:
    await until(lambda: scene.replica_state() == "ready")
    (scene.folder / "observed").unlink()
    os.kill(scene.pids("control")[0], signal.SIGKILL)
    await until(lambda: len(scene.pids("control")) == 2)
    await until(lambda: scene.replica_state() == "ready")
    assert len(scene.pids("digits-1-0")) == 1
    observed = scene.observed()
    assert observed is not None
    assert next(process.restarts for process in observed.processes if process.name == "control") == 1


async def test_a_gateway_that_ends_or_hangs_is_replaced(scene: Scene) -> None:
    await until(lambda: scene.ready)
    os.kill(scene.pids("gateway-0")[0], signal.SIGKILL)
    await until(lambda: len(scene.pids("gateway-0")) == 2)
    await until(lambda: scene.supervisor._gateways[0].state == "ready")
    os.kill(scene.pids("gateway-0")[1], signal.SIGSTOP)
    await until(lambda: len(scene.pids("gateway-0")) == 3)


async def test_the_second_signal_ends_everything_at_once(scene: Scene) -> None:
    await until(lambda: scene.replica_state() == "ready")
    os.kill(scene.pids("gateway-0")[0], signal.SIGSTOP)  # it will not drain
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0.1)
    assert scene.task is not None
    assert not scene.task.done()
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(scene.task, 30)  # nobody waits for the drain


async def test_a_start_that_fails_leaves_no_folder_for_sockets(tmp_path: Path, sockets: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(
            home=str(tmp_path / "home"),
            runtime_dir=str(sockets),
            http_port=int(taken.getsockname()[1]),
            control_port=free_port(),
        )
        (tmp_path / "home" / "tmp" / "openmaas-examine-left").mkdir(parents=True)
        with pytest.raises(Conflict):
            await Supervisor(settings, Scripts(settings, tmp_path)).run()
    assert not sockets.exists()
    assert list((tmp_path / "home" / "tmp").iterdir()) == []


@pytest.mark.parametrize("kind", ["control", "gateway-0"])
async def test_what_does_not_start_is_told_with_its_last_words_and_nothing_stays(
    tmp_path: Path, sockets: Path, kind: str
) -> None:
    settings = Settings(home=str(tmp_path / "home"), runtime_dir=str(sockets), http_port=free_port(), control_port=free_port())
    (tmp_path / f"broken-{kind}").write_text("the database is of another version")
    scene = Scene(settings, tmp_path)
    with pytest.raises(Unavailable, match=f"{kind} did not start") as refused:
        await asyncio.wait_for(scene.supervisor.run(), 60)
    assert "the database is of another version" in refused.value.message
    assert scene.ready == []
    for line in scene.order:
        if line[0] == "start":
            assert not Path(f"/proc/{line[2]}").exists()
