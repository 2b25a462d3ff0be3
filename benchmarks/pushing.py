"""How fast a large model is pushed, beside the disk itself, and what it takes of memory."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.machine import Machine, this_machine
from benchmarks.places import RESULTS
from benchmarks.processes import Server
from benchmarks.serving.peers.openmaas.peer import program, variables_of, wait_for

MIB = 2**20
SIZE = 1024 * MIB
"""Bytes of the pushed file."""
LOOK = 0.02
"""Seconds between two looks at the processes' memory."""
DESCRIPTION = """\
format: dummy
signature:
  inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]
  outputs: [{name: y, datatype: FP32, shape: [-1, 4]}]
"""


@dataclass
class Pushing:
    """All readings, by what was done: seconds, and bytes held at most above what was held before."""

    machine: Machine
    rounds: int
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def save(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "pushing.json").write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def run_all(rounds: int, console: Console) -> Pushing:
    """A copy through to the disk, the same with the two digests that a push makes, and the push, in turn."""
    report = Pushing(this_machine(), rounds)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        work = Path(folder)
        variables = variables_of(work)
        server = Server([program(), "up"], log=work / "log", environment=variables, folder=work)
        try:
            wait_for(work / "home" / "admin.key", server)
            for turn in range(rounds):
                console.print(f"push: round {turn + 1} of {rounds}")
                model = _model(work / f"model-{turn}")
                _copy(report, model, work / "copy")
                _push(report, model, server, {**os.environ, **variables})
                shutil.rmtree(model)
        finally:
            server.stop()
    report.save()
    return report


def _model(folder: Path) -> Path:
    """A folder with one large file that no compression could shrink, another one each time."""
    folder.mkdir()
    (folder / "openmaas.yaml").write_text(DESCRIPTION)
    with (folder / "weights.bin").open("wb") as file:
        for _ in range(SIZE // (16 * MIB)):
            file.write(os.urandom(16 * MIB))
    return folder


def _copy(report: Pushing, model: Path, target: Path) -> None:
    for what, digests in (("copy and fsync", 0), ("copy, fsync and two SHA-256", 2)):
        start = time.perf_counter()
        for _ in range(digests):
            with (model / "weights.bin").open("rb") as file:
                hashlib.file_digest(file, "sha256")
        shutil.copyfile(model / "weights.bin", target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
        report.seconds[what].append(time.perf_counter() - start)
        target.unlink()


def _push(report: Pushing, model: Path, server: Server, environment: dict[str, str]) -> None:
    with _watching(server) as held:
        start = time.perf_counter()
        client = psutil.Popen([program(), "push", str(model), "--name", "large"], env=environment, stdout=subprocess.DEVNULL)
        peak = 0
        while client.poll() is None:
            peak = max(peak, _resident(client))
            time.sleep(LOOK)
        report.seconds["openmaas push"].append(time.perf_counter() - start)
        if client.returncode:
            raise RuntimeError(f"openmaas push failed with exit code {client.returncode}")
    report.memory["the client"].append(peak)
    for kind, size in held.items():
        report.memory[kind].append(size)


@contextmanager
def _watching(server: Server) -> Iterator[dict[str, int]]:
    """The most that each of the server's processes holds meanwhile, by its kind; those that examine what is pushed too."""
    held: dict[str, int] = {}
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK):
            for process in server.tree():
                kind = _kind(process)
                held[kind] = max(held.get(kind, 0), _resident(process))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        stop.set()
        thread.join()


def _kind(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return "ended"
    if "openmaas.bootstrap" in words:
        return words[words.index("openmaas.bootstrap") + 1]
    return "examination" if any("examiner" in word for word in words) else "supervisor"


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0


def _lines(report: Pushing) -> list[tuple[str, str]]:
    speed = [
        (what, f"{median(seconds):.2f} s, {SIZE / MIB / median(seconds):,.0f} MiB/s")
        for what, seconds in report.seconds.items()
    ]
    sizes = [
        (f"most memory: {kind}", f"{max(values) / MIB:.0f} MiB")
        for kind, values in sorted(report.memory.items())
        if kind in ("the client", "control", "examination")
    ]
    return [*speed, *sizes]


def terminal(report: Pushing) -> Table:
    table = Table("what", f"median of {report.rounds}", title=f"Push of 1 GiB: {report.machine}", header_style="bold")
    for line in _lines(report):
        table.add_row(*line)
    return table


def markdown(report: Pushing) -> str:
    lines = "\n".join(f"| {what} | {value} |" for what, value in _lines(report))
    return f"{report.machine}\n\n| one file of 1 GiB | median of {report.rounds} |\n| --- | --- |\n{lines}"
