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


def distil(commands: Commands, seeds: int, console: Console) -> Distillation:
    """Accuracy of both students for each seed; the student's weights and the order of the rows are the seed's."""
    recipe: dict[str, Any] = msgspec.yaml.decode((HERE / "recipes" / "distillation" / "student.yaml").read_bytes())
    found = Distillation(recipe=recipe)
    for seed in range(seeds):
        mixes = (recipe["steps"][0]["distil"].get("mix", 0.7), 0.0)
        pair = [_accuracy(commands, recipe, seed, mix) for mix in mixes]
        found.taught.append(pair[0])
        found.alone.append(pair[1])
        console.print(f"  distillation, seed {seed}: {pair[0]:.4f} with a teacher, {pair[1]:.4f} without")
    return found


def _accuracy(commands: Commands, recipe: dict[str, Any], seed: int, mix: float) -> float:
    step = {"distil": {**recipe["steps"][0]["distil"], "mix": mix}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_bytes(msgspec.yaml.encode({"seed": seed, "steps": [step]}))
        job = commands.json("optimize", "digits:1", "--recipe", path, "--data", "digits-train", "--eval", "digits-test")
    commands.wait_for_jobs()
    return float(job["result"]["comparison"]["entrants"][1]["metrics"]["accuracy"]["value"])
