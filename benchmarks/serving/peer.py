"""What the runner asks of every server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cases.case import Case
from benchmarks.environments import Environment
from benchmarks.places import REPOSITORY
from benchmarks.processes import Server
from benchmarks.serving import wire


@dataclass(frozen=True)
class Request:
    """The one POST that is repeated, in turn with `others` where a case has many samples."""

    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    others: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Running:
    """A server that was started, and the request it is going to answer."""

    server: Server
    request: Request


class Peer(ABC):
    """A way to serve a case over HTTP with JSON on loopback."""

    name: str
    """Its word on the command line."""
    title: str
    """Its name in the table."""
    package: str
    """The installed distribution whose version the table tells."""

    @property
    def folder(self) -> Path:
        return Path(__file__).parent / "peers" / self.name

    @property
    def environment(self) -> Environment:
        return Environment(self.name, self.folder / "requirements.txt")

    def prepare(self) -> None:
        """Install what is needed; no-op when it is there."""
        self.environment.prepare()

    def version(self) -> str:
        return self.environment.version(self.package)

    def serves(self, case: Case) -> bool:
        """Whether it takes requests of the case's form."""
        return case.wire == "tensors"

    def connections(self, case: Case) -> int:
        """The most connections it can be offered without taking the machine down."""
        return 1_000_000

    @abstractmethod
    def start(self, case: Case, work: Path) -> Running:
        """Start serving; `work` is a folder of its own, the same in every round.

        Returns as soon as the process exists: the runner waits for the first answer.
        """

    def answer(self, body: bytes) -> wire.Answer:
        """The prediction in a response, of shape [1, n]."""
        return wire.read_plain(body)


def settings(case: Case, *, processes: int = 1) -> dict[str, str]:
    """The environment variables that `engine.Engine` reads in a server's process.

    The threads of a case are for the whole server, so its processes share them.
    """
    return {
        "BENCHMARK_MODEL": str(case.model),
        "BENCHMARK_THREADS": str(max(1, case.threads // processes)),
        "BENCHMARK_SLOW": "1" if case.slow else "",
        "BENCHMARK_SAMPLE": str(case.folder / "sample.json"),
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
    }
