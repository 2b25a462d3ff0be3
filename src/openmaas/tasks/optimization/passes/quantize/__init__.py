"""Fewer bits: onnxruntime's quantisation and weights kept in few bits (ONNX), or NNCF's (OpenVINO IR)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from openmaas.core.manifest import Artifact
from openmaas.core.recipes import Quantize
from openmaas.tasks.optimization.base import Arrays, Bench, Piece, cannot
from openmaas.tasks.optimization.checks import least_cosine, opened, probe_of, require_finite, verify
from openmaas.tasks.optimization.graphs import read_graph, write_graph
from openmaas.tasks.optimization.passes.quantize import integers, stored
from openmaas.tasks.optimization.passes.quantize.files import POOR, size_of
from openmaas.tasks.optimization.passes.quantize.layers import Layer, exclude, find_layers, name_nodes, require_layers
from openmaas.tasks.optimization.passes.quantize.sensitivity import rank, worst
from openmaas.tasks.optimization.passes.quantize.smoothing import smoothed

TAKES = ("onnx", "openvino")
_OPS = {
    "dynamic": integers.DYNAMIC_OPS, "static": integers.STATIC_OPS, "weights": stored.OPS, "affine": stored.OPS,
}  # fmt: skip


def run(piece: Piece, parameters: Quantize, bench: Bench) -> Piece:
    """The piece with fewer bits.

    Raises Refused where nothing can be quantised (with what the graph has instead), InvalidInput for an excluded name that
    is no node's.
    """
    if parameters.tool == "openvino":
        from openmaas.tasks.optimization.passes.quantize import nncf_tool

        return nncf_tool.run(piece, parameters, bench)
    if piece.artifact.kind != "onnx":
        raise cannot(
            parameters,
            f"onnxruntime quantises ONNX, and the model is {piece.artifact.kind} here",
            "Put the step before the one that converts, or give it tool: openvino.",
        )
    with TemporaryDirectory(dir=bench.job.scratch) as scratch:
        return _Quantisation(piece, parameters, bench, Path(scratch)).run()


class _Quantisation:
    def __init__(self, piece: Piece, parameters: Quantize, bench: Bench, scratch: Path) -> None:
        self._piece = piece
        self._parameters = parameters
        self._bench = bench
        self._batches: Sequence[Arrays] = ()
        self._scratch = scratch
        self._model = read_graph(piece.path)
        require_finite(self._model)
        if parameters.smooth:
            bench.progress("smoothing")
            self._model = smoothed(self._model, parameters, integers.calibration(piece, parameters, bench))
        if parameters.method in ("weights", "affine"):
            self._model = stored.prepared(self._model, parameters)
        name_nodes(self._model)

    def run(self) -> Piece:
        piece, parameters, bench = self._piece, self._parameters, self._bench
        every = require_layers(parameters, self._model, _OPS[parameters.method])
        layers, _ = exclude(parameters, self._model, every, parameters.exclude)
        if parameters.method == "static":
            self._batches = integers.calibration(piece, parameters, bench)
        ranking: list[tuple[str, float]] = []
        if parameters.keep_worst:
            ranking = rank(piece, layers, lambda some: self._quantised(some, alone=True), bench)
            float_ = worst(ranking, len(layers), parameters)
            layers = [layer for layer in layers if layer.name not in float_]
        bench.progress("quantising")
        model = self._quantised(layers, alone=False)
        left = _left(model, layers)
        if len(left) == len(layers):
            raise cannot(
                parameters,
                f"{parameters.tool} quantised none of its {len(layers)} layers ({', '.join(sorted(left)[:4])})",
                "Use method affine, which keeps weights in few bits and computes in float.",
            )
        layers = [layer for layer in layers if layer.name not in left]
        artifact = write_graph(model, bench.folder, piece.artifact.options)
        cosine = verify(parameters, piece, artifact, bench.folder, probe_of(piece, bench.training))
        if bench.training is not None and self._batches:
            cosine = min(cosine, self._agreement(artifact))
        facts = {
            "method": parameters.method,
            "scheme": _scheme(parameters),
            "layers": len(layers),
            "in_float": [layer.name for layer in every if layer not in layers],
            "bytes": [size_of(piece.folder, piece.artifact), size_of(bench.folder, artifact)],
            "least_cosine": cosine,
        }
        if ranking:
            facts["sensitivity"] = [[name, error] for name, error in ranking]
        notes = [f"{len(layers)} of {len(every)} layers quantised: {_scheme(parameters)}."]
        if cosine < POOR:
            notes.append(f"Quantised, its answers are far from those before: the least cosine of a row is {cosine:.3f}.")
        return piece.changed(artifact, bench.folder, *notes, quantize=facts)

    def _quantised(self, layers: Sequence[Layer], alone: bool) -> Any:
        """A copy of the model with these layers quantised."""
        parameters, bench, model = self._parameters, self._bench, copy.deepcopy(self._model)
        if parameters.method == "dynamic":
            return integers.dynamic(model, layers, parameters)
        if parameters.method == "static":
            total = len(self._batches)
            return integers.static(
                model, layers, parameters, self._batches, lambda done: bench.progress("calibrating", done, total),
                self._scratch, alone,
            )  # fmt: skip
        return stored.store(model, layers, parameters, bench.seed)

    def _agreement(self, artifact: Artifact) -> float:
        """The least cosine of any row that calibrated."""
        before = opened(self._piece.artifact, self._piece.folder, self._piece)
        after = opened(artifact, self._bench.folder, self._piece)
        batches = self._batches[:8]
        return least_cosine([before.run(dict(one)) for one in batches], [after.run(dict(one)) for one in batches])


def _left(model: Any, layers: Sequence[Layer]) -> set[str]:
    """Names of layers whose weights are floats still: quantisers pass over what they cannot do without a word."""
    floats = {layer.name for layer in find_layers(model)}
    return {layer.name for layer in layers if layer.name in floats or f"{layer.name}_MatMul" in floats}


def _scheme(parameters: Quantize) -> str:
    each = "each channel" if parameters.per_channel else "each tensor"
    if parameters.method in ("dynamic", "static"):
        kind = "symmetric" if parameters.symmetric else "asymmetric"
        fixed = parameters.method == "static"
        ranges = f"{kind} inputs by {parameters.calibration}" if fixed else "inputs by their range at each call"
        smooth = f", smoothed by {parameters.smooth:g}" if parameters.smooth else ""
        return f"int8 weights, a scale for {each}, {ranges}{smooth}"
    kind = "symmetric" if parameters.symmetric else "min-max"
    if parameters.method == "weights" and parameters.group:
        each = f"{parameters.group} weights"
    tables = f" ({parameters.tables} of tables)" if parameters.tables else ""
    return f"{parameters.bits} bits{tables} {kind}, a scale for {each}, rounded {parameters.rounding}"
