"""Scores → classes, tokens → spans, tokens → one vector: against the textbook's formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from openmaas.core.errors import EngineFailed
from openmaas.core.processing import Embedding, Labels
from openmaas.core.types import DataType, Signature, TensorSpec
from openmaas.processing.outputs import ClassLabels, Embeddings, sigmoid, softmax, spans

NAMES = ("cat", "dog", "é")


def signature(*outputs: tuple[str, DataType, tuple[int, ...]]) -> Signature:
    specs = tuple(TensorSpec(name=name, datatype=kind, shape=shape) for name, kind, shape in outputs)
    return Signature(inputs=(), outputs=specs)


def labels(**declared: Any) -> ClassLabels:
    return ClassLabels(Labels(**({"output": "logits", "labels": NAMES, "activation": "softmax"} | declared)))


def test_a_class_and_probabilities_that_sum_to_one() -> None:
    after = labels()
    assert after.specs(signature(("logits", "FP32", (-1, 3)))) == (
        TensorSpec(name="label", datatype="BYTES", shape=(-1,)),
        TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 3)),
    )
    logits = np.array([[1, 3, 2], [1000, -1000, 0], [-1e4, -1e4, -1e4 + 1]], np.float32)
    found = after.finish({"logits": logits}, {}, {})
    assert found["label"].tolist() == [b"dog", b"cat", "é".encode()]
    expected = np.exp(logits.astype(float) - logits.max(1, keepdims=True))
    assert np.allclose(found["probabilities"], expected / expected.sum(1, keepdims=True), atol=1e-6)
    assert np.allclose(found["probabilities"].sum(1), 1, atol=1e-6)
    rows = after.rows(found, {"top": 2})
    assert [entry["label"] for entry in rows[0]["top"]] == ["dog", "é"]
    assert rows[0]["label"] == "dog" and rows[0]["probability"] == rows[0]["top"][0]["probability"]
    assert "top" not in after.rows(found, {"top": 0})[0]
    assert len(after.rows(found, {"top": 99})[0]["top"]) == 3


def test_scores_stay_scores() -> None:
    after = labels(activation="none", labels=())
    assert [spec.name for spec in after.specs(signature(("logits", "FP64", (-1, -1))))] == ["label", "scores"]
    found = after.finish({"logits": np.array([[0.5, 7.5]])}, {}, {})
    assert found["scores"].dtype == np.float64
    assert after.rows(found, {"top": 2}) == [
        {"label": "1", "score": 7.5, "top": [{"label": "1", "score": 7.5}, {"label": "0", "score": 0.5}]}
    ]


def test_a_single_score_of_two_classes() -> None:
    after = labels(labels=("no", "yes"), activation="sigmoid")
    for scores in (np.array([[2.0], [-2.0]]), np.array([2.0, -2.0])):
        found = after.finish({"logits": scores}, {}, {})
        assert found["label"].tolist() == [b"yes", b"no"]
        assert np.allclose(found["probabilities"].sum(1), 1)
        assert np.allclose(found["probabilities"][:, 1], 1 / (1 + np.exp([-2.0, 2.0])))
    margin = labels(labels=("no", "yes"), activation="none").finish({"logits": np.array([[0.25]])}, {}, {})
    assert margin["scores"].tolist() == [[-0.25, 0.25]]


def test_what_an_engine_decided_itself_stays() -> None:
    after = ClassLabels(Labels(output="probabilities", labels=("0", "1", "2")), own=True)
    sig = signature(("label", "INT64", (-1,)), ("probabilities", "FP32", (-1, 3)))
    assert after.specs(sig) == sig.outputs
    outputs = {"label": np.array([2, 1]), "probabilities": np.array([[0.5, 0.2, 0.3], [0, 1, 0]], np.float32)}
    found = after.finish(outputs, {}, {})
    assert found["label"].tolist() == [2, 1]
    first, second = after.rows(found, {"top": 2})
    assert (first["label"], round(first["probability"], 6)) == ("2", 0.3)
    assert [entry["label"] for entry in first["top"]] == ["0", "2"]
    assert (second["label"], second["probability"]) == ("1", 1.0)


@pytest.mark.parametrize("scores", [[[np.nan, 1, 2]], [[np.inf, 1, 2]], [[-np.inf] * 3]])
def test_no_class_is_made_of_what_is_no_number(scores: Any) -> None:
    with pytest.raises(EngineFailed) as caught:
        labels().finish({"logits": np.array(scores)}, {}, {})
    assert caught.value.code == "not_finite"


def test_a_masked_class_is_never_named() -> None:
    found = labels().finish({"logits": np.array([[-np.inf, 0.0, 0.0]])}, {}, {})
    assert found["probabilities"].tolist() == [[0.0, 0.5, 0.5]]
    infinite = labels(activation="none")
    with pytest.raises(EngineFailed, match="Infinity"):
        infinite.rows(infinite.finish({"logits": np.array([[-np.inf, 0.0, 0.0]])}, {}, {}), {})


def test_other_scores_than_labels_are_an_error() -> None:
    with pytest.raises(EngineFailed, match="4 scores a row; 3 labels"):
        labels().finish({"logits": np.zeros((1, 4))}, {}, {})


@given(arrays(np.float32, (3, 5), elements=st.floats(-(2.0**90), 2.0**90, width=32)))
@settings(max_examples=200, deadline=None)
def test_activations_are_probabilities(scores: Any) -> None:
    soft, sig = softmax(scores), sigmoid(scores)
    assert np.allclose(soft.sum(1), 1, atol=1e-5) and (soft >= 0).all()
    assert ((sig >= 0) & (sig <= 1)).all() and np.isfinite(sig).all()
    assert (soft[np.arange(3), scores.argmax(1)] == soft.max(1)).all()


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────

TEXT = "Ada Lovelace in Ulm"
OFFSETS = ((0, 0), (0, 3), (4, 8), (8, 12), (13, 15), (16, 19), (0, 0))


def test_each_token_has_a_place_and_neighbours_are_one_span() -> None:
    after = labels(labels=("O", "B-PER", "I-PER", "B-LOC"), tokens=True)
    classes = [0, 1, 2, 2, 0, 3, 0]
    logits = np.full((1, 7, 4), -5.0, np.float32)
    logits[0, np.arange(7), classes] = 5.0
    logits[0, 2, 2] = 0.0
    found = after.finish({"logits": logits}, {}, {})
    assert found["label"].shape == (1, 7) and found["probabilities"].shape == (1, 7, 4)
    (row,) = after.rows(found, {}, (OFFSETS,), (TEXT,))
    assert [(token["text"], token["label"]) for token in row["tokens"]] == [
        ("Ada", "B-PER"), ("Love", "I-PER"), ("lace", "I-PER"), ("in", "O"), ("Ulm", "B-LOC"),
    ]  # fmt: skip
    assert [(span["label"], span["text"], span["start"], span["end"]) for span in row["spans"]] == [
        ("PER", "Ada Lovelace", 0, 12), ("LOC", "Ulm", 16, 19),
    ]  # fmt: skip
    assert row["spans"][0]["probability"] == min(token["probability"] for token in row["tokens"][:3])
    assert [len(row["tokens"]) for row in after.rows(found, {})] == [7], "without places each token as it is"
    assert after.rows(found, {}, (((0, 0),) * 7,), ("",)) == [{"tokens": [], "spans": []}]


@pytest.mark.parametrize(
    ("given_labels", "found"),
    [
        (["B-A", "B-A"], ["A", "A"]),
        (["I-A", "I-A"], ["A"]),
        (["A", "A", "O", "A"], ["A", "A"]),
        (["B-A", "I-B"], ["A", "B"]),
        (["O", "O"], []),
        ([], []),
    ],
)
def test_where_a_span_begins(given_labels: list[str], found: list[str]) -> None:
    tokens = [
        {"label": label, "score": 1.0, "start": 2 * n, "end": 2 * n + 1, "text": "x"} for n, label in enumerate(given_labels)
    ]
    assert [span["label"] for span in spans(tokens, "x x x x", "score")] == found


# ── vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pooling_leaves_padding_out() -> None:
    values = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    values[0, 2:] = np.nan  # what a padded token holds means nothing
    values[1, 4:] = np.nan
    for pooling, expected in (("mean", np.mean), ("max", np.max)):
        after = Embeddings(Embedding(output="tokens", pooling=pooling), "mask")  # type: ignore[arg-type]
        found = after.finish({"tokens": values}, {"mask": mask}, {})["embedding"]
        assert np.allclose(found, [expected(values[0, :2], axis=0), expected(values[1, :4], axis=0)], atol=1e-6)
        assert found.dtype == np.float32
    first = Embeddings(Embedding(output="tokens", pooling="cls", normalize=True), "mask")
    found = first.finish({"tokens": values}, {"mask": mask}, {})["embedding"]
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.allclose(found, values[:, 0] / np.linalg.norm(values[:, 0], axis=1, keepdims=True), atol=1e-6)


def test_vectors_that_are_vectors_already() -> None:
    after = Embeddings(Embedding(output="v", normalize=True))
    assert after.specs(signature(("v", "FP16", (-1, 4)))) == (TensorSpec(name="embedding", datatype="FP32", shape=(-1, 4)),)
    found = after.finish({"v": np.array([[3, 4], [0, 0]], np.float16)}, {}, {})
    assert np.allclose(found["embedding"], [[0.6, 0.8], [0, 0]])
    assert after.rows(found, {})[1] == {"embedding": [0.0, 0.0]}
    with pytest.raises(EngineFailed, match="NaN"):
        after.rows({"embedding": np.array([[np.nan]])}, {})


def test_without_a_mask_every_token_counts() -> None:
    values = np.arange(12.0).reshape(1, 3, 4)
    for pooling in ("mean", "max"):
        after = Embeddings(Embedding(output="t", pooling=pooling))  # type: ignore[arg-type]
        assert np.allclose(after.finish({"t": values}, {}, {})["embedding"], getattr(values, pooling)(axis=1))
