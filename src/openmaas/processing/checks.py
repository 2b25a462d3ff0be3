"""Whether a declaration fits the model: names exist, shapes and types agree. What it leaves open is filled in."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import InvalidInput
from openmaas.core.processing import Embedding, ImageInput, Labels, Output, Processing, Role, TableInput, TextInput
from openmaas.core.types import Signature, TensorSpec
from openmaas.processing.image import MAX_PIXELS
from openmaas.processing.table import EXACT

_MAX_SIDE: Final = 16_384
_PIXELS: Final = ("UINT8", "FP16", "FP32", "FP64", "BF16")
_INTEGERS: Final = ("INT64", "INT32")
_FLOATS: Final = ("FP16", "FP32", "FP64", "BF16")
_ROLES: Final[dict[str, Role]] = {"input_ids": "ids", "attention_mask": "attention", "token_type_ids": "types"}


def resolve(processing: Processing, signature: Signature, files: Collection[str]) -> Processing:
    """The declaration with every name said, after it was held against the engine's signature and the version's files (paths).

    Raises InvalidInput that names the field, as openmaas.yaml writes it.
    """
    return Processing(input=_resolve_input(processing, signature, files), output=_resolve_output(processing.output, signature))


def _wrong(field: str, reason: str) -> InvalidInput:
    return InvalidInput(
        f"processing.{field}: {reason}.", code="invalid_processing", next_step="Correct openmaas.yaml and push again."
    )


def _named(specs: Sequence[TensorSpec], name: str, field: str, noun: str) -> TensorSpec:
    """The tensor of that name; the only one where none is said."""
    if not name and len(specs) == 1:
        return specs[0]
    if (found := next((spec for spec in specs if spec.name == name), None)) is not None:
        return found
    listed = ", ".join(f"{spec.name!r} {spec.datatype} {list(spec.shape)}" for spec in specs)
    raise _wrong(field, f"the model has no {noun} {name!r}; it has {listed}" if name else f"say which of {listed}")


# ── inputs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _resolve_input(processing: Processing, signature: Signature, files: Collection[str]) -> Any:
    declared = processing.input
    if isinstance(declared, TextInput):
        return _text(declared, signature, files)
    if isinstance(declared, ImageInput):
        return _image(declared, signature)
    if isinstance(declared, TableInput):
        return _table(declared, signature)
    return None


def _text(declared: TextInput, signature: Signature, files: Collection[str]) -> TextInput:
    _refuse_name(declared.name, signature)
    if declared.max_length < 1:
        raise _wrong("input.max_length", f"it must be at least 1, not {declared.max_length}")
    if declared.tokenizer not in files:
        raise _wrong("input.tokenizer", f"there is no file {declared.tokenizer!r}")
    tensors = declared.tensors or {spec.name: _ROLES[spec.name] for spec in signature.inputs if spec.name in _ROLES}
    for name in tensors:
        spec = _named(signature.inputs, name, "input.tensors", "input")
        if spec.datatype not in _INTEGERS or len(spec.shape) != 2:
            raise _wrong(
                "input.tensors",
                f"{name!r} takes {spec.datatype} {list(spec.shape)}, and tokens are INT64 or INT32 of shape [rows, tokens]",
            )
    if missing := [spec.name for spec in signature.inputs if spec.name not in tensors]:
        raise _wrong("input.tensors", f"nothing is said of the input {missing[0]!r}; ids, attention or types")
    if "ids" not in tensors.values():
        raise _wrong("input.tensors", "no input takes the token ids")
    return msgspec.structs.replace(declared, tensors=tensors)


def _refuse_name(name: str, signature: Signature) -> None:
    """A public input must be told from the engine's own, by its name or as BYTES from numbers."""
    if not name or any(spec.name == name and spec.datatype == "BYTES" for spec in signature.inputs):
        raise _wrong("input.name", f"{name!r} is the name of an input of the model itself; choose another")


def _image(declared: ImageInput, signature: Signature) -> ImageInput:
    spec = _named(signature.inputs, declared.tensor, "input.tensor", "input")
    if len(signature.inputs) != 1:
        raise _wrong("input.tensor", f"the model has {len(signature.inputs)} inputs; an image can feed a model with one")
    _refuse_name(declared.name, signature)
    if spec.datatype not in _PIXELS:
        raise _wrong("input.tensor", f"{spec.name!r} takes {spec.datatype}; an image becomes {', '.join(_PIXELS)}")
    _check_image_figures(declared, spec)
    _check_image_shape(declared, spec)
    return msgspec.structs.replace(declared, tensor=spec.name)


def _check_image_figures(declared: ImageInput, spec: TensorSpec) -> None:
    channels = len(declared.mode)
    for field in ("height", "width"):
        if not 1 <= getattr(declared, field) <= _MAX_SIDE:
            raise _wrong(f"input.{field}", f"it must be 1 to {_MAX_SIDE} pixels, not {getattr(declared, field)}")
    for field in ("mean", "std"):
        values = getattr(declared, field)
        if len(values) not in (1, channels) or not all(map(math.isfinite, values)):
            raise _wrong(f"input.{field}", f"it needs 1 or {channels} finite values ({declared.mode}); {list(values)} came")
    if any(value <= 0 for value in declared.std):
        raise _wrong("input.std", "each value must be above 0")
    if not math.isfinite(declared.scale) or not declared.scale:
        raise _wrong("input.scale", f"it must be a finite number that is not 0; {declared.scale} came")
    if not 1 <= declared.max_pixels <= MAX_PIXELS:
        raise _wrong("input.max_pixels", f"it must be 1 to {MAX_PIXELS}; {declared.max_pixels} came")
    if declared.shorter is not None and (declared.resize != "crop" or not 1 <= declared.shorter <= _MAX_SIDE):
        raise _wrong("input.shorter", f"it belongs to 'resize: crop' and must be 1 to {_MAX_SIDE}")
    normalised = set(declared.mean) != {0.0} or set(declared.std) != {1.0}
    if spec.datatype == "UINT8" and normalised:
        raise _wrong("input.mean", f"{spec.name!r} takes UINT8, so pixels go in as they are; leave mean and std out")


def _check_image_shape(declared: ImageInput, spec: TensorSpec) -> None:
    sizes = {"height": declared.height, "width": declared.width, "mode": len(declared.mode)}
    orders = {"channels_first": ("mode", "height", "width"), "channels_last": ("height", "width", "mode")}
    if declared.layout == "flat":
        values = math.prod(sizes.values())
        if len(spec.shape) != 2 or spec.shape[1] not in (-1, values):
            raise _wrong("input.layout", f"flat gives [rows, {values}]; {spec.name!r} takes {list(spec.shape)}")
        return
    order = orders[declared.layout]
    if len(spec.shape) != 4:
        raise _wrong("input.layout", f"{declared.layout} has 4 axes; {spec.name!r} takes {list(spec.shape)}")
    for field, axis in zip(order, spec.shape[1:], strict=True):
        if axis not in (-1, sizes[field]):
            said = f"{declared.mode} has {sizes[field]} channels" if field == "mode" else f"{sizes[field]} was declared"
            raise _wrong(f"input.{field}", f"{said}; {spec.name!r} takes {list(spec.shape)} ({declared.layout})")


def _table(declared: TableInput, signature: Signature) -> TableInput:
    names = [column.name for column in declared.columns]
    if not names or len(set(names)) != len(names):
        raise _wrong("input.columns", "they need names that are all different" if names else "there are none")
    if declared.tensor is not None:
        spec = _named(signature.inputs, declared.tensor, "input.tensor", "input")
        if len(signature.inputs) != 1 or len(spec.shape) != 2 or spec.shape[1] not in (-1, len(names)):
            raise _wrong(
                "input.columns", f"{len(names)} columns make [rows, {len(names)}]; {spec.name!r} takes {list(spec.shape)}"
            )
        declared = msgspec.structs.replace(declared, tensor=spec.name)
    elif sorted(names) != sorted(spec.name for spec in signature.inputs):
        raise _wrong(
            "input.columns",
            "without 'tensor' each is an input of its own name; "
            f"the model has {', '.join(repr(spec.name) for spec in signature.inputs)}",
        )
    for column in declared.columns:
        _check_column(column, _named(signature.inputs, declared.tensor or column.name, "input.columns", "input"))
    return declared


def _check_column(column: Any, spec: TensorSpec) -> None:
    field = f"input.columns {column.name!r}"
    wanted, own = numpy_dtype(spec.datatype), numpy_dtype(column.datatype)
    words = column.categories is not None and all(isinstance(category, str) for category in column.categories)
    if column.categories is not None:
        numbers = all(isinstance(category, int) and not isinstance(category, bool) for category in column.categories)
        if not column.categories or not (words or numbers) or len(set(column.categories)) != len(column.categories):
            raise _wrong(field, "categories are all text or all whole numbers, and each is there once")
        if (own.kind == "O") is not words:
            raise _wrong(field, f"its categories do not have its datatype {column.datatype}")
    fits = {
        "O": own.kind == "O",
        "b": own.kind == "b",
        "i": own.kind in "iub" or words,
        "u": own.kind in "iub" or words,
    }.get(wanted.kind, own.kind != "O" or words)
    if not fits:
        raise _wrong(field, f"{column.datatype} does not fit into {spec.name!r}, which takes {spec.datatype}")
    if wanted.kind in "iu" and own.kind in "iu" and own != wanted:
        raise _wrong(field, f"{column.datatype} is not what {spec.name!r} takes, {spec.datatype}")
    if column.nullable and wanted.name not in EXACT:
        raise _wrong(field, f"a missing value is NaN, which {spec.datatype} does not have")
    if any(axis not in (-1, 1) for axis in spec.shape[2:]) or len(spec.shape) not in (1, 2):
        raise _wrong(field, f"{spec.name!r} takes {list(spec.shape)}, not one value a row")


# ── outputs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _resolve_output(declared: Output | None, signature: Signature) -> Output | None:
    if declared is None:
        return None
    spec = _named(signature.outputs, declared.output, "output.output", "output")
    if spec.datatype not in _FLOATS:
        raise _wrong("output.output", f"{spec.name!r} is {spec.datatype}; expected floating point numbers")
    if isinstance(declared, Labels):
        _check_labels(declared, spec)
    else:
        _check_embedding(declared, spec)
    return msgspec.structs.replace(declared, output=spec.name)


def _check_labels(declared: Labels, spec: TensorSpec) -> None:
    axes = 3 if declared.tokens else 2
    if len(spec.shape) not in (axes, axes - 1) or (declared.tokens and len(spec.shape) != axes):
        shape = "[rows, tokens, classes]" if declared.tokens else "[rows, classes]"
        raise _wrong("output.output", f"{spec.name!r} gives {list(spec.shape)}; labels need {shape}")
    count = len(declared.labels)
    scores = spec.shape[-1] if len(spec.shape) == axes else 1
    single = count == 2 and scores == 1 and declared.activation != "softmax"
    if count and scores not in (-1, count) and not single:
        raise _wrong("output.labels", f"there are {count}; {spec.name!r} gives {scores} scores {list(spec.shape)}")
    if len(set(declared.labels)) != count:
        twice = next(label for label in declared.labels if declared.labels.count(label) > 1)
        raise _wrong("output.labels", f"{twice!r} is there twice")
    if declared.top < 1:
        raise _wrong("output.top", f"it must be at least 1, not {declared.top}")


def _check_embedding(declared: Embedding, spec: TensorSpec) -> None:
    axes = 2 if declared.pooling == "none" else 3
    if len(spec.shape) != axes:
        shape = "[rows, values]" if axes == 2 else "[rows, tokens, values]"
        raise _wrong("output.pooling", f"{declared.pooling!r} needs {shape}; {spec.name!r} gives {list(spec.shape)}")
