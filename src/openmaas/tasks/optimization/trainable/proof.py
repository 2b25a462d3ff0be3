"""A lifted model held against onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import Refused

Arrays = dict[str, NDArray[Any]]
TOLERANCE = 1e-4
"""Of the largest value of an output: torch and onnxruntime sum in different orders."""


def answers_of(model: bytes, inputs: Mapping[str, NDArray[Any]], outputs: list[str]) -> Arrays:
    """onnxruntime's. Raises Refused where it cannot load or run the model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = {value.name for value in session.get_inputs()}
        found = session.run(outputs, {name: array for name, array in inputs.items() if name in names})
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise Refused(f"onnxruntime cannot run the model: {reason}.", code="model_not_runnable") from None
    return dict(zip(outputs, found, strict=True))


def prove(model: bytes, inputs: Mapping[str, NDArray[Any]], answers: Mapping[str, NDArray[Any]]) -> None:
    """Raises Refused where onnxruntime answers otherwise."""
    expected = answers_of(model, inputs, list(answers))
    for name, answer in answers.items():
        truth = expected[name]
        if truth.shape != answer.shape:
            raise _differs(name, f"of shape {list(answer.shape)} instead of {list(truth.shape)}")
        if not truth.size:
            continue
        if not (np.isfinite(truth).all() and np.isfinite(answer).all()):
            raise _differs(name, "with values that are not finite")
        worst, scale = float(np.abs(truth - answer).max()), float(np.abs(truth).max())
        if worst > TOLERANCE * scale + 1e-6:
            raise _differs(name, f"which differs by {worst:.3g} at values up to {scale:.3g}")


def _differs(name: str, how: str) -> Refused:
    return Refused(
        f"The model cannot be trained: torch gives an output {name!r} {how} from onnxruntime's.",
        code="pass_not_applicable",
        next_step="Use passes that do not train: quantize, fuse, cast, or prune without epochs.",
    )
