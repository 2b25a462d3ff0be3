"""Rules of a gate held against what was measured. Pure: no rule passes on a figure that is not there."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from openmaas.core.errors import OpenMaaSError
from openmaas.core.evaluations import Check, Estimate, Evaluation, Figures, Outcomes, Rules, Speed
from openmaas.core.hardware import Processor
from openmaas.core.metrics import find_metric

LEAST_CALLS: Final = 100
"""Calls that a 99th percentile must be of: of fewer, it is less than the longest of them."""

Loss = Callable[["Measured", "Measured", str], Estimate]
"""Of a metric, from the first evaluation to the second: openmaas.core.metrics.loss, and what it raises."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An evaluation as it is kept. id: of its row."""

    id: int
    evaluation: Evaluation
    job: str
    at: float


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of each evaluation: openmaas.core.evaluations.Evaluation without what is large."""

    digest: str
    dataset_digest: str
    task: str
    rows: int
    total: int = 0
    metrics: dict[str, Estimate]
    figures: Figures | None = None
    processor: Processor
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A version, and the newest evaluation of exactly this one on the gate's dataset that counts; missing: why there is none.

    counted: all that count, the newest first, of `existing` that there are. engine: that must have answered, empty where any
    may. evaluate: the command that makes one that counts.
    """

    version: str
    digest: str
    engine: str = ""
    measured: Measured | None = None
    counted: tuple[Brief, ...] = ()
    existing: int = 0
    missing: str = ""
    evaluate: str = ""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the rules are held against. here: the processor that figures must be of. baseline: None where the rules name none.
    loss: as Loss."""

    subject: Subject
    baseline: Subject | None
    here: Processor
    loss: Loss


class _Missing(Exception):
    """A figure is not there: why, and the command that gets it."""

    def __init__(self, why: str, next_step: str) -> None:
        self.why, self.next_step = why, next_step


def check_rules(rules: Rules, held: Held) -> list[Check]:
    """Each rule that is set, in a fixed order. Nothing measured, nothing passed."""
    return list(_checks(rules, held))


def _checks(rules: Rules, held: Held) -> Iterator[Check]:
    if rules.max_loss is not None:
        yield _check("max_loss", rules.max_loss, rules, held, _loss)
    if rules.minimum is not None:
        yield _check("minimum", rules.minimum, rules, held, _quality, at_least=find_metric(rules.metric).higher)
    if rules.max_p99 is not None:
        yield _check("max_p99", rules.max_p99, rules, held, _p99)
    if rules.max_size is not None:
        yield _check("max_size", rules.max_size, rules, held, _size)
    if rules.max_cost is not None:
        yield _check("max_cost", rules.max_cost, rules, held, _cost)


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """What was measured, the bound of it that is held against the limit, more in words, and the worst of all that count."""

    estimate: Estimate
    value: float | None
    words: str
    worst: float | None = None


def _check(
    rule: str, limit: float, rules: Rules, held: Held, find: Callable[[Rules, Held], _Figure], *, at_least: bool = False
) -> Check:
    subject = held.subject
    measured = subject.measured
    job, at = (measured.job, measured.at) if measured is not None else ("", None)
    check = Check(
        rule=rule, limit=limit, value=None, passed=False, evidence="", job=job, at=at, engine=subject.engine,
        evaluations=subject.existing, counted=len(subject.counted),
    )  # fmt: skip
    try:
        found = find(rules, held)
        for figure in (found.estimate.value, found.value):
            if figure is None or not math.isfinite(figure):
                raise _Missing(f"the evaluation by {job or 'its job'} has no number for it", subject.evaluate)
    except _Missing as missing:
        return msgspec.structs.replace(check, evidence=f"not measured: {missing.why}", next_step=missing.next_step)
    value = found.value
    assert value is not None
    passed = value >= limit if at_least else value <= limit
    return msgspec.structs.replace(
        check, value=value, passed=passed, evidence=found.words, estimate=found.estimate, worst=found.worst
    )


def _loss(rules: Rules, held: Held) -> _Figure:
    subject, baseline = held.subject, held.baseline
    if baseline is None:
        raise _Missing("the gate has no baseline", "Set the gate again with --baseline.")
    if subject.digest == baseline.digest:
        words = f"it is the baseline {baseline.version} itself"
        return _Figure(estimate=Estimate(value=0.0, low=0.0, high=0.0), value=0.0, words=words)
    after, before = _measured(subject), _measured(baseline)
    theirs, ours = before.evaluation.outcomes, after.evaluation.outcomes
    _must_pair(baseline, theirs, subject, ours)
    try:
        loss = held.loss(before, after, rules.metric)
    except OpenMaaSError as error:
        raise _Missing(f"its loss against {baseline.version}: {error.message}", error.next_step or subject.evaluate) from None
    interval = f"{loss.low:.2%} to {loss.high:.2%}" if loss.low is not None and loss.high is not None else "no interval"
    worst = _worst(subject, rules.metric)
    words = (
        f"{rules.metric} lost {loss.value:.2%} against {baseline.version} (95%: {interval}; the upper bound counts), "
        f"paired over {after.evaluation.rows} rows{_among(subject, f'{rules.metric} {_number(rules.metric, worst)}')}"
    )
    return _Figure(estimate=loss, value=loss.high, words=words, worst=worst)


def _must_pair(baseline: Subject, theirs: Outcomes | None, subject: Subject, ours: Outcomes | None) -> None:
    for one, outcomes in ((baseline, theirs), (subject, ours)):
        if outcomes is None:
            raise _Missing(f"the evaluation of {one.version} kept no answers to compare row by row", one.evaluate)
    assert theirs is not None and ours is not None
    if theirs.rows != ours.rows or theirs.kind != ours.kind:
        raise _Missing(f"{subject.version} and its baseline {baseline.version} were evaluated on other rows", subject.evaluate)


def _quality(rules: Rules, held: Held) -> _Figure:
    measured = _measured(held.subject)
    found = measured.evaluation.metrics.get(rules.metric)
    if found is None:
        there = ", ".join(measured.evaluation.metrics) or "none"
        raise _Missing(
            f"the evaluation has no {rules.metric}; it has {there}",
            "Set the gate again with one of these metrics (--metric).",
        )
    low = find_metric(rules.metric).higher
    counted, side = (found.low, "lower") if low else (found.high, "upper")
    between = " to ".join(_number(rules.metric, bound) for bound in (found.low, found.high))
    value, rows, worst = _number(rules.metric, found.value), measured.evaluation.rows, _worst(held.subject, rules.metric)
    words = (
        f"{rules.metric} {value} (95%: {between}; the {side} bound counts), over {rows:,} rows"
        f"{_among(held.subject, _number(rules.metric, worst))}"
    )
    return _Figure(estimate=found, value=counted, words=words, worst=worst)


def _p99(rules: Rules, held: Held) -> _Figure:
    figures, alike = _timed(held)
    speed = _single(figures)
    if speed is None:
        raise _Missing("its speed at batch 1 was not measured", held.subject.evaluate)
    if speed.calls < LEAST_CALLS:
        seconds = math.ceil(3 * LEAST_CALLS * speed.p50) + 8
        raise _Missing(
            f"its p99 is of {speed.calls} calls, and at least {LEAST_CALLS} are needed",
            f"{held.subject.evaluate} --seconds {seconds}",
        )
    others = [one.p99 for one in map(_single, alike) if one is not None and one.calls >= LEAST_CALLS]
    label = figures.choice.label
    words = f"{_milliseconds(speed.p99)} at batch 1 by {label}, {speed.calls} calls on {held.here.label}"
    return _luckless(held.subject, others, words, _milliseconds)


def _size(rules: Rules, held: Held) -> _Figure:
    figures = _measured(held.subject).evaluation.figures
    if figures is None:
        raise _Missing("the evaluation did not measure what serving it takes", held.subject.evaluate)
    worst = max(one.figures.size for one in held.subject.counted if one.figures is not None)
    words = f"{figures.size:,} bytes that {figures.choice.label} loads{_among(held.subject, f'{worst:,} bytes')}"
    return _Figure(estimate=Estimate(value=figures.size), value=figures.size, words=words, worst=worst)


def _cost(rules: Rules, held: Held) -> _Figure:
    figures, alike = _timed(held)
    words = f"{figures.cost:.3g} processor seconds for 1,000 rows by {figures.choice.label} on {held.here.label}"
    return _luckless(held.subject, [one.cost for one in alike], words, lambda value: f"{value:.3g} s")


def _luckless(subject: Subject, found: Sequence[float], words: str, told: Callable[[float], str]) -> _Figure:
    """Times differ from one evaluation to the next: the newest counts or, where it is worse, the median of all. So whoever is
    refused cannot go on until a quiet moment, and whoever was disturbed once can."""
    newest, median, worst = found[0], statistics.median_high(found), max(found)
    if len(found) > 1:
        which = "the median of these counts" if median > newest else "the newest counts"
        words += f"; median of {len(found)} evaluations {told(median)}, the worst {told(worst)}; {which}"
    return _Figure(estimate=Estimate(value=newest), value=max(newest, median), words=words, worst=worst)


def _measured(subject: Subject) -> Measured:
    """Its newest evaluation that counts."""
    if subject.measured is None:
        raise _Missing(subject.missing, subject.evaluate)
    return subject.measured


def _timed(held: Held) -> tuple[Figures, list[Figures]]:
    """The newest figures, and all that count and are like them: of the same processor and release of the engine."""
    measured = _measured(held.subject)
    figures = measured.evaluation.figures
    if figures is None:
        raise _Missing("the evaluation did not measure its speed", held.subject.evaluate)
    if (there := measured.evaluation.processor.label) != held.here.label:
        raise _Missing(f"its speed was measured on {there}, and this server runs on {held.here.label}", held.subject.evaluate)
    alike = [
        one.figures
        for one in held.subject.counted
        if one.figures is not None and (one.processor.label, one.figures.library) == (there, figures.library)
    ]
    return figures, alike


def _single(figures: Figures) -> Speed | None:
    """At batch 1."""
    return next((one for one in figures.speeds if one.batch == 1), None)


def _worst(subject: Subject, metric: str) -> float | None:
    found = [one.metrics[metric].value for one in subject.counted if metric in one.metrics]
    return None if not found else min(found) if find_metric(metric).higher else max(found)


def _among(subject: Subject, worst: str) -> str:
    """How many evaluations there are, and what the worst of those that count says."""
    if subject.existing < 2:
        return ""
    return f"; {len(subject.counted)} of {subject.existing} evaluations count, the worst with {worst}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def _number(metric: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}" if find_metric(metric).share else f"{value:.4g}"


def in_words(checks: Sequence[Check], metric: str) -> str:
    """Rules that did not pass, for a refusal: the limits, and what was measured. What several lack is said once."""
    limits: dict[str, list[str]] = {}
    for check in checks:
        limits.setdefault(check.evidence, []).append(_limit(check, metric))
    return "; ".join(f"{', '.join(told)}: {evidence}" for evidence, told in limits.items())


def _limit(check: Check, metric: str) -> str:
    if check.rule == "minimum":
        side = "at least" if find_metric(metric).higher else "at most"
        return f"{metric} must be {side} {_number(metric, check.limit)}"
    return {
        "max_loss": f"{metric} may lose {check.limit:.2%}",
        "max_p99": f"p99 may be {check.limit * 1000:.3g} ms",
        "max_size": f"the size may be {check.limit:,.0f} bytes",
        "max_cost": f"1,000 rows may take {check.limit:.3g} processor seconds",
    }[check.rule]
