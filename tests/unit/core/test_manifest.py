from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from openmaas.core.errors import InvalidInput
from openmaas.core.manifest import NO_SAMPLE, Comparison, FileEntry, Manifest, Parity, check_path
from openmaas.core.types import Signature, TensorSpec

_SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),),
    outputs=(TensorSpec(name="y", datatype="INT64", shape=(-1,)),),
)


def manifest(**changes: Any) -> Manifest:
    files = (FileEntry(path="a.onnx", size=3, sha256="0" * 64), FileEntry(path="b/c.bin", size=4, sha256="1" * 64))
    return Manifest(
        **{"format": "onnx", "engine": "onnxruntime", "entry": "a.onnx", "signature": _SIGNATURE, "files": files} | changes
    )


def test_the_digest_names_the_canonical_form() -> None:
    one = manifest(options={"b": 1, "a": 2})
    assert one.digest == hashlib.sha256(one.canonical()).hexdigest()
    assert one.digest == manifest(options={"a": 2, "b": 1}).digest  # the order of keys is nothing
    text = one.canonical().decode()
    assert '"batchable":false' in text  # no default is left out: a new one would change what an old digest means
    assert " " not in text
    assert msgspec.json.decode(one.canonical(), type=Manifest) == one


@pytest.mark.parametrize(
    "changes",
    [
        {"batchable": True},
        {"engine": "other"},
        {"options": {"a": 1}},
        {"notes": ("n",)},
        {"files": (FileEntry(path="a.onnx", size=3, sha256="2" * 64),)},
    ],
)
def test_any_change_makes_another_version(changes: dict[str, Any]) -> None:
    assert manifest(**changes).digest != manifest().digest


def test_the_digest_of_a_known_manifest_never_changes() -> None:
    """A version is named by it, in databases and in folders."""
    known = Manifest(format="dummy", engine="dummy", entry="", signature=Signature(inputs=(), outputs=()), files=())
    assert known.digest == "d3d320e9c82128d89ded0c416d008a2a8f7b8d34a1cae3336a54ee9bb95ca3ec"


def test_who_gave_the_sample() -> None:
    compared = {"source": "s", "target": "t", "passed": True, "rtol": 0.0, "atol": 0.0}
    given, generated = (Parity(**compared, sample=origin) for origin in ("given", "generated"))
    assert manifest().sample_origin == "generated"
    assert manifest(sample="sample.npz").sample_origin == "given"
    assert manifest(sample="sample.npz", notes=(f"{NO_SAMPLE}: it was tried on generated input.",)).sample_origin == "generated"
    assert manifest(sample="sample.npz", parity=given).sample_origin == "given"
    assert manifest(sample="sample.npz", parity=generated).sample_origin == "generated"


def test_size_and_largest_difference() -> None:
    parity = Parity(
        source="sklearn",
        target="onnx",
        passed=True,
        sample="given",
        rtol=1e-3,
        atol=1e-5,
        comparisons=tuple(Comparison(batch=n, output="y", max_abs_diff=n / 10, max_rel_diff=0.0) for n in (1, 2, 7)),
    )
    assert manifest().size == 7
    assert parity.max_abs_diff == 0.7
    assert msgspec.structs.replace(parity, comparisons=()).max_abs_diff == 0.0


@pytest.mark.parametrize(
    "path", ["a", "a/b.c", "model.onnx", "x" * 255, "a/" * 31 + "b", "…/ü", "a b", "a:b/c".replace(":", "-")]
)
def test_paths_that_stay_inside(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/a",
        "..",
        "../a",
        "a/..",
        "a/../b",
        ".",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "..\\a",
        "C:/a",
        "C:a",
        "a\x00",
        "a\n",
        "\x7f",
        "a/" * 32 + "b",
        "x" * 256,
        "x/" * 300,
        "ü" * 128,
    ],
)
def test_paths_that_do_not(path: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_path(path)
    assert caught.value.code == "invalid_path"
