"""Everything a run has found, kept as JSON, and the figures that are made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from math import sqrt
from statistics import mean, stdev
from typing import Any

import msgspec

from benchmarks.machine import Machine, this_machine
from benchmarks.places import RESULTS

RESULT = RESULTS / "compression.json"
_STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""97.5% points of Student's t for so many pairs."""


@dataclass
class Made:
    """What one recipe or search gave. version: empty where it failed, or recommended nothing."""

    label: str
    seconds: float
    version: str = ""
    comparison: dict[str, Any] | None = None
    why: str = ""
    failed: str = ""

    def __str__(self) -> str:
        if self.failed:
            return f"{self.label}: {self.failed}"
        return f"{self.label}: {self.version or 'nothing'} after {self.seconds:.0f} s. {self.why}"


@dataclass
class Row:
    """One version in the last, alternating run; ratios are to the version that was pushed, float32 in onnxruntime."""

    label: str
    version: str
    engine: str
    size: int
    smaller: float
    rate: float
    faster: float
    p50: float
    quality: str
    loss: float | None
    loss_high: float | None
    cosine: float | None
    dominated: bool
    same: float | None = None
    """Share of tokens after which it expects the same one as what was pushed."""


@dataclass
class Result:
    """Of one model. batch: the size at which speed is compared. seconds: that each search might take. comparison: all versions
    in one alternating run."""

    subject: str
    title: str
    said: str
    batch: int
    seconds: float
    made: list[Made] = field(default_factory=list)
    comparison: dict[str, Any] | None = None
    generates: bool = False

    def rows(self) -> list[Row]:
        """The pushed version in float32 first, then by size."""
        if self.comparison is None:
            return []
        entrants = self.comparison["entrants"]
        first = entrants[0]
        labels: dict[str, list[str]] = {}
        for one in self.made:
            labels.setdefault(one.version, []).append(one.label)
        rows = [self._row(entrant, first, labels) for entrant in entrants]
        return [rows[0], *sorted(rows[1:], key=lambda row: row.size)]

    def _row(self, entrant: dict[str, Any], first: dict[str, Any], labels: dict[str, list[str]]) -> Row:
        figures, metric = entrant["figures"], self.comparison["metric"] if self.comparison else ""
        speed, before = _at(figures, self.batch), _at(first["figures"], self.batch)
        choice = figures["choice"]
        version, _, suffix = entrant["version"].partition(" by ")  # of one that was run by an engine that was asked for
        label = "as pushed" if version == first["version"].partition(" by ")[0] else " = ".join(labels.get(version, ["–"]))
        told = entrant["metrics"].get(metric)
        loss, agreement = entrant.get("loss") or {}, entrant.get("agreement") or {}
        return Row(
            label=label if not suffix else f"{label}, by {suffix}",
            version=entrant["version"],
            engine=":".join(filter(None, (choice["engine"], choice.get("precision", "")))),
            size=figures["size"],
            smaller=first["figures"]["size"] / figures["size"],
            rate=speed["rate"],
            faster=speed["rate"] / before["rate"],
            p50=figures["speeds"][0]["p50"],
            quality=f"{metric} {told['value']:.4f}" if told else "",
            loss=loss.get("value"),
            loss_high=loss.get("high"),
            cosine=agreement.get("cosine"),
            dominated=entrant.get("dominated", False),
            same=agreement.get("top1") if self.generates else None,
        )


def _at(figures: dict[str, Any], batch: int) -> dict[str, Any]:
    speeds: list[dict[str, Any]] = figures["speeds"]
    return min(speeds, key=lambda one: abs(one["batch"] - batch))


@dataclass
class Distillation:
    """Accuracies of the same student with and without a teacher, one of each a seed. rows: what both were trained on."""

    step: dict[str, Any]
    rows: str
    seeds: list[int] = field(default_factory=list)
    taught: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)

    def gain(self) -> tuple[float, float]:
        """The mean difference, and half of its 95% interval (Student's t over pairs)."""
        gaps = [taught - alone for taught, alone in zip(self.taught, self.alone, strict=True)]
        half = _STUDENT[len(gaps)] * stdev(gaps) / sqrt(len(gaps)) if len(gaps) > 1 else float("inf")
        return mean(gaps), half


@dataclass
class Report:
    """All models, each with its newest figures."""

    date: str
    machine: Machine
    results: list[Result] = field(default_factory=list)
    distillation: list[Distillation] = field(default_factory=list)

    def save(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def load(cls) -> Report:
        """What was kept of the last run, or an empty report of this machine."""
        if not RESULT.is_file():
            return cls(date=date.today().isoformat(), machine=this_machine())
        return msgspec.json.decode(RESULT.read_bytes(), type=cls)
