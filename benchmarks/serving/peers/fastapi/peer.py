"""FastAPI under uvicorn, with one worker process or two."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cases.case import Case
from benchmarks.environments import Environment
from benchmarks.processes import Server, free_port
from benchmarks.serving import wire
from benchmarks.serving.peer import Peer, Request, Running, settings


class FastApi(Peer):
    package = "fastapi"

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.name = f"fastapi-{workers}"
        self.title = f"FastAPI, {workers} worker{'s' if workers > 1 else ''}"

    @property
    def folder(self) -> Path:
        return Path(__file__).parent

    @property
    def environment(self) -> Environment:
        return Environment("fastapi", self.folder / "requirements.txt")

    def serves(self, case: Case) -> bool:
        return True

    def start(self, case: Case, work: Path) -> Running:
        port = free_port()
        server = Server(
            [
                self.environment.folder / "bin" / "uvicorn",
                "benchmarks.serving.peers.fastapi.server:app",
                "--host=127.0.0.1",
                f"--port={port}",
                f"--workers={self.workers}",
                "--no-access-log",
                "--log-level=warning",
            ],
            log=work / "log",
            environment=settings(case, processes=self.workers),
        )
        door = f"http://127.0.0.1:{port}"
        if case.wire == "image":
            return Running(server, Request(f"{door}/picture", case.picture, {"Content-Type": "image/jpeg"}))
        if case.wire == "record":
            return Running(server, Request(f"{door}/record", wire.record(case)))
        return Running(server, Request(f"{door}/predict", wire.plain(case)))
