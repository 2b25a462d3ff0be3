"""What passes prove of a model before and after their work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from openmaas.core.errors import OpenMaaSError, Refused
from openmaas.core.made_up import make_up
from openmaas.core.manifest import Artifact
from openmaas.core.recipes import Pass
from openmaas.tasks.optimization.base import Arrays, Piece, cannot
from openmaas.tasks.optimization.graphs import array_of, constants
from openmaas.tasks.optimization.rows import row_batches

_FLOATS: Final = frozenset({1, 10, 11, 16})  # FLOAT, FLOAT16, DOUBLE and BFLOAT16 of onnx.TensorProto
_BOUNDS: Final = frozenset({"Where", "Clip", "Max", "Min", "Pad", "Equal", "Less", "Greater"})
"""Operators that take infinity as a bound or a mask."""
_PROBES: Final = 4


def require_finite(model: Any) -> None:
    """Refuse an ONNX model with weights that are NaN, or infinite where infinity is no mask. Raises Refused with the tensor."""
    masks = {name for node in model.graph.node if node.op_type in _BOUNDS for name in node.input}
    for name, tensor in constants(model).items():
        if tensor.data_type not in _FLOATS:
            continue
        array = array_of(tensor).astype(np.float32 if tensor.data_type == 16 else np.float64)
        bad = np.isnan(array) if name in masks or array.size == 1 else ~np.isfinite(array)
        if bad.any():
            raise Refused(
                f"The weights {name!r} hold {int(bad.sum())} of {array.size} numbers that are NaN or infinite.",
                code="weights_not_finite",
                next_step="Train or export the model again; nothing can be made of these weights.",
            )


def probe_of(piece: Piece, training: Any) -> Arrays:
    """A few rows to try a model on: of the training set, or made up where there is none."""
    if training is not None:
        return row_batches(piece.manifest, training, _PROBES, 0, _PROBES)[0]
    fixed = [spec.shape[0] for spec in piece.manifest.signature.inputs if spec.shape]
    return make_up(piece.manifest.signature.inputs, fixed[0] if fixed and fixed[0] > 0 else _PROBES)


def run_piece(artifact: Artifact, folder: Path, inputs: Arrays, piece: Piece, threads: int = 1) -> Arrays:
    """Answers of an onnx or openvino artifact, by the engine of that name. Raises EngineFailed."""
    return opened(artifact, folder, piece, threads).run(dict(inputs))  # type: ignore[no-any-return]


def opened(artifact: Artifact, folder: Path, piece: Piece, threads: int = 1) -> Any:
    """The loaded model, with `run`."""
    model: Any
    if artifact.kind == "openvino":
        from openmaas.engines.openvino.model import OpenVinoModel

        model = OpenVinoModel(folder / artifact.entry, artifact.kind, threads)
    else:
        from openmaas.engines.onnxruntime.session import OnnxSession

        model = OnnxSession(folder / artifact.entry, threads)
    model.bind(piece.manifest.signature)
    return model


def verify(step: Pass, before: Piece, artifact: Artifact, folder: Path, inputs: Arrays) -> float:
    """Run one batch through both: outputs of equal shapes, finite where they were. Returns the least cosine of any row.

    Raises Refused with what is wrong.
    """
    expected = run_piece(before.artifact, before.folder, inputs, before)
    try:
        given = run_piece(artifact, folder, inputs, before)
    except OpenMaaSError as error:
        raise cannot(
            step, f"the model that it made does not run: {error.message.rstrip('.')}", "Leave the step out, or exclude nodes."
        ) from None
    for name, wanted in expected.items():
        got = given[name]
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise cannot(
                step,
                f"output {name!r} became {got.dtype}{list(got.shape)} of {wanted.dtype}{list(wanted.shape)}",
                "Leave the step out.",
            )
        if wanted.dtype.kind == "f" and not np.isfinite(got[np.isfinite(wanted)]).all():
            raise cannot(step, f"output {name!r} became NaN or infinite", "Exclude the nodes before it, or leave it out.")
    return least_cosine([expected], [given])


def least_cosine(expected: Sequence[Arrays], given: Sequence[Arrays]) -> float:
    """Of any row of any output with rows of two numbers or more; 1 where there is none."""
    least = 1.0
    for wanted, got in zip(expected, given, strict=True):
        for name, array in wanted.items():
            if array.dtype.kind == "f" and array.ndim > 1 and array.shape[0] and array[0].size > 1:
                one, other = (side.reshape(len(side), -1).astype(np.float64) for side in (array, got[name]))
                sizes = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
                products = (one * other).sum(1)
                cosines = np.divide(products, sizes, out=np.ones_like(products), where=sizes > 0)
                least = min(least, float(cosines.min()))
    return least


def relative_error(expected: Sequence[Arrays], given: Sequence[Arrays]) -> float:
    """Mean squared difference of all float outputs, relative to the mean square of the expected ones."""
    above, below = 0.0, 0.0
    for wanted, got in zip(expected, given, strict=True):
        for name, array in wanted.items():
            if array.dtype.kind == "f":
                known = np.isfinite(array)
                above += float(np.square(got[name][known].astype(np.float64) - array[known]).sum())
                below += float(np.square(array[known].astype(np.float64)).sum())
    return above / below if below else above
