"""GGUF files that lie, files that OpenVINO GenAI would read otherwise than they say, and the tokenizers in them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from openmaas.core.errors import OpenMaaSError, Refused
from openmaas.formats.gguf import GgufFormat
from openmaas.formats.gguf.file import is_gguf, read_head
from openmaas.formats.gguf.model import Model, check_model
from openmaas.formats.gguf.vocabulary import Vocabulary, read_vocabulary
from tests.unit.formats.gguf_files import TENSORS, VALUES, text, write

BIG = 1 << 62


def model(path: Path, values: dict[str, Any] | None = None, tensors: Any = None) -> Model:
    return check_model(read_head(write(path / "m.gguf", VALUES | (values or {}), TENSORS | (tensors or {}))))


def vocabulary(**values: Any) -> Vocabulary:
    return read_vocabulary(VALUES | {f"tokenizer.ggml.{name}": value for name, value in values.items()})


# ── the head ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    head = read_head(path)
    assert is_gguf(path)
    assert GgufFormat().find(tmp_path, ["m.gguf"]) == ["m.gguf"]
    assert head.values["tokenizer.ggml.tokens"] == VALUES["tokenizer.ggml.tokens"]
    assert head.values["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert head.tensors["blk.0.ffn_down.weight"].axes == (8, 16)


@pytest.mark.parametrize(
    ("start", "why"),
    [
        (b"GGUF" + struct.pack("<IQQ", 3, BIG, 1), f"declares {BIG} tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, BIG), f"declares {BIG} values"),
        (b"GGUF" + struct.pack("<IQQ", 3, 60000, 17), "of the .* that are left|impossible|axes|at most"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "little-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 1, 1), "version 1"),
        (b"GGML" + struct.pack("<IQQ", 3, 1, 1), "does not begin with"),
    ],
)
def test_counts_that_lie(tmp_path: Path, start: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        read_head(write(tmp_path / "m.gguf", start=start))
    assert caught.value.code == "damaged"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (struct.pack("<IQ", 8, BIG) + b"x", f"a text of {BIG} bytes"),
        (struct.pack("<IQ", 8, 1 << 19) + b"x", "bytes of the"),
        (struct.pack("<IQ", 8, 1) + b"\xff", "not UTF-8"),
        (struct.pack("<IIQ", 9, 4, BIG), f"{BIG} items"),
        (struct.pack("<IIQ", 9, 4, 4 << 20), "bytes of the"),
        (struct.pack("<IIQ", 9, 8, 4 << 20), "bytes of the"),
        (struct.pack("<IIQIQ", 9, 9, 1, 9, 1), "list of lists"),
        (struct.pack("<II", 77, 1), "type 77"),
    ],
)
def test_values_that_lie(tmp_path: Path, value: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why):
        read_head(write(tmp_path / "m.gguf", {"x": value}, {}))


@pytest.mark.parametrize(
    ("tensors", "offsets", "data", "why"),
    [
        ({"a": (0, (8,))}, {"a": 32 * 1000}, 64, "ends at byte"),
        ({"a": (0, (8,))}, {"a": BIG - BIG % 32}, 64, "ends at byte"),
        ({"a": (0, (8,)), "b": (0, (8,))}, {"b": 0}, 64, "overlaps"),
        ({"a": (0, (8,))}, {"a": 8}, 64, "not aligned"),
        ({"a": (0, (BIG, BIG))}, {}, 64, "impossible shape"),
        ({"a": (0, (0,))}, {}, 64, "impossible shape"),
        ({"a": (2, (31,))}, {}, 64, "impossible shape"),
        ({"a": (99, (8,))}, {}, 64, "type 99"),
        ({"a": (0, (1, 1, 1, 1, 1))}, {}, 64, "5 axes"),
        ({"a": (0, ())}, {}, 64, "0 axes"),
        ({"a": (0, (8,))}, {}, 31, "ends at byte 32 of 31"),
    ],
)
def test_tensors_that_lie(tmp_path: Path, tensors: Any, offsets: Any, data: int, why: str) -> None:
    with pytest.raises(Refused, match=why):
        read_head(write(tmp_path / "m.gguf", {"x": 1}, tensors, offsets=offsets, data=data))


@pytest.mark.parametrize("alignment", [0, 3, 1 << 20, -8, "32", 1.5])
def test_an_alignment_that_is_none(tmp_path: Path, alignment: Any) -> None:
    value = struct.pack("<Ii", 5, alignment) if isinstance(alignment, int) and alignment < 0 else alignment
    with pytest.raises(Refused, match="aligned to"):
        read_head(write(tmp_path / "m.gguf", {"general.alignment": value}, {}))


def test_what_is_said_twice(tmp_path: Path) -> None:
    double = text("x") + struct.pack("<II", 4, 1)
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + double * 2)
    with pytest.raises(Refused, match="'x' twice"):
        read_head(tmp_path / "m.gguf")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 1400), value=st.binary(min_size=1, max_size=9), cut=st.integers(0, 3000))
def test_any_damage_is_told_as_one(tmp_path: Path, place: int, value: bytes, cut: int) -> None:
    data = bytearray(write(tmp_path / "m.gguf").read_bytes())
    data[place : place + len(value)] = value
    (tmp_path / "n.gguf").write_bytes(data[: max(len(data) - cut, 4)])
    try:
        head = read_head(tmp_path / "n.gguf")
        check_model(head)
        read_vocabulary(head.values)
    except OpenMaaSError as error:
        assert 400 <= error.status < 500


# ── what it is ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_manifest_needs(tmp_path: Path) -> None:
    found = model(tmp_path)
    assert (found.context, found.vocabulary, found.weights, found.notes) == (64, 7, "f16", ())
    assert found.parameters == 56 + 3 * 8 + 2 * 64 + 2 * 32 + 3 * 128


@pytest.mark.parametrize(
    ("values", "tensors", "why"),
    [
        ({"general.architecture": "mamba"}, {}, "architecture is 'mamba'; read are llama, qwen2, qwen3"),
        ({"general.file_type": 7}, {"blk.0.attn_q.weight": (30, (8, 8))}, "is bf16; OpenVINO GenAI reads f16, q8_0"),
        ({}, {"blk.0.ffn_norm.weight": (1, (8,))}, "is f16; OpenVINO GenAI reads f32 there"),
        ({}, {"rope_freqs.weight": (0, (2,))}, r"ignores or mixes up: rope_freqs\.weight"),
        ({}, {"blk.0.attn_q.bias": (0, (8,))}, r"ignores or mixes up: blk\.0\.attn_q\.bias"),
        ({}, {"blk.0.attn_q.weight": (1, (8, 4))}, r"is \[4, 8\], and would have to be \[8, 8\]"),
        ({"llama.block_count": 2}, {}, "9 of its tensors are missing"),
        ({"llama.block_count": 10**9}, {}, "block_count is 1000000000; a number from 1 to 512"),
        ({"llama.context_length": "many"}, {}, "context_length is many"),
        ({"llama.attention.head_count": 3}, {}, "figures for attention"),
        ({"llama.rope.scaling.type": "yarn"}, {}, "positions are stretched"),
        ({"llama.rope.dimension_count": 2}, {}, "part of each head is rotated"),
        ({"split.count": 3}, {}, "one of several parts"),
        ({"general.file_type": "f16"}, {}, "general.file_type is f16"),
    ],
)
def test_what_would_be_read_otherwise_than_it_says(tmp_path: Path, values: Any, tensors: Any, why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        model(tmp_path, values, tensors)
    assert caught.value.code == "unsupported_model"
    assert caught.value.next_step


def test_a_window_ends_the_context(tmp_path: Path) -> None:
    found = model(tmp_path, {"llama.attention.sliding_window": 32})
    assert found.context == 32
    assert "look back over 32 tokens" in found.notes[0]


# ── its tokenizer ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_tokenizer_is_written_down() -> None:
    found = vocabulary()
    loaded = Tokenizer.from_str(found.tokenizer)
    assert loaded.encode("ab a<own>b<|im_end|>").ids == [5, 4, 2, 6, 3, 1]
    assert loaded.decode([5, 4, 2, 1]) == "ab a"
    assert found.tokens == 7
    assert found.end == (0, 1)  # the one that is named, and what is always an end where it is a control token
    assert found.special == {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}


def test_a_text_begins_with_a_token_where_the_file_says_so() -> None:
    assert Tokenizer.from_str(vocabulary(add_bos_token=True).tokenizer).encode("a").ids == [0, 2]
    assert Tokenizer.from_str(vocabulary(pre="llama-bpe").tokenizer).encode("a").ids == [0, 2]
    assert Tokenizer.from_str(vocabulary(pre="llama-bpe", add_bos_token=False).tokenizer).encode("a").ids == [2]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"model": "llama"}, "byte-level BPE"),
        ({"pre": "tekken"}, "'tekken'; known are llama-bpe"),
        ({"tokens": []}, "not a list of texts"),
        ({"tokens": [1, 2]}, "not a list of texts"),
        ({"tokens": ["a", "a", "b"]}, "not all different"),
        ({"token_type": [1]}, "not all of a kind"),
        ({"merges": ["a c"]}, "no token"),
        ({"merges": ["ab"]}, "no token"),
        ({"eos_token_id": 7}, "eos_token_id is 7, of 7 tokens"),
        ({"eos_token_id": "a"}, "eos_token_id is a"),
    ],
)
def test_tokenizers_that_are_not_served(values: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        vocabulary(**values)
    assert caught.value.code == "unsupported_tokenizer"
