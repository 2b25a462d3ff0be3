"""Declarations held against signatures: what is left open is filled in, what does not fit names its field."""

from __future__ import annotations

from typing import Any

import pytest

from openmaas.core.errors import InvalidInput
from openmaas.core.processing import Column, Embedding, ImageInput, Labels, Processing, TableInput, TextInput
from openmaas.core.types import DataType, Signature, TensorSpec
from openmaas.processing import resolve

Spec = tuple[str, DataType, tuple[int, ...]]


def signature(*inputs: Spec, outputs: tuple[Spec, ...] = ()) -> Signature:
    def specs(given: tuple[Spec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name=name, datatype=kind, shape=shape) for name, kind, shape in given)

    return Signature(inputs=specs(inputs), outputs=specs(outputs))


IDS: Spec = ("input_ids", "INT64", (-1, -1))
MASK: Spec = ("attention_mask", "INT64", (-1, -1))
PIXELS: Spec = ("pixels", "FP32", (-1, 3, 32, 48))
LOGITS: Spec = ("logits", "FP32", (-1, 3))
HIDDEN: Spec = ("hidden", "FP32", (-1, -1, 384))
NUMBERS: Spec = ("X", "FP32", (-1, 2))
COLUMNS = (Column(name="a", datatype="INT64"), Column(name="b", datatype="FP32"))


def test_what_is_left_open_is_filled_in() -> None:
    text = resolve(
        Processing(input=TextInput(), output=Embedding(pooling="mean")),
        signature(IDS, MASK, outputs=(HIDDEN,)),
        {"tokenizer.json"},
    )
    assert isinstance(text.input, TextInput) and text.input.tensors == {"input_ids": "ids", "attention_mask": "attention"}
    assert text.output is not None and text.output.output == "hidden"
    image = resolve(
        Processing(input=ImageInput(height=32, width=48), output=Labels()), signature(PIXELS, outputs=(LOGITS,)), ()
    )
    assert isinstance(image.input, ImageInput) and image.input.tensor == "pixels"
    assert image.output is not None and image.output.output == "logits"
    table = Processing(input=TableInput(columns=COLUMNS, tensor="X"))
    assert resolve(table, signature(NUMBERS), ()) == table
    assert resolve(Processing(), signature(NUMBERS), ()) == Processing()


def image(**fields: Any) -> Processing:
    return Processing(input=ImageInput(**({"height": 32, "width": 48} | fields)))


def columns(*given: Column, tensor: str | None = "X") -> Processing:
    return Processing(input=TableInput(columns=given, tensor=tensor))


def column(name: str = "b", **fields: Any) -> Processing:
    return columns(COLUMNS[0], Column(**({"name": name, "datatype": "FP32"} | fields)))


def labels(*names: str, **fields: Any) -> Processing:
    return Processing(output=Labels(labels=names, **fields))


ONE = signature(PIXELS)
WRONG = [
    (image(tensor="nope"), ONE, ["input.tensor", "'nope'", "'pixels' FP32 [-1, 3, 32, 48]"]),
    (image(), signature(PIXELS, IDS), ["input.tensor", "say which of"]),
    (image(tensor="pixels"), signature(PIXELS, IDS), ["input.tensor", "2 inputs"]),
    (image(height=31), ONE, ["input.height", "31 was declared", "[-1, 3, 32, 48]"]),
    (image(width=32), ONE, ["input.width", "32 was declared"]),
    (image(height=0), ONE, ["input.height", "1 to 16384"]),
    (image(mode="L"), ONE, ["input.mode", "L has 1 channels"]),
    (image(layout="channels_last"), ONE, ["input.height", "(channels_last)"]),
    (image(layout="flat"), ONE, ["input.layout", "[rows, 4608]"]),
    (image(), signature(("pixels", "FP32", (-1, 4608))), ["input.layout", "4 axes"]),
    (image(), signature(("pixels", "INT32", (-1, 3, 32, 48))), ["input.tensor", "INT32"]),
    (image(mean=(0.5,)), signature(("pixels", "UINT8", (-1, 3, 32, 48))), ["input.mean", "UINT8", "as they are"]),
    (image(mean=(0.5, 0.5)), ONE, ["input.mean", "1 or 3"]),
    (image(std=(0.0,)), ONE, ["input.std", "above 0"]),
    (image(scale=float("inf")), ONE, ["input.scale"]),
    (image(max_pixels=10**9), ONE, ["input.max_pixels"]),
    (image(shorter=256), ONE, ["input.shorter", "resize: crop"]),
    (image(name="x"), signature(("x", "BYTES", (-1,))), ["input.name", "choose another"]),
    (Processing(input=TextInput(tokenizer="../tokenizer.json")), signature(IDS), ["input.tokenizer", "no file"]),
    (Processing(input=TextInput(max_length=0)), signature(IDS), ["input.max_length", "at least 1"]),
    (Processing(input=TextInput()), signature(IDS, ("extra", "INT64", (-1, -1))), ["input.tensors", "'extra'"]),
    (Processing(input=TextInput(tensors={"nope": "ids"})), signature(IDS), ["input.tensors", "'nope'"]),
    (Processing(input=TextInput(tensors={"x": "ids"})), signature(("x", "FP32", (-1, -1))), ["input.tensors", "FP32"]),
    (Processing(input=TextInput(tensors={"input_ids": "types"})), signature(IDS), ["input.tensors", "token ids"]),
    (columns(), signature(NUMBERS), ["input.columns", "none"]),
    (columns(COLUMNS[0], COLUMNS[0]), signature(NUMBERS), ["input.columns", "different"]),
    (columns(*COLUMNS, Column(name="c", datatype="FP32")), signature(NUMBERS), ["input.columns", "3 columns", "[-1, 2]"]),
    (columns(*COLUMNS, tensor=None), signature(NUMBERS), ["input.columns", "'X'"]),
    (column(datatype="BYTES"), signature(NUMBERS), ["input.columns 'b'", "BYTES does not fit"]),
    (column(datatype="BYTES", categories=(1, 2)), signature(NUMBERS), ["input.columns 'b'", "categories"]),
    (column(categories=("x", "y")), signature(NUMBERS), ["input.columns 'b'", "datatype"]),
    (column(datatype="BYTES", categories=("x", "x")), signature(NUMBERS), ["input.columns 'b'", "once"]),
    (column(datatype="BYTES", categories=()), signature(NUMBERS), ["input.columns 'b'"]),
    (column(), signature(("X", "INT64", (-1, 2))), ["input.columns 'b'", "FP32 does not fit"]),
    (
        columns(*[Column(name=name, datatype="INT64", nullable=True) for name in "ab"]),
        signature(("X", "INT64", (-1, 2))),
        ["input.columns 'a'", "NaN"],
    ),
    (labels("a", "b"), signature(NUMBERS, outputs=(LOGITS,)), ["output.labels", "there are 2", "3 scores"]),
    (labels("a", "a", "b"), signature(NUMBERS, outputs=(LOGITS,)), ["output.labels", "'a' is there twice"]),
    (labels(output="nope"), signature(NUMBERS, outputs=(LOGITS,)), ["output.output", "'nope'", "'logits'"]),
    (labels(top=0), signature(NUMBERS, outputs=(LOGITS,)), ["output.top"]),
    (labels(), signature(NUMBERS, outputs=(LOGITS, HIDDEN)), ["output.output", "say which of"]),
    (labels(tokens=True), signature(NUMBERS, outputs=(LOGITS,)), ["output.output", "[rows, tokens, classes]"]),
    (labels(), signature(NUMBERS, outputs=(("y", "INT64", (-1, 3)),)), ["output.output", "floating"]),
    (Processing(output=Embedding()), signature(NUMBERS, outputs=(HIDDEN,)), ["output.pooling", "[rows, values]"]),
    (Processing(output=Embedding(pooling="mean")), signature(NUMBERS, outputs=(LOGITS,)), ["output.pooling", "tokens"]),
]  # fmt: skip


@pytest.mark.parametrize(("processing", "against", "words"), WRONG)
def test_what_does_not_fit_names_its_field(processing: Processing, against: Signature, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve(processing, against, {"tokenizer.json"})
    assert caught.value.code == "invalid_processing"
    assert caught.value.message.startswith("processing.")
    assert caught.value.next_step
    for word in words:
        assert word in caught.value.message


FITS = [
    (image(), signature(("pixels", "FP32", (-1, -1, -1, -1)))),
    (image(layout="flat"), signature(("pixels", "FP16", (-1, 4608)))),
    (image(), signature(("pixels", "UINT8", (1, 3, 32, 48)))),
    (image(name="pixels"), ONE),
    (column(datatype="BYTES", categories=("x", "y"), nullable=True), signature(NUMBERS)),
    (column(datatype="BOOL"), signature(NUMBERS)),
    (labels("no", "yes", activation="sigmoid"), signature(NUMBERS, outputs=(("y", "FP32", (-1, 1)),))),
    (labels("no", "yes"), signature(NUMBERS, outputs=(("y", "FP32", (-1,)),))),
    (labels("a", "b", tokens=True), signature(NUMBERS, outputs=(("y", "FP32", (-1, -1, 2)),))),
    (labels("a", "b"), signature(NUMBERS, outputs=(("y", "FP32", (-1, -1)),))),
]


@pytest.mark.parametrize(("processing", "against"), FITS)
def test_what_fits(processing: Processing, against: Signature) -> None:
    resolve(processing, against, ())
