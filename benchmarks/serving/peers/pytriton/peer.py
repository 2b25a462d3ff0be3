"""PyTriton with its dynamic batcher, which waits for no one."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cases.case import Case
from benchmarks.processes import Server, free_port
from benchmarks.serving import wire
from benchmarks.serving.peer import Peer, Request, Running, settings
from benchmarks.serving.peers.triton.libraries import library_path


class PyTriton(Peer):
    name = "pytriton"
    title = "PyTriton"
    package = "nvidia-pytriton"

    def start(self, case: Case, work: Path) -> Running:
        ports = [free_port() for _ in range(3)]
        server = Server(
            [self.environment.python, self.folder / "server.py", case.name, *map(str, ports)],
            log=work / "log",
            environment={
                **settings(case),
                "LD_LIBRARY_PATH": library_path(),
                "PYTRITON_HOME": str(work / "home"),
            },
            folder=work,
        )
        url = f"http://127.0.0.1:{ports[0]}/v2/models/{case.name}/infer"
        return Running(server, Request(url, wire.open_inference(case)))

    def answer(self, body: bytes) -> wire.Answer:
        return wire.read_open_inference(body)
