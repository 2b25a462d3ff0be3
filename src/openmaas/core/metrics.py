"""How good answers are: figures with their 95% intervals, and differences of two versions over the same rows.

Intervals are percentile bootstraps over rows (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13); those of
differences are paired: each resample takes the same rows of both. Rows with equal truth and answers are drawn together, as
multinomial counts, which is the same distribution and much faster. There are 2,000 resamples; of more than 10,000 rows that are
all different fewer, 500 at the least.

A resample never holds what no row has shown, so that flawless answers would seem certain. There the interval is widened:
accuracy always to Wilson's interval (1927); a paired difference of accuracies to Bonett and Price's (2012), and without any
discordant row to the exact bound of a share never seen in n rows, 1 - 0.025^(1/n), about 3.7 / n (the two-sided rule of
three); macro averages without an error to the mean over classes of Jeffreys posteriors, Beta(1/2, rows + 1/2). For figures
without such a bound, the unseen share of rows is taken to be like the worst row that was seen.

Nor do resamples tell enough where few rows are answered otherwise: of a count k they reach the bound of Poisson(k), and the
exact one is nearly that of Poisson(k + 1) (Garwood, 1936). So paired differences other than of accuracy are resampled with one
more of the rows that got worse, for the bound on that side, and likewise of those that got better.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.evaluations import ClassFigures, Estimate, Outcomes

MOST_ROWS: Final = 50_000
"""Rows that outcomes hold: about 0.5 MiB in JSON where they are numbers, so that a job's report stays below 1 MiB."""

RESAMPLES: Final = 2000
_ALPHA: Final = 0.05
_MOST_DRAWN: Final = 20_000_000  # rows of all resamples together
_LEAST_RESAMPLES: Final = 500
_FEW: Final = 30  # rows, of which resamples show too little spread
_VALUES: Final = 1 << 20  # weights that are held at once
_Z: Final = 1.959964  # of the normal distribution, for 95%

Kind = Literal["classes", "values", "losses"]
Array = NDArray[Any]
Statistic = Callable[[Array], Array]
"""How often each row was drawn [resample, row] → the figure of each resample, NaN where its rows do not define it."""

_DTYPES: Final[dict[str, Any]] = {"classes": np.dtype("<i4"), "values": np.dtype("<f4"), "losses": np.dtype("<f4")}


@dataclass(frozen=True)
class Metric:
    """higher: more is better. share: at most 1, so that a loss is the absolute drop; else it is a share of the baseline's."""

    name: str
    kind: Kind
    prepare: Callable[[Array, Array], Statistic]
    higher: bool = True
    share: bool = True


@dataclass(frozen=True)
class Answered:
    """Outcomes as arrays: truth [N] and answers [N] of their rows, and the digest of which rows these are.

    kind: classes are int64 indices, values float64, losses float64 with the weight of each row as its truth.
    """

    kind: Kind
    truth: Array
    answers: Array
    rows: str

    def __len__(self) -> int:
        return len(self.truth)


# ── the figures ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _accuracy(truth: Array, answers: Array) -> Statistic:
    right = (truth == answers).astype(np.float64)
    return lambda weights: weights @ right / weights.sum(axis=1)


def _macro(figure: Callable[[Array, Array, Array], Array]) -> Callable[[Array, Array], Statistic]:
    """The mean over all classes that are in the truth or among the answers, as scikit-learn's `macro`.

    figure: (right, rows of the class, answers of the class), all [resample, class] → the same, NaN for what does not count.
    """

    def prepare(truth: Array, answers: Array) -> Statistic:
        names, places = np.unique(np.concatenate([truth, answers]), return_inverse=True)
        true, given, count = places[: len(truth)], places[len(truth) :], len(names)
        right = np.flatnonzero(true == given)
        hit, of_class, answered = _summed(true[right], count), _summed(true, count), _summed(given, count)

        def statistic(weights: Array) -> Array:
            hits, rows, named = hit(weights[:, right]), of_class(weights), answered(weights)
            figures = np.where(rows + named > 0, figure(hits, rows, named), np.nan)
            means: Array = np.nanmean(figures, axis=1)
            return means

        return statistic

    return prepare


def _summed(places: Array, count: int) -> Statistic:
    """Weights [resample, row] → their sum by place [resample, place]."""
    order = np.argsort(places, kind="stable")
    present, starts = np.unique(places[order], return_index=True)

    def total(weights: Array) -> Array:
        sums = np.zeros((len(weights), count))
        if len(starts):
            sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
        return sums

    return total


def _ratio(part: Array, whole: Array) -> Array:
    """0 where there is no whole."""
    shares: Array = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
    return shares


def _balanced(hits: Array, of_class: Array, _: Array) -> Array:
    shares: Array = np.divide(hits, of_class, out=np.full(hits.shape, np.nan), where=of_class > 0)
    return shares


def _mae(truth: Array, answers: Array) -> Statistic:
    errors = np.abs(truth - answers)
    return lambda weights: weights @ errors / weights.sum(axis=1)


def _rmse(truth: Array, answers: Array) -> Statistic:
    squares = (truth - answers) ** 2
    return lambda weights: np.sqrt(weights @ squares / weights.sum(axis=1))


def _r2(truth: Array, answers: Array) -> Statistic:
    centred = truth - truth.mean()
    squares, least = (truth - answers) ** 2, 1e-12 * float((centred**2).mean())

    def statistic(weights: Array) -> Array:
        total = weights.sum(axis=1)
        variance = weights @ centred**2 / total - (weights @ centred / total) ** 2
        found = np.full(len(weights), np.nan)
        return np.asarray(1 - np.divide(weights @ squares / total, variance, out=found, where=variance > least))

    return statistic


def _pearson(truth: Array, answers: Array) -> Statistic:
    one, other = truth - truth.mean(), answers - answers.mean()

    def statistic(weights: Array) -> Array:
        return _correlation(weights, *((weights @ part) for part in (one, other, one**2, other**2, one * other)))

    return statistic


def _spearman(truth: Array, answers: Array) -> Statistic:
    true, given = _ties(truth), _ties(answers)

    def statistic(weights: Array) -> Array:
        return np.array([_rank_correlation(_ranks(true, row), _ranks(given, row), row) for row in weights])

    return statistic


def _rank_correlation(one: Array, other: Array, weights: Array) -> float:
    middle = weights.sum() / 2  # where the mean of all ranks lies
    first, second = one - middle, other - middle
    sums = [np.array([weights @ part]) for part in (first, second, first**2, second**2, first * second)]
    return float(_correlation(weights[None], *sums)[0])


def _correlation(weights: Array, one: Array, other: Array, squares: Array, others: Array, products: Array) -> Array:
    """Of weighted sums of two values, of their squares and of their products; NaN where one of the two does not vary."""
    total = weights.sum(axis=1)
    spread = (squares / total - (one / total) ** 2) * (others / total - (other / total) ** 2)
    varies = spread > 1e-24 * (squares / total) * (others / total)
    found = np.full(len(total), np.nan)
    covariance = products / total - one * other / total**2
    return np.asarray(np.divide(covariance, np.sqrt(np.where(varies, spread, 1)), out=found, where=varies))


def _ties(values: Array) -> Array:
    """Of each row, which of the ascending distinct values it has."""
    places: Array = np.unique(values, return_inverse=True)[1]
    return places


def _ranks(places: Array, weights: Array) -> Array:
    """Mid-ranks in a resample."""
    sizes = np.bincount(places, weights)
    ranks: Array = (np.cumsum(sizes) - sizes / 2)[places]
    return ranks


def _mean_loss(truth: Array, answers: Array) -> Statistic:
    return lambda weights: weights @ (truth * answers) / np.maximum(weights @ truth, 1e-300)


def _perplexity(truth: Array, answers: Array) -> Statistic:
    mean = _mean_loss(truth, answers)
    return lambda weights: np.exp(np.minimum(500.0, mean(weights)))


METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "classes", _accuracy),
        Metric("f1", "classes", _macro(lambda hits, rows, given: _ratio(2 * hits, rows + given))),
        Metric("precision", "classes", _macro(lambda hits, _, given: _ratio(hits, given))),
        Metric("recall", "classes", _macro(lambda hits, rows, _: _ratio(hits, rows))),
        Metric("balanced_accuracy", "classes", _macro(_balanced)),
        Metric("mae", "values", _mae, higher=False, share=False),
        Metric("rmse", "values", _rmse, higher=False, share=False),
        Metric("r2", "values", _r2),
        Metric("spearman", "values", _spearman),
        Metric("pearson", "values", _pearson),
        Metric("log_loss", "losses", _mean_loss, higher=False, share=False),
        Metric("perplexity", "losses", _perplexity, higher=False, share=False),
    )
}

BY_TASK: Final[dict[str, tuple[str, ...]]] = {
    "classification": ("accuracy", "f1", "precision", "recall", "balanced_accuracy"),
    "regression": ("rmse", "mae", "r2", "pearson", "spearman"),
    "similarity": ("spearman", "pearson"),
    "generation": ("perplexity",),
}
"""What is told of a task; the first is the usual one. Besides, log_loss of classes with probabilities."""


def find_metric(name: str) -> Metric:
    """Raises InvalidInput for a name that is none."""
    if name not in METRICS:
        raise InvalidInput(f"{name[:40]!r} is not a metric; there are {', '.join(METRICS)}.", code="unknown_metric")
    return METRICS[name]


# ── intervals ────────────────────────────────────────────────────────────────────────────────────────────────────────


def estimate(metric: str, outcomes: Outcomes | Answered, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The figure and its interval; an interval that cannot be told (one row of numbers) is None.

    Raises InvalidInput for a metric of another kind of outcomes, Refused where the rows do not define it.
    """
    one, known = find_metric(metric), _answered(outcomes)
    (columns, counts), truth = _collapsed(one, known), known.truth
    statistic = one.prepare(*columns)
    value = _defined(one, _once(statistic, counts))
    drawn = _draws(counts, seed, resamples, statistic)
    low, high = _percentiles(drawn)
    if one.name == "accuracy":
        bounds = _wilson(value, len(known))
        return Estimate(value=value, low=min(low, bounds[0]), high=max(high, bounds[1]))
    if one.kind == "classes" and bool((truth == known.answers).all()):
        return Estimate(value=value, low=min(low, 1 - _unseen_macro(truth, seed)), high=1.0)
    if high > low:
        return Estimate(value=value, low=min(low, value), high=max(high, value))
    return (
        Estimate(value=value, low=value - _unseen(len(known)), high=value)
        if one.share and value == 1
        else Estimate(value=value)
    )


def paired_difference(
    metric: str, before: Outcomes | Answered, after: Outcomes | Answered, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """How much better `after` is, above 0 is better: in the metric's own unit, whichever way that counts.

    Raises Refused for outcomes of different rows.
    """
    return _paired(metric, before, after, seed, resamples, relative=False)


def loss(
    metric: str, before: Outcomes | Answered, after: Outcomes | Answered, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """What of quality is lost, above 0 is worse: the absolute drop of metrics up to 1, the share of the baseline's for errors.

    `high` is the bound that gates hold against their limit. Raises Refused for outcomes of different rows, and for a share of a
    baseline without any error.
    """
    gained = _paired(metric, before, after, seed, resamples, relative=not find_metric(metric).share)
    assert gained.low is not None
    assert gained.high is not None
    return Estimate(value=0.0 - gained.value, low=0.0 - gained.high, high=0.0 - gained.low)


def _paired(
    metric: str, before: Outcomes | Answered, after: Outcomes | Answered, seed: int, resamples: int, *, relative: bool
) -> Estimate:
    one, first, second = find_metric(metric), _answered(before), _answered(after)
    if first.rows != second.rows or len(first) != len(second) or not np.array_equal(first.truth, second.truth):
        raise Refused(
            f"The versions were evaluated on different rows ({len(first)} and {len(second)}), so that they cannot be compared "
            "row by row.",
            code="different_rows",
            next_step="Evaluate both on the same version of the dataset, with the same rows and seed.",
        )
    columns, counts = _collapsed(one, first, second.answers)
    statistics = one.prepare(columns[0], columns[1]), one.prepare(columns[0], columns[2])

    def gained(weights: Array) -> Array:
        old, new = statistics[0](weights), statistics[1](weights)
        better: Array = new - old if one.higher else old - new
        if not relative:
            return better
        return np.asarray(np.divide(better, old, out=np.where(better == 0, 0.0, np.nan), where=old > 0))

    value = _once(gained, counts)
    if relative and math.isnan(value):
        raise Refused(
            f"The baseline's {metric} is 0, of which no share can be lost.",
            code="no_baseline_error",
            next_step="Choose another metric.",
        )
    low, high = _percentiles(_draws(counts, seed, resamples, gained), _defined(one, value))
    if one.name == "accuracy":
        bounds = _bonett_price(first, second)
        bound = (
            _unseen_difference(one, first, seed, relative=relative) if np.array_equal(first.answers, second.answers) else 0.0
        )
        return Estimate(value=value, low=min(low, bounds[0], value - bound), high=max(high, bounds[1], value + bound))
    worse = _worse(one, columns)
    lost, won = (np.where(side > 0, counts, 0) for side in (worse, -worse))
    for rows, others, worsens in ((lost, won, True), (won, lost, False)):
        seen = int(rows.sum())
        if 0 < seen <= _FEW:
            bounds = _percentiles(_draws(counts, seed, resamples, gained, more=rows), value)
        elif seen == 0 and others.sum() <= _FEW:
            bound = _unseen_difference(one, first, seed, relative=relative)
            bounds = value - bound, value + bound
        else:
            continue
        low, high = (min(low, bounds[0]), high) if worsens else (low, max(high, bounds[1]))
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def _worse(metric: Metric, columns: Sequence[Array]) -> Array:
    """Of each column of truth, answers before and after: above 0 where it is answered worse than before, below where better."""
    truth, before, after = columns
    if metric.kind == "losses":
        return np.asarray(np.sign(truth * (after - before)))
    return np.asarray(np.sign(np.abs(_error(metric, truth, after)) - np.abs(_error(metric, truth, before))))


def _error(metric: Metric, truth: Array, answers: Array) -> Array:
    return (truth != answers).astype(np.float64) if metric.kind == "classes" else truth - answers


def _collapsed(metric: Metric, known: Answered, *others: Array) -> tuple[tuple[Array, ...], Array]:
    """Distinct rows as columns (truth, answers, …), and how many of each there are. Raises InvalidInput for another kind."""
    if known.kind != metric.kind:
        raise InvalidInput(
            f"{metric.name} is of {metric.kind}, and these are outcomes of {known.kind}.",
            code="unfit_metric",
            next_step=f"Choose one of {', '.join(one.name for one in METRICS.values() if one.kind == known.kind)}.",
        )
    columns = (known.truth, known.answers, *others)
    if metric.kind != "classes":
        return columns, np.ones(len(known), np.int64)
    cells, counts = np.unique(np.stack(columns), axis=1, return_counts=True)
    return tuple(cells), counts


def _once(statistic: Statistic, weights: Array) -> float:
    """Of the rows as they are."""
    return float(statistic(weights.astype(np.float64)[None])[0])


def _draws(counts: Array, seed: int, resamples: int, statistic: Statistic, more: Array | None = None) -> Array:
    """The figure of each resample. more: rows (counts as `counts` has them) of which one more is drawn on average."""
    if more is None:
        return np.concatenate([statistic(weights) for weights in _resamples(counts, seed, resamples)])
    random, places, found = np.random.default_rng([seed, 1]), np.flatnonzero(more), []
    for weights in _resamples(counts, seed, resamples):
        weights[:, places] += random.multinomial(random.poisson(1.0, len(weights)), more[places] / more.sum())
        found.append(statistic(weights))
    return np.concatenate(found)


def _resamples(counts: Array, seed: int, resamples: int) -> Iterator[Array]:
    """How often each row is drawn, some resamples at a time."""
    random, rows = np.random.default_rng(seed), int(counts.sum())
    if len(counts) == rows:
        resamples = min(resamples, max(_LEAST_RESAMPLES, _MOST_DRAWN // rows))
    step = max(1, _VALUES // len(counts))
    for start in range(0, resamples, step):
        some = min(step, resamples - start)
        if len(counts) < rows:
            yield random.multinomial(rows, counts / rows, size=some).astype(np.float64)
        else:
            drawn = (np.bincount(random.integers(0, rows, rows), minlength=rows) for _ in range(some))
            yield np.stack([one.astype(np.float64) for one in drawn])


def _percentiles(drawn: Array, value: float | None = None) -> tuple[float, float]:
    """Of the resamples that define the figure; a figure that none defines has no spread."""
    kept = drawn[np.isfinite(drawn)]
    if not len(kept):
        return (value or 0.0, value or 0.0)
    low, high = np.percentile(kept, [100 * _ALPHA / 2, 100 * (1 - _ALPHA / 2)])
    return float(low), float(high)


def _defined(metric: Metric, value: float) -> float:
    if not math.isfinite(value):
        raise Refused(
            f"{metric.name} is not defined on these rows: the truth or the answers are all the same.", code="undefined_metric"
        )
    return value


def _wilson(share: float, rows: int) -> tuple[float, float]:
    middle = (share + _Z**2 / (2 * rows)) / (1 + _Z**2 / rows)
    half = _Z / (1 + _Z**2 / rows) * math.sqrt(share * (1 - share) / rows + _Z**2 / (4 * rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _bonett_price(before: Answered, after: Answered) -> tuple[float, float]:
    old, new, rows = before.truth == before.answers, after.truth == after.answers, len(before)
    lost, won = (int((old & ~new).sum()) + 1) / (rows + 2), (int((new & ~old).sum()) + 1) / (rows + 2)
    half = _Z * math.sqrt((lost + won - (won - lost) ** 2) / (rows + 2))
    return max(-1.0, won - lost - half), min(1.0, won - lost + half)


def _unseen(rows: int) -> float:
    """The largest share that n rows may well not have shown once."""
    return float(1 - (_ALPHA / 2) ** (1 / rows))


def _unseen_macro(truth: Array, seed: int) -> float:
    """The same of a mean over classes: the 97.5th percentile of Jeffreys posteriors, each of a class without an error."""
    rows = np.unique(truth, return_counts=True)[1]
    drawn = np.random.default_rng(seed).beta(0.5, rows + 0.5, size=(RESAMPLES, len(rows))).mean(axis=1)
    return max(_unseen(len(truth)), float(np.percentile(drawn, 100 * (1 - _ALPHA / 2))))


def _unseen_difference(metric: Metric, before: Answered, seed: int, *, relative: bool) -> float:
    """What may have changed although no row shows it."""
    share = _unseen(len(before))
    if metric.kind == "classes":
        return share if metric.name == "accuracy" else _unseen_macro(before.truth, seed)
    weights = np.ones(len(before))
    statistic = metric.prepare(before.truth, before.answers)
    badness = before.answers if metric.kind == "losses" else np.abs(before.truth - before.answers)
    value = _once(statistic, weights)
    weights *= 1 - share
    weights[int(badness.argmax())] += share * len(before)
    changed = _once(statistic, weights)
    gap = abs(changed - value) if math.isfinite(changed) else share
    gap = max(gap, share) if metric.share else gap
    return (gap / value if value else share) if relative else gap


# ── classes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def confusion(truth: Array, answers: Array, classes: int) -> NDArray[np.int64]:
    """[true class, answered class] → rows."""
    counts = np.bincount(truth.astype(np.int64) * classes + answers.astype(np.int64), minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def class_figures(truth: Array, answers: Array, names: Sequence[str]) -> tuple[ClassFigures, ...]:
    """Of each class, 0 where its truth or its answers have no row."""
    count = len(names)
    right = truth == answers
    hits = np.bincount(truth[right], minlength=count).astype(np.float64)
    rows, given = np.bincount(truth, minlength=count), np.bincount(answers, minlength=count)
    columns = _ratio(hits, given), _ratio(hits, rows), _ratio(2 * hits, rows + given)
    return tuple(
        ClassFigures(name=name, rows=int(of), precision=float(precision), recall=float(recall), f1=float(f1))
        for name, of, precision, recall, f1 in zip(names, rows, *columns, strict=True)
    )


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────────


def encode_outcomes(kind: Kind, truth: Array, answers: Array, rows: str) -> Outcomes:
    """truth and answers: [N]; of losses, their weights and themselves. rows: Examples.digest.

    Raises Refused for more than MOST_ROWS rows and for numbers that float32 does not hold.
    """
    return Outcomes(kind=kind, truth=_packed(kind, truth), answers=_packed(kind, answers), rows=rows)


def decode_outcomes(outcomes: Outcomes) -> Answered:
    """Raises InvalidInput for what `encode_outcomes` cannot have made, before it takes memory."""
    truth, answers = (_unpacked(outcomes.kind, text) for text in (outcomes.truth, outcomes.answers))
    if len(truth) != len(answers) or not len(truth):
        raise InvalidInput(f"The outcomes have {len(truth)} truths and {len(answers)} answers.", code="invalid_outcomes")
    return Answered(outcomes.kind, truth, answers, outcomes.rows)


def _answered(outcomes: Outcomes | Answered) -> Answered:
    known = decode_outcomes(outcomes) if isinstance(outcomes, Outcomes) else outcomes
    if not len(known):
        raise Refused("There is no row to tell a figure of.", code="no_rows")
    return known


def _packed(kind: Kind, array: Array) -> str:
    if len(array) > MOST_ROWS:
        raise Refused(f"There are {len(array)} rows; the outcomes of at most {MOST_ROWS} are kept.", code="too_many_rows")
    with np.errstate(over="ignore"):
        plain = np.asarray(array).astype(_DTYPES[kind])
    if kind != "classes" and not np.isfinite(plain).all():
        raise Refused("There are numbers that float32 does not hold.", code="not_finite")
    return base64.b64encode(zlib.compress(plain.tobytes(), 9)).decode()


def _unpacked(kind: Kind, text: str) -> Array:
    dtype = _DTYPES[kind]
    most = MOST_ROWS * dtype.itemsize
    if len(text) > 2 * most:
        raise InvalidInput("The outcomes are larger than any that are kept.", code="invalid_outcomes")
    try:
        body = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), most + 1)
    except (binascii.Error, ValueError, zlib.error):
        raise InvalidInput("The outcomes are damaged.", code="invalid_outcomes") from None
    if len(body) > most or len(body) % dtype.itemsize:
        raise InvalidInput("The outcomes are damaged, or more than are kept.", code="invalid_outcomes")
    array = np.frombuffer(body, dtype).astype(np.int64 if kind == "classes" else np.float64)
    if not np.isfinite(array).all() or (kind == "classes" and (array < 0).any()):
        raise InvalidInput("The outcomes hold what is no class and no number.", code="invalid_outcomes")
    return array
