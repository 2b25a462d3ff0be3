"""Tiny graphs, and a bench without a server, for tests of passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from openmaas.core.datasets import DatasetManifest
from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.settings import Settings
from openmaas.formats.onnx.graph import read_signature
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.base import Answer, Bench, Piece

Arrays = dict[str, NDArray[Any]]


class QuietJob:
    """A job that keeps what it is told. The files of every version are those in its scratch folder."""

    id, kind = "job", "optimize"

    def __init__(self, scratch: Path, version: str = "net:1") -> None:
        self.arguments: dict[str, Any] = {"version": version}
        self.scratch = scratch
        self.settings = Settings()
        self.lines: list[str] = []

    @property
    def client(self) -> Any:
        raise AssertionError("no server")

    def progress(self, stage: str, done: float = 0.0, total: float = 0.0) -> None:
        pass

    def log(self, line: str) -> None:
        self.lines.append(line)

    def files(self, reference: str) -> tuple[Any, Path]:
        return None, self.scratch

    def dataset(self, reference: str) -> tuple[DatasetManifest, Path]:
        raise AssertionError(reference)

    def environment(self, name: str) -> Path:
        raise AssertionError(name)

    def alone(self) -> Any:
        raise AssertionError("alone")


def bench(
    folder: Path,
    sources: Mapping[str, tuple[Manifest, Path]] | None = None,
    training: Examples | None = None,
    teacher: Callable[[str], Answer] | None = None,
    seed: int = 7,
) -> Bench:
    made = folder / "made"
    made.mkdir()

    def nobody(reference: str) -> Answer:
        raise AssertionError(reference)

    def source(reference: str) -> tuple[Manifest, Path]:
        return (sources or {})[reference]

    return Bench(job=QuietJob(folder), training=training, seed=seed, folder=made, teacher=teacher or nobody, source=source)


def graph(
    nodes: list[onnx.NodeProto],
    weights: Mapping[str, NDArray[Any]],
    inputs: Mapping[str, list[Any]],
    outputs: Mapping[str, list[Any]],
    opset: int = 17,
) -> onnx.ModelProto:
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model


def perceptron(seed: int, hidden: int = 16, prefix: str = "", features: int = 8, classes: int = 3) -> onnx.ModelProto:
    """x [N, features] → Gemm, Relu, MatMul, Add → scores [N, classes]."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[Any]:
        return random.standard_normal(shape).astype(np.float32)

    p = prefix
    return graph(
        [
            helper.make_node("Gemm", ["x", f"{p}w1", f"{p}b1"], [f"{p}h"], name=f"{p}first", transB=1),
            helper.make_node("Relu", [f"{p}h"], [f"{p}r"], name=f"{p}relu"),
            helper.make_node("MatMul", [f"{p}r", f"{p}w2"], [f"{p}s"], name=f"{p}second"),
            helper.make_node("Add", [f"{p}s", f"{p}b2"], ["scores"], name=f"{p}bias"),
        ],
        {
            f"{p}w1": normal(hidden, features), f"{p}b1": normal(hidden), f"{p}w2": normal(hidden, classes),
            f"{p}b2": normal(classes),
        },
        {"x": ["n", features]},
        {"scores": ["n", classes]},
    )  # fmt: skip


def manifest_of(model: onnx.ModelProto) -> Manifest:
    return Manifest(
        format="onnx",
        engine="onnxruntime",
        entry="model.onnx",
        artifacts=(Artifact(kind="onnx", entry="model.onnx"),),
        signature=read_signature(model),
        files=(),
        batchable=True,
    )


def version(model: onnx.ModelProto, folder: Path) -> tuple[Manifest, Path]:
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    return manifest_of(model), folder


def piece_of(model: onnx.ModelProto, folder: Path, **changes: Any) -> Piece:
    manifest, folder = version(model, folder)
    return replace(Piece(artifact=manifest.artifacts[0], folder=folder, manifest=manifest), **changes)


def run(path: Path | onnx.ModelProto, inputs: Arrays) -> Arrays:
    given = str(path) if isinstance(path, Path) else path.SerializeToString()
    session = onnxruntime.InferenceSession(given, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def rows(count: int, features: int = 8, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal((count, features)).astype(np.float32)
