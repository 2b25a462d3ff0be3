"""scikit-learn itself, for what ONNX cannot give the same answers as."""

from __future__ import annotations

from typing import Any

import numpy as np

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import EngineFailed, OpenMaaSError
from openmaas.engines.base import Engine, EngineSpec, Tensors
from openmaas.engines.sklearn.estimator import Estimator, load_pickle, load_skops
from openmaas.engines.warm import warm_up


class SklearnEngine(Engine):
    """options: `layout` of the inputs; `pickle_sha256`, the approved digest, where the entry is a pickle."""

    name = "sklearn"
    kinds = frozenset({"skops", "pickle"})
    library = "sklearn"

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None
        self._estimator: Estimator | None = None
        self._outputs: dict[str, np.dtype[Any]] = {}

    def load(self, spec: EngineSpec) -> None:
        options = spec.chosen.artifact.options
        entry = spec.entry
        try:
            digest = options.get("pickle_sha256")
            model, notes = load_pickle(entry, str(digest)) if digest else load_skops(entry)
            self._estimator = Estimator(model, options.get("layout", "matrix"), notes)
        except OpenMaaSError as error:
            raise EngineFailed(error.message, code="load_failed", next_step=error.next_step) from None
        self._spec = spec
        self._outputs = {output.name: numpy_dtype(output.datatype) for output in spec.manifest.signature.outputs}

    def warm(self) -> None:
        assert self._spec is not None
        warm_up(self, self._spec.manifest.signature)

    def run(self, inputs: Tensors) -> Tensors:
        assert self._estimator is not None
        answers = self._estimator.answer(inputs)
        return {name: answers[name].astype(dtype, copy=False) for name, dtype in self._outputs.items()}

    def describe(self) -> dict[str, str]:
        import sklearn

        return {"library": "scikit-learn", "version": sklearn.__version__, "device": "cpu", "threads": "1"}
