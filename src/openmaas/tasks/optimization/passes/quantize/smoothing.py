"""Large inputs of a layer moved into its weights before both are quantised (SmoothQuant; Xiao et al., 2022).

Some channels of what flows between layers are many times larger than the rest, and in one scale with them the others lose their
digits. Divided by a number each, and the weights multiplied by it, the layer answers the same:

    X W = (X / s)(s W)        s = max|X|^α / max|W|^(1 − α)        for each channel
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openmaas.core.recipes import Quantize
from openmaas.engines.onnxruntime.session import OnnxSession
from openmaas.tasks.optimization.base import Arrays, Bench, Piece, cannot
from openmaas.tasks.optimization.graphs import array_of, constants, drop_unused, tensor_of, write_graph

_LEAST: Final = 1e-4
"""A channel's largest number below which it counts as this."""


def smoothed(model: Any, parameters: Quantize, batches: Iterable[Arrays]) -> Any:
    """A copy of an onnx.ModelProto of equal answers. Layers with the same input share its division.

    Raises Refused where no MatMul has float weights.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    tensors = constants(made)
    readers: dict[str, list[Any]] = {}
    for node in made.graph.node:
        if node.op_type == "MatMul" and not node.domain and _is_weight(tensors.get(node.input[1])):
            readers.setdefault(node.input[0], []).append(node)
    if not readers:
        raise cannot(parameters, "smooth finds no MatMul with float weights", "Leave smooth out.")
    sizes = _largest(made, list(readers), batches)
    scales = {}
    for value, nodes in readers.items():
        weights = [array_of(tensors[node.input[1]]) for node in nodes]
        widest = np.max([np.abs(array).max(1) for array in weights], axis=0)
        scale = _scale(sizes[value], widest, parameters.smooth)
        scales[value] = scale
        for node, array in zip(nodes, weights, strict=True):
            node.input[0], node.input[1] = f"{value}/smooth", f"{node.input[1]}/smooth/{value}"
            if node.input[1] not in {tensor.name for tensor in made.graph.initializer}:
                made.graph.initializer.append(tensor_of(array * scale[:, None], node.input[1]))
    _divide(made, scales)
    drop_unused(made)
    return made


def smoothed_piece(piece: Piece, parameters: Quantize, batches: Iterable[Arrays], bench: Bench) -> Piece:
    """The same of a piece, in a folder of the job's."""
    from openmaas.tasks.optimization.graphs import read_graph

    if piece.artifact.kind != "onnx":
        raise cannot(
            parameters, f"smooth changes ONNX, and the model is {piece.artifact.kind} here",
            "Put the step before the one that converts, or leave smooth out.",
        )  # fmt: skip
    bench.progress("smoothing")
    folder = Path(tempfile.mkdtemp(dir=bench.job.scratch))
    return piece.changed(write_graph(smoothed(read_graph(piece.path), parameters, batches), folder), folder)


def _is_weight(tensor: Any) -> bool:
    return tensor is not None and tensor.data_type == 1 and len(tensor.dims) == 2


def _scale(inputs: NDArray[Any], weights: NDArray[Any], alpha: float) -> NDArray[Any]:
    scale = np.maximum(inputs, _LEAST) ** alpha / np.maximum(weights, _LEAST) ** (1 - alpha)
    return np.asarray(scale / np.exp(np.log(scale).mean()), np.float32)


def _largest(model: Any, values: list[str], batches: Iterable[Arrays]) -> dict[str, NDArray[Any]]:
    """The largest size of each channel (the last axis) of these values."""
    import onnx

    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    known = {value.name for value in (*asked.graph.output, *asked.graph.input)}
    asked.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in values if name not in known)
    found: dict[str, NDArray[Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(asked, Path(folder) / "model.onnx")  # no valid model: the new outputs have no types
        session = OnnxSession(Path(folder) / "model.onnx", threads=2).session
    computed = [name for name in values if name not in {value.name for value in model.graph.input}]
    for batch in batches:
        answers = dict(batch) | dict(zip(computed, session.run(computed, batch), strict=True)) if computed else batch
        for name in values:
            sizes = np.abs(answers[name]).reshape(-1, answers[name].shape[-1]).max(0)
            found[name] = np.maximum(found[name], sizes) if name in found else sizes
    return found


def _divide(model: Any, scales: dict[str, NDArray[Any]]) -> None:
    """Each value multiplied by the inverse of its scale, right after the node that gives it."""
    from onnx import helper

    def product(value: str) -> Any:
        model.graph.initializer.append(tensor_of(1 / scales[value], f"{value}/smooth/scale"))
        return helper.make_node(
            "Mul", [value, f"{value}/smooth/scale"], [f"{value}/smooth"], name=f"{value}/smooth"
        )  # fmt: skip

    nodes = [product(value.name) for value in model.graph.input if value.name in scales]
    for node in model.graph.node:
        nodes += [node, *(product(value) for value in node.output if value in scales)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
