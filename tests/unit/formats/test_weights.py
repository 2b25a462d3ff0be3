"""safetensors headers that lie: refused before any library opens the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.formats.huggingface.weights import MAX_HEADER, is_safetensors, read_header, read_weights, weight_files
from tests.unit.formats.encoders import minilm

GOOD: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]},
    "c": {"dtype": "F16", "shape": [0, 5], "data_offsets": [32, 32]},
}


def write(path: Path, header: Any, data: int = 32, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data))
    return path


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    save_file({"x": np.ones((3, 4), np.float16), "y": np.zeros((0, 2), np.int64), "z": np.array(7, np.uint8)}, path, {"a": "b"})
    header = read_header(path)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in header.items()} == {
        "x": ("F16", [3, 4]), "y": ("I64", [0, 2]), "z": ("U8", [])
    }  # fmt: skip
    assert is_safetensors(path)


def test_a_real_model_is_read() -> None:
    assert len(read_header(minilm() / "model.safetensors")) == 104


def test_a_good_header_is_good(tmp_path: Path) -> None:
    assert len(read_header(write(tmp_path / "model.safetensors", GOOD | {"__metadata__": {"format": "pt"}}))) == 3


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 24]}}, r"F32 \[2, 4\], has 24 bytes"),
        ({"a": {"dtype": "F64", "shape": [2, 3], "data_offsets": [0, 24]}}, "has 24 bytes"),
        ({"b": {"dtype": "I64", "shape": [], "data_offsets": [16, 24]}}, "'b' at byte 16 overlaps another"),
        ({"b": {"dtype": "I64", "shape": [], "data_offsets": [25, 33]}}, "'b' at byte 25 leaves a gap"),
        ({"b": {"dtype": "I64", "shape": [100], "data_offsets": [24, 824]}}, "ends at byte 824 of 32"),
        ({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [-24, 0]}}, "at byte -24 overlaps"),
        ({"a": {"dtype": "F32", "shape": [6], "data_offsets": [24, 0]}}, "leaves a gap|has -24 bytes|overlaps"),
        ({"a": {"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}}, "impossible shape"),
        ({"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 24]}}, "impossible shape"),
        ({"a": {"dtype": "F32", "shape": [1] * 40, "data_offsets": [0, 4]}}, "impossible shape"),
        ({"a": {"dtype": "PICKLE", "shape": [2, 3], "data_offsets": [0, 24]}}, "'PICKLE', which is not known"),
        ({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], "more": 1}}, "cannot be read"),
        ({"a": {"dtype": "F32", "shape": [2.5], "data_offsets": [0, 24]}}, "cannot be read"),
        ({"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24, 48]}}, "cannot be read"),
        ({"a": 7}, "cannot be read"),
        ({"__metadata__": {"a": 1}}, "cannot be read"),
    ],
)
def test_a_lying_tensor_is_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        read_header(write(tmp_path / "model.safetensors", GOOD | changes))
    assert caught.value.code == "damaged"


@pytest.mark.parametrize(
    ("header", "data", "length", "why"),
    [
        (GOOD, 40, None, "end at byte 32 of 40"),
        (GOOD, 31, None, "of 31"),
        (GOOD, 32, 1 << 63, "declares a header of"),
        (GOOD, 32, MAX_HEADER + 1, "declares a header of"),
        (GOOD, 32, 0, "declares a header of 0"),
        (GOOD, 32, 40, "cannot be read"),
        (b"[]", 0, None, "cannot be read"),
        (b"{" * 5000, 0, None, "cannot be read"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 0, None, "cannot be read"),
        (b"\xff\xfe{}", 0, None, "cannot be read"),
    ],
)
def test_a_lying_file_is_refused(tmp_path: Path, header: Any, data: int, length: int | None, why: str) -> None:
    with pytest.raises(Refused, match=why):
        read_header(write(tmp_path / "model.safetensors", header, data, length))


@pytest.mark.parametrize("content", [b"", b"\x02", bytes(8), bytes(9), b"\x80\x04N.", b"PK\x03\x04" + bytes(50)])
def test_short_files_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert not is_safetensors(path)
    with pytest.raises(Refused):
        read_header(path)


@given(at=st.integers(0, 250), byte=st.integers(0, 255), cut=st.integers(0, 40))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_is_read_by_both_or_refused(tmp_path: Path, at: int, byte: int, cut: int) -> None:
    """Whatever is let through, the library reads too, and as the same tensors."""
    from safetensors import safe_open

    path = write(tmp_path / "model.safetensors", GOOD)
    content = bytearray(path.read_bytes())
    content[at % len(content)] = byte
    path.write_bytes(content[: len(content) - cut])
    try:
        header = read_header(path)
    except Refused:
        return
    with safe_open(path, "numpy") as file:
        assert {name: file.get_slice(name).get_shape() for name in file.keys()} == {  # noqa: SIM118  not a dict
            name: tensor.shape for name, tensor in header.items()
        }


# ── several files ────────────────────────────────────────────────────────────────────────────────────────────────────


def shards(folder: Path, weight_map: Any) -> Path:
    for name in ("one.safetensors", "two.safetensors"):
        write(folder / name, {name[:3]: GOOD["a"]}, 24)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    shards(tmp_path, {"one": "one.safetensors", "two": "two.safetensors"})
    names = weight_files(tmp_path)
    assert names == ["one.safetensors", "two.safetensors"]
    assert len(read_weights(tmp_path, names)) == 2


@pytest.mark.parametrize(
    "weight_map",
    [{"a": "../one.safetensors"}, {"a": "/etc/passwd"}, {"a": "three.safetensors"}, {"a": ".hidden"}, {"a": 7}, {}, [], None],
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, weight_map: Any) -> None:
    with pytest.raises(InvalidInput):
        weight_files(shards(tmp_path, weight_map))


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, {"a": GOOD["a"]}, 24)
    with pytest.raises(Refused, match="'a' is in two"):
        read_weights(tmp_path, ["one", "two"])


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {}, 0)
    with pytest.raises(OpenMaaSError, match="no tensors"):
        read_weights(tmp_path, ["model.safetensors"])
