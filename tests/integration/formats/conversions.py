"""A converter's result held against its source as the job does it: row by row, two by two and seven by seven."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openmaas.core.made_up import make_up
from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.types import Signature
from openmaas.engines import EngineSpec, create_engine
from openmaas.formats.compare import compare, rows, stack
from openmaas.formats.converters import Conversion, Converter

ENGINES = {"onnx": "onnxruntime", "tflite": "litert", "torch-export": "torch", "keras": "keras"}
ROWS = 14


def require_equal(
    converter: Converter, folder: Path, artifact: Artifact, signature: Signature, output: Path, python: Path, log: Any = print
) -> None:
    """Convert, and compare with what the converter says its source answers, else with the source's own engine."""
    sample = make_up(signature.inputs, ROWS, length=6)
    manifest = Manifest(
        format=artifact.kind, engine="", entry=artifact.entry, artifacts=(artifact,), signature=signature, files=()
    )
    made = converter.convert(
        Conversion(folder=folder, artifact=artifact, manifest=manifest, sample=sample, output=output, python=python, log=log)
    )
    assert made.kind == converter.target
    expected = _reported(output / "expected.npz") or _answers(folder, artifact, signature, sample, 1)
    for batch in (1, 2, 7):
        comparison, wrong = compare(batch, _answers(output, made, signature, sample, batch), expected)
        assert wrong is None
        assert comparison.max_abs_diff < 1e-4


def _reported(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _answers(folder: Path, artifact: Artifact, signature: Signature, sample: Mapping[str, Any], batch: int) -> dict[str, Any]:
    name = ENGINES[artifact.kind]
    manifest = Manifest(
        format=artifact.kind, engine=name, entry=artifact.entry, artifacts=(artifact,), signature=signature, files=()
    )
    engine = create_engine(name)
    engine.load(EngineSpec(folder=folder, manifest=manifest, threads=1))
    return stack([engine.run(rows(sample, start, start + batch)) for start in range(0, ROWS, batch)])
