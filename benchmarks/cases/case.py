"""A case: a model, one request to it and the answer that counts as right."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.environments import Environment
from benchmarks.places import CACHE, HERE, REPOSITORY

ENVIRONMENT = Environment("models", HERE / "cases" / "requirements.txt")


@dataclass(frozen=True)
class Case:
    """One model as every server gets it."""

    name: str
    title: str
    unit: str
    threads: int
    """Intra-op threads given to onnxruntime in the whole server."""
    slow: bool
    """Whether a call takes milliseconds, so that a server should not run it on its event loop."""
    seconds: int
    """Length of one measurement unless the command line says otherwise."""
    tolerance: float
    """Largest absolute difference from the reference that still counts as right."""
    wire: Literal["tensors", "record", "image"] = "tensors"
    """What a request carries: typed arrays, one row of a table by column names, or the bytes of a picture."""
    place: int = 0
    """Which of the samples this is, of a case that has many."""

    @property
    def folder(self) -> Path:
        return CACHE / self.name

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    @cached_property
    def _sample(self) -> dict[str, Any]:
        sample: dict[str, Any] = json.loads((self.folder / "sample.json").read_text())
        return sample

    @property
    def _inputs(self) -> dict[str, Any]:
        inputs: dict[str, Any] = self._sample["others"][self.place - 1] if self.place else self._sample["inputs"]
        return inputs

    @property
    def others(self) -> list[Case]:
        """The same model asked for its other samples, of a case that has many."""
        return [replace(self, place=place) for place in range(1, len(self._sample.get("others", ())) + 1)]

    @property
    def samples(self) -> dict[str, list[list[float]]]:
        """One sample by input name, as JSON has it; the outer list is the batch."""
        return {name: tensor["data"] for name, tensor in self._inputs.items()}

    @property
    def inputs(self) -> dict[str, NDArray[Any]]:
        """The same as typed arrays."""
        return {name: np.asarray(tensor["data"], dtype=tensor["dtype"]) for name, tensor in self._inputs.items()}

    @property
    def record(self) -> dict[str, float]:
        """One row by column name, of a case with tables."""
        row: dict[str, float] = self._sample["record"]
        return row

    @property
    def picture(self) -> bytes:
        """One encoded image, of a case with images."""
        return (self.folder / "picture.jpg").read_bytes()

    @property
    def source(self) -> Path:
        """What is pushed to OpenMaaS: a file, or a folder with its description."""
        folder = self.folder / "source"
        return folder if folder.is_dir() else self.model

    @property
    def sample_file(self) -> Path | None:
        """Rows to compare engines on, beside the model that is pushed."""
        path = self.folder / "sample.npz"
        return path if path.is_file() else None

    @property
    def output(self) -> str:
        return str(self._sample["output"])

    @property
    def reference(self) -> NDArray[np.float32]:
        """What the model's own framework answers to `inputs`, of shape [1, n]."""
        return np.asarray(self._sample["reference"], dtype=np.float32)

    def ready(self) -> bool:
        return self.model.is_file() and (self.folder / "sample.json").is_file()

    def export(self) -> None:
        """Make the model and its sample once, in the environment that has the frameworks."""
        if self.ready():
            return
        ENVIRONMENT.prepare()
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [ENVIRONMENT.python, HERE / "cases" / f"export_{self.name.replace('-', '_')}.py", self.folder],
            check=True,
            timeout=600,
            cwd=REPOSITORY,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )


CASES = {
    case.name: case
    for case in (
        Case(
            "iris",
            "Tiny classifier, 4 → 3",
            unit="requests/s",
            threads=1,
            slow=False,
            seconds=5,
            tolerance=1e-5,
        ),
        Case(
            "minilm",
            "MiniLM sentence encoder, 64 tokens",
            unit="sequences/s",
            threads=2,
            slow=True,
            seconds=15,
            # Engines that compute in bfloat16 are allowed; a wrong pooling is off by far more.
            tolerance=1e-2,
        ),
        Case(
            "minilm-mixed",
            "MiniLM sentence encoder, texts of 8 to 256 tokens",
            unit="sequences/s",
            threads=2,
            slow=True,
            seconds=20,
            tolerance=1e-2,
        ),
        Case(
            "cancer",
            "Gradient-boosted trees, a row of 30 named columns",
            unit="requests/s",
            threads=1,
            slow=False,
            seconds=5,
            tolerance=1e-4,
            wire="record",
        ),
        Case(
            "cnn",
            "Convolutional network, a JPEG picture of 320 × 240 to 224 × 224",
            unit="images/s",
            threads=2,
            slow=True,
            seconds=15,
            # Engines that compute in bfloat16 are allowed; another resize or channel order is off by far more.
            tolerance=2e-2,
            wire="image",
        ),
    )
}
