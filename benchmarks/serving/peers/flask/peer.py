"""The naive Flask listing that loads its model in each request."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cases.case import Case
from benchmarks.processes import Server, free_port
from benchmarks.serving import wire
from benchmarks.serving.peer import Peer, Request, Running, settings


class Flask(Peer):
    name = "flask"
    title = "naive Flask, loads per request"
    package = "flask"

    def connections(self, case: Case) -> int:
        # Each request in flight holds a model of its own: 64 encoders would fill the machine.
        return 16 if case.slow else super().connections(case)

    def start(self, case: Case, work: Path) -> Running:
        port = free_port()
        server = Server(
            [self.environment.python, self.folder / "server.py", str(port)],
            log=work / "log",
            environment=settings(case),
        )
        url = f"http://127.0.0.1:{port}/predict"
        return Running(server, Request(url, wire.plain(case)))
