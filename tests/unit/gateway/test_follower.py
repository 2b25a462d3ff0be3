"""Following control: pushed snapshots, their copy on disk, control that comes and goes, and snapshots that cannot be read."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from openmaas.core.contracts import ControlCall, Key, Snapshot, encode
from openmaas.core.link import CHUNK, IncomingCall, LinkServer
from openmaas.gateway import follower as module
from openmaas.gateway.follower import Follower
from tests.unit.gateway.replicas import until


class Control:
    def __init__(self, address: str) -> None:
        self.address = address
        self.links: LinkServer | None = None
        self.watchers: list[IncomingCall] = []
        self.asked: list[ControlCall] = []

    async def start(self) -> None:
        self.links = LinkServer(self._handle)
        await self.links.listen(self.address)

    def stop(self) -> None:
        if self.links is not None:
            for connection in tuple(self.links.connections):
                connection.abort()
            self.links.close()
            self.links = None
        self.watchers.clear()

    def _handle(self, call: IncomingCall) -> None:
        self.asked.append(msgspec.msgpack.decode(call.header, type=ControlCall))
        self.watchers.append(call)

    def push(self, chunk: bytes) -> None:
        for call in self.watchers:
            call.connection.send(CHUNK, call.id, b"", chunk)


class Following:
    def __init__(self, folder: str) -> None:
        self.control = Control(f"unix:{folder}/control.sock")
        self.path = Path(folder) / "deep" / "snapshot-0.msgpack"
        self.applied: list[Snapshot] = []
        self.follower = Follower(self.control.address, self.path, self.apply, "gateway-0")
        self.task = asyncio.create_task(self.follower.run())

    def apply(self, snapshot: Snapshot) -> None:
        if snapshot.version == 666:
            raise RuntimeError("cannot be applied")
        self.applied.append(snapshot)

    @property
    def versions(self) -> list[int]:
        return [snapshot.version for snapshot in self.applied]


@pytest.fixture
async def following(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Following]:
    monkeypatch.setattr(module, "_RETRY_FROM", 0.01)
    monkeypatch.setattr(module, "_RETRY_TO", 0.05)
    with tempfile.TemporaryDirectory(prefix="omf-") as folder:
        one = Following(folder)
        yield one
        one.task.cancel()
        one.control.stop()
        await asyncio.gather(one.task, return_exceptions=True)
        await asyncio.sleep(0.02)


async def connected(following: Following) -> Control:
    await following.control.start()
    await until(lambda: following.control.watchers)
    return following.control


async def test_every_snapshot_is_applied_as_it_comes_and_kept(following: Following) -> None:
    control = await connected(following)
    assert control.asked == [ControlCall("watch_snapshot", -1, "gateway-0")]
    for version in (1, 2, 3):
        control.push(encode(Snapshot(version=version)))
        await until(lambda version=version: following.versions[-1:] == [version])
    assert following.versions == [1, 2, 3]
    assert following.follower.connected
    assert msgspec.msgpack.decode(following.path.read_bytes(), type=Snapshot).version == 3
    assert following.path.stat().st_mode & 0o777 == 0o600  # it holds digests of keys
    assert [path.name for path in following.path.parent.iterdir()] == ["snapshot-0.msgpack"]


async def test_control_may_come_and_go(following: Following) -> None:
    for version in range(1, 4):
        control = await connected(following)
        control.push(encode(Snapshot(version=version)))
        await until(lambda version=version: following.versions[-1:] == [version])
        control.stop()
        await until(lambda: not following.follower.connected)
    assert following.versions == [1, 2, 3]


async def test_an_older_number_from_control_is_the_truth_all_the_same(following: Following) -> None:
    """A database that was restored from a backup."""
    control = await connected(following)
    control.push(encode(Snapshot(version=9)))
    control.push(encode(Snapshot(version=4)))
    await until(lambda: following.versions == [9, 4])


@pytest.mark.parametrize(
    "chunk", [b"", b"\xc1", b"rubbish", encode({"version": "x"}), encode(Snapshot(version=666)), encode([1])]
)
async def test_a_snapshot_that_cannot_be_used_does_not_end_the_following(following: Following, chunk: bytes) -> None:
    control = await connected(following)
    control.push(encode(Snapshot(version=1)))
    control.push(chunk)
    await until(lambda: len(control.asked) >= 2)  # it asks anew
    assert following.versions == [1]
    assert following.follower.version == 1
    assert not following.task.done()
    control.push(encode(Snapshot(version=2)))
    await until(lambda: following.versions[-1] == 2)
    assert msgspec.msgpack.decode(following.path.read_bytes(), type=Snapshot).version == 2


async def test_a_stream_that_ends_is_asked_for_again(following: Following) -> None:
    control = await connected(following)
    control.watchers[0].end()
    await until(lambda: len(control.asked) == 2)


async def test_the_kept_snapshot_is_recalled(following: Following) -> None:
    assert following.follower.recall() is False
    snapshot = Snapshot(version=7, keys=(Key(id="a", digest="d", role="admin", project="p"),))
    following.path.parent.mkdir()
    following.path.write_bytes(encode(snapshot))
    assert following.follower.recall() is True
    assert following.applied == [snapshot]


@pytest.mark.parametrize("content", [b"", b"\xc1", encode(Snapshot(version=1))[:-1], encode([1])])
async def test_a_broken_copy_is_not_recalled(following: Following, content: bytes) -> None:
    following.path.parent.mkdir()
    following.path.write_bytes(content)
    assert following.follower.recall() is False
    assert following.applied == []


async def test_a_folder_that_takes_no_copy_does_not_stop_the_following(following: Following) -> None:
    following.path.parent.write_text("a file where the folder should be")
    control = await connected(following)
    control.push(encode(Snapshot(version=1)))
    control.push(encode(Snapshot(version=2)))
    await until(lambda: following.versions == [1, 2])
