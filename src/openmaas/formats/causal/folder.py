"""A decoder's folder read as data: whether it may be loaded, and what its JSON files say. Nothing of it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from openmaas.core.errors import Refused
from openmaas.formats.huggingface.folder import CONFIG, DECODERS, TYPES, check_figures, not_served, read_config, weights_of
from openmaas.formats.huggingface.weights import Stored, read_json, read_weights

_PLAIN = {"F64": "f64", "F32": "f32", "BF16": "bf16", "F16": "f16"}
_BESIDE = ("BOOL", "U8", "I32", "I64")
"""Types of what lies beside the weights: masks and positions that some models have saved."""


class Said(NamedTuple):
    """The JSON files of a folder, empty where there is none: config.json, generation_config.json, and the tokenizer's."""

    path: Path
    config: dict[str, Any]
    generation: dict[str, Any]
    tokenizer: dict[str, Any]
    special: dict[str, Any]


class Decoder(NamedTuple):
    """tensors: by name, as the files' headers have them."""

    said: Said
    files: tuple[str, ...]
    tensors: dict[str, Stored]

    @property
    def parameters(self) -> int:
        """Number of weights; one that two layers share counts once where it is stored once."""
        return sum(tensor.elements for tensor in self.tensors.values() if tensor.dtype in _PLAIN)

    @property
    def precision(self) -> str:
        """f32, bf16, f16: of most of the weights."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.elements
        return _PLAIN[max((kind for kind in counts if kind in _PLAIN), key=lambda kind: counts[kind])]

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return sum(tensor.data_offsets[1] - tensor.data_offsets[0] for tensor in self.tensors.values())


def read_decoder(root: Path, entry: str) -> Decoder:
    """Raises Refused for what brings code of its own, lies, or is no decoder that is served; InvalidInput for damaged files."""
    path = (root / entry).parent
    config = read_config(root, path)
    _check_config(config)
    names = weights_of(path)
    tensors = read_weights(path, names)
    _refuse_packed(tensors)
    return Decoder(read_said(path, config), tuple(names), tensors)


def read_said(path: Path, config: dict[str, Any]) -> Said:
    """Raises InvalidInput for a file that is no JSON object."""
    names = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
    generation, tokenizer, special = (read_json(path / name) if (path / name).is_file() else {} for name in names)
    return Said(path, config, generation, tokenizer, special)


def _check_config(config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if kind not in DECODERS:
        raise not_served(f"{CONFIG} says model_type {str(kind)[:80]!r}.", TYPES)
    if config.get("quantization_config"):
        raise _quantised(config["quantization_config"])
    for name in ("is_encoder_decoder", "add_cross_attention", "transformers_weights"):
        if config.get(name):
            raise not_served(f"{CONFIG} has {name!r}.", "Save it as a plain decoder in float32, float16 or bfloat16.")
    check_figures(config)


def _quantised(config: Any) -> Refused:
    method = config.get("quant_method") if isinstance(config, dict) else config
    return not_served(
        f"{CONFIG} says that the weights are quantised ({str(method)[:80]!r}), which only the library that did it can run.",
        "Push the model that it was made from, and deploy it with --weights int8 or int4; or push it as GGUF.",
    )


def _refuse_packed(tensors: Mapping[str, Stored]) -> None:
    """Weights that are numbers of their own kind; others would need somebody's kernels."""
    odd = [name for name, tensor in tensors.items() if tensor.dtype not in (*_PLAIN, *_BESIDE)]
    if odd or not any(tensor.dtype in _PLAIN for tensor in tensors.values()):
        found = odd[0] if odd else next(iter(tensors))
        raise not_served(
            f"The weight {found[:120]!r} is {tensors[found].dtype}; weights are float32, float16 or bfloat16.",
            "Push the model that it was made from, and deploy it with --weights int8 or int4.",
        )
