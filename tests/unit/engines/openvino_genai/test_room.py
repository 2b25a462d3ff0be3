from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf import GGUFWriter

from openmaas.core.errors import EngineFailed
from openmaas.engines.openvino_genai.room import token_bytes


def write(path: Path, **values: int | list[int]) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_token_list([f"token {number}".encode() for number in range(5000)])
    writer.add_token_scores([0.5] * 5000)
    for name, value in values.items():
        key = f"llama.{name.replace('__', '.')}"
        writer.add_array(key, value) if isinstance(value, list) else writer.add_uint32(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_from_a_folders_configuration(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "hidden_size": 896}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert token_bytes(tmp_path / "openvino_model.xml", "") == 2 * 24 * 2 * (64 + 8)
    assert token_bytes(tmp_path / "openvino_model.xml", "f32") == 2 * 24 * 2 * 64 * 4
    (tmp_path / "config.json").write_text(json.dumps({"text_config": config | {"head_dim": 128}}))
    assert token_bytes(tmp_path / "openvino_model.xml", "bf16") == 2 * 24 * 2 * 128 * 2


def test_from_a_gguf_file(tmp_path: Path) -> None:
    shape = {"block_count": 3, "attention__head_count": 4, "attention__head_count_kv": 2, "embedding_length": 64}
    assert token_bytes(write(tmp_path / "a.gguf", **shape), "") == 2 * 3 * 2 * (16 + 8)
    shape = {"block_count": 3, "attention__head_count": 4, "attention__key_length": 32}
    assert token_bytes(write(tmp_path / "b.gguf", **shape, attention__head_count_kv=[1, 2, 2]), "f32") == 2 * 3 * 2 * 32 * 4


def test_what_does_not_tell(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "cut.gguf").write_bytes(write(tmp_path / "a.gguf", block_count=3).read_bytes()[:500])
    (tmp_path / "no.gguf").write_bytes(b"something else")
    for name in ("openvino_model.xml", "a.gguf", "cut.gguf", "no.gguf", "none.gguf"):
        with pytest.raises(EngineFailed, match="cannot be loaded"):
            token_bytes(tmp_path / name, "")
