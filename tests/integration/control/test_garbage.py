import os
import threading
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select

from openmaas.core.manifest import Manifest
from openmaas.store.tables import BlobRow
from tests.integration.conftest import Clock
from tests.integration.registry import Registry, digest, upload_request

DAY = 24 * 3600.0


def test_what_versions_refer_to_stays(registry: Registry) -> None:
    registry.push("digits", {"a": b"one", "b": b"two"})
    assert registry.garbage.report().blobs == 0
    report = registry.garbage.apply()
    assert (report.blobs, report.bytes, report.uploads, report.done) == (0, 0, 0, True)
    assert registry.stored() == {digest(b"one"), digest(b"two")}


def test_it_says_what_it_would_free_before_it_does(registry: Registry) -> None:
    registry.push("digits", {"m": b"first", "shared": b"same"})
    registry.push("digits", {"m": b"second", "shared": b"same"})
    registry.versions.delete("digits:1")
    report = registry.garbage.report()
    assert (report.blobs, report.bytes, report.digests, report.done) == (1, 5, [digest(b"first")], False)
    assert digest(b"first") in registry.stored()
    freed = registry.garbage.apply()
    assert (freed.blobs, freed.bytes, freed.digests, freed.done) == (1, 5, [digest(b"first")], True)
    assert registry.stored() == {digest(b"second"), digest(b"same")}
    with registry.database.read() as session:
        assert set(session.scalars(select(BlobRow.sha256))) == {digest(b"second"), digest(b"same")}


def test_a_freed_file_can_come_back(registry: Registry) -> None:
    registry.push("digits", {"m": b"first"})
    registry.versions.delete("digits:1")
    registry.garbage.apply()
    assert registry.push("digits", {"m": b"first"}).stored_bytes == 5


def test_a_young_upload_stays_and_an_old_one_goes(registry: Registry, clock: Clock) -> None:
    upload = registry.uploads.begin(upload_request("digits", {"m": b"12345678"}), actor="admin")
    registry.uploads.write(upload.id, digest(b"12345678"), 0, b"1234")
    clock.ahead = DAY - 60
    assert registry.garbage.report().uploads == 0
    clock.ahead = DAY + 60
    report = registry.garbage.report()
    assert (report.uploads, report.bytes) == (1, 4)
    freed = registry.garbage.apply()
    assert (freed.uploads, freed.bytes) == (1, 4)
    assert registry.parts.list() == []


def test_an_upload_that_goes_on_is_not_old(registry: Registry, clock: Clock) -> None:
    upload = registry.uploads.begin(upload_request("digits", {"m": b"12345678"}), actor="admin")
    registry.uploads.write(upload.id, digest(b"12345678"), 0, b"1234")
    part = registry.parts.path(upload.id, digest(b"12345678"))
    clock.ahead = DAY + 60
    os.utime(part, (clock(), clock()))
    assert registry.garbage.apply().uploads == 0


def test_an_upload_that_somebody_holds_is_left(registry: Registry, clock: Clock) -> None:
    upload = registry.uploads.begin(upload_request("digits", {"m": b"12345678"}), actor="admin")
    clock.ahead = DAY + 60
    with registry.parts.locked(upload.id):
        freed = []
        thread = threading.Thread(target=lambda: freed.append(registry.garbage.apply()))
        thread.start()
        thread.join(10)
    assert freed[0].uploads == 0
    assert registry.uploads.get(upload.id) == upload


def test_a_file_that_an_open_upload_counts_on_stays(registry: Registry) -> None:
    """It was told that it need not send it."""
    registry.push("digits", {"m": b"first"})
    upload = registry.uploads.begin(upload_request("other", {"m": b"first"}), actor="admin")
    assert upload.offsets == {}
    registry.versions.delete("digits:1")
    assert registry.garbage.apply().blobs == 0
    assert registry.pushes.complete(upload.id, actor="admin").created


def test_blobs_of_an_old_upload_go_with_it(registry: Registry, clock: Clock) -> None:
    registry.push("digits", {"m": b"first"})
    registry.uploads.begin(upload_request("other", {"m": b"first"}), actor="admin")
    registry.versions.delete("digits:1")
    clock.ahead = DAY + 60
    assert registry.garbage.report().digests == [digest(b"first")]
    assert registry.garbage.apply().digests == [digest(b"first")]


def test_blobs_that_a_killed_push_left_are_found(registry: Registry, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"left")
    registry.blobs.put(digest(b"left"), source)
    assert registry.garbage.apply().digests == [digest(b"left")]


def test_a_folder_without_an_upload_goes_when_it_is_old(registry: Registry, clock: Clock) -> None:
    registry.parts.append("0" * 32, "a" * 64, 0, b"1234")
    assert registry.garbage.apply().uploads == 0
    clock.ahead = DAY + 60
    assert registry.garbage.apply().bytes == 4
    assert registry.parts.list() == []


def test_copies_of_versions_that_are_gone_go(registry: Registry, clock: Clock) -> None:
    kept = registry.push("kept", {"m": b"kept"}).version
    gone = registry.push("gone", {"m": b"gone"}).version
    cache = registry.settings.home_path / "cache"
    for version in (kept, gone):
        registry.blobs.materialize(msgspec.convert(version.manifest, Manifest), cache / version.digest)
    (cache / ".making-1").mkdir()
    registry.versions.delete("gone:1")
    registry.garbage.apply()
    assert sorted(path.name for path in cache.iterdir()) == sorted([".making-1", kept.digest])
    clock.ahead = DAY + 60
    registry.garbage.apply()
    assert [path.name for path in cache.iterdir()] == [kept.digest]


def test_another_projects_files_are_no_garbage(registry: Registry) -> None:
    upload = registry.uploads.begin(upload_request("theirs", {"m": b"theirs"}), actor="x", project="other")
    registry.uploads.write(upload.id, digest(b"theirs"), 0, b"theirs", project="other")
    registry.pushes.complete(upload.id, actor="x", project="other")
    assert registry.garbage.apply().blobs == 0


@pytest.mark.parametrize("moment", ["after the look", "between blobs and rows"])
def test_a_push_beside_a_collection_loses_nothing(registry: Registry, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file is garbage when the collection looks, and needed when it deletes."""
    registry.push("digits", {"m": b"first"})
    registry.versions.delete("digits:1")
    files = {"m": b"first", "n": b"new"}
    if moment == "after the look":
        unused = registry.garbage._unused

        def look_then_push(*args: object, **more: object) -> object:
            found = unused()
            registry.push("digits", files)
            return found

        monkeypatch.setattr(registry.garbage, "_unused", look_then_push)
        registry.garbage.apply()
    else:
        keep = registry.pushes._keep

        def keep_then_collect(*args: object) -> int:
            stored = keep(*args)  # type: ignore[arg-type]
            registry.garbage.apply()
            return stored

        monkeypatch.setattr(registry.pushes, "_keep", keep_then_collect)
        registry.examine.added = {"added": b"made"}
        registry.push("digits", files)
    version = registry.versions.get("digits")
    for file in msgspec.convert(version.manifest, Manifest).files:
        assert b"".join(registry.blobs.read(file.sha256)) is not None
        assert registry.blobs.size(file.sha256) == file.size


def test_collections_beside_pushes_and_deletions(registry: Registry) -> None:
    failures: list[BaseException] = []
    over = threading.Event()

    def collect() -> None:
        try:
            while not over.is_set():
                registry.garbage.apply()
        except BaseException as error:
            failures.append(error)

    def push(name: str) -> None:
        try:
            for n in range(4):
                registry.push(name, {"shared": b"shared", "other": b"%d" % (n % 2), "own": f"{name}{n}".encode()})
                if n:
                    registry.versions.delete(f"{name}:{n}")
        except BaseException as error:
            failures.append(error)

    collector = threading.Thread(target=collect)
    pushers = [threading.Thread(target=push, args=(name,)) for name in ("a", "b")]
    for thread in (collector, *pushers):
        thread.start()
    for thread in pushers:
        thread.join()
    over.set()
    collector.join()
    assert failures == []
    registry.garbage.apply()
    needed = {file["sha256"] for name in ("a", "b") for file in registry.versions.get(name).manifest["files"]}
    assert registry.stored() == needed
