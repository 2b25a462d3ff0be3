"""xgboost and LightGBM themselves, for what ONNX cannot give the same answers as."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import EngineFailed, OpenMaaSError
from openmaas.engines.base import Engine, EngineSpec, Tensors
from openmaas.engines.warm import warm_up


class _BoosterEngine(Engine):
    """options of the artifact: `labels`, the classes where they are not 0, 1, 2 …; `missing`, a number that means none."""

    title: ClassVar[str]

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None
        self._booster: Any = None
        self._outputs: dict[str, np.dtype[Any]] = {}

    def load(self, spec: EngineSpec) -> None:
        from openmaas.engines.boosters.booster import Booster, read_booster

        options = spec.chosen.artifact.options
        try:
            checked = read_booster(spec.entry)
            self._booster = Booster(
                checked, labels=options.get("labels"), missing=options.get("missing"), threads=max(1, spec.threads)
            )
        except OpenMaaSError as error:
            raise EngineFailed(error.message, code="load_failed", next_step=error.next_step) from None
        self._spec = spec
        self._outputs = {output.name: numpy_dtype(output.datatype) for output in spec.manifest.signature.outputs}

    def warm(self) -> None:
        assert self._spec is not None
        warm_up(self, self._spec.manifest.signature)

    def run(self, inputs: Tensors) -> Tensors:
        answers = self._booster.answer(inputs)
        return {name: answers[name].astype(dtype, copy=False) for name, dtype in self._outputs.items()}

    def describe(self) -> dict[str, str]:
        import importlib

        version = importlib.import_module(self.library).__version__
        threads = str(self._spec.threads) if self._spec else "0"
        return {"library": self.title, "version": version, "device": "cpu", "threads": threads}


class XgboostEngine(_BoosterEngine):
    name = library = title = "xgboost"
    kinds = frozenset({"xgboost"})


class LightgbmEngine(_BoosterEngine):
    name = library = "lightgbm"
    title = "LightGBM"
    kinds = frozenset({"lightgbm"})
