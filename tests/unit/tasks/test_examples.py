"""A dataset bound to a version: inputs of every kind, the truth in the version's classes, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openmaas.core.errors import InvalidInput
from openmaas.core.manifest import Manifest
from openmaas.core.processing import Column, Embedding, ImageInput, Labels, TableInput, TextInput
from openmaas.core.types import TensorSpec
from openmaas.tasks.examples import bind
from openmaas.tasks.meanings import predicted
from tests.unit.formats.encoders import word_tokenizer
from tests.unit.tasks.datasets import csv, dataset, npz, spec, version

SCORES = spec("scores", "FP32", -1, 3)
X = np.arange(24, dtype=np.float64).reshape(6, 4)


# ── inputs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_single_input_is_fed_with_the_only_column(tmp_path: Path) -> None:
    data = npz(tmp_path, x=X, y=[0, 1, 2, 0, 1, 2])
    found = bind(version(spec("image"), SCORES), tmp_path, data, tmp_path)
    assert found.inputs["image"].dtype == np.float32
    np.testing.assert_array_equal(found.inputs["image"], X)
    assert found.truth is not None
    assert (found.task, found.truth.tolist(), found.classes) == ("classification", [0, 1, 2, 0, 1, 2], ("0", "1", "2"))
    assert found.index.tolist() == list(range(6))
    assert (found.rows, found.lengths, found.notes) == (6, None, ())


def test_rows_are_drawn_by_the_seed_and_known_by_their_digest(tmp_path: Path) -> None:
    data, model = npz(tmp_path, x=X, y=[0, 1, 2, 0, 1, 2]), version(spec("image"), SCORES)
    one, same, other, whole = (
        bind(model, tmp_path, data, tmp_path, rows=rows, seed=seed) for rows, seed in ((3, 1), (3, 1), (3, 2), (99, 1))
    )
    assert one.rows == 3
    np.testing.assert_array_equal(one.inputs["image"], X[one.index])
    assert one.truth is not None
    assert one.truth.tolist() == [index % 3 for index in one.index]
    assert one.digest == same.digest != other.digest
    assert whole.digest == bind(model, tmp_path, data, tmp_path).digest


def test_several_inputs_take_columns_by_name_and_the_rest_is_told(tmp_path: Path) -> None:
    data = npz(tmp_path, b=X, a=np.arange(6), spare=np.zeros(6), y=np.zeros(6, int))
    found = bind(version((spec("a", "INT32", -1, 1), spec("b")), SCORES), tmp_path, data, tmp_path)
    assert found.inputs["a"].shape == (6, 1)
    assert found.inputs["a"].dtype == np.int32
    assert found.notes == ("The version does not read 'spare'.",)
    with pytest.raises(InvalidInput, match="lacks columns for 'c' FP32"):
        bind(version((spec("a"), spec("c")), SCORES), tmp_path, data, tmp_path)


def test_single_numbers_make_up_a_matrix_in_their_order(tmp_path: Path) -> None:
    data = csv(tmp_path, "a,b,y\n1,2,0\n3,4,1\n")
    found = bind(version(spec("X", "FP32", -1, 2), SCORES), tmp_path, data, tmp_path)
    assert found.inputs["X"].tolist() == [[1, 2], [3, 4]]
    assert "in their order: 'a', 'b'" in found.notes[0]


def test_a_table_takes_columns_by_name_whatever_their_order(tmp_path: Path) -> None:
    data = csv(tmp_path, "width,colour,y\n1.5,red,0\n2.5,blue,1\n")
    columns = (Column(name="colour", datatype="BYTES", categories=("blue", "red")), Column(name="width", datatype="FP32"))
    model = version(spec("X", "FP32", -1, 2), SCORES, input=TableInput(columns=columns, tensor="X"))
    assert bind(model, tmp_path, data, tmp_path).inputs["X"].tolist() == [[1, 1.5], [0, 2.5]]
    lacking = version(
        spec("X", "FP32", -1, 1), SCORES, input=TableInput(columns=(Column(name="w", datatype="FP32"),), tensor="X")
    )
    with pytest.raises(InvalidInput, match="lacks 1 of the 1 columns that the version takes: 'w'"):
        bind(lacking, tmp_path, data, tmp_path)


def test_a_missing_value_in_a_table_is_refused_unless_it_may_be_missing(tmp_path: Path) -> None:
    data = csv(tmp_path, "w,v,y\n1.5,1,0\n,2,1\n")

    def model(nullable: bool) -> Manifest:
        columns = (Column(name="w", datatype="FP32", nullable=nullable), Column(name="v", datatype="FP32"))
        return version(spec("X", "FP32", -1, 2), SCORES, input=TableInput(columns=columns, tensor="X"))

    found = bind(model(True), tmp_path, data, tmp_path)
    assert np.isnan(found.inputs["X"][1, 0])
    with pytest.raises(InvalidInput, match="column 'w'"):
        bind(model(False), tmp_path, data, tmp_path)


def test_images_become_pixels(tmp_path: Path) -> None:
    for name, shade in (("cat", 255), ("dog", 0)):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4), shade).save(tmp_path / name / "1.png")
    model = version(
        spec("pixels", "FP32", -1, 1, 2, 2), spec("scores", "FP32", -1, 2),
        output=Labels(output="scores", labels=("dog", "cat")), input=ImageInput(tensor="pixels", height=2, width=2, mode="L"),
    )  # fmt: skip
    found = bind(model, tmp_path, dataset(tmp_path), tmp_path)
    assert found.inputs["pixels"].reshape(2, -1).mean(axis=1).tolist() == [1, 0]
    assert found.truth is not None
    assert (found.truth.tolist(), found.classes) == ([1, 0], ("dog", "cat"))


def test_pixels_in_arrays_pass_by_the_decoder(tmp_path: Path) -> None:
    model = version(spec("pixels", "FP32", -1, 1, 2, 2), SCORES, input=ImageInput(tensor="pixels", height=2, width=2, mode="L"))
    data = npz(tmp_path, x=np.ones((3, 1, 2, 2)), y=[0, 1, 2])
    assert bind(model, tmp_path, data, tmp_path).inputs["pixels"].shape == (3, 1, 2, 2)


@pytest.fixture
def tokens(tmp_path: Path) -> tuple[Path, TextInput]:
    folder = tmp_path / "version"
    folder.mkdir()
    tokenizer = word_tokenizer()
    tokenizer.enable_padding(pad_id=0)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder, TextInput(tensors={"ids": "ids", "mask": "attention"}, max_length=6)


def test_texts_become_tokens_and_cut_ones_are_counted(tokens: tuple[Path, TextInput], tmp_path: Path) -> None:
    folder, declared = tokens
    model = version((spec("ids", "INT64", -1, -1), spec("mask", "INT64", -1, -1)), SCORES, input=declared)
    data = csv(tmp_path / "data", "text,label\nthe a,0\na cat sits on the mat today,1\n")
    found = bind(model, folder, data, tmp_path / "data")
    assert found.lengths is not None
    assert found.lengths.tolist() == [4, 6]
    assert found.inputs["mask"].sum(axis=1).tolist() == [4, 6]
    assert found.inputs["ids"][0, 4:].tolist() == [0, 0]
    assert found.notes == ("1 of 2 texts were cut to 6 tokens.",)


def test_sentence_pairs_lie_beside_each_other(tokens: tuple[Path, TextInput], tmp_path: Path) -> None:
    folder, declared = tokens
    data = csv(tmp_path / "data", "sentence1,sentence2,score\nwater boils,a cat,0.25\na cat,a cat,1\n")
    model = version(
        (spec("ids", "INT64", -1, -1), spec("mask", "INT64", -1, -1)), spec("vectors", "FP32", -1, -1, 8),
        input=declared, output=Embedding(output="vectors", pooling="mean"),
    )  # fmt: skip
    found = bind(model, folder, data, tmp_path / "data")
    assert found.truth is not None
    assert (found.task, found.truth.tolist(), found.rows, len(found.index)) == ("similarity", [0.25, 1], 4, 2)
    np.testing.assert_array_equal(found.inputs["ids"][1], found.inputs["ids"][2])


@pytest.mark.parametrize(
    ("array", "wanted", "message"),
    [
        (np.zeros((6, 8, 8)), spec("image", "FP32", -1, 1, 8, 8), r"shape \[8, 8\] \(FP64\).*takes \[1, 8, 8\]"),
        (np.zeros((6, 5)), spec("image"), r"'x' has rows of shape \[5\]"),
        (np.full((6, 4), 0.5), spec("ids", "INT64", -1, 4), "'x' is FP64; the version's input 'ids' takes INT64"),
        (np.full((6, 4), 300), spec("pixels", "UINT8", -1, 4), "'x' holds 300 to 300"),
        (np.full((6, 4), 1e300), spec("image"), "does not hold"),
        (np.full((6, 4), np.inf), spec("image"), "Infinity"),
        (np.array(["a"] * 6), spec("image", "FP32", -1, 1), "'x' is BYTES"),
        (np.zeros((6, 4)), spec("image", "FP32", 3, 4), "takes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_names_the_column_and_both_shapes(
    tmp_path: Path, array: Any, wanted: TensorSpec, message: str
) -> None:
    data = npz(tmp_path, x=array, y=[0, 1, 2, 0, 1, 2])
    with pytest.raises(InvalidInput, match=message):
        bind(version(wanted, SCORES), tmp_path, data, tmp_path)


def test_a_text_generator_takes_no_rows(tmp_path: Path) -> None:
    from openmaas.core.generation import Generator

    data = npz(tmp_path, x=X, y=[0, 1, 2, 0, 1, 2])
    generator = Generator(tokenizer="tokenizer.json", context=8, vocabulary=9, end=(0,))
    with pytest.raises(InvalidInput, match="generates text"):
        bind(version(spec("image"), SCORES, generator=generator), tmp_path, data, tmp_path)


# ── the truth ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_classes_are_found_by_name_in_the_order_of_the_scores(tmp_path: Path) -> None:
    data = npz(tmp_path, x=X, y=["ant", "bee", "cat", "ant", "bee", "cat"])
    model = version(spec("image"), SCORES, output=Labels(output="scores", labels=("cat", "ant", "bee")))
    found = bind(model, tmp_path, data, tmp_path)
    assert found.truth is not None
    assert found.truth.tolist() == [1, 2, 0, 1, 2, 0]
    answers = {"label": np.array([b"ant", b"bee", b"cat"], object), "scores": np.zeros((3, 3))}
    assert predicted(model, answers, found.classes, found.task).tolist() == [1, 2, 0]


def test_whole_numbers_are_indices_of_named_classes(tmp_path: Path) -> None:
    data = npz(tmp_path, x=X, y=[2, 1, 0, 2, 1, 0])
    model = version(spec("image"), SCORES, output=Labels(output="scores", labels=("cat", "ant", "bee")))
    truth = bind(model, tmp_path, data, tmp_path).truth
    assert truth is not None
    assert truth.tolist() == [2, 1, 0, 2, 1, 0]


@pytest.mark.parametrize("labels", [[3, 7, 3, 7, 3, 7], ["3", "7", "3", "7", "3", "7"]])
def test_classes_that_are_numbers_other_than_indices_are_found_by_name(tmp_path: Path, labels: list[object]) -> None:
    """As scikit-learn's: labels 3 and 7, with the output `label` beside the probabilities."""
    data = npz(tmp_path, x=X, y=labels)
    outputs = (spec("label", "INT64", -1), spec("probabilities", "FP32", -1, 2))
    model = version(spec("image"), outputs, output=Labels(output="probabilities", labels=("3", "7")))
    found = bind(model, tmp_path, data, tmp_path)
    assert found.truth is not None
    assert found.truth.tolist() == [0, 1, 0, 1, 0, 1]
    answers = {"label": np.array([7, 3, 3]), "probabilities": np.zeros((3, 2))}
    assert predicted(model, answers, found.classes, found.task).tolist() == [1, 0, 0]


def test_a_label_that_the_version_answers_itself_needs_no_names(tmp_path: Path) -> None:
    data = npz(tmp_path, x=X, y=["no", "yes", "no", "yes", "no", "yes"])
    model = version(spec("image"), spec("label", "BYTES", -1))
    found = bind(model, tmp_path, data, tmp_path)
    assert found.classes == ("no", "yes")
    answers = {"label": np.array([b"yes", b"perhaps", b"no"], object)}
    assert predicted(model, answers, found.classes, found.task).tolist() == [1, 2, 0]


def test_classes_of_a_version_that_names_none_are_told(tmp_path: Path) -> None:
    data = npz(tmp_path, x=X, y=["a", "b", "c", "a", "b", "c"])
    found = bind(version(spec("image"), SCORES), tmp_path, data, tmp_path)
    assert found.classes == ("a", "b", "c")
    assert "in their order" in found.notes[0]
    with pytest.raises(InvalidInput, match="gives 4 scores and names no classes; the dataset has 3"):
        bind(version(spec("image"), spec("scores", "FP32", -1, 4)), tmp_path, data, tmp_path)


@pytest.mark.parametrize("labels", [[0, 1, 2, 9, 1, 2], ["cat", "ant", "bee", "wolf", "ant", "bee"]])
def test_a_class_that_the_version_does_not_have_is_refused(tmp_path: Path, labels: list[object]) -> None:
    data = npz(tmp_path, x=X, y=labels)
    model = version(spec("image"), SCORES, output=Labels(output="scores", labels=("cat", "ant", "bee")))
    with pytest.raises(InvalidInput, match=r"1 rows have classes that the version does not have: '(9|wolf)'"):
        bind(model, tmp_path, data, tmp_path)


def test_missing_labels_are_counted(tmp_path: Path) -> None:
    data = npz(tmp_path, x=X, y=["a", "", "b", "a", "", "b"])
    with pytest.raises(InvalidInput, match="2 of 6 rows have no label in the column 'y'; the first is row 1") as refused:
        bind(version(spec("image"), spec("scores", "FP32", -1, 2)), tmp_path, data, tmp_path)
    assert refused.value.code == "missing_labels"
    without = bind(version(spec("image"), spec("scores", "FP32", -1, 2)), tmp_path, data, tmp_path, truth=False)
    assert (without.task, without.truth) == ("agreement", None)


def test_one_number_and_two_classes_may_be_a_probability(tmp_path: Path) -> None:
    model, data = version(spec("image"), spec("output", "FP32", -1, 1)), npz(tmp_path, x=X, y=[0, 1, 0, 1, 1, 0])
    found = bind(model, tmp_path, data, tmp_path)
    assert found.task == "regression"
    assert "processing.output.labels" in found.notes[0]
    declared = version(spec("image"), spec("output", "FP32", -1, 1), output=Labels(output="output", labels=("no", "yes")))
    assert bind(declared, tmp_path, data, tmp_path).task == "classification"


def test_a_regression_takes_numbers_whole_ones_among_them(tmp_path: Path) -> None:
    model = version(spec("image"), spec("prediction", "FP32", -1, 1))
    kinds: list[list[float]] = [[3, 1, 4, 1, 5, 9], [0.5, 1.5, 2.5, 0.5, 1, 2], [-3, 1, -4, 1, 5, 9]]
    for number, labels in enumerate(kinds):
        data = npz(tmp_path / str(number), x=X, y=labels)
        found = bind(model, tmp_path, data, tmp_path / str(number))
        assert found.truth is not None
        assert (found.task, found.truth.tolist()) == ("regression", [float(value) for value in labels])
    words = npz(tmp_path / "words", x=X, y=["a", "b", "c", "a", "b", "c"])
    with pytest.raises(InvalidInput, match="is text"):
        bind(model, tmp_path, words, tmp_path / "words")


def test_numbers_are_no_classes(tmp_path: Path) -> None:
    data = npz(tmp_path, x=X, y=[0.5, 1.5, 2.5, 0.5, 1, 2])
    model = version(spec("image"), SCORES, output=Labels(output="scores", labels=("cat", "ant", "bee")))
    with pytest.raises(InvalidInput, match="a number that is no class"):
        bind(model, tmp_path, data, tmp_path)


def test_only_agreement_is_measured_without_a_truth(tmp_path: Path) -> None:
    bare = npz(tmp_path / "bare", x=X)
    assert bind(version(spec("image"), SCORES), tmp_path, bare, tmp_path / "bare").task == "agreement"
    labelled = npz(tmp_path / "labelled", x=X, y=[0, 1, 2, 0, 1, 2])
    vectors = version(spec("image"), spec("vectors", "FP32", -1, 8), output=Embedding(output="vectors"))
    found = bind(vectors, tmp_path, labelled, tmp_path / "labelled")
    assert found.task == "agreement"
    assert "'y' is not what the version answers (vectors)" in found.notes[0]
