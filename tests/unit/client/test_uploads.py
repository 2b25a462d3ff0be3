from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import openmaas
from openmaas.client.driver import Session
from openmaas.client.steps import Request, Response
from openmaas.client.uploads import Progress
from openmaas.core.errors import InvalidInput, Refused, Unavailable
from openmaas.core.packs import HEAD, unpack
from openmaas.core.resources import UploadRequest
from tests.unit.client.transport import FakeTransport, error_answer, json_answer

VERSION = {
    "model": "m", "project": "default", "number": 1, "digest": "d", "format": "onnx", "engine": "onnxruntime", "size": 1,
    "manifest": {}, "metadata": {}, "card": "", "aliases": [], "created_at": 0.0, "created_by": "admin", "parent": None,
    "recipe": None,
}  # fmt: skip


class Control:
    """Takes uploads in chunks of four bytes; after `break_after` chunks it is gone for `breaks` requests."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.chunk_size = 4
        self.packs: list[int] = []
        self.wanted: UploadRequest | None = None
        self.break_after: int | None = None
        self.chunks = 0
        self.breaks = 0

    def __call__(self, request: Request) -> Response:
        match request.method, request.parts[2:]:
            case "POST", ("uploads",):
                self.wanted = msgspec.json.decode(request.body, type=UploadRequest)
                return self._info()
            case "PUT", ("uploads", "u1", "files"):
                return self._whole(request.body)
            case "PUT", ("uploads", "u1", "files", sha256):
                return self._chunk(sha256, int(request.query["offset"]), request.body)
            case "POST", ("uploads", "u1", "complete"):
                return self._complete()
        raise AssertionError(request)

    def _chunk(self, sha256: str, offset: int, body: bytes) -> Response:
        if self.chunks == self.break_after and self.breaks:
            self.breaks -= 1
            raise Unavailable("gone", code="unreachable", retry_after=0.001)
        stored = self.stored.get(sha256, b"")
        if offset != len(stored):
            return error_answer(409, "wrong_offset")
        self.stored[sha256] = stored + body
        self.chunks += 1
        return self._info(sha256)

    def _whole(self, body: bytes) -> Response:
        assert len(body) <= self.chunk_size
        self.stored.update(unpack(body))
        self.packs.append(len(unpack(body)))
        return self._info(*unpack(body))

    def _info(self, *spoken_of: str) -> Response:
        assert self.wanted is not None
        offsets = {
            file.sha256: len(self.stored.get(file.sha256, b""))
            for file in self.wanted.files
            if file.size > len(self.stored.get(file.sha256, b"")) and (not spoken_of or file.sha256 in spoken_of)
        }
        return json_answer({"id": "u1", "name": "m", "chunk_size": self.chunk_size, "offsets": offsets})

    def _complete(self) -> Response:
        for sha256, content in self.stored.items():
            assert hashlib.sha256(content).hexdigest() == sha256
        return json_answer({"version": VERSION, "created": True, "stored_bytes": 1})


def _client(control: Any) -> openmaas.Client:
    return openmaas.Client("http://server", transport=FakeTransport(control))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my model" / "sub").mkdir(parents=True)
    (tmp_path / "my model" / "a.bin").write_bytes(b"0123456789")
    (tmp_path / "my model" / "sub" / "b.bin").write_bytes(b"abcde")
    return tmp_path / "my model"


def test_a_folder_is_sent_in_chunks_with_its_progress(folder: Path) -> None:
    control, told = Control(), []
    result = _client(control).push(folder, metadata={"a": 1}, card="# x", progress=told.append)
    assert result.created
    assert sorted(control.stored.values()) == [b"0123456789", b"abcde"]
    assert control.wanted is not None
    assert (control.wanted.name, control.wanted.card, control.wanted.metadata) == ("my-model", "# x", {"a": 1})
    assert {file.path for file in control.wanted.files} == {"a.bin", "sub/b.bin"}
    assert Progress("hashing", 15, 15) in told
    assert [progress.done for progress in told if progress.stage == "sending"] == [4, 8, 10, 14, 15]
    assert told[-1] == Progress("examining")


def test_small_files_travel_together(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * 20)
    (tmp_path / "large.bin").write_bytes(bytes(range(200)))
    control, told = Control(), []
    control.chunk_size = 4 * (HEAD + 20) + 1
    _client(control).push(tmp_path, name="m", progress=told.append)
    assert control.packs == [4, 4, 2]  # the large one alone, chunk by chunk
    assert len(control.stored) == 11
    assert [progress for progress in told if progress.stage == "sending"][-1] == Progress("sending", 400, 400)


def test_a_file_that_changes_while_it_is_pushed_is_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * 20)
    control = Control()
    control.chunk_size = 1000

    def shorten(progress: Progress) -> None:
        if progress.stage == "hashing" and progress.done == progress.total:
            (tmp_path / "b").write_bytes(b"b")

    with pytest.raises(InvalidInput, match="another size") as told:
        _client(control).push(tmp_path, name="m", progress=shorten)
    assert told.value.code == "file_changed"
    assert control.stored == {}


def test_files_that_the_model_does_without_are_not_sent_and_told(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (tmp_path / "pytorch_model.bin").write_bytes(b"the same weights as a pickle")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"and as a graph")
    control = Control()
    result = _client(control).push(tmp_path, name="m")
    assert result.left_out == ("onnx/model.onnx", "pytorch_model.bin")
    assert control.wanted is not None
    assert {file.path for file in control.wanted.files} == {"config.json", "model.safetensors"}
    assert _client(control).push(tmp_path / "onnx", name="m").left_out == ()


def test_a_push_goes_on_where_it_was_cut_off(folder: Path) -> None:
    control = Control()
    control.break_after, control.breaks = 2, 100
    with pytest.raises(Unavailable, match="gone"):
        _client(control).push(folder)
    assert control.chunks == 2
    control.breaks = 0
    _client(control).push(folder)
    assert control.chunks == 5  # three more, not five


def test_a_transient_failure_is_tried_again_within_the_same_push(folder: Path) -> None:
    control = Control()
    control.break_after, control.breaks = 2, 2
    _client(control).push(folder)
    assert control.chunks == 5


def test_a_wrong_offset_is_asked_for_again(folder: Path) -> None:
    control = Control()
    behind = control._chunk
    skipped = []

    def forgetful(sha256: str, offset: int, body: bytes) -> Response:
        if offset == 4 and not skipped:
            skipped.append(sha256)
            control.stored[sha256] = b""
        return behind(sha256, offset, body)

    control._chunk = forgetful  # type: ignore[method-assign]
    assert _client(control).push(folder).created
    assert skipped


def test_what_the_server_refuses_is_not_tried_again(folder: Path) -> None:
    transport = FakeTransport(lambda _: error_answer(422, "pickle_refused"))
    with pytest.raises(Refused):
        openmaas.Client("http://server", transport=transport).push(folder)
    assert len(transport.seen) == 1


def test_a_sample_travels_with_the_files_and_is_the_same_each_time(folder: Path) -> None:
    control = Control()
    client = _client(control)
    client.push(folder / "a.bin", name="m", sample={"X": np.eye(2), "t": np.array(["a", "b"], dtype=object)})
    first = control.wanted
    client.push(folder / "a.bin", name="m", sample={"X": np.eye(2), "t": np.array(["a", "b"], dtype=object)})
    assert first == control.wanted
    assert first is not None
    assert first.sample == "sample.npz"
    assert {file.path for file in first.files} == {"a.bin", "sample.npz"}


def test_a_sample_that_is_among_the_files_is_sent_once(folder: Path) -> None:
    control = Control()
    (folder / "rows.json").write_text("[[1, 2]]")
    _client(control).push(folder, sample=folder / "rows.json")
    assert control.wanted is not None
    assert control.wanted.sample == "rows.json"
    assert [file.path for file in control.wanted.files].count("rows.json") == 1
    assert "sample.json" not in {file.path for file in control.wanted.files}


def test_a_sample_may_be_a_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("[[1, 2]]")
    control = Control()
    _client(control).push(folder, sample=tmp_path / "rows.json")
    assert control.wanted is not None
    assert control.wanted.sample == "sample.json"
    assert b"[[1, 2]]" in control.stored.values()
    with pytest.raises(InvalidInput, match="no sample file"):
        _client(control).push(folder, sample=tmp_path / "none.json")


def test_a_sample_may_be_a_text(folder: Path) -> None:
    control = Control()
    _client(control).push(folder, sample="Ein Text\nvon zwei Zeilen")
    assert control.wanted is not None
    assert control.wanted.sample == "sample.txt"
    assert b"Ein Text\nvon zwei Zeilen" in control.stored.values()


def test_an_empty_file_is_nothing_to_send(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "full").write_bytes(b"x")
    control = Control()
    _client(control).push(tmp_path, name="m")
    assert list(control.stored.values()) == [b"x"]


def test_what_cannot_be_pushed_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    client = _client(lambda request: pytest.fail(f"sent {request}"))
    with pytest.raises(InvalidInput, match="no file or folder"):
        client.push(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="holds no files"):
        client.push(tmp_path / "empty")
    (tmp_path / "empty" / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match="is a link"):
        client.push(tmp_path / "empty")
    with pytest.raises(InvalidInput, match="no name of its own"):
        client.push(object())
    with pytest.raises(InvalidInput, match="not a model name"):
        client.push(tmp_path / "empty", name="a b")


def test_a_session_is_the_base_of_every_part() -> None:
    assert issubclass(openmaas.Client, Session)
