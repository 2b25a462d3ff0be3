"""The benchmark's model, made once: its folder, converted for OpenVINO, as a GGUF file. Speed does not depend on training."""

from __future__ import annotations

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
"""The one that OpenMaaS converts in."""


def source() -> Path:
    """The folder as Hugging Face has them, bf16; 1 GB."""
    folder = FOLDER / "source"
    _make(folder, [interpreter(), "-m", "benchmarks.generation.export_model"])
    return folder


def converted(weights: str) -> Path:
    """For OpenVINO GenAI, with these weights: int8 or bf16. Minutes the first time."""
    folder = FOLDER / weights
    if not folder.is_dir():
        CONVERTER.prepare()
        command = [CONVERTER.folder / "bin" / "optimum-cli", "export", "openvino", "--model", source()]
        _make(folder, [*command, "--task", "text-generation-with-past", "--weight-format", weights])
    return folder


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
