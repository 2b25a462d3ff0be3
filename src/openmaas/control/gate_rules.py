"""Rules of a gate held against what was measured. Pure: no rule passes on a figure that is not there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from openmaas.core.errors import OpenMaaSError
from openmaas.core.evaluations import Check, Estimate, Evaluation, Outcomes, Rules
from openmaas.core.hardware import Processor
from openmaas.core.metrics import find_metric

Loss = Callable[["Measured", "Measured", str], Estimate]
"""Of a metric, from the first evaluation to the second: openmaas.core.metrics.loss, and what it raises."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An evaluation as it is kept. id: of its row."""

    id: int
    evaluation: Evaluation
    job: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A version, and the newest evaluation of exactly this one on the gate's dataset; missing: why there is none."""

    version: str
    digest: str
    measured: Measured | None = None
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the rules are held against. here: the processor that figures must be of. engine: the one that will serve, where it
    is known. baseline: None where the rules name none. loss: as Loss."""

    subject: Subject
    baseline: Subject | None
    here: Processor
    loss: Loss
    engine: str = ""


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


_Figure = tuple[Estimate, float | None, str]
"""What was measured, the bound of it that is held against the limit, and more in words."""


def _check(
    rule: str, limit: float, rules: Rules, held: Held, find: Callable[[Rules, Held], _Figure], *, at_least: bool = False
) -> Check:
    measured = held.subject.measured
    job, at = (measured.job, measured.at) if measured is not None else ("", None)
    try:
        estimate, value, words = find(rules, held)
        for figure in (estimate.value, value):
            if figure is None or not math.isfinite(figure):
                raise _Missing(f"the evaluation by {job or 'its job'} has no number for it", _evaluate(rules, held.subject))
    except _Missing as missing:
        return Check(
            rule=rule, limit=limit, value=None, passed=False, evidence=f"not measured: {missing.why}", job=job, at=at,
            next_step=missing.next_step,
        )  # fmt: skip
    assert value is not None
    passed = value >= limit if at_least else value <= limit
    return Check(rule=rule, limit=limit, value=value, passed=passed, evidence=words, estimate=estimate, job=job, at=at)


def _loss(rules: Rules, held: Held) -> _Figure:
    subject, baseline = held.subject, held.baseline
    if baseline is None:
        raise _Missing("the gate has no baseline", "Set the gate again with --baseline.")
    if subject.digest == baseline.digest:
        return Estimate(value=0.0, low=0.0, high=0.0), 0.0, f"it is the baseline {baseline.version} itself"
    after, before = _measured(rules, held, subject), _measured(rules, held, baseline, served=False)
    theirs, ours = before.evaluation.outcomes, after.evaluation.outcomes
    _must_pair(rules, baseline, theirs, subject, ours)
    try:
        loss = held.loss(before, after, rules.metric)
    except OpenMaaSError as error:
        next_step = error.next_step or _evaluate(rules, subject)
        raise _Missing(f"its loss against {baseline.version}: {error.message}", next_step) from None
    interval = f"{loss.low:.2%} to {loss.high:.2%}" if loss.low is not None and loss.high is not None else "no interval"
    words = (
        f"{rules.metric} lost {loss.value:.2%} against {baseline.version} (95%: {interval}; the upper bound counts), "
        f"paired over {after.evaluation.rows} rows"
    )
    return loss, loss.high, words


def _must_pair(rules: Rules, baseline: Subject, theirs: Outcomes | None, subject: Subject, ours: Outcomes | None) -> None:
    for one, outcomes in ((baseline, theirs), (subject, ours)):
        if outcomes is None:
            raise _Missing(f"the evaluation of {one.version} kept no answers to compare row by row", _evaluate(rules, one))
    assert theirs is not None and ours is not None
    if theirs.rows != ours.rows or theirs.kind != ours.kind:
        raise _Missing(
            f"{subject.version} and its baseline {baseline.version} were evaluated on other rows", _evaluate(rules, subject)
        )


def _quality(rules: Rules, held: Held) -> _Figure:
    measured = _measured(rules, held, held.subject)
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
    value, rows = _number(rules.metric, found.value), measured.evaluation.rows
    words = f"{rules.metric} {value} (95%: {between}; the {side} bound counts), over {rows:,} rows"
    return found, counted, words


def _p99(rules: Rules, held: Held) -> _Figure:
    measured = _timed(rules, held)
    assert measured.evaluation.figures is not None
    found = next((one for one in measured.evaluation.figures.speeds if one.batch == 1), None)
    if found is None:
        raise _Missing("its speed at batch 1 was not measured", _evaluate(rules, held.subject))
    label = measured.evaluation.figures.choice.label
    words = f"{found.p99 * 1000:.3g} ms at batch 1 by {label}, {found.calls} calls on {held.here.label}"
    return Estimate(value=found.p99), found.p99, words


def _size(rules: Rules, held: Held) -> _Figure:
    figures = _measured(rules, held, held.subject).evaluation.figures
    if figures is None:
        raise _Missing("the evaluation did not measure what serving it takes", _evaluate(rules, held.subject))
    return Estimate(value=figures.size), figures.size, f"{figures.size:,} bytes that {figures.choice.label} loads"


def _cost(rules: Rules, held: Held) -> _Figure:
    figures = _timed(rules, held).evaluation.figures
    assert figures is not None
    words = f"{figures.cost:.3g} processor seconds for 1,000 rows by {figures.choice.label} on {held.here.label}"
    return Estimate(value=figures.cost), figures.cost, words


def _measured(rules: Rules, held: Held, subject: Subject, *, served: bool = True) -> Measured:
    """Its newest evaluation. served: it must be by the engine that will serve, where both are known."""
    measured = subject.measured
    if measured is None:
        raise _Missing(subject.missing, _evaluate(rules, subject))
    figures = measured.evaluation.figures
    if served and held.engine and figures is not None and figures.choice.label != held.engine:
        raise _Missing(
            f"{subject.version} was evaluated by the engine {figures.choice.label}, and {held.engine} would serve it",
            f"{_evaluate(rules, subject)} --engine {held.engine}",
        )
    return measured


def _timed(rules: Rules, held: Held) -> Measured:
    measured = _measured(rules, held, held.subject)
    if measured.evaluation.figures is None:
        raise _Missing("the evaluation did not measure its speed", _evaluate(rules, held.subject))
    if (there := measured.evaluation.processor.label) != held.here.label:
        raise _Missing(
            f"its speed was measured on {there}, and this server runs on {held.here.label}", _evaluate(rules, held.subject)
        )
    return measured


def _evaluate(rules: Rules, subject: Subject) -> str:
    return f"openmaas evaluate {subject.version} --data {rules.dataset}"


def _number(metric: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}" if find_metric(metric).share else f"{value:.4g}"


def in_words(check: Check, metric: str) -> str:
    """A rule that did not pass, for a refusal: the limit, and what was measured."""
    if check.rule == "minimum":
        side = "at least" if find_metric(metric).higher else "at most"
        return f"{metric} must be {side} {_number(metric, check.limit)}: {check.evidence}"
    limit = {
        "max_loss": f"{metric} may lose {check.limit:.2%}",
        "max_p99": f"p99 may be {check.limit * 1000:.3g} ms",
        "max_size": f"the size may be {check.limit:,.0f} bytes",
        "max_cost": f"1,000 rows may take {check.limit:.3g} processor seconds",
    }[check.rule]
    return f"{limit}: {check.evidence}"
