"""Tiny graphs, and what a pass is given to work on them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.types import Signature, TensorSpec
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.base import Bench, Piece

Array = np.ndarray[Any, Any]


def weights(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def piece(folder: Path, nodes: list[Any], tensors: dict[str, Array], shape: tuple[int, ...], **options: Any) -> Piece:
    """A model from `x`, float32 [batch, *shape] (or what `kind` says), to `y`."""
    kind, opset, width = options.get("kind", TensorProto.FLOAT), options.get("opset", 20), options.get("width", -1)
    given = helper.make_tensor_value_info("x", kind, ["batch", *shape])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *[None] * (options.get("rank", 2) - 1)])
    held = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], [out], held),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=10,
    )
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    datatype: Any = "INT64" if kind == TensorProto.INT64 else "FP32"
    signature = Signature(
        inputs=(TensorSpec(name="x", datatype=datatype, shape=(-1, *shape)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, width)),),
    )
    artifact = Artifact(kind="onnx", entry="model.onnx")
    manifest = Manifest(format="onnx", engine="onnxruntime", entry="model.onnx", signature=signature, files=())
    return Piece(artifact=artifact, folder=folder, manifest=manifest)


def network(folder: Path, opset: int = 20) -> Piece:
    """8×8 pictures: a convolution, a Gemm with its weights transposed, and a MatMul."""
    nodes = [
        helper.make_node("Conv", ["x", "conv.w", "conv.b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Flatten", ["r"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "gemm.w", "gemm.b"], ["g"], name="gemm", transB=1),
        helper.make_node("Relu", ["g"], ["h"], name="relu_1"),
        helper.make_node("MatMul", ["h", "head.w"], ["y"], name="head"),
    ]
    tensors = {
        "conv.w": weights(4, 1, 3, 3), "conv.b": weights(4), "gemm.w": weights(32, 256, seed=1) / 16, "gemm.b": weights(32),
        "head.w": weights(32, 10, seed=2),
    }  # fmt: skip
    return piece(folder, nodes, tensors, (1, 8, 8), opset=opset, width=10)


def pictures(rows: int = 40) -> Examples:
    return Examples(
        inputs={"x": np.abs(weights(rows, 1, 8, 8, seed=5))}, truth=None, task="agreement", index=np.arange(rows), digest=""
    )


def bench(folder: Path, training: Examples | None = None, seed: int = 7) -> Bench:
    folder.mkdir(exist_ok=True)
    (folder / "scratch").mkdir()
    (folder / "made").mkdir()
    told: list[str] = []
    job: Any = SimpleNamespace(
        arguments={}, scratch=folder / "scratch", told=told, log=told.append,
        progress=lambda stage, done=0.0, total=0.0: told.append(stage),
    )  # fmt: skip
    return Bench(job=job, training=training, seed=seed, folder=folder / "made", teacher=None, source=None)  # type: ignore[arg-type]


def read(made: Piece) -> Any:
    return onnx.load(made.path)


def answers(of: Piece, inputs: dict[str, Array]) -> Array:
    from openmaas.tasks.optimization.checks import run_piece

    found: Array = run_piece(of.artifact, of.folder, inputs, of)["y"]
    return found
