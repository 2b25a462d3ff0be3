"""BentoML with its adaptive batching."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.cases.case import Case
from benchmarks.processes import Server, free_port
from benchmarks.serving import wire
from benchmarks.serving.peer import Peer, Request, Running, settings


class BentoMl(Peer):
    name = "bentoml"
    title = "BentoML"
    package = "bentoml"

    def start(self, case: Case, work: Path) -> Running:
        port = free_port()
        server = Server(
            [
                self.environment.folder / "bin" / "bentoml",
                "serve",
                "benchmarks.serving.peers.bentoml.server:Model",
                "--host=127.0.0.1",
                f"--port={port}",
            ],
            log=work / "log",
            environment={
                **settings(case),
                "BENTOML_HOME": str(work / "home"),
                "BENTOML_DO_NOT_TRACK": "True",
            },
            folder=work,
        )
        body = json.dumps({"samples": [case.samples]}).encode()
        return Running(server, Request(f"http://127.0.0.1:{port}/predict", body))

    def answer(self, body: bytes) -> wire.Answer:
        return np.asarray(json.loads(body), dtype=np.float64)
