import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from openmaas.control import parts
from openmaas.control.parts import Parts
from openmaas.core.errors import Conflict, InvalidInput, NotFound, Refused, StorageFull, TooLarge, Unavailable
from openmaas.core.manifest import Manifest, Parity
from openmaas.core.packs import pack
from openmaas.core.resources import UploadInfo
from openmaas.store.files import digest_file
from openmaas.store.tables import UploadFileRow
from tests.integration.registry import Registry, digest, upload_request

BIG = os.urandom(150_000)  # three chunks of 64 KiB
FILES = {"model.bin": BIG, "labels.txt": b"a\nb\n"}


def begin(registry: Registry, files: dict[str, bytes] | None = None, name: str = "digits") -> UploadInfo:
    return registry.uploads.begin(upload_request(name, FILES if files is None else files), actor="admin")


def chunk(registry: Registry, upload: UploadInfo, data: bytes, offset: int, size: int = 2**16) -> UploadInfo:
    return registry.uploads.write(upload.id, digest(data), offset, data[offset : offset + size])


# ── chunks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_upload_says_what_is_missing(registry: Registry) -> None:
    upload = begin(registry)
    assert upload.offsets == {digest(BIG): 0, digest(b"a\nb\n"): 0}
    assert chunk(registry, upload, BIG, 0).offsets[digest(BIG)] == 65536
    assert digest(b"a\nb\n") not in chunk(registry, upload, b"a\nb\n", 0).offsets


def test_the_same_files_find_the_same_upload_where_it_stopped(registry: Registry) -> None:
    upload = begin(registry)
    chunk(registry, upload, BIG, 0)
    again = registry.uploads.begin(upload_request("digits", dict(reversed(FILES.items()))), actor="ada")
    assert (again.id, again.offsets[digest(BIG)]) == (upload.id, 65536)


def test_an_empty_file_needs_no_bytes(registry: Registry) -> None:
    upload = begin(registry, {"a": b"x", "empty": b""})
    assert upload.offsets == {digest(b"x"): 0}
    chunk(registry, upload, b"x", 0)
    version = registry.pushes.complete(upload.id, actor="admin").version
    _, chunks = registry.versions.read_file(f"digits:{version.number}", "empty")
    assert b"".join(chunks) == b""


def test_a_model_of_nothing_but_an_empty_file(registry: Registry) -> None:
    assert registry.push("digits", {"empty": b""}).version.size == 0


@pytest.mark.parametrize("offset", [1, 65535, 65537, 10**30, -1])
def test_a_chunk_goes_where_the_file_stands(registry: Registry, offset: int) -> None:
    upload = begin(registry)
    chunk(registry, upload, BIG, 0)
    with pytest.raises(Conflict) as conflict:
        registry.uploads.write(upload.id, digest(BIG), offset, b"x")
    assert conflict.value.code == "wrong_offset"
    assert registry.uploads.get(upload.id).offsets[digest(BIG)] == 65536


def test_a_chunk_is_bounded(registry: Registry) -> None:
    upload = begin(registry)
    with pytest.raises(TooLarge):
        registry.uploads.write(upload.id, digest(BIG), 0, BIG[:65537])
    with pytest.raises(InvalidInput):
        registry.uploads.write(upload.id, digest(BIG), 0, b"")
    with pytest.raises(InvalidInput):
        registry.uploads.write(upload.id, digest(b"a\nb\n"), 0, b"a\nb\nc")
    assert registry.uploads.get(upload.id) == upload


@pytest.mark.parametrize("sha256", ["f" * 64, "../../etc/passwd", "", "\0"])
def test_a_chunk_belongs_to_a_file_of_the_upload(registry: Registry, sha256: str) -> None:
    upload = begin(registry)
    with pytest.raises(NotFound):
        registry.uploads.write(upload.id, sha256, 0, b"x")


@pytest.mark.parametrize("upload", ["", "0" * 32, "../x", "\0", "é", "x" * 5000])
def test_an_unknown_upload_is_not_found(registry: Registry, upload: str) -> None:
    for call in (registry.uploads.get, registry.uploads.delete):
        with pytest.raises(NotFound) as missing:
            call(upload)
        assert missing.value.code == "upload_not_found"
    with pytest.raises(NotFound):
        registry.uploads.write(upload, "f" * 64, 0, b"x")
    with pytest.raises(NotFound):
        registry.pushes.complete(upload, actor="admin")
    assert registry.parts.list() == []


def test_another_project_does_not_reach_an_upload(registry: Registry) -> None:
    upload = begin(registry)
    with pytest.raises(NotFound):
        registry.uploads.get(upload.id, project="other")
    with pytest.raises(NotFound):
        registry.uploads.write(upload.id, digest(BIG), 0, b"x", project="other")
    with pytest.raises(NotFound):
        registry.uploads.delete(upload.id, project="other")


def test_another_project_sends_its_own_bytes(registry: Registry) -> None:
    """Else a digest alone would get somebody else's file, or tell that it exists."""
    registry.push("digits", {"m": b"secret"})
    upload = registry.uploads.begin(upload_request("mine", {"m": b"secret"}), actor="eve", project="other")
    assert upload.offsets == {digest(b"secret"): 0}


def test_a_file_that_the_project_has_is_not_sent_again(registry: Registry) -> None:
    registry.push("digits", {"m": BIG, "a": b"1"})
    upload = begin(registry, {"m": BIG, "a": b"2"}, name="other")
    assert upload.offsets == {digest(b"2"): 0}
    chunk(registry, upload, b"2", 0)
    result = registry.pushes.complete(upload.id, actor="admin")
    assert (result.created, result.stored_bytes) == (True, 1)


def test_many_writers_cannot_corrupt_a_file(registry: Registry) -> None:
    """As when a client gave up waiting and sends again what is still arriving."""
    upload = begin(registry)
    codes: list[str] = []

    def send() -> None:
        while (offset := registry.uploads.get(upload.id).offsets.get(digest(BIG))) is not None:
            try:
                chunk(registry, upload, BIG, offset, size=30_000)
            except Conflict as conflict:
                codes.append(conflict.code)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) <= {"wrong_offset"}
    assert registry.parts.path(upload.id, digest(BIG)).read_bytes() == BIG


def test_a_full_disk_keeps_nothing_of_the_chunk_and_the_upload_goes_on_later(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(registry)
    chunk(registry, upload, BIG, 0)
    write = os.write
    monkeypatch.setattr(os, "write", _fills_after(1000, write))
    with pytest.raises(StorageFull):
        chunk(registry, upload, BIG, 65536)
    monkeypatch.undo()
    assert registry.uploads.get(upload.id).offsets[digest(BIG)] == 65536
    registry.send(upload, FILES)
    assert registry.pushes.complete(upload.id, actor="admin").created


def _fills_after(size: int, write: object) -> object:
    """Some bytes go, and then the disk is full."""

    def filling(descriptor: int, data: bytes) -> int:
        nonlocal size
        if size <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, data[:size])  # type: ignore[operator]
        size -= written
        return int(written)

    return filling


def _fails(number: int) -> Any:
    def failing(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return failing


def test_the_answer_to_a_chunk_speaks_of_its_file_alone(registry: Registry) -> None:
    """With all others in each answer, a push of many files would take the square of their number."""
    upload = begin(registry, {"big": BIG, **{f"{n}": str(n).encode() for n in range(20)}})
    assert chunk(registry, upload, BIG, 0).offsets == {digest(BIG): 65536}


def test_small_files_come_whole_in_one_body(registry: Registry) -> None:
    small = {f"{n}.txt": f"file {n}".encode() for n in range(30)}
    upload = begin(registry, {"big": BIG, **small})
    body = pack((digest(data), data) for data in small.values())
    assert registry.uploads.write_whole(upload.id, body).offsets == {}
    assert registry.uploads.write_whole(upload.id, body).offsets == {}  # the answer was lost, so they come again
    assert registry.uploads.get(upload.id).offsets == {digest(BIG): 0}
    registry.send(upload, {"big": BIG})
    result = registry.pushes.complete(upload.id, actor="admin")
    assert result.stored_bytes == len(BIG) + sum(map(len, small.values()))
    _, chunks = registry.versions.read_file("digits", "7.txt")
    assert b"".join(chunks) == b"file 7"


def test_small_files_that_do_not_fit_are_refused_all_together(registry: Registry) -> None:
    upload = begin(registry, {"a": b"honest", "b": b"other"})
    good = (digest(b"other"), b"other")
    refusals: list[tuple[bytes, type[Exception], str]] = [
        (pack([good, (digest(b"honest"), b"forged")]), Refused, "digest_mismatch"),
        (pack([good, (digest(b"honest"), b"hones")]), InvalidInput, "invalid_chunk"),
        (pack([good, (digest(b"unknown"), b"unknown")]), NotFound, "file_not_in_upload"),
        (pack([good])[:-1], InvalidInput, "invalid_chunk"),
        (pack([good, good]), InvalidInput, "invalid_chunk"),
        (b"", InvalidInput, "invalid_chunk"),
        (bytes(registry.settings.chunk_size + 1), TooLarge, "too_large"),
    ]
    for body, kind, code in refusals:
        with pytest.raises(kind) as refused:
            registry.uploads.write_whole(upload.id, body)
        assert getattr(refused.value, "code", "") == code
    assert registry.uploads.get(upload.id).offsets == {digest(b"honest"): 0, digest(b"other"): 0}


def test_what_arrived_is_not_read_again_unless_it_has_changed(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = begin(registry)
    registry.send(upload, FILES)
    part = registry.parts.path(upload.id, digest(BIG))
    read: list[Path] = []
    monkeypatch.setattr(parts, "digest_file", lambda path: read.append(path) or digest_file(path))
    assert registry.parts.digest(upload.id, digest(BIG)) == digest(BIG)
    assert read == []
    with part.open("r+b") as file:
        file.write(b"other")
    assert registry.parts.digest(upload.id, digest(BIG)) != digest(BIG)
    assert Parts(registry.settings).digest(upload.id, digest(b"a\nb\n")) == digest(b"a\nb\n")  # after a restart
    assert len(read) == 2


def test_a_version_is_on_the_disk_before_it_is_told(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content first, then the names, then the row: a power cut in between leaves no name without its content."""
    synced: list[tuple[int, int]] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        state = os.fstat(descriptor)
        synced.append((state.st_ino, state.st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    registry.push("digits", FILES)
    blobs = registry.settings.home_path / "blobs"
    for data in FILES.values():
        stored = blobs / digest(data)[:2] / digest(data)
        content = synced.index((stored.stat().st_ino, len(data)))
        folder = max(place for place, (inode, _) in enumerate(synced) if inode == stored.parent.stat().st_ino)
        assert content < folder


def test_a_given_up_upload_leaves_nothing(registry: Registry) -> None:
    upload = begin(registry)
    chunk(registry, upload, BIG, 0)
    registry.uploads.delete(upload.id)
    assert registry.parts.list() == []
    with registry.database.read() as session:
        assert session.scalars(select(UploadFileRow)).all() == []
    with pytest.raises(NotFound):
        registry.uploads.get(upload.id)


KILLED = """
import os, sys
from pathlib import Path
from openmaas.control.parts import Parts
from openmaas.core.settings import Settings
parts, write, sent = Parts(Settings(home=sys.argv[1])), os.write, 0
def slow(descriptor, data):
    global sent
    if sent > 70_000:
        print("writing", flush=True)
        sys.stdin.read()
    sent += write(descriptor, data[:10_000])
    return min(len(data), 10_000)
os.write = slow
data = sys.stdin.buffer.read(150_000)
parts.append("upload", "a" * 64, 0, data)
"""


def test_a_killed_writer_leaves_a_file_that_goes_on(registry: Registry) -> None:
    upload = begin(registry)
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED.replace('"upload", "a" * 64', f'"{upload.id}", "{digest(BIG)}"'), registry.settings.home],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(BIG)
    child.stdin.flush()
    assert child.stdout.readline() == b"writing\n"
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    child.stdin.close()
    child.stdout.close()
    offset = registry.uploads.get(upload.id).offsets[digest(BIG)]
    assert 0 < offset < len(BIG)
    registry.send(upload, FILES)
    assert registry.pushes.complete(upload.id, actor="admin").created


# ── completing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_push_makes_a_version_of_its_files(registry: Registry) -> None:
    result = registry.push("digits", FILES, metadata={"accuracy": 0.9}, card="# Digits", recipe="{}")
    version = result.version
    assert result.created
    assert result.stored_bytes == len(BIG) + 4
    assert (version.number, version.metadata, version.card, version.created_by) == (1, {"accuracy": 0.9}, "# Digits", "admin")
    files = {file["path"]: (file["size"], file["sha256"]) for file in version.manifest["files"]}
    assert files == {path: (len(data), digest(data)) for path, data in FILES.items()}
    assert list(files) == sorted(files)
    assert registry.versions.get("digits") == version
    assert registry.parts.list() == []


def test_the_digest_is_that_of_the_manifest(registry: Registry) -> None:
    import msgspec

    version = registry.push("digits", FILES).version
    assert msgspec.convert(version.manifest, Manifest).digest == version.digest


def test_a_version_can_be_made_into_a_folder(registry: Registry, tmp_path: Path) -> None:
    import msgspec

    version = registry.push("digits", {"model.bin": BIG, "sub/labels": b"x"}).version
    folder = registry.blobs.materialize(msgspec.convert(version.manifest, Manifest), tmp_path / "into")
    assert (folder / "model.bin").read_bytes() == BIG
    assert (folder / "sub/labels").read_bytes() == b"x"


def test_the_examination_sees_the_files_and_what_goes_with_them(registry: Registry) -> None:
    registry.approvals.approve("e" * 64, reason="", actor="admin")
    registry.push("digits", {**FILES, "in/sample.npz": b"rows"}, sample="in/sample.npz")
    [asked] = registry.examine.asked
    assert asked["files"] == ["in/sample.npz", "labels.txt", "model.bin"]
    assert (asked["sample"], asked["approved"]) == ("in/sample.npz", frozenset({"e" * 64}))
    assert (asked["timeout"], asked["memory"]) == (registry.settings.examine_timeout, registry.settings.examine_memory)


def test_files_that_a_conversion_adds_belong_to_the_version(registry: Registry) -> None:
    registry.examine.added = {"converted/model.onnx": b"onnx"}
    version = registry.push("digits", {"m": b"1"}).version
    assert [file["path"] for file in version.manifest["files"]] == ["converted/model.onnx", "m"]
    _, chunks = registry.versions.read_file("digits", "converted/model.onnx")
    assert b"".join(chunks) == b"onnx"


@pytest.mark.parametrize("path", ["m", "M", "m/x", "../out", "/etc/x"])
def test_an_added_file_takes_no_others_place(registry: Registry, path: str) -> None:
    registry.examine.answer = {"added": (path,)}
    registry.examine.does = lambda folder, output: (output / "m").mkdir() if path == "m/x" else None
    if path in ("m", "M"):
        registry.examine.added = {path: b"other"}
    with pytest.raises((InvalidInput, Refused)):
        registry.push("digits", {"m": b"1"})
    with pytest.raises(NotFound):
        registry.models.get("digits")


def test_an_added_file_is_a_plain_file(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    registry.examine.does = lambda folder, output: (output / "link").symlink_to(tmp_path / "secret")
    registry.examine.answer = {"added": ("link",)}
    with pytest.raises(Refused):
        registry.push("digits", {"m": b"1"})
    registry.examine.does = lambda folder, output: (output / "dir").symlink_to(tmp_path)
    registry.examine.answer = {"added": ("dir/secret",)}
    with pytest.raises(Refused):
        registry.push("digits", {"m": b"1"})


def test_a_manifest_that_json_cannot_hold_is_refused(registry: Registry) -> None:
    registry.examine.answer = {
        "parity": Parity(source="a", target="b", passed=True, sample="given", rtol=float("inf"), atol=0.0)
    }
    with pytest.raises(Refused) as refused:
        registry.push("digits", {"m": b"1"})
    assert refused.value.code == "bad_examination"


def test_a_refused_model_leaves_its_upload_to_be_completed_later(registry: Registry) -> None:
    def refuse(folder: Path, output: Path) -> None:
        raise Refused("A pickle.", code="pickle_refused")

    registry.examine.does = refuse
    with pytest.raises(Refused):
        registry.push("digits", FILES)
    with pytest.raises(NotFound):
        registry.models.get("digits")
    assert registry.stored() == set()
    upload = begin(registry)
    assert upload.offsets == {}
    registry.examine.does = lambda folder, output: None
    assert registry.pushes.complete(upload.id, actor="admin").created


def test_an_upload_that_is_not_whole_is_not_completed(registry: Registry) -> None:
    upload = begin(registry)
    chunk(registry, upload, BIG, 0)
    with pytest.raises(Conflict) as conflict:
        registry.pushes.complete(upload.id, actor="admin")
    assert conflict.value.code == "upload_incomplete"
    assert registry.examine.asked == []


def test_bytes_that_do_not_have_their_digest_are_sent_again(registry: Registry) -> None:
    upload = begin(registry, {"m": BIG, "n": b"fine"})
    for offset in range(0, len(BIG), 2**16):
        wrong = bytes(len(BIG[offset : offset + 2**16]))
        registry.uploads.write(upload.id, digest(BIG), offset, wrong)
    chunk(registry, upload, b"fine", 0)
    with pytest.raises(Refused) as refused:
        registry.pushes.complete(upload.id, actor="admin")
    assert refused.value.code == "digest_mismatch"
    assert registry.examine.asked == []
    assert registry.uploads.get(upload.id).offsets == {digest(BIG): 0}
    registry.send(upload, {"m": BIG})
    assert registry.pushes.complete(upload.id, actor="admin").created


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_stored_file_that_was_damaged_is_sent_again_and_healed(registry: Registry, harm: str) -> None:
    registry.push("digits", {"m": BIG})
    stored = registry.settings.home_path / "blobs" / digest(BIG)[:2] / digest(BIG)
    stored.unlink()
    if harm == "changed":
        stored.write_bytes(bytes(len(BIG)))
    upload = begin(registry, {"m": BIG}, name="other")
    assert upload.offsets == {}
    with pytest.raises((Refused, NotFound)):
        registry.pushes.complete(upload.id, actor="admin")
    registry.send(upload, {"m": BIG})
    assert registry.pushes.complete(upload.id, actor="admin").created
    _, chunks = registry.versions.read_file("digits", "m")
    assert b"".join(chunks) == BIG


def test_files_that_change_while_they_are_examined_are_not_kept(registry: Registry) -> None:
    def tamper(folder: Path, output: Path) -> None:
        (folder / "m").chmod(0o600)
        (folder / "m").write_bytes(b"evil!!")

    registry.examine.does = tamper
    with pytest.raises(Refused) as refused:
        registry.push("digits", {"m": b"honest"})
    assert refused.value.code == "digest_mismatch"
    assert registry.stored() == set()


def test_the_newest_version_again_is_no_new_version(registry: Registry) -> None:
    first = registry.push("digits", {"m": b"one"}, metadata={"a": 1}, card="card")
    again = registry.push("digits", {"m": b"one"})
    assert (again.created, again.stored_bytes, again.version) == (False, 0, first.version)
    assert registry.parts.list() == []
    more = registry.push("digits", {"m": b"one"}, metadata={"b": 2})
    assert (more.created, more.version.metadata, more.version.card) == (False, {"b": 2}, "card")


def test_an_older_version_again_is_a_new_version(registry: Registry) -> None:
    one = registry.push("digits", {"m": b"one"}).version
    registry.push("digits", {"m": b"two"})
    again = registry.push("digits", {"m": b"one"})
    assert (again.created, again.version.number, again.version.digest, again.stored_bytes) == (True, 3, one.digest, 0)


def test_a_parent_is_kept_by_number(registry: Registry) -> None:
    registry.push("base", {"m": b"1"})
    registry.aliases.set("base", "champion", 1, actor="admin")
    assert registry.push("small", {"m": b"2"}, parent="base@champion").version.parent == "base:1"
    with pytest.raises(NotFound):
        registry.push("small", {"m": b"3"}, parent="base:9")


def test_what_the_description_says_stands_behind_what_the_push_says(registry: Registry) -> None:
    registry.examine.answer = {"card": "from yaml", "metadata": {"a": 1, "b": 1}, "licence": "MIT"}
    plain = registry.push("plain", {"m": b"1"}).version
    assert (plain.card, plain.metadata) == ("from yaml", {"a": 1, "b": 1, "licence": "MIT"})
    told = registry.push("told", {"m": b"1"}, card="mine", metadata={"a": 2}).version
    assert (told.card, told.metadata) == ("mine", {"a": 2, "b": 1, "licence": "MIT"})


def test_pushes_at_once_have_numbers_without_gaps(registry: Registry) -> None:
    results, failures = [], []

    def push(n: int) -> None:
        try:
            results.extend(registry.push("digits", {"shared": b"same", "own": b"%d-%d" % (n, m)}) for m in range(3))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=push, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(result.version.number for result in results) == list(range(1, 13))
    assert all(result.created for result in results)
    assert registry.models.get("digits").versions == 12


def test_one_upload_completed_twice_at_once_is_one_version(registry: Registry) -> None:
    upload = begin(registry)
    registry.send(upload, FILES)
    registry.examine.does = lambda folder, output: time.sleep(0.1)
    outcomes: list[object] = []

    def complete() -> None:
        try:
            outcomes.append(registry.pushes.complete(upload.id, actor="admin"))
        except NotFound as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=complete) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("upload_not_found") == 2
    assert registry.models.get("digits").versions == 1


def test_whoever_waits_too_long_for_an_upload_is_told_to_come_back(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.Parts.locked.__wrapped__, "__defaults__", (0.05,))
    upload = begin(registry)
    with registry.parts.locked(upload.id), pytest.raises(Unavailable) as busy:
        thread_outcome(lambda: chunk(registry, upload, BIG, 0))
    assert (busy.value.code, busy.value.retry_after) == ("upload_busy", 2)


def thread_outcome(call: object) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    if failures:
        raise failures[0]


def test_a_full_disk_while_blobs_are_kept_leaves_the_upload(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where blobs cannot be links, since they lie on another disk."""
    upload = begin(registry)
    registry.send(upload, FILES)
    monkeypatch.setattr(os, "write", _fills_after(1000, os.write))
    monkeypatch.setattr(os, "link", _fails(errno.EXDEV))
    with pytest.raises(StorageFull):
        registry.pushes.complete(upload.id, actor="admin")
    monkeypatch.undo()
    with pytest.raises(NotFound):
        registry.models.get("digits")
    assert begin(registry).offsets == {}
    assert registry.pushes.complete(upload.id, actor="admin").created


def test_a_failure_before_the_last_step_is_made_good_by_completing_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill between the blobs and the transaction: nothing is visible, and nothing has to be sent again."""
    upload = begin(registry)
    registry.send(upload, FILES)
    registry.examine.added = {"added": b"added"}
    from openmaas.control import pushes

    monkeypatch.setattr(pushes, "register", lambda session, registration: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        registry.pushes.complete(upload.id, actor="admin")
    monkeypatch.undo()
    with pytest.raises(NotFound):
        registry.models.get("digits")
    assert registry.garbage.apply().blobs == 0
    assert registry.pushes.complete(upload.id, actor="admin").created


def test_what_is_left_of_a_killed_completion_does_not_disturb_the_next(registry: Registry) -> None:
    upload = begin(registry)
    registry.send(upload, FILES)
    left = registry.parts.folder_of(upload.id) / "work" / "files"
    left.mkdir(parents=True)
    (left / "model.bin").write_bytes(b"old")
    (left / "extra").write_bytes(b"old")
    registry.pushes.complete(upload.id, actor="admin")
    assert registry.examine.asked[0]["files"] == ["labels.txt", "model.bin"]
