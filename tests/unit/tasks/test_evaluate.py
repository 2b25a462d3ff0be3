"""What answers are worth: classes and their probabilities, classes that nobody knows, and figures that are not defined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import EngineFailed, InvalidInput, Refused
from openmaas.core.evaluations import Evaluation
from openmaas.core.manifest import Manifest
from openmaas.core.metrics import decode_outcomes, loss
from openmaas.core.processing import Embedding, Labels
from openmaas.tasks.evaluate import OTHER, evaluation_of, require_truth
from openmaas.tasks.examples import Examples
from openmaas.tasks.meanings import predicted
from openmaas.tasks.perplexity import DatasetText, mean_loss, scored_by, text_evaluation
from tests.unit.tasks.datasets import spec, version

CLASSIFIER = version(
    spec("x"), (spec("label", "BYTES", -1), spec("probabilities", "FP32", -1, 3)),
    output=Labels(output="probabilities", labels=("a", "b", "c")),
)  # fmt: skip


def made(
    manifest: Manifest, truth: Any, outputs: Any, task: Any = "classification", classes: Any = ("a", "b", "c")
) -> Evaluation:
    truth = np.asarray(truth)
    examples = Examples(
        inputs={"x": np.zeros((len(truth), 4))}, truth=truth, task=task, classes=classes, index=np.arange(len(truth)),
        digest="rows", notes=("As it was bound.",),
    )  # fmt: skip
    return evaluation_of(manifest, examples, outputs, version="digits:1", dataset="d:1", dataset_digest="f" * 64)


def labels(*names: str) -> Any:
    return np.array([name.encode() for name in names], object)


def test_classes_are_told_whole() -> None:
    shares = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]])
    found = made(CLASSIFIER, [0, 1, 2], {"label": labels("a", "a", "c"), "probabilities": shares})
    assert found.metric == "accuracy"
    assert found.metrics["accuracy"].value == pytest.approx(2 / 3)
    assert found.metrics["log_loss"].value == pytest.approx(sklearn.metrics.log_loss([0, 1, 2], shares))
    assert found.confusion == ((1, 0, 0), (1, 0, 0), (0, 0, 1))
    assert [(one.name, one.rows, one.recall) for one in found.classes] == [("a", 1, 1.0), ("b", 1, 0.0), ("c", 1, 1.0)]
    assert found.notes == ("As it was bound.",)
    assert found.outcomes is not None
    assert loss("accuracy", found.outcomes, found.outcomes).value == 0
    assert found.digest == CLASSIFIER.digest


def test_answers_that_are_none_of_the_classes_are_counted_as_wrong() -> None:
    manifest = version(spec("x"), spec("label", "BYTES", -1))
    found = made(manifest, [0, 1, 1], {"label": labels("a", "b", "z")}, classes=("a", "b"))
    assert found.metrics["accuracy"].value == pytest.approx(2 / 3)
    assert found.confusion == ((1, 0, 0), (0, 1, 1), (0, 0, 0))
    assert found.classes[-1].name == OTHER
    assert "1 rows are answered with a class" in found.notes[-1]


def test_numbers_that_are_no_names_are_the_places_of_the_classes() -> None:
    """A converted classifier of False and True answers 0 and 1."""
    for names in (("False", "True"), ("cat", "dog")):
        manifest = version(
            spec("x"), (spec("label", "INT64", -1), spec("probabilities", "FP32", -1, 2)),
            output=Labels(output="probabilities", labels=names),
        )  # fmt: skip
        outputs = {"label": np.array([0, 1, 1]), "probabilities": np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])}
        assert made(manifest, [0, 1, 0], outputs, classes=names).metrics["accuracy"].value == pytest.approx(2 / 3)
    named = version(spec("x"), spec("label", "INT64", -1), output=Labels(output="label", labels=("5", "7")))
    assert predicted(named, {"label": np.array([5, 7, 7])}, ("5", "7"), "classification").tolist() == [0, 1, 1]


def test_a_version_that_answers_with_other_names_is_refused() -> None:
    with pytest.raises(InvalidInput, match="none of the classes 'a', 'b', 'c': its first answer is 'x'"):
        made(version(spec("x"), spec("label", "BYTES", -1)), [0, 1], {"label": labels("x", "y")})


def test_too_many_classes_are_not_drawn() -> None:
    count = 150
    manifest = version(spec("x"), spec("scores", "FP32", -1, count))
    names = tuple(map(str, range(count)))
    found = made(manifest, np.arange(count), {"scores": np.eye(count)}, classes=names)
    assert found.confusion is None
    assert len(found.classes) == count


def test_a_figure_that_is_not_defined_is_left_out_and_told() -> None:
    manifest = version(spec("x"), spec("prediction", "FP32", -1, 1))
    found = made(manifest, [2.0, 2.0, 2.0], {"prediction": np.array([[1.0], [2.0], [4.0]])}, "regression", ())
    assert set(found.metrics) == {"rmse", "mae"}
    assert any("r2 is not defined" in note for note in found.notes)


def test_the_usual_figure_must_be_defined() -> None:
    manifest = version(spec("x"), spec("vectors", "FP32", -1, 2), output=Embedding(output="vectors"))
    with pytest.raises(Refused, match="spearman is not defined"):
        made(manifest, [0.5, 0.5], {"embedding": np.array([[1.0, 0], [1, 1], [0, 1], [1, 0]])}, "similarity", ())
    found = made(manifest, [0.7, 0.0], {"embedding": np.array([[1.0, 0], [1, 1], [0, 1], [1, 0]])}, "similarity", ())
    assert found.metrics["spearman"].value == 1


def test_rows_without_truth_name_what_else_can_be_done() -> None:
    bare = Examples(inputs={"x": np.zeros((2, 4))}, truth=None, task="agreement", index=np.arange(2), digest="rows")
    with pytest.raises(InvalidInput, match="has no truth") as refused:
        require_truth(bare, "digits:1", "d:1")
    assert "openmaas compare digits:1" in (refused.value.next_step or "")


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_loss_of_a_passage_is_that_of_its_tokens_after_the_first() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1, 1, 1]]))
    assert mean_loss([0, 1, 2], logits) == pytest.approx(-(np.log(0.25) + np.log(0.8)) / 2)
    logits[0, 0] = np.nan
    with pytest.raises(EngineFailed, match="NaN"):
        mean_loss([0, 1, 2], logits)


def test_a_generator_that_tells_no_likelihood_is_refused() -> None:
    with pytest.raises(Refused, match="does not tell how likely"):
        scored_by(version(spec("x"), spec("y")), "writer:1")


@pytest.mark.parametrize(
    ("passages", "told"),
    [(3, "40 documents; intervals are over documents."), (120, "one document; intervals are over passages.")],
)
def test_intervals_of_perplexity_are_over_documents_where_there_are_some(passages: int, told: str) -> None:
    dataset = DatasetManifest(format="jsonl", entry="d.jsonl", purpose="text", rows=40, columns=(), files=())
    text = DatasetText(
        [[number] * 9 for number in range(120)], [number // passages for number in range(120)], 130, ["Some are out."]
    )
    losses = np.repeat(np.random.default_rng(1).normal(3, 0.5, 40), 3)
    found = text_evaluation(CLASSIFIER, text, losses, version="w:1", data="d:1", dataset=dataset)
    assert (found.rows, found.total, found.notes) == (120, 130, (f"1080 tokens in 120 passages of {told}", "Some are out."))
    assert found.outcomes is not None
    assert (decode_outcomes(found.outcomes).groups is None) == (passages == 120)
    one = found.metrics["perplexity"]
    width = (one.high or 0) - (one.low or 0)
    assert (5 < width < 9) == (passages == 3), width
