"""MLServer with its adaptive batching, the model in a worker process as by default."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.cases.case import Case
from benchmarks.processes import Server, free_port
from benchmarks.serving import wire
from benchmarks.serving.engine import MAX_BATCH, MAX_WAIT
from benchmarks.serving.peer import Peer, Request, Running, settings


class MlServer(Peer):
    name = "mlserver"
    title = "MLServer"
    package = "mlserver"

    def start(self, case: Case, work: Path) -> Running:
        port = free_port()
        server_settings = {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": free_port(),
            "metrics_port": free_port(),
            "parallel_workers": 1,
            "debug": False,
            "use_structured_logging": False,
        }
        model_settings = {
            "name": case.name,
            "implementation": "benchmarks.serving.peers.mlserver.runtime.Model",
            "max_batch_size": MAX_BATCH,
            "max_batch_time": MAX_WAIT,
        }
        (work / "settings.json").write_text(json.dumps(server_settings))
        (work / "model-settings.json").write_text(json.dumps(model_settings))
        server = Server(
            [self.environment.folder / "bin" / "mlserver", "start", work],
            log=work / "log",
            environment=settings(case),
            folder=work,
        )
        url = f"http://127.0.0.1:{port}/v2/models/{case.name}/infer"
        headers = {"Content-Type": "application/json"}
        return Running(server, Request(url, wire.open_inference(case), headers))

    def answer(self, body: bytes) -> wire.Answer:
        return wire.read_open_inference(body)
