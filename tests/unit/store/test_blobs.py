import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from openmaas.core.errors import InvalidInput, NotFound, Refused, StorageFull, Unavailable
from openmaas.core.manifest import FileEntry, Manifest
from openmaas.core.settings import Settings
from openmaas.core.types import Signature
from openmaas.store.blobs import BlobStore, LocalBlobs, open_blobs
from openmaas.store.blobs.bucket import BucketBlobs


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["local", "bucket"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return LocalBlobs(tmp_path / "blobs") if request.param == "local" else BucketBlobs(MemoryStore())


@pytest.fixture
def keep(blobs: BlobStore, tmp_path: Path) -> Callable[[bytes], str]:
    def put(data: bytes) -> str:
        source = tmp_path / "source"
        source.write_bytes(data)
        blobs.put(digest(data), source)
        return digest(data)

    return put


def manifest_of(files: dict[str, bytes]) -> Manifest:
    entries = tuple(FileEntry(path=path, size=len(data), sha256=digest(data)) for path, data in sorted(files.items()))
    return Manifest(format="dummy", engine="dummy", entry="a", signature=Signature(inputs=(), outputs=()), files=entries)


def all_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# ── put, read, list, delete ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("data", [b"", b"weights", os.urandom(3_000_000)], ids=["empty", "small", "large"])
def test_what_was_put_comes_back(blobs: BlobStore, tmp_path: Path, data: bytes) -> None:
    source = tmp_path / "source"
    source.write_bytes(data)
    assert blobs.put(digest(data), source) == len(data)
    assert b"".join(blobs.read(digest(data))) == data
    assert blobs.size(digest(data)) == len(data)
    assert list(blobs.list()) == [(digest(data), len(data))]


def test_a_blob_that_is_there_is_reused(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    blobs.put(digest(b"weights"), source)
    assert blobs.put(digest(b"weights"), source) == 0


def test_a_file_with_another_digest_is_not_kept(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"other")
    with pytest.raises(Refused) as refused:
        blobs.put(digest(b"weights"), source)
    assert refused.value.code == "digest_mismatch"
    assert list(blobs.list()) == []
    assert blobs.size(digest(b"weights")) is None


def test_a_blob_that_is_not_there(blobs: BlobStore, tmp_path: Path) -> None:
    blobs.delete("0" * 64)
    assert blobs.size("0" * 64) is None
    with pytest.raises(NotFound) as missing:
        blobs.read("0" * 64)
    assert missing.value.code == "blob_missing"
    with pytest.raises(NotFound):
        blobs.fetch("0" * 64, tmp_path / "target")


def test_a_deleted_blob_is_gone(blobs: BlobStore, keep: Callable[[bytes], str]) -> None:
    kept = keep(b"weights")
    blobs.delete(kept)
    assert blobs.size(kept) is None


# ── the local folder ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs, source = LocalBlobs(tmp_path / "blobs"), tmp_path / "source"
    source.write_bytes(b"x" * 3_000_000)
    write, calls = os.write, iter(range(100))

    def failing(descriptor: int, data: bytes) -> int:
        if next(calls) >= 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(StorageFull):
        blobs.put(digest(b"x" * 3_000_000), source)
    monkeypatch.undo()
    assert all_files(tmp_path / "blobs") == []
    assert blobs.put(digest(b"x" * 3_000_000), source) == 3_000_000


def test_a_damaged_blob_is_replaced_by_the_next_put(tmp_path: Path) -> None:
    blobs, source = LocalBlobs(tmp_path / "blobs"), tmp_path / "source"
    source.write_bytes(b"weights")
    kept = digest(b"weights")
    blobs.put(kept, source)
    damaged = tmp_path / "blobs" / kept[:2] / kept
    damaged.chmod(0o600)
    damaged.write_bytes(b"weightz")
    assert blobs.put(kept, source) == 7
    assert b"".join(blobs.read(kept)) == b"weights"


def test_leftovers_of_killed_writers_are_removed_when_they_are_old(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    (tmp_path / "blobs" / "tmp").mkdir(parents=True)
    old, new = tmp_path / "blobs/tmp/old", tmp_path / "blobs/tmp/new"
    old.write_bytes(b"12345")
    new.write_bytes(b"12345")
    os.utime(old, (1, 1))
    assert blobs.remove_leftovers(time.time() - 60) == 5
    assert all_files(tmp_path / "blobs") == [new]


def test_many_writers_of_one_blob(tmp_path: Path) -> None:
    blobs, source = LocalBlobs(tmp_path / "blobs"), tmp_path / "source"
    data = os.urandom(2_000_000)
    source.write_bytes(data)
    threads = [threading.Thread(target=blobs.put, args=(digest(data), source)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(blobs.list()) == [(digest(data), len(data))]
    assert len(all_files(tmp_path / "blobs")) == 1


# ── a version's folder ───────────────────────────────────────────────────────────────────────────────────────────────

FILES = {"a": b"first", "data/b.bin": b"second", "data/deep/c": b""}


def test_a_versions_folder_is_made_from_its_blobs(blobs: BlobStore, keep: Callable[[bytes], str], tmp_path: Path) -> None:
    for data in FILES.values():
        keep(data)
    folder = blobs.materialize(manifest_of(FILES), tmp_path / "cache" / "version")
    assert {str(path.relative_to(folder)): path.read_bytes() for path in all_files(folder)} == FILES
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["version"]


def test_a_whole_folder_is_used_again(blobs: BlobStore, keep: Callable[[bytes], str], tmp_path: Path) -> None:
    for data in FILES.values():
        keep(data)
    manifest = manifest_of(FILES)
    folder = blobs.materialize(manifest, tmp_path / "cache")
    before = folder.stat().st_ino
    assert blobs.materialize(manifest, tmp_path / "cache").stat().st_ino == before


@pytest.mark.parametrize("harm", ["change", "remove", "add", "link"])
def test_a_folder_that_was_tampered_with_is_made_anew(
    blobs: BlobStore, keep: Callable[[bytes], str], tmp_path: Path, harm: str
) -> None:
    for data in FILES.values():
        keep(data)
    manifest = manifest_of(FILES)
    folder = blobs.materialize(manifest, tmp_path / "cache")
    victim = folder / "data/b.bin"
    if harm == "add":
        (folder / "config.json").write_text("{}")
    else:
        victim.unlink()
    if harm == "change":
        victim.write_bytes(b"sEcond")
    if harm == "link":
        (folder / "data" / "extra").symlink_to("/etc")
    blobs.materialize(manifest, tmp_path / "cache")
    assert {str(path.relative_to(folder)): path.read_bytes() for path in all_files(folder)} == FILES


def test_a_damaged_blob_is_never_served(tmp_path: Path) -> None:
    blobs, source = LocalBlobs(tmp_path / "blobs"), tmp_path / "source"
    source.write_bytes(b"weights")
    kept = digest(b"weights")
    blobs.put(kept, source)
    damaged = tmp_path / "blobs" / kept[:2] / kept
    damaged.chmod(0o600)
    damaged.write_bytes(b"weightz")
    with pytest.raises(Refused) as refused:
        blobs.materialize(manifest_of({"a": b"weights"}), tmp_path / "cache" / "version")
    assert refused.value.code == "digest_mismatch"
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_blob_leaves_no_folder(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        blobs.materialize(manifest_of({"a": b"weights"}), tmp_path / "cache" / "version")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_path_that_leads_outside_is_refused(blobs: BlobStore, keep: Callable[[bytes], str], tmp_path: Path) -> None:
    keep(b"evil")
    with pytest.raises(InvalidInput):
        blobs.materialize(manifest_of({"../evil": b"evil"}), tmp_path / "cache" / "version")
    assert not (tmp_path / "cache" / "evil").exists()


def test_many_replicas_make_one_folder_at_once(tmp_path: Path) -> None:
    blobs, source = LocalBlobs(tmp_path / "blobs"), tmp_path / "source"
    for data in FILES.values():
        source.write_bytes(data)
        blobs.put(digest(data), source)
    manifest, folder, failures = manifest_of(FILES), tmp_path / "cache" / "version", []

    def make() -> None:
        try:
            for _ in range(20):
                blobs.materialize(manifest, folder)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [path.name for path in folder.parent.iterdir()] == ["version"]


# ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_blobs_lie_in_the_data_folder_unless_told_otherwise(tmp_path: Path) -> None:
    default, told = open_blobs(Settings(home=str(tmp_path))), open_blobs(Settings(blobs_url=str(tmp_path / "other")))
    assert isinstance(default, LocalBlobs)
    assert isinstance(told, LocalBlobs)
    assert (default.folder, told.folder) == (tmp_path / "blobs", tmp_path / "other")


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://", "file:///x"])
def test_a_url_that_cannot_be_used_is_named(url: str) -> None:
    with pytest.raises(InvalidInput, match="OPENMAAS_BLOBS_URL"):
        open_blobs(Settings(blobs_url=url))


def test_a_bucket_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def head(self, path: str) -> None:
            from obstore.exceptions import GenericError

            raise GenericError("connection refused")

    with pytest.raises(Unavailable) as unavailable:
        BucketBlobs(Silent()).size("0" * 64)
    assert unavailable.value.code == "blobs_unavailable"


def test_the_module_is_light() -> None:
    code = "import sys, openmaas.store.blobs; assert not {'sqlalchemy', 'obstore', 'alembic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
