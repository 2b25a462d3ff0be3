"""Everything a run has read, kept as JSON, and its medians."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

import msgspec

from benchmarks.generation.load import Level, Reading
from benchmarks.machine import Machine
from benchmarks.places import RESULTS

RESULT = RESULTS / "generation.json"
PLOT = RESULTS / "generation.png"


@dataclass
class Visit:
    """What one visit found. name: of the server, or alone-int8 and its like for an engine in its own loop. memory: bytes, the
    most that its process tree was seen to hold (PSS). cold: seconds to the first answer, 0 for an engine alone."""

    name: str
    reading: Reading
    memory: int
    cold: float = 0.0


@dataclass
class Report:
    """Who was measured, how, and every reading of every round."""

    date: str
    machine: Machine
    rounds: int
    levels: list[int]
    titles: dict[str, str]
    weights: dict[str, str]
    versions: dict[str, str]
    model: str
    visits: list[Visit] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def save(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def load(cls) -> Report:
        return msgspec.json.decode(RESULT.read_bytes(), type=cls)

    def _rank(self, name: str) -> int:
        return -1 if name.startswith("openmaas") else [*self.titles].index(name)

    def rows(self) -> list[Visit]:
        """Medians, one a server that was measured: by weights, ours first, the engine alone last."""
        found = []
        for name in sorted(self.titles, key=lambda name: (self.weights[name], name.startswith("alone"), self._rank(name))):
            visits = [visit for visit in self.visits if visit.name == name]
            if visits:
                found.append(_middle(name, visits))
        return found


def _middle(name: str, visits: list[Visit]) -> Visit:
    readings = [visit.reading for visit in visits]
    levels = [
        Level(
            streams=same[0].streams,
            decode=median(level.decode for level in same),
            first=median(level.first for level in same),
            tokens=same[0].tokens,
        )
        for same in zip(*(reading.levels for reading in readings), strict=True)
    ]
    reading = Reading(
        levels,
        prefill=median(reading.prefill for reading in readings),
        idle=median(reading.idle for reading in readings),
        beside=median(reading.beside for reading in readings),
    )
    return Visit(name, reading, round(median(visit.memory for visit in visits)), median(visit.cold for visit in visits))
