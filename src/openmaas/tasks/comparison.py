"""Versions with answers to the same rows and with figures of one measurement, held against the first of them, the baseline.

Where the dataset has a truth for them, quality is the evaluation's metric, paired over rows. Otherwise it is agreement with
the baseline: the share of rows with the same class (`agreement`), the mean cosine of rows (`cosine`), or how much of the
variance of a number stays the same (`r2`). What is lost is then what is missing to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.evaluations import (
    Agreement,
    ChangedRow,
    ClassChange,
    Entrant,
    Estimate,
    Evaluation,
    Figures,
    Task,
    VersionComparison,
)  # fmt: skip
from openmaas.core.hardware import processor
from openmaas.core.metrics import Answered, Kind, decode_outcomes, estimate, loss, paired_difference, unseen_share
from openmaas.core.pareto import Target, judged
from openmaas.core.processing import Output
from openmaas.formats.agreement import RowAgreement, agree
from openmaas.tasks.comparing import Arrays
from openmaas.tasks.side_by_side import ROUNDS
from openmaas.tasks.writing import Beginning

MOST_CHANGED = 20
"""Changed rows of an entrant that are listed; those that became wrong come first."""

_MOST_PREVIEWS = 256 << 10  # bytes of all previews of a comparison: a result stays below 1 MiB
_MOST_CLASSES = 1000
_CHANGED = 0.01  # of the spread of all answers, beyond which a number counts as another answer

Previews = Callable[[Sequence[int]], Sequence[str]]
"""Positions among the rows that were answered → a short text or a PNG as data URL of each."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A version with all that is known of it.

    outputs: answers to all rows by name, rows on axis 0, of embeddings those that are pooled; empty where they were not kept.
    declared: what the manifest says of the outputs. evaluation: on the dataset, None without one. label: the recipe, short.

    Of text generators: expected, the likeliest token after each token of the same passages; written, how each of `beginnings`
    goes on, which are the baseline's.
    """

    version: str
    figures: Figures
    outputs: Arrays = field(default_factory=dict)
    expected: NDArray[np.int64] | None = None
    beginnings: Sequence[Beginning] = ()
    written: Sequence[str] = ()
    declared: Output | None = None
    evaluation: Evaluation | None = None
    label: str = ""
    registered: bool = True


def compare_contenders(
    contenders: Sequence[Contender],
    *,
    dataset: str = "",
    metric: str = "",
    index: NDArray[np.int64] | None = None,
    previews: Previews | None = None,
    target: Target = "latency",
    max_loss: float | None = None,
    seed: int = 0,
    seconds: float = 0.0,
    notes: Sequence[str] = (),
) -> VersionComparison:
    """The comparison, with verdicts, and a recommendation where max_loss says how much quality may be lost for the target.

    contenders: the baseline first. dataset: its exact reference, empty for the baseline's own sample. metric: empty is the
    evaluation's. index: which rows of the dataset were answered, in their order. seconds: that all of it took.

    Raises InvalidInput for a metric that the outcomes do not have, and Refused for evaluations of different rows.
    """
    view = _View(contenders, metric, index, previews, seed)
    baseline = view.baseline.evaluation
    comparison = VersionComparison(
        entrants=tuple(view.entrant(one) for one in contenders),
        dataset=dataset,
        task=view.task,
        metric=view.metric,
        target=target,
        processor=baseline.processor if baseline else processor(),
        libraries=_libraries(contenders),
        rounds=ROUNDS,
        seed=seed,
        seconds=round(seconds, 3),
        notes=(*notes, *view.notes),
    )
    return judged(comparison, max_loss)


def _libraries(contenders: Sequence[Contender]) -> dict[str, str]:
    named = {name: version for one in contenders if one.evaluation for name, version in one.evaluation.libraries.items()}
    for one in contenders:
        name, _, version = one.figures.library.rpartition(" ")
        if name:
            named[name] = version
    return dict(sorted(named.items()))


class _View:
    """The baseline, and how others are held against it."""

    def __init__(
        self,
        contenders: Sequence[Contender],
        metric: str,
        index: NDArray[np.int64] | None,
        previews: Previews | None,
        seed: int,
    ) -> None:
        self.baseline = contenders[0]
        self.notes: list[str] = []
        self._index = index
        self._previews = previews
        self._room = _MOST_PREVIEWS
        self._seed = seed
        evaluation = self.baseline.evaluation
        self._truth = evaluation is not None and evaluation.outcomes is not None and evaluation.task != "agreement"
        told: Task = "agreement" if self.baseline.expected is None else "generation"
        self.task: Task = evaluation.task if evaluation is not None and self._truth else told
        self.metric = (metric or evaluation.metric) if evaluation is not None and self._truth else ""
        self._known = self._outcomes(self.baseline)

    def entrant(self, one: Contender) -> Entrant:
        rows = (
            agree(one.outputs, self.baseline.outputs, _public(one.declared)) if one.outputs and self.baseline.outputs else None
        )
        if one.expected is not None and self.baseline.expected is not None:
            return self._written(one, self.baseline.expected, one.expected)
        return self._answered(one, rows)

    def _answered(self, one: Contender, rows: RowAgreement | None) -> Entrant:
        given = self._outcomes(one)
        agreement = _agreement(rows, self._known, given, len(next(iter(one.outputs.values()), ())))
        plain = Entrant(
            version=one.version,
            label=one.label,
            figures=one.figures,
            registered=one.registered,
            agreement=agreement,
        )
        own = one is self.baseline
        if not self._truth:
            return self._agreeing(plain, rows, own=own)
        made = msgspec.structs.replace(plain, metrics=one.evaluation.metrics if one.evaluation else {})
        if own:
            return msgspec.structs.replace(made, loss=Estimate(value=0.0, low=0.0, high=0.0))
        if given is None or self._known is None:
            return made
        return self._held(made, one, given)

    # text

    def _written(self, one: Contender, before: NDArray[np.int64], after: NDArray[np.int64]) -> Entrant:
        """Answers are the likeliest tokens after the same ones; rows that changed, beginnings that it continues otherwise."""
        made = self._answered(one, RowAgreement(0.0, None, (after, before), None))
        same = Agreement(rows=len(before), top1=float((before == after).mean()))
        first = self.baseline
        changed = [
            ChangedRow(row=start.row, truth=start.truth, before=ours, after=theirs, preview=start.given)
            for start, ours, theirs in zip(first.beginnings, first.written, one.written, strict=False)
            if ours != theirs
        ]
        return msgspec.structs.replace(made, agreement=same, changed=tuple(changed), changed_rows=len(changed))

    # against the truth

    def _outcomes(self, one: Contender) -> Answered | None:
        if not self._truth or one.evaluation is None or one.evaluation.outcomes is None:
            return None
        return decode_outcomes(one.evaluation.outcomes)

    def _held(self, made: Entrant, one: Contender, given: Answered) -> Entrant:
        assert self._known is not None
        differences = {name: self._difference(name, given) for name in made.metrics}
        changed = _changed(self._known, given)
        return msgspec.structs.replace(
            made,
            difference={name: known for name, known in differences.items() if known is not None},
            loss=self._loss(self.metric, self._known, given, one.version),
            classes=self._class_changes(one),
            changed=self._told(changed, self._known, given),
            changed_rows=len(changed),
        )

    def _difference(self, metric: str, given: Answered) -> Estimate | None:
        """None of a metric that is of other outcomes, or that these rows do not define."""
        assert self._known is not None
        try:
            return paired_difference(metric, self._known, given, self._seed)
        except InvalidInput:
            return None
        except Refused as refused:
            if refused.code == "different_rows":
                raise
            return None

    def _loss(self, metric: str, before: Answered, after: Answered, version: str) -> Estimate | None:
        try:
            return loss(metric, before, after, self._seed)
        except Refused as refused:
            if refused.code == "different_rows":
                raise
            self.notes.append(f"{version}: {refused.message}")
            return None

    def _class_changes(self, one: Contender) -> tuple[ClassChange, ...]:
        before = self.baseline.evaluation.classes if self.baseline.evaluation else ()
        after = {known.name: known for known in (one.evaluation.classes if one.evaluation else ())}
        return tuple(
            ClassChange(name=known.name, rows=known.rows, before=known.recall, after=after[known.name].recall)
            for known in before[:_MOST_CLASSES]
            if known.rows and known.name in after
        )

    # without a truth

    def _agreeing(self, made: Entrant, rows: RowAgreement | None, *, own: bool) -> Entrant:
        if rows is None:
            return made
        name = agreement_name(rows)
        self.metric = self.metric or name
        if own:
            one = Estimate(value=1.0, low=1.0, high=1.0)
            return msgspec.structs.replace(made, metrics={name: one}, loss=Estimate(value=0.0, low=0.0, high=0.0))
        try:
            figure, lost = agreement_loss(rows, self._seed)
        except Refused as refused:  # numbers that are all the same, so that nothing of their variance can stay
            self.notes.append(f"{made.version}: {refused.message}")
            return made
        pair = rows.classes or (rows.numbers if rows.cosines is None else None)
        if pair is None or figure is None:
            return msgspec.structs.replace(made, metrics={name: figure} if figure else {}, loss=lost)
        kind: Kind = "classes" if rows.classes else "values"
        before, after = Answered(kind, pair[1], pair[1], ""), Answered(kind, pair[1], pair[0], "")
        changed = _changed(before, after)
        told = self._told(changed, before, after, truth=False)
        return msgspec.structs.replace(made, metrics={name: figure}, loss=lost, changed=told, changed_rows=len(changed))

    # rows

    def _told(
        self, changed: NDArray[np.intp], before: Answered, after: Answered, *, truth: bool = True
    ) -> tuple[ChangedRow, ...]:
        first = changed[:MOST_CHANGED].tolist()
        previews = list(self._previews(first)) if self._previews is not None and first else [""] * len(first)
        found = []
        for position, preview in zip(first, previews, strict=True):
            kept = preview if len(preview) <= self._room else ""
            self._room -= len(kept)
            found.append(
                ChangedRow(
                    row=int(position if self._index is None else self._index[position]),
                    truth=self._name(before.kind, before.truth[position]) if truth else "",
                    before=self._name(before.kind, before.answers[position]),
                    after=self._name(after.kind, after.answers[position]),
                    preview=kept,
                )
            )
        return tuple(found)

    def _name(self, kind: str, value: float) -> str:
        if kind != "classes":
            return f"{value:.5g}"
        known = self.baseline.evaluation.classes if self.baseline.evaluation else ()
        declared = getattr(self.baseline.declared, "labels", ())
        number = int(value)
        if number < len(known):
            return known[number].name
        return str(declared[number]) if number < len(declared) else str(number)


def _public(declared: Output | None) -> Output | None:
    """The declaration of what processing makes of the engine's output, which has another name."""
    return None if declared is None else msgspec.structs.replace(declared, output="")


def _changed(before: Answered, after: Answered) -> NDArray[np.intp]:
    """Positions of rows that are answered otherwise: those that became wrong, those that became right, the rest; of numbers the
    largest changes first, and none below a hundredth of the spread of all answers."""
    if before.kind == "classes":
        (positions,) = np.nonzero(before.answers != after.answers)
        was, is_now = (side.answers[positions] == side.truth[positions] for side in (before, after))
        return positions[np.argsort(np.where(was, 0, np.where(is_now, 1, 2)), kind="stable")]
    gaps = np.abs(after.answers - before.answers)
    (positions,) = np.nonzero(gaps > _CHANGED * float(before.answers.std()))
    return positions[np.argsort(-gaps[positions], kind="stable")]


def _agreement(rows: RowAgreement | None, before: Answered | None, after: Answered | None, count: int) -> Agreement | None:
    """top1: of what was evaluated as classes, else of the largest scores."""
    top1: float | None = None
    if before is not None and after is not None and before.kind == "classes" and len(before) == len(after):
        top1, count = float((before.answers == after.answers).mean()), count or len(before)
    elif rows is not None and rows.classes is not None:
        top1 = float((rows.classes[0] == rows.classes[1]).mean())
    if rows is None:
        return None
    cosines = rows.cosines
    return Agreement(
        rows=count,
        max_abs_diff=rows.max_abs_diff,
        top1=top1,
        cosine=None if cosines is None else float(cosines.min(initial=1.0)),
        mean_cosine=None if cosines is None or not len(cosines) else float(cosines.mean()),
    )


def agreement_name(rows: RowAgreement) -> str:
    """What is told of agreement: of classes, of vectors or of numbers."""
    return "cosine" if rows.classes is None and rows.cosines is not None else "r2" if _numbers(rows) else "agreement"


def _numbers(rows: RowAgreement) -> bool:
    return rows.classes is None and rows.cosines is None and rows.numbers is not None


def agreement_loss(rows: RowAgreement, seed: int) -> tuple[Estimate | None, Estimate | None]:
    """The figure of agreement, and what is missing to 1. Raises Refused for numbers that are all the same."""
    if rows.classes is not None:
        return _both("accuracy", "classes", rows.classes[1], rows.classes[0], seed)
    if rows.cosines is not None:
        return _apart(1.0 - rows.cosines, seed)
    return _both("r2", "values", rows.numbers[1], rows.numbers[0], seed) if rows.numbers is not None else (None, None)


def _apart(gaps: NDArray[np.floating], seed: int) -> tuple[Estimate, Estimate]:
    """Of what each row's cosine lacks: as losses after none. Where none lacks anything, an unseen row may lack all."""
    none, some = (Answered("losses", np.ones(len(gaps)), losses, "") for losses in (0 * gaps, gaps))
    gained = paired_difference("log_loss", none, some, seed)
    assert gained.low is not None
    assert gained.high is not None
    lost, high = max(0.0, -gained.value), -gained.low if gaps.any() else unseen_share(len(gaps))
    low = min(lost, max(0.0, -gained.high))
    return Estimate(value=1.0 - lost, low=1.0 - high, high=1.0 - low), Estimate(value=lost, low=low, high=high)


def _both(
    metric: str, kind: Kind, expected: NDArray[np.generic], given: NDArray[np.generic], seed: int
) -> tuple[Estimate, Estimate]:
    same, other = Answered(kind, expected, expected, ""), Answered(kind, expected, given, "")
    return estimate(metric, other, seed), loss(metric, same, other, seed)
