"""Visit every server in turn, several times over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.cases.case import Case
from benchmarks.machine import this_machine
from benchmarks.places import REPOSITORY
from benchmarks.processes import ServerError
from benchmarks.serving.peer import Peer, settings
from benchmarks.serving.peers.openmaas.peer import CHOSEN, OpenMaas, interpreter
from benchmarks.serving.report import Report
from benchmarks.serving.visit import Visit, visit

WARM = 2
"""Seconds of load before the first measurement of a visit."""


def run(
    case: Case,
    peers: Sequence[Peer],
    *,
    connections: Sequence[int],
    seconds: int,
    rounds: int,
    console: Console,
) -> Report:
    """All rounds over one case; the report is saved after each, so that an end by force loses one."""
    report = Report(
        case=case.name,
        title=case.title,
        unit=case.unit,
        date=datetime.now(UTC).date().isoformat(),
        machine=this_machine(),
        seconds=seconds,
        rounds=rounds,
        connections=sorted(connections),
        titles={peer.name: peer.title for peer in peers},
        versions={peer.name: peer.version() for peer in peers},
    )
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, _progress(console) as progress:
        task = progress.add_task("", total=rounds * (len(peers) + 1))
        for turn in range(rounds):
            # Another order in each round, so that a quiet minute favours nobody twice.
            shift = turn * len(peers) // rounds
            for peer in [*peers[shift:], *peers[:shift]]:

                def tell(what: str, of: str = f"round {turn + 1}, {peer.title}") -> None:
                    progress.update(task, description=f"{case.name}: {of}: {what}")

                if peer.name not in report.failures:
                    try:
                        report.visits.append(
                            visit(
                                peer,
                                case,
                                connections=report.connections,
                                seconds=seconds,
                                warm=WARM,
                                work=Path(folder) / peer.name,
                                tell=tell,
                            )
                        )
                        console.print(f"round {turn + 1}: {_summary(peer, report.visits[-1])}", highlight=False)
                    except (ServerError, OSError, subprocess.SubprocessError) as error:
                        report.failures[peer.name] = str(error)
                        console.print(f"{peer.title} failed: {error}", style="red", markup=False)
                progress.advance(task)
            progress.update(task, description=f"{case.name}: round {turn + 1}, the engine alone")
            if case.wire == "tensors" and not case.others:  # of rows that differ there is no one ceiling
                report.alone.append(engine_alone(case))
            kept = Path(folder) / OpenMaas().name / "chosen"
            if kept.is_dir():
                report.choice = choice_of(kept)
            if kept.is_dir() and not case.others:
                report.chosen.append(chosen_alone(kept, case))
            progress.advance(task)
            report.save()
    return report


def _summary(peer: Peer, visit: Visit) -> str:
    rates = " / ".join(f"{reading.rate:,.0f}" for reading in visit.readings)
    return f"{peer.title}: {rates} a second, {visit.cold:.1f} s to the first answer"


def engine_alone(case: Case) -> dict[int, float]:
    """Rows a second of onnxruntime by batch size, in a process of its own."""
    length = "2" if case.slow else "0.5"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.alone", case.folder / "sample.json", length],
        env={**os.environ, **settings(case)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return {int(batch): rate for batch, rate in json.loads(done.stdout).items()}


def choice_of(kept: Path) -> str:
    """The engine that OpenMaaS chose, and why."""
    engine = json.loads((kept / "chosen.json").read_text())["engine"]
    threads = f", {engine['threads']} threads" if engine["threads"] else ""
    return f"{engine['name']}{threads} ({engine['why']})"


def chosen_alone(kept: Path, case: Case) -> dict[int, float]:
    """Rows a second of the engine that OpenMaaS chose by batch size, in a process of its own."""
    picture = [case.folder / "picture.jpg"] if case.wire == "image" else []
    done = subprocess.run(
        [interpreter(), CHOSEN, "run", kept, "2" if case.slow else "0.5", *picture],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return {int(batch): rate for batch, rate in json.loads(done.stdout.splitlines()[-1]).items()}


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
