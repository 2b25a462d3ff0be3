"""MLflow's own scoring server, as `mlflow models serve` starts it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np

from benchmarks.cases.case import Case
from benchmarks.processes import Server, free_port
from benchmarks.serving import wire
from benchmarks.serving.peer import Peer, Request, Running


class MlFlow(Peer):
    name = "mlflow"
    title = "mlflow models serve"
    package = "mlflow"

    def serves(self, case: Case) -> bool:
        return case.wire == "record"

    def start(self, case: Case, work: Path) -> Running:
        model = work / "model"
        if not model.is_dir():
            save = [self.environment.python, self.folder / "save.py", case.folder / "model.joblib", model]
            subprocess.run(save, check=True, capture_output=True, timeout=300)
        port = free_port()
        program = self.environment.folder / "bin"
        server = Server(
            [program / "mlflow", "models", "serve", "-m", model, "-h", "127.0.0.1", "-p", str(port), "--env-manager", "local"],
            log=work / "log",
            environment={"PATH": f"{program}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": str(case.threads)},
            folder=work,
        )
        return Running(server, Request(f"http://127.0.0.1:{port}/invocations", _body(case)))

    def answer(self, body: bytes) -> wire.Answer:
        return np.asarray(json.loads(body)["predictions"], dtype=np.float64)


def _body(case: Case) -> bytes:
    """One row, without its column names: the model was fitted on an array."""
    return json.dumps({"dataframe_split": {"data": [list(case.record.values())]}}).encode()
