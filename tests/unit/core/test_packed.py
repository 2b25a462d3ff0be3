"""Packed files: what is in them comes out whole and within bounds, or with a clear error."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest

from openmaas.core.errors import InvalidInput
from openmaas.core.packed import estimated_size, is_packed, pack, plain_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx.xz"


def test_what_was_packed_comes_out_the_same(file: Path) -> None:
    data = bytes(range(256)) * 9_000  # more than one piece
    file.write_bytes(pack(data))
    assert is_packed(file)
    with plain_file(file) as plain:
        assert plain.read_bytes() == data
    assert not plain.exists()


def test_a_plain_file_is_given_as_it_is(file: Path) -> None:
    file.write_bytes(b"plain")
    with plain_file(file) as plain:
        assert plain == file


def test_an_empty_file_is_plain(file: Path) -> None:
    file.touch()
    with plain_file(file) as plain:
        assert plain == file


@pytest.mark.parametrize("cut", [6, 20, -1])
def test_one_that_is_cut_short_is_refused(file: Path, cut: int) -> None:
    file.write_bytes(pack(b"weights" * 1000)[:cut])
    with pytest.raises(InvalidInput) as refused, plain_file(file):
        pass
    assert refused.value.code == "truncated"


def test_a_flipped_bit_is_found(file: Path) -> None:
    data = bytearray(pack(bytes(range(256)) * 40))
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(InvalidInput, match="damaged"), plain_file(file):
        pass


def test_what_follows_the_end_is_refused(file: Path) -> None:
    file.write_bytes(pack(b"one") + b"more")
    with pytest.raises(InvalidInput, match="goes on after its end"), plain_file(file):
        pass


def test_a_bomb_stops_at_the_bound(file: Path) -> None:
    file.write_bytes(pack(bytes(8 << 20)))
    assert file.stat().st_size < 4096
    with pytest.raises(InvalidInput, match="more than 1048576 bytes"), plain_file(file, most=1 << 20):
        pass


def test_tables_that_take_gigabytes_are_refused(file: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 1 << 30}]
    file.write_bytes(lzma.compress(b"small", lzma.FORMAT_XZ, filters=filters))
    with pytest.raises(InvalidInput, match="damaged"), plain_file(file):
        pass


def test_packing_tells_how_far_it_is_and_ends_where_that_is_refused() -> None:
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))
        if done:
            raise TimeoutError

    data = bytes(3 << 20)
    with pytest.raises(TimeoutError):
        pack(data, tell)
    assert told == [(0, len(data)), (1 << 20, len(data))]


def test_numbers_are_packed_as_numbers() -> None:
    data = np.random.default_rng(0).normal(size=40_000).astype(np.float32).tobytes()
    assert len(pack(data)) < len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) * 0.97


def test_the_size_is_known_before_a_large_file_is_packed() -> None:
    random = np.random.default_rng(0)
    data = random.integers(0, 32, 1_300_000).astype(np.uint8).tobytes() + random.bytes(700_000)
    size, read = estimated_size(data)
    assert size == pytest.approx(len(pack(data)), rel=0.05)
    assert read < 2 * len(data)
    assert estimated_size(b"") == (0, 0)
