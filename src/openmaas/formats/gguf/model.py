"""Whether a GGUF file is one that OpenVINO GenAI answers from as the file says, and what a generator's manifest needs of it.

Held against transformers on the dequantised weights, OpenVINO GenAI 2026.4 is right for the architectures, types and names that
are allowed here. It silently ignores what stretches positions (rope_freqs.weight, rope.scaling), and mixes up biases of llama's
queries and keys, so these are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from openmaas.core.errors import Refused
from openmaas.formats.gguf.file import Head, Tensor, Value

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_MATRICES = ("f16", "q8_0", "q6_k", "q4_0", "q4_1", "q4_k")
_HEADS = (*_MATRICES, "f32", "bf16")
_ROUNDED = ("q4_1", "q4_k")
_PLAIN_FILES = (0, 1)
"""general.file_type of float32 and float16: for them GenAI looks for no scales."""
_MAX_FIGURE = 1 << 24
_MAX_LAYERS = 512
_FOLDER = "Push the folder of the model that the file was made from, and deploy it with --weights int8 or int4."


class Model(NamedTuple):
    """notes: what a person should be told."""

    context: int
    vocabulary: int
    parameters: int
    weights: str
    notes: tuple[str, ...]


class _Shape(NamedTuple):
    """layers, width, inner (of the feed-forward network), heads, groups (of keys and values), size (of a head)."""

    layers: int
    width: int
    inner: int
    heads: int
    groups: int
    size: int


def check_model(head: Head) -> Model:
    """Raises Refused for what OpenVINO GenAI would not load, or would answer from otherwise than the file says."""
    architecture = head.values.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise _unsupported(f"Its architecture is {str(architecture)[:80]!r}; read are {', '.join(ARCHITECTURES)}.")
    said = _Said(head.values, str(architecture))
    shape = _shape(said)
    _refuse_ignored(said, shape)
    rows = head.tensors["token_embd.weight"].axes[0] if "token_embd.weight" in head.tensors else 0
    if not 0 < rows <= _MAX_FIGURE:
        raise _unsupported("It has no 'token_embd.weight'.")
    _check_tensors(head.tensors, str(architecture), shape, rows)
    weights = _weights(head)
    context = said.figure("context_length")
    window = said.optional("attention.sliding_window")
    notes = []
    if rounded := sorted({tensor.kind for tensor in head.tensors.values()} & set(_ROUNDED)):
        notes.append(
            f"OpenVINO GenAI rounds the offsets of {' and '.join(rounded)} blocks to whole steps: answers differ from those of "
            "the file's own weights about as much as quantising changed them."
        )
    if window and window < context:
        notes.append(f"Its layers look back over {window} tokens, which OpenVINO GenAI does not know of: texts end there.")
        context = window
    return Model(context, rows, sum(tensor.elements for tensor in head.tensors.values()), weights, tuple(notes))


class _Said:
    """The values of an architecture's own."""

    def __init__(self, values: Mapping[str, Value], architecture: str) -> None:
        self._values = values
        self._prefix = architecture

    def figure(self, name: str, most: int = _MAX_FIGURE) -> int:
        value = self._values.get(f"{self._prefix}.{name}")
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise _unsupported(f"{self._prefix}.{name} is {str(value)[:40]}; a number from 1 to {most} is needed.")
        return value

    def optional(self, name: str, default: int = 0) -> int:
        return self.figure(name) if self.has(name) else default

    def has(self, name: str) -> bool:
        return f"{self._prefix}.{name}" in self._values

    def get(self, name: str) -> Value:
        return self._values.get(f"{self._prefix}.{name}")

    def file_type(self) -> Value:
        return self._values.get("general.file_type")

    def parts(self) -> Value:
        return self._values.get("split.count", 0)


def _shape(said: _Said) -> _Shape:
    heads, width = said.figure("attention.head_count"), said.figure("embedding_length")
    size = said.optional("attention.key_length", width // heads)
    if not isinstance(said.get("attention.layer_norm_rms_epsilon"), float) or width % heads or size < 1:
        raise _unsupported("Its figures for attention and norms are not those of its architecture.")
    return _Shape(
        layers=said.figure("block_count", _MAX_LAYERS),
        width=width,
        inner=said.figure("feed_forward_length"),
        heads=heads,
        groups=said.optional("attention.head_count_kv", heads),
        size=size,
    )


def _refuse_ignored(said: _Said, shape: _Shape) -> None:
    if said.get("rope.scaling.type") not in (None, "none") or said.has("rope.scaling.factor"):
        raise _unsupported("Its positions are stretched (rope.scaling), which OpenVINO GenAI ignores.")
    if said.optional("rope.dimension_count", shape.size) != shape.size:
        raise _unsupported("Only a part of each head is rotated (rope.dimension_count), which OpenVINO GenAI ignores.")
    if said.optional("attention.value_length", shape.size) != shape.size:
        raise _unsupported("Its values have another size than its keys.")
    if said.parts() not in (0, 1):
        raise _unsupported("It is one of several parts.", "Join them: llama-gguf-split --merge FIRST WHOLE.")


def _check_tensors(tensors: Mapping[str, Tensor], architecture: str, shape: _Shape, rows: int) -> None:
    wanted = dict(_wanted(architecture, shape, rows))
    optional = {"output.weight": (rows, shape.width)} | dict(_optional(architecture, shape))
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise _unsupported(f"{len(missing)} of its tensors are missing: {', '.join(missing[:4])}.")
    if odd := sorted(tensors.keys() - wanted.keys() - optional.keys()):
        raise _unsupported(
            f"It has tensors that OpenVINO GenAI ignores or mixes up: {', '.join(name[:80] for name in odd[:4])}."
        )
    for name, tensor in tensors.items():
        axes = wanted.get(name) or optional[name]
        if tensor.axes != axes:
            raise _unsupported(f"The tensor {name!r} is {list(tensor.axes)}, and would have to be {list(axes)}.")
        allowed = ("f32",) if len(axes) == 1 else _HEADS if name == "output.weight" else _MATRICES
        if tensor.kind not in allowed:
            raise _unsupported(
                f"The tensor {name!r} is {tensor.kind}; OpenVINO GenAI reads {', '.join(allowed)} there.",
                "Write it with one of these: llama-quantize MODEL.gguf OUT.gguf Q8_0 (or Q4_0, Q4_K_S, F16).",
            )


def _wanted(architecture: str, shape: _Shape, rows: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = shape.heads * shape.size, shape.groups * shape.size
    yield "token_embd.weight", (rows, shape.width)
    yield "output_norm.weight", (shape.width,)
    for number in range(shape.layers):
        for name, axes in (
            ("attn_norm.weight", (shape.width,)),
            ("attn_q.weight", (queries, shape.width)),
            ("attn_k.weight", (keys, shape.width)),
            ("attn_v.weight", (keys, shape.width)),
            ("attn_output.weight", (shape.width, queries)),
            ("ffn_norm.weight", (shape.width,)),
            ("ffn_gate.weight", (shape.inner, shape.width)),
            ("ffn_up.weight", (shape.inner, shape.width)),
            ("ffn_down.weight", (shape.width, shape.inner)),
        ):
            yield f"blk.{number}.{name}", axes
        if architecture == "qwen3":
            yield f"blk.{number}.attn_q_norm.weight", (shape.size,)
            yield f"blk.{number}.attn_k_norm.weight", (shape.size,)


def _optional(architecture: str, shape: _Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    if architecture == "llama":
        return
    for number in range(shape.layers):
        yield f"blk.{number}.attn_q.bias", (shape.heads * shape.size,)
        yield f"blk.{number}.attn_k.bias", (shape.groups * shape.size,)
        yield f"blk.{number}.attn_v.bias", (shape.groups * shape.size,)


def _weights(head: Head) -> str:
    """The type of most of its weights."""
    counts: dict[str, int] = {}
    for tensor in head.tensors.values():
        counts[tensor.kind] = counts.get(tensor.kind, 0) + tensor.elements
    kind = head.values.get("general.file_type")
    packed = sorted(set(counts) - {"f32", "f16", "bf16"})
    if not isinstance(kind, int) or isinstance(kind, bool) or (kind in _PLAIN_FILES and packed):
        raise _unsupported(
            f"general.file_type is {str(kind)[:40]}, by which OpenVINO GenAI does not read {', '.join(packed) or 'the file'}.",
            "Write it again with llama-quantize, which sets it.",
        )
    return max(counts, key=lambda label: counts[label])


def _unsupported(what: str, next_step: str = _FOLDER) -> Refused:
    return Refused(f"The GGUF file is not served. {what}", code="unsupported_model", next_step=next_step)
