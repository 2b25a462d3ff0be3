"""What openmaas.yaml and labels.txt say, laid over what a format found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openmaas.core.errors import InvalidInput
from openmaas.core.processing import ImageInput, Labels, Processing, TextInput
from openmaas.core.types import Signature, TensorSpec
from openmaas.formats.base import Examined, Task
from openmaas.formats.declared import labels_of, with_processing
from openmaas.formats.description import read_description

PIXELS = TensorSpec(name="pixels", datatype="FP32", shape=(-1, 3, 8, 8))


def found(output: str = "logits", processing: Processing | None = None, **more: Any) -> Examined:
    outputs = (TensorSpec(name=output, datatype="FP32", shape=(-1, 3)), TensorSpec(name="n", datatype="INT64", shape=(-1,)))
    signature = Signature(inputs=(PIXELS,), outputs=outputs)
    fields: dict[str, Any] = {"format": "onnx", "engine": "onnxruntime", "entry": "m/model.onnx", "signature": signature} | more
    return Examined(**fields, processing=processing)


def examined(folder: Path, text: str, one: Examined | None = None, **files: str) -> Examined:
    (folder / "openmaas.yaml").write_text(text)
    (folder / "m").mkdir(exist_ok=True)
    paths = {name.replace("__", "/").replace("_txt", ".txt"): content for name, content in files.items()}
    for path, content in paths.items():
        (folder / path).write_text(content)
    task = Task(folder=folder, output=folder, description=read_description(folder))
    return with_processing(task, one or found(), list(paths))


IMAGE = "processing: {input: {kind: image, height: 8, width: 8, mean: [0.5], std: [0.25]}}\n"


def test_nothing_said_is_nothing_declared(tmp_path: Path) -> None:
    assert examined(tmp_path, "") == found()


def test_processing_is_completed_and_checked(tmp_path: Path) -> None:
    one = examined(tmp_path, IMAGE + "labels: [cat, dog, 3]\n")
    assert one.processing == Processing(
        input=ImageInput(tensor="pixels", height=8, width=8, mean=(0.5,), std=(0.25,)),
        output=Labels(output="logits", labels=("cat", "dog", "3"), activation="softmax"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("processing: {input: {kind: image, heigth: 8}}", ["unknown field", "heigth", "$.processing.input"]),
        ("processing: {input: {kind: picture}}", ["'picture'", "$.processing.input.kind"]),
        ("processing: {input: {height: 8}}", ["kind", "$.processing.input"]),
        ("processing: {input: {kind: labels}}", ["$.processing.input.kind"]),
        ("processing: {input: {kind: image, mode: CMYK}}", ["'CMYK'", "$.processing.input.mode"]),
        ("processing: {input: {kind: image, height: 9, width: 8}}", ["processing.input.height", "9 was declared"]),
        ("labels: [a, b]", ["labels: there are 2", "'logits' FP32 [-1, 3]"]),
        ("labels: [a, b, a]", ["output.labels", "twice"]),
        ("labels: cat", ["array", "$.labels"]),
        ("labels: [a, b, c]\nprocessing: {output: {kind: labels, output: logits}}", ["both 'labels' and 'processing.output'"]),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        examined(tmp_path, text)
    for word in words:
        assert word in caught.value.message


def test_a_labels_file_beside_the_model(tmp_path: Path) -> None:
    one = examined(tmp_path, "", m__labels_txt="cat\n dog \ncow\n\n", labels_txt="x\ny\n")
    assert one.processing == Processing(output=Labels(output="logits", labels=("cat", "dog", "cow"), activation="softmax"))
    assert any("m/labels.txt names the 3 classes of output 'logits'" in note for note in one.notes)


@pytest.mark.parametrize("lines", ["a\nb\n", "a\na\nb\n", "", "a\n" * 400_000])
def test_a_labels_file_that_does_not_fit_is_told(tmp_path: Path, lines: str) -> None:
    one = examined(tmp_path, "", labels_txt=lines)
    assert one.processing is None
    assert any("labels.txt is not used" in note for note in one.notes)


def test_what_is_said_goes_before_what_was_found_and_before_the_labels_file(tmp_path: Path) -> None:
    was = Processing(output=Labels(output="logits", labels=("0", "1", "2"), activation="softmax", top=2))
    one = examined(tmp_path, "labels: [a, b, c]", found(processing=was), labels_txt="x\ny\nz\n")
    assert one.processing == Processing(output=Labels(output="logits", labels=("a", "b", "c"), activation="softmax", top=2))
    assert examined(tmp_path, "", found(processing=was), labels_txt="x\ny\nz\n").processing == was


def test_what_was_found_and_does_not_fit_is_left_away_with_a_note(tmp_path: Path) -> None:
    one = examined(tmp_path, "", found(processing=Processing(input=TextInput())))
    assert one.processing is None
    assert any("is not used: processing.input.tokenizer" in note for note in one.notes)


def test_a_model_that_nothing_can_look_into_yet_keeps_what_is_said(tmp_path: Path) -> None:
    bare = found(signature=Signature(inputs=(), outputs=()), engine="")
    one = examined(tmp_path, IMAGE, bare)
    assert one.processing is not None and isinstance(one.processing.input, ImageInput)


@pytest.mark.parametrize(
    ("name", "gives", "activation"),
    [
        ("probabilities", "probabilities", "none"),
        ("softmax_1", "probabilities", "none"),
        ("logits", "probabilities", "softmax"),
        ("out", "scores", "none"),
    ],
)
def test_what_the_numbers_are_says_their_name(name: str, gives: str, activation: str) -> None:
    labels = labels_of(("a", "b", "c"), found(name).signature)
    assert labels is not None
    assert (labels.gives, labels.activation) == (gives, activation)
