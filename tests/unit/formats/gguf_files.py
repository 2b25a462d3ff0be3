"""GGUF files made by hand, so that they can lie."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

TOKENS = ["<|endoftext|>", "<|im_end|>", "a", "b", "Ġ", "ab", "<own>"]
VALUES: dict[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 1,
    "llama.context_length": 64,
    "llama.embedding_length": 8,
    "llama.block_count": 1,
    "llama.feed_forward_length": 16,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 4,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 1, 1, 1, 1, 4],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 0,
}
TENSORS: dict[str, tuple[int, tuple[int, ...]]] = {
    "token_embd.weight": (1, (8, 7)),
    "output_norm.weight": (0, (8,)),
    "blk.0.attn_norm.weight": (0, (8,)),
    "blk.0.attn_q.weight": (1, (8, 8)),
    "blk.0.attn_k.weight": (1, (8, 4)),
    "blk.0.attn_v.weight": (1, (8, 4)),
    "blk.0.attn_output.weight": (1, (8, 8)),
    "blk.0.ffn_norm.weight": (0, (8,)),
    "blk.0.ffn_gate.weight": (1, (8, 16)),
    "blk.0.ffn_up.weight": (1, (8, 16)),
    "blk.0.ffn_down.weight": (1, (16, 8)),
}
"""Type by number (0: f32, 1: f16) and axes, the fastest first."""
_BYTES = {0: 4, 1: 2, 30: 2}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value_of(value: Any) -> bytes:
    """Type and content."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    items = [value_of(item) for item in value]
    return struct.pack("<IIQ", 9, int.from_bytes(items[0][:4], "little"), len(items)) + b"".join(item[4:] for item in items)


def write(
    path: Path,
    values: dict[str, Any] = VALUES,
    tensors: dict[str, tuple[int, tuple[int, ...]]] = TENSORS,
    *,
    start: bytes | None = None,
    offsets: dict[str, int] | None = None,
    data: int | None = None,
) -> Path:
    """start: in place of mark, version and counts. offsets: other places of tensors. data: bytes of all of them."""
    head = (start or b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))) + b"".join(
        text(key) + value_of(value) for key, value in values.items()
    )
    place = 0
    for name, (kind, axes) in tensors.items():
        offset = (offsets or {}).get(name, place % (1 << 63))
        head += text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, kind, offset)
        size = _BYTES.get(kind, 1)
        for axis in axes:
            size *= axis
        place += -(-size // 32) * 32
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(place if data is None else data))
    return path
