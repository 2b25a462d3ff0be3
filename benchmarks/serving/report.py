"""Everything a run over one case has read, kept as JSON, and its medians."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec

from benchmarks.machine import Machine
from benchmarks.places import RESULTS
from benchmarks.serving.visit import Visit


@dataclass
class Report:
    """One case: who was measured, how, and every reading of every round."""

    case: str
    title: str
    unit: str
    date: str
    machine: Machine
    seconds: int
    rounds: int
    connections: list[int]
    titles: dict[str, str]
    """The name of each server, by its word."""
    versions: dict[str, str]
    visits: list[Visit] = field(default_factory=list)
    alone: list[dict[int, float]] = field(default_factory=list)
    """Rows a second of the engine without a server, by batch size, once a round."""
    chosen: list[dict[int, float]] = field(default_factory=list)
    """The same of the engine that OpenMaaS chose, with decoding where a request is a picture."""
    choice: str = ""
    """That engine, and why it was chosen."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why a server has no figures."""

    @property
    def plot(self) -> Path:
        return RESULTS / f"serving-{self.case}.png"

    def save(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(self), indent=1)
        (RESULTS / f"serving-{self.case}.json").write_bytes(text + b"\n")

    @classmethod
    def load(cls, case: str) -> Report:
        return msgspec.json.decode((RESULTS / f"serving-{case}.json").read_bytes(), type=cls)

    def rows(self) -> list[Row]:
        """One per server that was measured, fastest at the highest load first."""
        rows = [row_of(self, name) for name in self.titles if any(v.peer == name for v in self.visits)]
        return sorted(rows, key=lambda row: max(row.cells.items())[1].rate, reverse=True)

    def engine(self) -> dict[int, float]:
        """Median rows a second of the engine alone by batch size."""
        return medians(self.alone)

    def disturbances(self) -> list[float]:
        """The share of the machine that others took, in each measurement."""
        return [reading.disturbance for visit in self.visits for reading in visit.readings]


def medians(rounds: list[dict[int, float]]) -> dict[int, float]:
    """Of each batch size that was read in every round."""
    batches = set.intersection(*(set(rates) for rates in rounds)) if rounds else set()
    return {batch: median(rates[batch] for rates in rounds) for batch in sorted(batches)}


@dataclass(frozen=True)
class Cell:
    """Medians of one server at one number of connections; seconds and answers a second."""

    rate: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Row:
    """Medians of one server."""

    name: str
    title: str
    version: str
    cells: dict[int, Cell]
    """By number of connections; a load that the server is spared is missing."""
    rss: float
    """Bytes."""
    pss: float
    """Bytes."""
    cold: float
    """Seconds."""
    errors: int
    """In all rounds together."""

    def middle(self) -> Cell:
        """The cell in the middle of the loads, where latencies are compared."""
        levels = sorted(self.cells)
        return self.cells[levels[len(levels) // 2]]

    def ratios(self, other: Row) -> dict[int, float]:
        """How many times the rate of this one the other reaches, by number of connections."""
        shared = self.cells.keys() & other.cells.keys()
        return {level: other.cells[level].rate / self.cells[level].rate for level in sorted(shared)}


def row_of(report: Report, name: str) -> Row:
    visits = [visit for visit in report.visits if visit.peer == name]
    levels = [reading.connections for reading in visits[0].readings]
    cells = {}
    for position, level in enumerate(levels):
        readings = [visit.readings[position] for visit in visits]
        cells[level] = Cell(
            rate=median(reading.rate for reading in readings),
            p50=median(reading.p50 for reading in readings),
            p99=median(reading.p99 for reading in readings),
        )
    return Row(
        name=name,
        title=report.titles[name],
        version=report.versions[name],
        cells=cells,
        rss=median(visit.memory.rss for visit in visits),
        pss=median(visit.memory.pss for visit in visits),
        cold=median(visit.cold for visit in visits),
        errors=sum(reading.errors for visit in visits for reading in visit.readings),
    )


def base_of(rows: list[Row]) -> Row:
    """The row that the others are compared with: ours, or the fastest where ours was not run."""
    return next((row for row in rows if row.name == "openmaas"), rows[0])
