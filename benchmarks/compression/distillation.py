"""The same student with and without a teacher, over several seeds."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from benchmarks.compression.commands import Commands
from benchmarks.compression.report import Distillation

HERE = Path(__file__).parent
FIRST = 5
"""The first seed: the pass's defaults were chosen on those below."""
SETS = {"few": "200 labelled rows", "train": "all 1,257 rows, which the teacher was trained on too"}


def distil(commands: Commands, seeds: int, console: Console) -> list[Distillation]:
    """Accuracy of both students on each set; a student's weights and the order of its rows are the seed's."""
    recipe: dict[str, Any] = msgspec.yaml.decode((HERE / "recipes" / "distillation" / "student.yaml").read_bytes())
    step = recipe["steps"][0]["distil"]
    reports = []
    for name, rows in SETS.items():
        found = Distillation(step=step, rows=rows)
        for seed in range(FIRST, FIRST + seeds):
            found.seeds.append(seed)
            found.taught.append(_accuracy(commands, name, step, seed))
            found.alone.append(_accuracy(commands, name, {**step, "mix": 0.0}, seed))
            said = f"{found.taught[-1]:.4f} with a teacher, {found.alone[-1]:.4f} without"
            console.print(f"  distillation on {rows}, seed {seed}: {said}")
        reports.append(found)
    return reports


def _accuracy(commands: Commands, rows: str, step: dict[str, Any], seed: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_bytes(msgspec.yaml.encode({"seed": seed, "steps": [{"distil": step}]}))
        job = commands.json(
            "optimize", "digits:1", "--recipe", path, "--data", f"digits-{rows}", "--eval", "digits-test", "--seconds", "1"
        )
    commands.wait_for_jobs()
    return float(job["result"]["comparison"]["entrants"][1]["metrics"]["accuracy"]["value"])
