"""How much memory a token takes in the cache, told from what lies beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openmaas.core.errors import EngineFailed
from openmaas.engines.openvino_genai.gguf_values import read_values

_SCALES = 8
"""Bytes beside each head's numbers of a token, which are one byte each."""


def token_bytes(entry: Path, kv_precision: str) -> int:
    """At most. Raises EngineFailed where the files do not tell."""
    try:
        layers, heads, size = _gguf_shape(entry) if entry.suffix == ".gguf" else _config_shape(entry.parent)
    except Exception as error:  # a damaged file may raise any
        raise EngineFailed(
            f"{entry.name} cannot be loaded: its layers, heads and their size cannot be read ({type(error).__name__}).",
            code="load_failed",
        ) from None
    width = {"f32": 4 * size, "bf16": 2 * size, "f16": 2 * size}.get(kv_precision, size + _SCALES)
    return 2 * layers * heads * width


def _config_shape(folder: Path) -> tuple[int, int, int]:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config = config.get("text_config", config)
    heads = int(config["num_attention_heads"])
    size = config.get("head_dim") or int(config["hidden_size"]) // heads
    return int(config["num_hidden_layers"]), int(config.get("num_key_value_heads") or heads), int(size)


def _gguf_shape(path: Path) -> tuple[int, int, int]:
    values = read_values(path)
    architecture = values["general.architecture"]
    assert isinstance(architecture, bytes)

    def number(name: str) -> int:
        value: Any = values.get(f"{architecture.decode()}.{name}", 0)
        return int(max(value) if isinstance(value, tuple) else value)

    heads = number("attention.head_count")
    size = number("attention.key_length") or number("embedding_length") // heads
    return number("block_count"), number("attention.head_count_kv") or heads, size
