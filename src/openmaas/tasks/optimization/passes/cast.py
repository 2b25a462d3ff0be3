"""Weights kept in 16 bits. Every engine here makes float32 of them when it loads, and computes as before.

On processors, onnxruntime has hardly any kernels for numbers of 16 bits: it would put casts around every node. OpenVINO
computes in the precision that it is told to, whatever the file has: for bfloat16 that is the engine choice openvino:bf16. So
the file becomes half as large, answers move by the rounding of the weights alone, and no engine becomes slower.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from openmaas.core.recipes import Cast
from openmaas.tasks.optimization.base import Bench, Piece, cannot
from openmaas.tasks.optimization.checks import probe_of, require_finite, verify
from openmaas.tasks.optimization.graphs import array_of, constants, drop_unused, read_graph, tensor_of, write_graph
from openmaas.tasks.optimization.passes.quantize.files import size_of
from openmaas.tasks.optimization.passes.quantize.layers import excluded_names, name_nodes

TAKES = ("onnx",)
_FLOAT: Final = 1  # onnx.TensorProto.FLOAT
_MOST: Final = {"fp16": 65504.0, "bf16": 3.38e38}
_FIRST: Final = {"fp16": 6, "bf16": 13}
"""Operator sets whose Cast knows the type."""
_LEAST: Final = 16
"""Numbers below which the node that restores them takes more bytes than it saves."""


def run(piece: Piece, parameters: Cast, bench: Bench) -> Piece:
    """The piece with float32 weights in 16 bits.

    Raises Refused for a value that fp16 cannot hold (with the initializer) and where there is nothing to cast, InvalidInput
    for an excluded name that is no node's.
    """
    import onnx

    model = read_graph(piece.path)
    require_finite(model)
    name_nodes(model)
    kept = excluded_names([node.name for node in model.graph.node], parameters.exclude)
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset < _FIRST[parameters.to]:
        model = onnx.version_converter.convert_version(model, _FIRST[parameters.to])
    held = {name for node in model.graph.node if node.name in kept for name in node.input}
    chosen = {
        name: tensor
        for name, tensor in constants(model).items()
        if tensor.data_type == _FLOAT and name not in held and array_of(tensor).size >= _LEAST
    }
    if not chosen:
        types = ", ".join(sorted({onnx.TensorProto.DataType.Name(one.data_type) for one in model.graph.initializer})) or "none"
        raise cannot(parameters, f"no node has float32 weights that could be cast (weights are {types})", "Leave the step out.")
    _require_range(parameters, chosen)
    bench.progress("casting")
    _cast(model, chosen, parameters.to)
    artifact = write_graph(model, bench.folder, piece.artifact.options)
    cosine = verify(parameters, piece, artifact, bench.folder, probe_of(piece, bench.training))
    sizes = [size_of(piece.folder, piece.artifact), size_of(bench.folder, artifact)]
    note = (
        f"{len(chosen)} weights are kept in {parameters.to}; engines compute with them in float32"
        f"{' (OpenVINO in bfloat16 where it is chosen: openvino:bf16)' if parameters.to == 'bf16' else ''}."
    )
    facts = {"to": parameters.to, "tensors": len(chosen), "bytes": sizes, "least_cosine": cosine}
    return piece.changed(artifact, bench.folder, note, cast=facts)


def _require_range(parameters: Cast, tensors: dict[str, Any]) -> None:
    most = _MOST[parameters.to]
    for name, tensor in tensors.items():
        array = array_of(tensor)
        finite = array[np.isfinite(array)]
        largest = float(np.abs(finite).max(initial=0.0))
        if largest > most:
            raise cannot(
                parameters, f"the weights {name!r} hold {largest:.6g}, and {parameters.to} ends at {most:g}",
                "Cast to bf16, which has the range of float32, or exclude the node that reads them.",
            )  # fmt: skip


def _cast(model: Any, tensors: dict[str, Any], to: str) -> None:
    """Each tensor in 16 bits, and a Cast to float32 in front of the nodes that read it."""
    import ml_dtypes
    from onnx import helper

    dtype = np.dtype(np.float16 if to == "fp16" else ml_dtypes.bfloat16)
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    restored: dict[str, str] = {}
    casts = []
    for name, tensor in tensors.items():
        small, value = f"{name}.{to}", f"{name}.f32"
        while {small, value} & taken:
            small, value = f"{small}_", f"{value}_"
        taken |= {small, value}
        graph.initializer.append(tensor_of(array_of(tensor).astype(dtype), small))
        casts.append(helper.make_node("Cast", [small], [value], to=_FLOAT))
        restored[name] = value
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = restored.get(name, name)
    nodes = [*casts, *graph.node]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    drop_unused(model)
