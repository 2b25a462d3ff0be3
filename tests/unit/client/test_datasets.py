"""What the client sends when a dataset is pushed, and what it asks for."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import openmaas
from openmaas.client.steps import Request, Response
from openmaas.core.errors import InvalidInput
from openmaas.core.packs import unpack
from openmaas.core.resources import UploadRequest
from tests.unit.client.transport import FakeTransport, error_answer, json_answer

INFO = {
    "name": "t", "project": "default", "number": 2, "digest": "d", "format": "csv", "purpose": "classes", "rows": 3, "size": 4,
    "manifest": {}, "created_at": 0.0, "created_by": "admin",
}  # fmt: skip


class Control:
    """Takes whole files."""

    def __init__(self) -> None:
        self.wanted: UploadRequest | None = None
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def __call__(self, request: Request) -> Response:
        self.asked.append((request.method, request.parts[2:]))
        match request.method, request.parts[2:]:
            case "POST", ("uploads",):
                self.wanted = msgspec.json.decode(request.body, type=UploadRequest)
                return self._info({file.sha256: 0 for file in self.wanted.files})
            case "PUT", ("uploads", "u1", "files"):
                self.files.update(unpack(request.body))
                return self._info({})
            case "PUT", ("uploads", "u1", "files", sha256):
                assert hashlib.sha256(request.body).hexdigest() == sha256
                self.files[sha256] = request.body
                assert self.wanted is not None
                return self._info({})
            case "POST", ("uploads", "u1", "complete"):
                return json_answer({"dataset": INFO, "created": True, "stored_bytes": 4})
            case "GET", ("dataset-versions", _):
                return json_answer(INFO)
            case "DELETE", _:
                return Response(204, {}, b"")
        return error_answer(404, "not_found")

    def _info(self, offsets: dict[str, int]) -> Response:
        return json_answer({"id": "u1", "name": "t", "chunk_size": 2**20, "offsets": offsets})

    def sent(self) -> dict[str, bytes]:
        assert self.wanted is not None
        return {file.path: self.files[file.sha256] for file in self.wanted.files}


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
def client(control: Control) -> openmaas.Client:
    return openmaas.Client("http://c", gateway_url="http://g", api_key="k", transport=FakeTransport(control))


def test_a_file(client: openmaas.Client, control: Control, tmp_path: Path) -> None:
    (tmp_path / "digits test.csv").write_bytes(b"a,b\n1,2\n")
    result = client.push_dataset(tmp_path / "digits test.csv", label="b")
    assert result.dataset.reference == "t:2" and result.created
    assert control.wanted is not None
    assert (control.wanted.name, control.wanted.kind, control.wanted.label) == ("digits-test", "dataset", "b")
    assert control.sent() == {"digits test.csv": b"a,b\n1,2\n"}


def test_hidden_files_of_a_folder_are_not_sent(client: openmaas.Client, control: Control, tmp_path: Path) -> None:
    for path in ("pets/cat/1.png", "pets/cat/.DS_Store", "pets/Thumbs.db", "pets/.git/config"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    result = client.push_dataset(tmp_path / "pets")
    assert set(control.sent()) == {"cat/1.png"}
    assert set(result.left_out) == {"cat/.DS_Store", "Thumbs.db", ".git/config"}


def test_many_images_travel_as_one_file(client: openmaas.Client, control: Control, tmp_path: Path) -> None:
    for number in range(70):
        (tmp_path / "pets" / "cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / "cat" / f"{number}.png").write_bytes(b"image %d" % number)
    client.push_dataset(tmp_path / "pets")
    first = control.sent()
    assert set(first) == {"images.zip"}
    (tmp_path / "copy.zip").write_bytes(first["images.zip"])
    with zipfile.ZipFile(tmp_path / "copy.zip") as archive:
        assert len(archive.namelist()) == 70 and archive.read("cat/7.png") == b"image 7"
    client.push_dataset(tmp_path / "pets")
    assert control.sent() == first


def test_a_hidden_file_that_is_named_itself_is_sent(client: openmaas.Client, control: Control, tmp_path: Path) -> None:
    (tmp_path / ".data.csv").write_bytes(b"a\n1\n")
    client.push_dataset(tmp_path / ".data.csv", name="t")
    assert set(control.sent()) == {".data.csv"}


def test_arrays_are_written_as_npz_and_the_same_each_time(client: openmaas.Client, control: Control, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "x": np.arange(6).reshape(3, 2),
        "label": ["a", "b", "ä"],
        "maybe": np.array(["x", None, "z"], object),
    }
    client.push_dataset(arrays, name="t")
    first = control.sent()
    client.push_dataset(arrays, name="t")
    assert control.sent() == first and set(first) == {"data.npz"}
    (tmp_path / "data.npz").write_bytes(first["data.npz"])
    with np.load(tmp_path / "data.npz", allow_pickle=False) as read:
        assert {name: read[name].tolist() for name in read.files} == {
            "x": [[0, 1], [2, 3], [4, 5]],
            "label": ["a", "b", "ä"],
            "maybe": ["x", "", "z"],
        }


def test_a_table(client: openmaas.Client, control: Control, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"width": [1.5, None], "kind": ["a", None]})
    client.push_dataset(table, name="t")
    (tmp_path / "data.npz").write_bytes(control.sent()["data.npz"])
    with np.load(tmp_path / "data.npz", allow_pickle=False) as read:
        np.testing.assert_array_equal(read["width"], [1.5, np.nan])
        assert read["kind"].tolist() == ["a", ""]


@pytest.mark.parametrize(
    ("data", "more", "told"),
    [
        ({"x": [1]}, {}, "no name of their own"),
        ({"x": [[1, 2], [3]]}, {"name": "t"}, "rows of 'x' differ in length"),
        ({"x": np.array([1, "a", None], dtype=object)}, {"name": "t"}, "holds int among its values"),
        ({"x": np.array([b"\x89PNG", b"a"], dtype=object)}, {"name": "t"}, "holds bytes"),
        ([1, 2], {"name": "t"}, "not list"),
        ("/nowhere/at/all.csv", {}, "no file or folder"),
        ({"x": [1]}, {"name": "a b"}, "not a dataset name"),
    ],
)
def test_what_cannot_be_pushed(client: openmaas.Client, control: Control, data: Any, more: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        client.push_dataset(data, **more)
    assert control.asked == []


def test_links_are_refused(client: openmaas.Client, tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "1.png").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match="is a link"):
        client.push_dataset(tmp_path / "pets")


def test_deleting_one_version_or_all(client: openmaas.Client, control: Control) -> None:
    client.delete_dataset("t:2")
    client.delete_dataset("t")
    assert control.asked == [("DELETE", ("dataset-versions", "t:2")), ("DELETE", ("datasets", "t"))]
    with pytest.raises(InvalidInput):
        client.delete_dataset("a/b")
