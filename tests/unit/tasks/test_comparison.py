"""Answers of versions held against the baseline's: agreement, losses, classes and rows that changed."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.evaluations import ClassFigures, Estimate, Evaluation
from openmaas.core.hardware import Processor
from openmaas.core.metrics import encode_outcomes
from openmaas.core.processing import Embedding
from openmaas.tasks.comparison import MOST_CHANGED, Contender, compare_contenders
from openmaas.tasks.previews import _pixels, as_png
from openmaas.tasks.writing import Beginning
from tests.unit.reports.made_up import figures

ROWS = 200
TRUTH = np.arange(ROWS) % 4


def evaluated(answers: Any, rows: str = "same") -> Evaluation:
    recall = [float((answers[number == TRUTH] == number).mean()) for number in range(4)]
    return Evaluation(
        version="digits:1", digest="d", dataset="test:1", dataset_digest="t", task="classification", metric="accuracy",
        rows=ROWS, metrics={"accuracy": Estimate(value=float((answers == TRUTH).mean()))},
        classes=tuple(
            ClassFigures(name=f"class {number}", rows=50, precision=1, recall=recall[number], f1=1) for number in range(4)
        ),
        outcomes=encode_outcomes("classes", TRUTH, answers, rows), processor=Processor(model="x", cores=2),
    )  # fmt: skip


def contender(version: str, answers: Any = None, outputs: Any = None, **more: Any) -> Contender:
    made = None if answers is None else evaluated(answers, more.pop("rows", "same"))
    return Contender(version=version, figures=figures(1000, 1e-3, 1000), outputs=outputs or {}, evaluation=made, **more)


def test_quality_is_paired_over_rows() -> None:
    answers = TRUTH.copy()
    answers[:6] = (answers[:6] + 1) % 4
    answers[100:140] = 3
    before = TRUTH.copy()
    before[100:110] = 3  # wrong in both, but where the class is 3
    told = compare_contenders(
        [contender("digits:1", before), contender("digits:2", answers)],
        dataset="test:1", index=np.arange(ROWS) * 10, previews=lambda positions: [f"row {one}" for one in positions],
        max_loss=0.01,
    )  # fmt: skip
    baseline, other = told.entrants
    assert (told.task, told.metric, told.recommended) == ("classification", "accuracy", "digits:1")
    assert baseline.loss == Estimate(value=0.0, low=0.0, high=0.0)
    assert other.loss is not None
    lost = float((before == TRUTH).mean() - (answers == TRUTH).mean())
    assert other.loss.value == pytest.approx(lost)
    assert other.difference["accuracy"].value == pytest.approx(-lost)
    assert other.changed_rows == int((before != answers).sum())
    assert len(other.changed) == MOST_CHANGED
    first = other.changed[0]
    assert (first.row, first.truth, first.before, first.after, first.preview) == (0, "class 0", "class 0", "class 1", "row 0")
    assert {one.name: round(one.after - one.before, 2) for one in other.classes if one.after != one.before}["class 0"] < 0
    assert other.agreement is None, "no outputs were kept"


def test_other_rows_are_refused_and_so_are_other_metrics() -> None:
    with pytest.raises(Refused, match="different rows"):
        compare_contenders([contender("digits:1", TRUTH), contender("digits:2", TRUTH, rows="others")])
    with pytest.raises(InvalidInput, match="outcomes of classes"):
        compare_contenders([contender("digits:1", TRUTH), contender("digits:2", TRUTH)], metric="rmse")


def test_agreement_on_scores() -> None:
    scores = np.eye(4)[TRUTH].astype(np.float32) * 5
    moved = scores.copy()
    moved[:10] = np.roll(moved[:10], 1, axis=1)
    told = compare_contenders(
        [contender("a:1", outputs={"y": scores}), contender("a:2", outputs={"other": moved})], max_loss=0.5
    )
    other = told.entrants[1]
    assert (told.task, told.metric) == ("agreement", "agreement")
    assert other.agreement is not None
    assert (other.agreement.top1, other.agreement.max_abs_diff, other.agreement.cosine) == (0.95, 5.0, 0.0)
    assert other.loss is not None
    assert other.loss.value == pytest.approx(0.05)
    assert other.loss.high is not None
    assert other.loss.high > 0.05
    assert (other.changed_rows, other.changed[0].before, other.changed[0].after) == (10, "0", "1")


def test_agreement_on_embeddings_and_on_numbers() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((ROWS, 16)).astype(np.float32)
    near = vectors + rng.standard_normal((ROWS, 16)).astype(np.float32) * 0.01
    embedding = Embedding(output="last_hidden_state", pooling="mean")
    told = compare_contenders(
        [contender(name, outputs={"embedding": one}, declared=embedding) for name, one in (("m:1", vectors), ("m:2", near))]
    )
    other = told.entrants[1]
    assert other.agreement is not None
    assert (told.metric, other.agreement.top1) == ("cosine", None)
    assert other.agreement.mean_cosine is not None
    assert other.loss is not None
    assert other.loss.value == pytest.approx(1 - other.agreement.mean_cosine)
    assert 0.999 < other.metrics["cosine"].value < 1
    numbers = vectors[:, :1]
    told = compare_contenders([contender("p:1", outputs={"y": numbers}), contender("p:2", outputs={"y": numbers * 1.1})])
    assert told.metric == "r2"
    assert told.entrants[1].metrics["r2"].value == pytest.approx(0.99, abs=0.005)
    assert told.entrants[1].changed_rows > 50


def test_vectors_that_are_all_alike_are_no_proof_of_the_unseen() -> None:
    vectors = np.eye(8, dtype=np.float32)[np.arange(ROWS) % 8]
    embedding = Embedding(output="last_hidden_state", pooling="mean")
    told = compare_contenders([contender(name, outputs={"embedding": vectors}, declared=embedding) for name in ("m:1", "m:2")])
    loss = told.entrants[1].loss
    assert loss is not None
    assert loss.high is not None
    assert (loss.value, loss.low) == (0, 0)
    assert loss.high == pytest.approx(1 - 0.025 ** (1 / ROWS)), "an unseen one may point elsewhere"


def test_numbers_that_are_all_the_same_are_said_to_tell_nothing() -> None:
    same, others = np.ones((ROWS, 1), np.float32), np.linspace(0, 1, ROWS, dtype=np.float32)[:, None]
    told = compare_contenders([contender("p:1", outputs={"y": same}), contender("p:2", outputs={"y": others})], max_loss=0.01)
    assert (told.metric, told.entrants[1].loss, told.recommended) == ("r2", None, "p:1")
    assert any("p:2: r2 is not defined on these rows: the truth" in note for note in told.notes)


def test_what_text_generators_write_is_compared_as_text() -> None:
    starts = [Beginning(row=row, ids=(1, 2), given=f"given {row}", truth="as it goes on") for row in (3, 8)]
    expected = np.arange(100) % 7
    other = expected.copy()
    other[:10] += 1
    told = compare_contenders(
        [
            contender("writer:1", expected=expected, beginnings=starts, written=("one", "two")),
            contender("writer:2", expected=other, beginnings=starts, written=("one", "another")),
        ]
    )
    assert (told.task, told.metric) == ("generation", "agreement")
    made = told.entrants[1]
    assert made.agreement is not None
    assert (made.agreement.rows, made.agreement.top1, made.agreement.max_abs_diff) == (100, 0.9, None)
    assert made.loss is not None
    assert made.loss.value == pytest.approx(0.1)
    (row,) = made.changed
    assert (row.row, row.preview, row.before, row.after, row.truth) == (8, "given 8", "two", "another", "as it goes on")
    assert (made.changed_rows, told.entrants[0].changed_rows) == (1, 0)


def test_the_same_answers_lose_nothing_that_is_known_for_sure() -> None:
    scores = np.eye(4)[TRUTH].astype(np.float32)
    told = compare_contenders([contender("a:1", outputs={"y": scores}), contender("a:2", outputs={"y": scores})])
    loss = told.entrants[1].loss
    assert loss is not None
    assert (loss.value, told.entrants[1].changed_rows) == (0.0, 0)
    assert loss.high is not None
    assert 0 < loss.high < 0.05, "200 rows may not have shown a change of one in a hundred"
    assert msgspec.json.decode(msgspec.json.encode(told))["entrants"][1]["changed"] == []


def test_previews_are_bounded() -> None:
    answers = (TRUTH + 1) % 4
    told = compare_contenders(
        [contender("a:1", TRUTH), *(contender(f"a:{number}", answers) for number in range(2, 8))],
        previews=lambda positions: ["x" * 20_000] * len(positions),
    )
    kept = [row.preview for one in told.entrants for row in one.changed]
    assert 0 < sum(map(len, kept)) <= 256 << 10
    assert len(kept) == 6 * MOST_CHANGED


@pytest.mark.parametrize(
    ("shape", "model", "expected"),
    [
        ((8, 8), (), (8, 8)), ((1, 28, 28), (), (28, 28)), ((3, 32, 32), (), (32, 32, 3)), ((100, 90, 3), (), (34, 30, 3)),
        ((64,), (1, 8, 8), (8, 8)), ((64,), (), None), ((2, 2), (), None), ((5, 8, 8), (), None),
    ],
)  # fmt: skip
def test_what_is_taken_for_an_image(shape: tuple[int, ...], model: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    values = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
    found = _pixels(values, model)
    assert (None if found is None else found.shape) == expected
    if found is not None:
        assert (found.min(), found.max()) == (0, 255)


def test_images_are_png() -> None:
    image = pytest.importorskip("PIL.Image")
    import base64
    import io

    pixels = np.arange(48 * 3, dtype=np.uint8).reshape(6, 8, 3)
    with image.open(io.BytesIO(base64.b64decode(as_png(pixels).partition(",")[2]))) as opened:
        np.testing.assert_array_equal(np.asarray(opened), pixels)
