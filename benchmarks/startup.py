"""How long OpenMaaS takes to start, what it weighs when idle, how it lists many models."""

from __future__ import annotations

import http.client
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.cases.case import CASES
from benchmarks.machine import Machine, this_machine
from benchmarks.places import RESULTS
from benchmarks.processes import Server, ServerError
from benchmarks.serving.peer import Running
from benchmarks.serving.peers.openmaas.peer import OpenMaas, deploy, program, run, variables_of
from benchmarks.serving.visit import check, first_answer

CASE = CASES["iris"]
MANY = 10_000
"""Models in the registry that is listed."""
SETTLE = 5.0
"""Seconds without a request before a process counts as idle."""
MIB = 2**20


@dataclass
class Startup:
    """All readings, by what was measured."""

    machine: Machine
    rounds: int
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """RSS in bytes by kind of process."""

    def save(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(self), indent=1)
        (RESULTS / "startup.json").write_bytes(text + b"\n")


def run_all(rounds: int, console: Console) -> Startup:
    """Every measurement `rounds` times over."""
    CASE.export()
    report = Startup(this_machine(), rounds)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        work = Path(folder)
        console.print("startup: pushing and deploying a model")
        deploy(CASE, work)
        for turn in range(rounds):
            console.print(f"startup: round {turn + 1} of {rounds}")
            _imports(report)
            _first_start(report, work / f"first-{turn}")
            _start(report, work)
        console.print(f"startup: listing {MANY:,} models")
        _listing(report, work, rounds)
    report.save()
    return report


def _imports(report: Startup) -> None:
    python = program().with_name("python")
    code = "import time; start = time.perf_counter(); import openmaas; print(time.perf_counter() - start)"
    printed = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    report.seconds["import openmaas"].append(float(printed))
    report.seconds["openmaas --help"].append(_timed(lambda: run(("--help",), {})))


def _first_start(report: Startup, work: Path) -> None:
    """The very first start makes the database and the admin's key as well."""
    work.mkdir()
    variables = variables_of(work)
    server = Server([program(), "up"], log=work / "log", environment=variables, folder=work)
    try:
        took = _ready(server, f"http://127.0.0.1:{variables['OPENMAAS_HTTP_PORT']}")
        report.seconds["openmaas up in an empty home → ready"].append(took)
    finally:
        server.stop()
        shutil.rmtree(work)


def _start(report: Startup, work: Path) -> None:
    peer = OpenMaas()
    running = peer.start(CASE, work)
    try:
        report.seconds["openmaas up → /v2/health/ready"].append(_ready(running.server, _origin(running)))
        check(peer, CASE, first_answer(running))
        took = time.perf_counter() - running.server.started
        report.seconds["openmaas up → first prediction"].append(took)
        time.sleep(SETTLE)
        for process in running.server.tree():
            report.memory[_kind(process)].append(process.memory_info().rss)
        report.memory["all processes, PSS"].append(running.server.memory().pss)
    finally:
        running.server.stop()


def _listing(report: Startup, work: Path, rounds: int) -> None:
    _fill(work / "home")
    running = OpenMaas().start(CASE, work)
    variables = running.server.environment
    try:
        first_answer(running)
        for _ in range(rounds):
            for words in (("ls",), ("ls", "--json")):
                took = _timed(partial(run, words, variables))
                report.seconds[f"openmaas {' '.join(words)}, {MANY:,} models"].append(took)
    finally:
        running.server.stop()


def _fill(home: Path) -> None:
    """Copy the rows of the one pushed model under other names, with no server running."""
    (path,) = home.glob("*.db")
    with sqlite3.connect(path) as database:
        for table, changes in (
            ("models", {"id": "id + n", "name": "name || '-' || n"}),
            ("versions", {"id": "id + n", "model_id": "model_id + n"}),
            ("version_files", {"version_id": "version_id + n"}),
        ):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            values = ", ".join(changes.get(column, column) for column in columns)
            database.execute(
                "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?) "
                f"INSERT INTO {table} SELECT {values} FROM {table}, numbers",
                (MANY - 1,),
            )
    database.close()


def _ready(server: Server, origin: str) -> float:
    """Seconds from the start of a server to the first 200 of its readiness."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        server.require_alive()
        try:
            connection = http.client.HTTPConnection(urlsplit(origin).netloc, timeout=5)
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return time.perf_counter() - server.started
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.005)
    raise ServerError("the server was not ready in 60 s")


def _origin(running: Running) -> str:
    url = urlsplit(running.request.url)
    return f"{url.scheme}://{url.netloc}"


def _kind(process: psutil.Process) -> str:
    """Which of our processes this is: the word after the module that builds them all."""
    words = process.cmdline()
    module = "openmaas.bootstrap"
    return words[words.index(module) + 1] if module in words else "supervisor"


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _lines(report: Startup) -> list[tuple[str, str, str]]:
    """What, its median, and its range."""
    lines = []
    for what, seconds in report.seconds.items():
        numbers = [1000 * value for value in seconds]
        lines.append((what, f"{median(numbers):,.0f} ms", f"{min(numbers):,.0f} – {max(numbers):,.0f}"))
    for kind, sizes in report.memory.items():
        numbers = [size / MIB for size in sizes]
        lines.append((f"idle memory: {kind}", f"{median(numbers):.0f} MiB", f"{min(numbers):.0f} – {max(numbers):.0f}"))
    return lines


def terminal(report: Startup) -> Table:
    table = Table("what", "median", "least – most", title=f"Start and size: {report.machine}", header_style="bold")
    for line in _lines(report):
        table.add_row(*line)
    return table


def markdown(report: Startup) -> str:
    rows = "\n".join(f"| {' | '.join(line)} |" for line in _lines(report))
    return (
        f"Medians of {report.rounds} runs, {report.machine}.\n\n| what | median | least – most |\n| --- | ---: | ---: |\n{rows}"
    )
