"""tritonserver run directly: its C++ door and batcher, the model in its Python backend's stub."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from benchmarks.cases.case import Case
from benchmarks.environments import Environment
from benchmarks.places import REPOSITORY
from benchmarks.processes import Server, free_port
from benchmarks.serving import wire
from benchmarks.serving.engine import MAX_BATCH
from benchmarks.serving.peer import Peer, Request, Running, settings
from benchmarks.serving.peers.pytriton.peer import PyTriton
from benchmarks.serving.peers.triton.libraries import library_path

TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}


class Triton(Peer):
    name = "triton"
    title = "Triton, Python backend"
    package = "nvidia-pytriton"

    @property
    def environment(self) -> Environment:
        return PyTriton().environment

    @property
    def _wheel(self) -> Path:
        return self.environment.packages / "pytriton" / "tritonserver"

    def prepare(self) -> None:
        super().prepare()
        # The wheel keeps a stub for each Python apart; Triton looks in the backend's folder.
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = self._wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
        shutil.copy2(stub, self._wheel / "backends" / "python")
        # The stub ignores PYTHONPATH but does read the environment of the `python` on its path.
        (self.environment.packages / "benchmarks.pth").write_text(f"{REPOSITORY}\n")

    def start(self, case: Case, work: Path) -> Running:
        self._write_repository(case, work / "models")
        port = free_port()
        server = Server(
            [
                self._wheel / "bin" / "tritonserver",
                f"--model-repository={work / 'models'}",
                f"--backend-directory={self._wheel / 'backends'}",
                "--http-address=127.0.0.1",
                f"--http-port={port}",
                "--allow-grpc=false",
                "--allow-metrics=false",
                "--log-info=false",
            ],
            log=work / "log",
            environment={
                **settings(case),
                "PATH": f"{self.environment.folder / 'bin'}:/usr/bin:/bin",
                "LD_LIBRARY_PATH": library_path(),
            },
            folder=work,
        )
        url = f"http://127.0.0.1:{port}/v2/models/{case.name}/infer"
        return Running(server, Request(url, wire.open_inference(case)))

    def _write_repository(self, case: Case, repository: Path) -> None:
        model = repository / case.name
        (model / "1").mkdir(parents=True, exist_ok=True)
        shutil.copy2(self.folder / "model.py", model / "1" / "model.py")
        inputs = ", ".join(
            f'{{ name: "{name}" data_type: {TYPES[array.dtype.name]} dims: [ -1 ] }}' for name, array in case.inputs.items()
        )
        (model / "config.pbtxt").write_text(
            f'name: "{case.name}"\n'
            'backend: "python"\n'
            f"max_batch_size: {MAX_BATCH}\n"
            f"input [ {inputs} ]\n"
            f'output [ {{ name: "{case.output}" data_type: TYPE_FP32 dims: [ -1 ] }} ]\n'
            "dynamic_batching { }\n"
            "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
        )

    def answer(self, body: bytes) -> wire.Answer:
        return wire.read_open_inference(body)
