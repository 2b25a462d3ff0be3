"""Join what can be computed at once: batch normalisation into the layer before it, and what onnxruntime's basic level joins.

Only operators of ONNX itself are written, so that every engine here reads the result.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final

from openmaas.core.recipes import Fuse
from openmaas.tasks.optimization.base import Bench, Piece
from openmaas.tasks.optimization.checks import probe_of, require_finite, verify
from openmaas.tasks.optimization.graphs import constants, read_graph, write_graph
from openmaas.tasks.optimization.passes.quantize.files import size_of

TAKES = ("onnx",)
_GROWTH: Final = 4096
"""Bytes of constants: what folds into more than that has made floats of weights with few bits."""


def run(piece: Piece, parameters: Fuse, bench: Bench) -> Piece:
    """The piece with fewer nodes; as it is, with a note, where there is nothing to fuse."""
    model = read_graph(piece.path)
    require_finite(model)
    before, size = _nodes(model), _weights(model)
    notes: list[str] = []
    if parameters.what in ("batch-norm", "all"):
        bench.progress("fusing batch normalisation")
        model = _fuse_batch_norm(model)
        if left := _nodes(model)["BatchNormalization"]:
            notes.append(f"{left} batch normalisations stay: no layer with float weights is right before them.")
    if parameters.what in ("graph", "all"):
        bench.progress("fusing the graph")
        fused = _fuse_graph(model, bench.folder)
        if _weights(fused) > size * 1.05 + _GROWTH:
            notes.append("Constants were not folded: the file would become larger, since its weights have few bits.")
        elif foreign := _domains(fused) - _domains(model):
            notes.append(f"The graph was not fused: onnxruntime would write operators of {', '.join(sorted(foreign))}.")
        else:
            model = fused
    after = _nodes(model)
    if after == before:
        return piece.changed(piece.artifact, piece.folder, *notes, "There was nothing to fuse.")
    artifact = write_graph(model, bench.folder, piece.artifact.options)
    cosine = verify(parameters, piece, artifact, bench.folder, probe_of(piece, bench.training))
    gone = {op: before[op] - after[op] for op in before if after[op] < before[op]}
    notes.append(f"{before.total()} nodes became {after.total()}.")
    facts = {
        "nodes": [before.total(), after.total()],
        "gone": gone,
        "bytes": [size_of(piece.folder, piece.artifact), size_of(bench.folder, artifact)],
        "least_cosine": cosine,
    }
    return piece.changed(artifact, bench.folder, *notes, fuse=facts)


def _fuse_batch_norm(model: Any) -> Any:
    import onnx
    from onnxscript import rewriter
    from onnxscript.rewriter.rules import common

    if not _nodes(model)["BatchNormalization"]:
        return model
    rules = [
        common.fuse_batchnorm_into_conv_rule, common.fuse_batchnorm_into_conv_transpose_rule,
        common.fuse_batchnorm_into_gemm_rule,
    ]  # fmt: skip
    shaped = onnx.shape_inference.infer_shapes(model)
    fused = rewriter.rewrite(shaped, pattern_rewrite_rules=rules)
    del fused.graph.value_info[:]
    return fused


def _fuse_graph(model: Any, folder: Path) -> Any:
    """By onnxruntime at its basic level, which is free of the processor that it runs on."""
    import onnxruntime

    place = folder / "before"
    place.mkdir()
    target = place / "fused.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    onnxruntime.InferenceSession(place / write_graph(model, place).entry, options, providers=["CPUExecutionProvider"])
    fused = read_graph(target)
    for path in place.iterdir():
        path.unlink()
    place.rmdir()
    return fused


def _nodes(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node if node.op_type != "Constant")


def _weights(model: Any) -> int:
    """Bytes of all constants."""
    return sum(tensor.ByteSize() for tensor in constants(model).values())


def _domains(model: Any) -> set[str]:
    return {node.domain for node in model.graph.node} - {"", "ai.onnx"}
