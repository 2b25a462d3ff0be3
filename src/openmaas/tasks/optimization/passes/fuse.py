"""Join what can be computed at once: batch normalisation into the layer before it, what onnxruntime's basic level joins, and
rows of different lengths without their padding.

Only operators of ONNX itself are written, so that every engine here reads the result.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np

from openmaas.core.manifest import Artifact
from openmaas.core.recipes import Fuse
from openmaas.tasks.optimization.attention import simpler_attention
from openmaas.tasks.optimization.base import Arrays, Bench, Piece, cannot
from openmaas.tasks.optimization.checks import least_cosine, opened, probe_of, require_finite, run_piece, verify
from openmaas.tasks.optimization.graphs import constants, read_graph, write_graph
from openmaas.tasks.optimization.passes.quantize.files import size_of
from openmaas.tasks.optimization.unpadding import MASK, without_padding

TAKES = ("onnx",)
_GROWTH: Final = 4096
"""Bytes of constants: what folds into more than that has made floats of weights with few bits."""

_SAME: Final = 0.9999
"""Cosine of answers to the same rows behind other padding."""


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
    if parameters.what == "padding":
        bench.progress("leaving out padding")
        return _leave_out_padding(piece, parameters, bench, model)
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


def _leave_out_padding(piece: Piece, parameters: Fuse, bench: Bench, model: Any) -> Piece:
    rows = probe_of(piece, bench.training)
    mask = next((spec for spec in piece.manifest.signature.inputs if spec.name == MASK), None)
    if mask is None or mask.shape != (-1, -1):
        raise cannot(
            parameters, f"the model has no input {MASK!r} with rows of any number and length, which says what is padding",
            "Leave the step out: it is for encoders of text.",
        )  # fmt: skip
    short = {name: np.resize(array, (2, *array.shape[1:])) for name, array in rows.items()}
    made, layers = without_padding(model, short)
    if not layers:
        raise cannot(parameters, "no layer with weights is computed position by position", "Leave the step out.")
    simpler, fewer = simpler_attention(made)
    artifact = write_graph(simpler, bench.folder, piece.artifact.options)
    if fewer and not _same_of_nothing(piece, artifact, bench, short):
        artifact, fewer = write_graph(made, bench.folder, piece.artifact.options), 0
    verify(parameters, piece, artifact, bench.folder, rows)
    before, after = opened(piece.artifact, piece.folder, piece), opened(artifact, bench.folder, piece)
    alike = []
    for other in (0, 1):  # what is behind the mask is other in each
        padded = _padded(short, other)
        alike += [before.run(dict(padded)), after.run(dict(padded))]
    cosine = least_cosine(alike[:1] * 3, alike[1:])
    if cosine < _SAME:
        raise cannot(
            parameters, f"its answers depend on padding: they have a cosine of {cosine:.4f} to those with other padding",
            "Leave the step out.",
        )  # fmt: skip
    note = f"{layers} layers pass over padding: the more the lengths in a batch differ, the faster."
    facts = {"layers": layers, "fewer_nodes_of_attention": fewer, "least_cosine": cosine}
    return piece.changed(artifact, bench.folder, note, fuse=facts)


def _same_of_nothing(piece: Piece, artifact: Artifact, bench: Bench, rows: Arrays) -> bool:
    """Whether answers stay where a row is padding alone: only there simpler attention could give others."""
    empty = _padded(rows, 0)
    empty[MASK][1] = 0
    before, after = run_piece(piece.artifact, piece.folder, empty, piece), run_piece(artifact, bench.folder, empty, piece)
    return all(np.allclose(after[name], array, rtol=1e-3, atol=1e-4, equal_nan=True) for name, array in before.items())


def _padded(rows: Arrays, other: int) -> Arrays:
    """Two rows of five and three positions, followed by padding of these values."""
    shape = rows[MASK].shape
    found = {name: np.resize(array, (2, 8)) if array.shape == shape else array for name, array in rows.items()}
    for name, array in found.items():
        if array.shape == (2, 8):
            array[0, 5:] = array[1, 3:] = 0 if name == MASK else other
    found[MASK][0, :5] = found[MASK][1, :3] = 1
    return found


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
