"""What was measured of a version on a dataset, and of versions side by side. Pure data: results of jobs, kept append-only."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from openmaas.core.hardware import Processor
from openmaas.core.manifest import EngineChoice

Task = Literal["classification", "regression", "similarity", "generation", "agreement"]
"""What is measured; agreement is with the parent only, where a dataset has no truth for this model."""

Axis = Literal["quality", "size", "memory", "latency", "throughput"]

STANDARD_SEED: Final = 0
"""Of evaluations that gates count: who may choose the seed of an interval may go on until one pleases."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A figure and its 95% interval by bootstrap over rows; None where it was not taken."""

    value: float
    low: float | None = None
    high: float | None = None


class Outcomes(msgspec.Struct, frozen=True, kw_only=True):
    """Truth and answer of each row, so that two versions can be compared row by row (paired) long after.

    kind: classes (int32 indices), values (float32: numbers, or similarities), losses (float32: a figure of each row, as the
    negative log-likelihood of a passage, with its weight as truth). Both are little-endian arrays, compressed by zlib, in
    base64. rows: digest of which rows of the dataset these are; only outcomes of equal rows are paired. groups: which rows
    belong together, as passages of one document do (int32, packed alike); empty where each stands alone.
    """

    kind: Literal["classes", "values", "losses"]
    truth: str
    answers: str
    rows: str
    groups: str = ""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Of one batch size: seconds of a call (median, 99th percentile), rows a second, and how many calls that is of."""

    batch: int
    p50: float
    p99: float
    rate: float
    calls: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What serving a version by one engine takes. size: bytes of the files that the engine loads. memory: peak resident bytes
    of its process. load: seconds. cost: processor seconds for 1,000 rows at the best batch size."""

    choice: EngineChoice
    library: str = ""
    size: int
    memory: int
    load: float
    speeds: tuple[Speed, ...]
    cost: float

    @property
    def best(self) -> Speed:
        """At the batch size with the highest rate."""
        return max(self.speeds, key=lambda one: one.rate)


class ClassFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one class: how many rows are of it, and how well they are found."""

    name: str
    rows: int
    precision: float
    recall: float
    f1: float


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One version on one dataset: both exact references. metrics: by name, as core/metrics has them.

    confusion: [true class][answered class], None beyond 100 classes. figures: None where speed was not measured.
    """

    version: str
    digest: str
    dataset: str
    dataset_digest: str
    task: Task
    metric: str
    rows: int
    total: int = 0
    metrics: dict[str, Estimate]
    classes: tuple[ClassFigures, ...] = ()
    confusion: tuple[tuple[int, ...], ...] | None = None
    outcomes: Outcomes | None = None
    figures: Figures | None = None
    processor: Processor
    libraries: dict[str, str] = {}
    seed: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """A version's answers beside its parent's on the same rows. top1: share of equal classes. cosine: the least of any row.

    Of text generators a row is a token, and its class the likeliest one after it.
    """

    rows: int
    max_abs_diff: float | None = None
    top1: float | None = None
    cosine: float | None = None
    mean_cosine: float | None = None


class ClassChange(msgspec.Struct, frozen=True, kw_only=True):
    """Recall of one class, before and after."""

    name: str
    rows: int
    before: float
    after: float


class ChangedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the dataset that is answered otherwise. preview: a short text, or a PNG as data URL for images."""

    row: int
    truth: str
    before: str
    after: str
    preview: str = ""


class Entrant(msgspec.Struct, frozen=True, kw_only=True):
    """One version in a comparison. difference: of its quality to the baseline's, by metric, paired over rows; above 0 is
    better. loss: of the comparison's metric with its upper bound, as gates count it. label: the recipe, short.

    dominated: on no axis better than the baseline, and worse on some, beyond the noise (core/pareto.py). on_front: no other
    entrant is better on all of quality, size and latency.
    registered: False for one that a search has tried and dropped; its version is then a name like "variant 3".
    """

    version: str
    label: str = ""
    figures: Figures
    metrics: dict[str, Estimate] = {}
    difference: dict[str, Estimate] = {}
    loss: Estimate | None = None
    agreement: Agreement | None = None
    classes: tuple[ClassChange, ...] = ()
    changed: tuple[ChangedRow, ...] = ()
    changed_rows: int = 0
    dominated: bool = False
    on_front: bool = False
    registered: bool = True


class VersionComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Versions measured in one alternating run; the baseline is the first entrant. recommended: one of them, or empty.

    dataset: empty where answers to the sample were compared only. why: of the recommendation, in a sentence.
    """

    entrants: tuple[Entrant, ...]
    dataset: str = ""
    task: Task
    metric: str
    target: Literal["latency", "throughput", "size", "memory"] = "latency"
    max_loss: float | None = None
    recommended: str = ""
    why: str = ""
    processor: Processor
    libraries: dict[str, str] = {}
    rounds: int
    seed: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


# ── gates ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an alias or a deployment may move. dataset and baseline: exact references.

    max_loss: of the metric against the baseline, its upper confidence bound: a difference for metrics from 0 to 1, a share of
    the baseline's for errors. minimum: of the metric's lower bound (upper, at most, for errors). p99: seconds at batch 1.
    size: bytes. cost: processor seconds for 1,000 rows.
    """

    dataset: str
    baseline: str = ""
    metric: str = ""
    max_loss: float | None = None
    minimum: float | None = None
    max_p99: float | None = None
    max_size: int | None = None
    max_cost: float | None = None


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One rule held against what was measured; value, the bound that counts, is None where it was not.

    estimate: the figure with its interval. evidence: both in words, or why there is nothing. job: id of the one that evaluated
    the version, and at: when. next_step: a command that measures what is missing. engine: label of the one that it was held
    for. evaluations: of the version on the gate's dataset; counted: those of them that count; worst: the worst figure of these.
    """

    rule: str
    limit: float
    value: float | None
    passed: bool
    evidence: str
    estimate: Estimate | None = None
    job: str = ""
    at: float | None = None
    next_step: str = ""
    engine: str = ""
    evaluations: int = 0
    counted: int = 0
    worst: float | None = None
