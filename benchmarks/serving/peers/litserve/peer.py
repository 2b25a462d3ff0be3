"""LitServe with its batching."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cases.case import Case
from benchmarks.processes import Server, free_port
from benchmarks.serving import wire
from benchmarks.serving.peer import Peer, Request, Running, settings


class LitServe(Peer):
    name = "litserve"
    title = "LitServe"
    package = "litserve"

    def start(self, case: Case, work: Path) -> Running:
        port = free_port()
        server = Server(
            [self.environment.python, self.folder / "server.py", str(port)],
            log=work / "log",
            environment=settings(case),
            folder=work,
        )
        url = f"http://127.0.0.1:{port}/predict"
        return Running(server, Request(url, wire.plain(case)))
