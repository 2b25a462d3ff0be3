import hashlib
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from openmaas.core.errors import Refused, StorageFull
from openmaas.store.blobs import LocalBlobs
from openmaas.store.files import check_room, verified, write_new

Usage = namedtuple("Usage", "total used free")
MIB = 2**20


@pytest.mark.parametrize(
    ("total", "free", "size", "fits"),
    [
        (1000 * MIB, 100 * MIB, 84 * MIB, True),
        (1000 * MIB, 100 * MIB, 85 * MIB, False),
        (1000 * MIB, 16 * MIB, 1, False),
        (32 * MIB, 10 * MIB, 8 * MIB, True),
        (32 * MIB, 10 * MIB, 8 * MIB + 1, False),
    ],
)
def test_uploads_leave_room_for_everything_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: int, free: int, size: int, fits: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(total, total - free, free))
    if fits:
        check_room(tmp_path, size)
    else:
        with pytest.raises(StorageFull):
            check_room(tmp_path, size)


def test_a_blob_that_leaves_no_room_is_not_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1000 * MIB, 1000 * MIB, 0))
    with pytest.raises(StorageFull):
        LocalBlobs(tmp_path / "blobs").put(hashlib.sha256(b"weights").hexdigest(), source)
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def test_a_new_file_takes_no_others_place(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for name in ("there", "link"):
        with pytest.raises(FileExistsError):
            write_new(tmp_path / name, [b"new"], 0o600)
    assert (tmp_path / "there").read_bytes() == b"old"


def test_chunks_pass_and_are_held_against_the_digest_at_the_end() -> None:
    good = hashlib.sha256(b"ab").hexdigest()
    assert list(verified([b"a", b"b"], good, "It")) == [b"a", b"b"]
    passed = []
    with pytest.raises(Refused, match="It has the SHA-256"):
        passed.extend(verified([b"a", b"c"], good, "It"))
