"""Visit every server in turn, and the engine alone in its own loop, several times over."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.generation.load import Reading, measure
from benchmarks.generation.model import TITLE, converted
from benchmarks.generation.peer import STREAMS, THREADS, Peer, Running
from benchmarks.generation.report import Report, Visit
from benchmarks.generation.stream import StreamError, ask
from benchmarks.machine import this_machine
from benchmarks.places import REPOSITORY
from benchmarks.processes import Server, ServerError
from benchmarks.serving.peers.openmaas.peer import interpreter

PATIENCE = 420.0
"""Seconds that a server gets from its start to its first answer; one compiles for minutes the first time."""


def run(peers: Sequence[Peer], levels: Sequence[int], rounds: int, console: Console, former: Report | None = None) -> Report:
    """All rounds; the report is saved after each visit, so that an end by force loses one.

    former: the report of a run that these visits are added to; the engine alone is not measured again then.
    """
    precisions = sorted({peer.weights for peer in peers if peer.name.startswith("openmaas")})
    alone = {} if former else {f"alone-{weights}": weights for weights in precisions}
    report = former or Report(
        date=datetime.now(UTC).date().isoformat(),
        machine=this_machine(),
        rounds=rounds,
        levels=sorted(levels),
        titles={peer.name: peer.title for peer in peers} | dict.fromkeys(alone, "the engine alone"),
        weights={peer.name: peer.weights for peer in peers} | alone,
        versions={peer.name: peer.version() for peer in peers},
        model=TITLE,
    )
    for peer in peers:
        report.titles[peer.name], report.weights[peer.name] = peer.title, peer.weights
        report.versions[peer.name] = peer.version()
        report.failures.pop(peer.name, None)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, _progress(console) as progress:
        task = progress.add_task("", total=rounds * (len(peers) + len(alone)))
        for turn in range(rounds):
            shift = turn * len(peers) // rounds  # another order in each round
            for peer in [*peers[shift:], *peers[:shift]]:
                tell = _teller(progress, task, f"round {turn + 1}, {peer.title} {peer.weights}")
                _try(
                    report,
                    peer.name,
                    console,
                    partial(_visit, peer, Path(folder) / peer.name, report, turn, tell),
                )
                progress.advance(task)
            for name, weights in alone.items():
                tell = _teller(progress, task, f"round {turn + 1}, the engine alone {weights}")
                _try(report, name, console, partial(_alone, name, weights, report.levels))
                progress.advance(task)
    return report


def _try(report: Report, name: str, console: Console, work: Callable[[], Visit]) -> None:
    if name in report.failures:
        return
    try:
        visit = work()
    except (ServerError, StreamError, OSError, TimeoutError, subprocess.SubprocessError) as error:
        report.failures[name] = str(error)
        console.print(f"{name} failed: {error}", style="red", markup=False)
    else:
        report.visits.append(visit)
        rates = " / ".join(f"{level.decode:.1f}" for level in visit.reading.levels)
        console.print(f"{name}: {rates} tokens/s, prefill {visit.reading.prefill:,.0f}", highlight=False)
    report.save()


def _visit(peer: Peer, work: Path, report: Report, turn: int, tell: Callable[[str], None]) -> Visit:
    work.mkdir(parents=True, exist_ok=True)
    tell("starting")
    running = peer.start(work)
    try:
        _first_answer(running)
        cold = time.perf_counter() - running.server.started
        with Weighed(running.server) as weighed:
            reading = asyncio.run(measure(running.endpoint, report.levels, turn, tell))
        running.server.require_alive()
        return Visit(peer.name, reading, weighed.most, cold)
    finally:
        tell("stopping")
        running.server.stop()


def _first_answer(running: Running) -> None:
    deadline = time.monotonic() + PATIENCE
    last = "no connection"
    while time.monotonic() < deadline:
        running.server.require_alive()
        try:
            body = running.endpoint.body("def", 2)
            asyncio.run(ask(running.endpoint.url, running.endpoint.headers, body))
        except (OSError, StreamError, asyncio.IncompleteReadError) as error:
            last = repr(error)
        else:
            return
        time.sleep(0.1)
    raise ServerError(f"no answer in {PATIENCE:.0f} s; the last try: {last}")


class Weighed:
    """The most that a server's process tree holds (PSS, bytes), seen once a second."""

    def __init__(self, server: Server) -> None:
        self.most = 0
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Weighed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            self.most = max(self.most, self._server.memory().pss)


def _alone(name: str, weights: str, levels: Sequence[int]) -> Visit:
    """The same engine in its own loop, in a process of its own."""
    words = [str(converted(weights)), weights, str(THREADS), str(STREAMS), ",".join(map(str, levels))]
    done = subprocess.run(
        [interpreter(), "-m", "benchmarks.generation.alone", *words],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    if done.returncode:
        raise ServerError(f"the engine alone ended with {done.returncode}: {done.stderr[-1500:]}")
    told = msgspec.json.decode(done.stdout.splitlines()[-1])
    return Visit(name, msgspec.convert(told["reading"], Reading), told["memory"])


def _teller(progress: Progress, task: object, of: str) -> Callable[[str], None]:
    return lambda what: progress.update(task, description=f"{of}: {what}")  # type: ignore[arg-type]


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn())
    return Progress(*columns, console=console)
