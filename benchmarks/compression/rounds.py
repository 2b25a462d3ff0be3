"""One run: every recipe by hand, then the search for each target, then the best of all side by side."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.compression.commands import CommandFailed, Commands, serving
from benchmarks.compression.distillation import distil
from benchmarks.compression.report import Made, Report, Result
from benchmarks.compression.subject import SUBJECTS, Subject
from benchmarks.generation.model import CONVERTER

TARGETS = ("size", "throughput")
FORCED = "openvino:bf16"


def run(subjects: list[Subject], seconds: float, console: Console, report: Report) -> Report:
    """The report with what was measured of these models in place of what it had. seconds: that each search may take."""
    for subject in subjects:
        console.print(f"[bold]{subject.title}[/bold]: {subject.prepare()}")
        with serving(CONVERTER if subject.generates else None) as commands:
            result = _compress(subject, commands, seconds, console)
        order = [*SUBJECTS]
        others = [one for one in report.results if one.subject != subject.name]
        report.results = sorted([*others, result], key=lambda one: order.index(one.subject))
        report.save()
    return report


def teach(seeds: int, console: Console, report: Report) -> Report:
    """The report with students that were distilled, in place of those that it had."""
    subject = SUBJECTS["digits"]
    console.print(f"[bold]Distillation[/bold]: {subject.prepare()}")
    with serving() as commands:
        commands.run("push", subject.folder / "model", "--name", "digits")
        for part in ("train", "test", "few"):
            commands.run("data", "push", subject.data(part), "--name", f"digits-{part}")
        commands.wait_for_jobs()
        report.distillation = distil(commands, seeds, console)
    report.save()
    return report


def _compress(subject: Subject, commands: Commands, seconds: float, console: Console) -> Result:
    name = subject.name
    commands.run("push", subject.folder / "model", "--name", name)
    for part in ("train", "test"):
        commands.run("data", "push", subject.data(part), "--name", f"{name}-{part}")
    commands.wait_for_jobs()
    result = Result(
        subject=name, title=subject.title, said=subject.prepare(), batch=subject.batch, seconds=seconds,
        generates=subject.generates,
    )  # fmt: skip
    for recipe in subject.recipes:
        result.made.append(_make(subject, commands, recipe.stem, "--recipe", recipe, "--seconds", "5"))
        console.print(f"  {result.made[-1]}")
    for target in TARGETS:
        arguments = ("--auto", "--target", target, "--max-loss", subject.max_loss, "--seconds", str(seconds))
        made = _make(subject, commands, f"auto, {target}", *arguments)
        result.made.append(made)
        console.print(f"  {made}")
    _side_by_side(subject, commands, result, console)
    return result


def _make(subject: Subject, commands: Commands, label: str, *arguments: str | Path) -> Made:
    began = time.perf_counter()
    data = ("--data", f"{subject.name}-train", "--eval", f"{subject.name}-test")
    metric = ("--metric", subject.metric) if subject.metric else ()
    try:
        job = commands.json("optimize", f"{subject.name}:1", *arguments, *data, *metric)
    except CommandFailed as failed:
        return Made(label=label, seconds=time.perf_counter() - began, failed=str(failed))
    commands.wait_for_jobs()
    result: dict[str, Any] = job["result"]
    comparison = _slim(result["comparison"])
    version = result.get("version") or comparison.get("recommended") or ""
    return Made(
        label=label,
        seconds=time.perf_counter() - began,
        version=version,
        comparison=comparison,
        why=comparison.get("why", ""),
    )


def _side_by_side(subject: Subject, commands: Commands, result: Result, console: Console) -> None:
    """All versions once more in one alternating run, the version that was pushed first; figures are compared in here only."""
    plain = f"{subject.name}:1"
    versions = list(dict.fromkeys(one.version for one in result.made if one.version and one.version != plain))
    forced = [one.version for one in result.made if one.label in subject.forced and one.version]
    console.print(f"  side by side: {', '.join(versions)}")
    first = [subject.plain, ""] if subject.plain else [""]
    engines = [*first, *("" for _ in versions), *(FORCED for _ in forced)]
    with tempfile.TemporaryDirectory() as folder:
        job = commands.json(
            "compare", *(plain for _ in first), *versions, *forced, "--engines", ",".join(engines),
            "--data", f"{subject.name}-test", "--report", Path(folder) / "report.html",
        )  # fmt: skip
    result.comparison = _slim(job["result"]["comparison"])


def _slim(comparison: dict[str, Any]) -> dict[str, Any]:
    """Without the rows that changed, which have pictures."""
    for entrant in comparison["entrants"]:
        entrant.pop("changed", None)
    return comparison
