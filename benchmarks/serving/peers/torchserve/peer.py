"""TorchServe: a Java door, one Python worker and its batching."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.cases.case import Case
from benchmarks.processes import Server, free_port
from benchmarks.serving import wire
from benchmarks.serving.engine import MAX_BATCH, MAX_WAIT
from benchmarks.serving.peer import Peer, Request, Running, settings


class TorchServe(Peer):
    name = "torchserve"
    title = "TorchServe"
    package = "torchserve"

    def start(self, case: Case, work: Path) -> Running:
        self._archive(case, work)
        port = free_port()
        self._configure(work, port)
        server = Server(
            [
                self.environment.folder / "bin" / "torchserve",
                "--start",
                "--foreground",
                "--disable-token-auth",
                f"--ts-config={work / 'config.properties'}",
                f"--model-store={work}",
                f"--models={case.name}={case.name}.mar",
            ],
            log=work / "log",
            environment={
                **settings(case),
                "PATH": f"{self.environment.folder / 'bin'}:/usr/bin:/bin",
                "LOG_LOCATION": str(work / "logs"),
                "METRICS_LOCATION": str(work / "logs"),
                "TEMP": str(work),
            },
            folder=work,
        )
        url = f"http://127.0.0.1:{port}/predictions/{case.name}"
        headers = {"Content-Type": "application/json"}
        return Running(server, Request(url, wire.plain(case), headers))

    def _archive(self, case: Case, work: Path) -> None:
        """Pack the handler and its batching; the engine reads the model from the cache."""
        (work / "model.yaml").write_text(
            f"minWorkers: 1\nmaxWorkers: 1\nbatchSize: {MAX_BATCH}\n"
            f"maxBatchDelay: {round(MAX_WAIT * 1000)}\nresponseTimeout: 120\n"
        )
        subprocess.run(
            [
                self.environment.folder / "bin" / "torch-model-archiver",
                f"--model-name={case.name}",
                "--version=1",
                f"--handler={self.folder / 'handler.py'}",
                f"--config-file={work / 'model.yaml'}",
                f"--export-path={work}",
                "--force",
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )

    def _configure(self, work: Path, port: int) -> None:
        (work / "config.properties").write_text(
            f"inference_address=http://127.0.0.1:{port}\n"
            f"management_address=http://127.0.0.1:{free_port()}\n"
            f"metrics_address=http://127.0.0.1:{free_port()}\n"
            f"grpc_inference_port={free_port()}\n"
            f"grpc_management_port={free_port()}\n"
            "disable_system_metrics=true\n"
            "enable_envvars_config=false\n"
            # The default queue of 100 would refuse nothing here, yet is close to 64 callers.
            "job_queue_size=1000\n"
        )
