"""What the runner asks of every server that generates text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import Environment
from benchmarks.generation.load import Endpoint
from benchmarks.processes import Server

THREADS = 2
"""Of every engine."""
CONTEXT = 4096
STREAMS = 16
"""That a server answers side by side."""


@dataclass(frozen=True)
class Running:
    """A server that was started, and where it is asked."""

    server: Server
    endpoint: Endpoint


class Peer(ABC):
    """A server that speaks the OpenAI API, with the benchmark's model."""

    name: str
    title: str
    weights: str
    """Precision: bf16, int8 …"""
    package: str
    place: str = ""
    """Its folder below peers/, its name where empty."""

    @property
    def environment(self) -> Environment:
        folder = self.place or self.name
        return Environment(folder, Path(__file__).parent / "peers" / folder / "requirements.txt")

    def prepare(self) -> None:
        """Install what is needed; no-op when it is there."""
        self.environment.prepare()

    def version(self) -> str:
        return self.environment.version(self.package)

    @abstractmethod
    def start(self, work: Path) -> Running:
        """Start serving; `work` is a folder of its own, the same in every round. Returns as soon as the process exists."""
