"""OpenMaaS: pushed and deployed once with its command line, as its guide says."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from benchmarks.cases.case import Case
from benchmarks.processes import Server, ServerError, free_port
from benchmarks.serving import wire
from benchmarks.serving.peer import Peer, Request, Running

CHOSEN = Path(__file__).parent / "chosen.py"
PATIENCE = 300
"""Seconds for a push, which tries the engines that can run the model."""


def program() -> Path:
    """The command of the environment that the benchmarks were started from."""
    path = Path(os.environ["BENCHMARK_OPENMAAS"])
    if not path.is_file():
        raise ServerError("there is no `openmaas` command in the environment that started this: pip install -e .")
    return path


def interpreter() -> Path:
    """The Python that has `openmaas`."""
    return program().with_name("python")


class OpenMaas(Peer):
    package = "openmaas"

    def __init__(self, engine: str = "auto") -> None:
        self.engine = engine
        self.name = "openmaas" if engine == "auto" else f"openmaas-{engine}"
        self.title = "OpenMaaS" if engine == "auto" else f"OpenMaaS, {engine} forced"

    def version(self) -> str:
        return subprocess.run(
            [interpreter(), "-c", "import openmaas; print(openmaas.__version__)"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()

    def prepare(self) -> None:
        program()

    def start(self, case: Case, work: Path) -> Running:
        """Start with a home where the model is deployed already: peers start configured too."""
        home = work / "home"
        if not home.is_dir():
            deploy(case, work, self.engine)
        variables = self.variables(work)
        server = Server([program(), "up"], log=work / "log", environment=variables, folder=work)
        port = variables["OPENMAAS_HTTP_PORT"]
        key = (home / "admin.key").read_text().strip()
        return Running(server, _request(case, f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {key}"}))

    def variables(self, work: Path) -> dict[str, str]:
        """The environment that it serves in."""
        return variables_of(work, self.engine)

    def serves(self, case: Case) -> bool:
        return True

    def answer(self, body: bytes) -> wire.Answer:
        return wire.read_predictions(body) if b'"predictions"' in body else wire.read_open_inference(body)


class Unsorted(OpenMaas):
    """The same server with batches in the order of arrival, padded to whatever is the longest."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.title = "openmaas-unsorted", "OpenMaaS, not sorted by length"

    def serves(self, case: Case) -> bool:
        return bool(case.others)

    def variables(self, work: Path) -> dict[str, str]:
        return super().variables(work) | {"PYTHONPATH": str(Path(__file__).parent / "unsorted")}


def _request(case: Case, door: str, headers: dict[str, str]) -> Request:
    json = {"Content-Type": "application/json", **headers}
    if case.wire == "tensors":
        return Request(f"{door}/v2/models/{case.name}/infer", wire.open_inference(case), json)
    url = f"{door}/predict/{case.name}?top={case.reference.shape[1]}"
    if case.wire == "record":
        return Request(url, wire.record(case), json)
    return Request(url, case.picture, {"Content-Type": "image/jpeg", **headers})


def variables_of(work: Path, engine: str = "auto") -> dict[str, str]:
    """A home below `work` and ports that are free now. Where the engine is forced, none is measured beside the load."""
    ports = {name: str(free_port()) for name in ("OPENMAAS_HTTP_PORT", "OPENMAAS_CONTROL_PORT")}
    measure = {} if engine == "auto" else {"OPENMAAS_MEASURE": "never"}
    return {"OPENMAAS_HOME": str(work / "home"), "OPENMAAS_RUNTIME_DIR": str(work / "run"), **ports, **measure}


def deploy(case: Case, work: Path, engine: str = "auto") -> None:
    """Push and deploy in a home below `work`, and stop again."""
    variables = variables_of(work, engine)
    server = Server([program(), "up"], log=work / "log", environment=variables, folder=work)
    try:
        wait_for(work / "home" / "admin.key", server)
        sample = case.sample_file
        run(("push", str(case.source), "--name", case.name, *(("--sample", str(sample)) if sample else ())), variables)
        run(("deploy", case.name, "--engine", engine), variables)
        (work / "chosen").mkdir()
        subprocess.run(
            [interpreter(), CHOSEN, "keep", case.name, work / "chosen"],
            check=True,
            timeout=PATIENCE,
            env={**os.environ, **variables},
        )
    finally:
        server.stop()


def run(words: tuple[str, ...], variables: dict[str, str]) -> str:
    """What a command of OpenMaaS prints; one that fails raises with what it said."""
    done = subprocess.run(
        [program(), *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode != 0:
        raise ServerError(f"openmaas {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_for(path: Path, server: Server) -> None:
    """Until the server has written a file."""
    deadline = time.monotonic() + PATIENCE
    while not path.is_file():
        server.require_alive()
        if time.monotonic() > deadline:
            raise ServerError(f"{path.name} did not appear in {PATIENCE} s")
        time.sleep(0.05)
