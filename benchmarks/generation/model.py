"""The benchmark's model, made once: its folder, converted for OpenVINO, as a GGUF file. Speed does not depend on training."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from benchmarks.environments import Environment
from benchmarks.places import CACHE, REPOSITORY
from benchmarks.serving.peers.openmaas.peer import interpreter

TITLE: Final = "Qwen2.5-0.5B's shape, random weights"
FOLDER: Final = CACHE / "generation"
CONVERTER = Environment("optimum", REPOSITORY / "src" / "openmaas" / "tasks" / "environments" / "optimum.txt")
CONVERT = REPOSITORY / "src" / "openmaas" / "formats" / "causal" / "scripts" / "optimum_convert.py"
"""What OpenMaaS converts with, and the environment that it does so in."""
WEIGHTS: Final = ("bf16", "int8")


def source() -> Path:
    """The folder as Hugging Face has them, bf16; 1 GB."""
    folder = FOLDER / "source"
    _make(folder, [interpreter(), "-m", "benchmarks.generation.export_model"])
    return folder


def converted(weights: str) -> Path:
    """For OpenVINO GenAI, with these weights, as OpenMaaS converts them. Minutes the first time."""
    folder = FOLDER / "openvino"
    if not folder.is_dir():
        CONVERTER.prepare()
        half = folder.with_name("openvino.half")
        shutil.rmtree(half, ignore_errors=True)
        (half / "home").mkdir(parents=True)
        request = {"path": str(source()), "output": str(half), "weights": WEIGHTS, "prompts": [], "parent": os.getpid()}
        environment = {**os.environ, "HOME": str(half / "home")}
        command = [CONVERTER.python, "-I", CONVERT]
        subprocess.run(command, input=json.dumps(request), text=True, check=True, env=environment, timeout=1800)
        half.rename(folder)
    return folder / weights


def gguf() -> Path:
    """For llama.cpp, with 8-bit weights (q8_0)."""
    path = FOLDER / "writer-q8_0.gguf"
    _make(path, [interpreter(), "-m", "benchmarks.generation.gguf_file", source()])
    return path


def _make(path: Path, command: list[str | Path]) -> None:
    """Run the command with the path as its last word, unless it is there; what is half made is not left."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.half")
    if half.is_dir():
        shutil.rmtree(half)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([*command, half], check=True, cwd=REPOSITORY, env=environment, timeout=1800)
    half.rename(path)
