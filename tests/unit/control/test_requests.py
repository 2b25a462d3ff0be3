import hashlib
from typing import Any

import pytest

from openmaas.control.details import check_text, encode_metadata
from openmaas.control.requests import MAX_FILES, check_collisions, check_request, upload_id
from openmaas.core.errors import InvalidInput, OpenMaaSError, TooLarge
from openmaas.core.resources import UploadFile, UploadRequest

A, B = "a" * 64, "b" * 64
EMPTY = hashlib.sha256().hexdigest()
GIB = 2**30


def file(path: str = "m", size: int = 1, sha256: str = A) -> UploadFile:
    return UploadFile(path=path, size=size, sha256=sha256)


def request(*files: UploadFile, name: str = "digits", **more: Any) -> UploadRequest:
    return UploadRequest(name=name, files=list(files) or [file()], **more)


def test_a_plain_request_is_good() -> None:
    check_request(request(file("a/b.onnx", 10), file("labels.txt", 0, EMPTY), file("copy", 10)), GIB)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../up",
        "a/../b",
        "a//b",
        "",
        ".",
        "a/.",
        "a\\b",
        "C:/x",
        "a\0b",
        "a\nb",
        "x" * 600,
        "/".join("a" * 40),
        "é" * 200,
    ],
)
def test_a_path_stays_inside(path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_request(request(file(path)), GIB)
    assert refused.value.code == "invalid_path"


@pytest.mark.parametrize(
    "paths",
    [
        ("a", "a"),
        ("Model.onnx", "model.onnx"),
        ("café", "cafe\u0301"),
        ("straße", "STRASSE"),
        ("a", "a/b"),
        ("a/b/c", "A/B"),
        ("x/y/z", "x"),
    ],
)
def test_two_files_never_share_a_name(paths: tuple[str, str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_collisions(paths)
    assert refused.value.code == "path_collision"


def test_neighbours_do_not_collide() -> None:
    check_collisions(["a", "ab/c", "a.b", "b/a", "b/ab", "b/a.c/d"])


@pytest.mark.parametrize("sha256", ["", "a" * 63, "A" * 64, "g" * 64, "a" * 65, "../" + "a" * 61])
def test_a_digest_is_a_digest(sha256: str) -> None:
    with pytest.raises(InvalidInput):
        check_request(request(file(sha256=sha256)), GIB)


@pytest.mark.parametrize(
    "files",
    [
        [file("a", 1, A), file("b", 2, A)],
        [file("a", 0, A)],
        [file("a", 1, EMPTY)],
        [file("a", -1)],
        [],
        [file(f"f{n}") for n in range(MAX_FILES + 1)],
    ],
    ids=["two sizes", "no bytes", "some bytes", "negative", "none", "too many"],
)
def test_sizes_and_amounts_make_sense(files: list[UploadFile]) -> None:
    with pytest.raises(InvalidInput):
        check_request(UploadRequest(name="digits", files=files), GIB)


@pytest.mark.parametrize("sizes", [(GIB, 1), (2**200,)])
def test_a_model_is_bounded_before_anything_arrives(sizes: tuple[int, ...]) -> None:
    with pytest.raises(TooLarge, match=str(GIB)) as refused:
        check_request(request(*(file(f"f{n}", size, f"{n:064x}") for n, size in enumerate(sizes))), GIB)
    assert "OPENMAAS_MAX_MODEL_SIZE" in (refused.value.next_step or "")


@pytest.mark.parametrize(
    "more",
    [
        {"name": "no/name"},
        {"sample": "elsewhere.npz"},
        {"parity": {"source": 1}},
        {"metadata": {"x": "y" * 70_000}},
        {"card": "x" * 300_000},
        {"card": "nul\0"},
        {"recipe": "lone \ud800"},
        {"parent": "no reference:"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_everything_else_is_checked_too(more: dict[str, Any]) -> None:
    with pytest.raises(OpenMaaSError) as refused:
        check_request(request(**more), GIB)
    assert refused.value.status in (400, 413)


def test_metadata_is_not_nested_without_end() -> None:
    def nested(levels: int) -> dict[str, Any]:
        return {"a": nested(levels - 1) if levels > 1 else [1]}

    assert encode_metadata(nested(15))
    with pytest.raises(InvalidInput):
        encode_metadata(nested(16))
    with pytest.raises(InvalidInput):
        encode_metadata(nested(500))


def test_a_limit_counts_bytes() -> None:
    assert check_text("éé", "card", 4) == "éé"
    with pytest.raises(TooLarge, match="5 bytes; 4"):
        check_text("éé1", "card", 4)


def test_the_same_files_are_the_same_upload_in_any_order() -> None:
    one, two = request(file("a"), file("b", 2, B)), request(file("b", 2, B), file("a"), card="else")
    assert upload_id("default", one) == upload_id("default", two)


def test_other_files_names_and_projects_are_other_uploads() -> None:
    ids = {
        upload_id("default", request(file("a"))),
        upload_id("other", request(file("a"))),
        upload_id("default", request(file("a"), name="other")),
        upload_id("default", request(file("b"))),
        upload_id("default", request(file("a", 2))),
        upload_id("default", request(file("a", 1, B))),
    }
    assert len(ids) == 6
