from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmaas.formats.pickles import MAX_LOOK, find_pickle, is_pickle
from tests.unit.formats.models import linear


class Evil:
    """Unpickling it would make the canary file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def zipped(data: bytes, name: str = "data.pkl", method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("readme.txt", "hello")
        archive.writestr(name, data)
    return buffer.getvalue()


def tarred(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("x/model.bin")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def object_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


WRAPS = {
    "plain": lambda data: data,
    "zlib": zlib.compress,
    "zlib 9": lambda data: zlib.compress(data, 9),
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zip": zipped,
    "zip deflated": lambda data: zipped(data, "weights", zipfile.ZIP_DEFLATED),
    "zip in zip": lambda data: zipped(zipped(data)),
    "zip with a prefix": lambda data: b"#!/bin/sh\n" + zipped(data),
    "tar": tarred,
    "tar.gz": lambda data: gzip.compress(tarred(data)),
    "gzip in gzip": lambda data: gzip.compress(gzip.compress(data)),
    "followed by zip": lambda data: data + zipped(b"x"),
    "followed by ONNX": lambda data: data + linear().SerializeToString(),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", WRAPS)
def test_a_pickle_is_found_however_it_is_packed(tmp_path: Path, wrap: str, protocol: int) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.onnx"
    path.write_bytes(WRAPS[wrap](pickle.dumps(Evil(canary), protocol)))
    assert find_pickle(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cos\nsystem\n(S'true'\ntR and whatever follows",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02cos\nsystem\nU\x04true\x85R",
    ],
)
def test_a_pickle_by_hand_is_found(code: bytes) -> None:
    assert is_pickle(code)


@pytest.mark.parametrize("value", [[], {}, None, 1, "text", [1, 2], {"a": [1.5, b"x"]}])
@pytest.mark.parametrize("protocol", range(6))
def test_a_harmless_pickle_is_a_pickle(value: object, protocol: int) -> None:
    assert is_pickle(pickle.dumps(value, protocol))


def test_a_pickle_larger_than_what_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(pickle.dumps(b"x" * (MAX_LOOK + 100)))
    assert find_pickle(path)


def test_joblib_files_are_found(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    for compress in (0, 3, ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3), ("zlib", 9)):
        path = tmp_path / "model"
        joblib.dump({"w": np.zeros((50, 50)), "s": slice(1)}, path, compress=compress)
        assert find_pickle(path), compress


def test_arrays_of_objects_are_found(tmp_path: Path) -> None:
    for data in (object_array(), zipped(object_array(), "a.npy")):
        path = tmp_path / "sample.npz"
        path.write_bytes(data)
        assert "array of objects" in (find_pickle(path) or "")


def test_what_is_no_pickle(tmp_path: Path) -> None:
    arrays = io.BytesIO()
    np.savez(arrays, x=np.zeros(3), t=np.array(["a"]))
    harmless = {
        "onnx": linear().SerializeToString(),
        "npz": arrays.getvalue(),
        "zip of text": zipped(b"cat\ndog\n", "c.txt"),
        "csv": b"col_a,col_b\n1,2\n3,4\n",
        "csv of integers": b"I,J\n1,2\n",
        "words": b"cat\ndog\nRabbit\nbird\n.\n",
        "labels": b"cat\ndog\nbird\n(x)\n",
        "numbers": b"1\n2\n3\n",
        "json": b'{"a": [1, 2]}',
        "list": b"[1, 2, 3]",
        "yaml": b"format: onnx\n",
        "markdown": b"# Title\n\nText (with brackets). More.\n",
        "licence": b"MIT License\n\nCopyright (c) 2026\n",
        "dot": b".",
        "name": b"N. Wirth, 1976\n",
        "empty": b"",
        "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "floats": np.random.default_rng(0).standard_normal(10_000).astype(np.float32).tobytes(),
        "zeros": bytes(10_000),
        "cut zip": zipped(b"x" * 100)[:60],
        "cut gzip": gzip.compress(b"hello" * 100)[:20],
    }
    for name, data in harmless.items():
        path = tmp_path / "file"
        path.write_bytes(data)
        assert find_pickle(path) is None, name


def test_a_compressed_bomb_is_only_begun(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(bytes(200 << 20), 1))
    assert find_pickle(path) is None


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_looked_at_without_an_error(data: bytes) -> None:
    is_pickle(data)


@given(
    st.recursive(st.integers() | st.text() | st.binary(), lambda inner: st.lists(inner, max_size=4), max_leaves=10),
    st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_every_pickle_of_plain_values_is_found(value: object, protocol: int) -> None:
    assert is_pickle(pickle.dumps(value, protocol))
