"""The first-class fake: an engine whose behaviour is written in the manifest's options, for tests of everything around engines.

delay           seconds that each run takes (time.sleep, as a real engine that has released the interpreter's lock)
poison          a run whose input holds this number raises
raises          every run raises with this text
exit_on         a run whose input holds this number ends the process at once, as a segmentation fault would
fail_load       load raises with this text
load_delay      seconds that loading takes
die             loading ends the process at once: "exit", or the name of a signal, such as "SIGSEGV"
allocate        bytes taken and touched while loading
factor          each output is the input times this factor (default 1)
batch_offset    added to every answer times (rows in the batch - 1): a model that must not be batched
answer          "nan", "wrong_shape" (one more column), "wrong_type" (another datatype) or "nothing" instead of the answer
pooled          names of outputs that are one number a row, in which zeros at the end of a row change nothing
delay_a_token   seconds that each run takes for each value of its first input
variants        objects with any of these: other ways to run the same version, as engines with several precisions have them
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np

from openmaas.core.errors import EngineFailed
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.engines.base import Engine, EngineSpec, Tensor, Tensors


class DummyEngine(Engine):
    name = "dummy"
    kinds = frozenset({"dummy"})

    def __init__(self) -> None:
        self._options: dict[str, Any] = {}
        self._outputs: tuple[str, ...] = ()
        self._memory = bytearray()

    @classmethod
    def choices(cls, artifact: Artifact, manifest: Manifest) -> tuple[EngineChoice, ...]:
        variants = manifest.options.get("variants", ()) if artifact.kind in cls.kinds else ()
        others = (EngineChoice(engine=cls.name, artifact=artifact, options=variant) for variant in variants)
        return (*super().choices(artifact, manifest), *others)

    def load(self, spec: EngineSpec) -> None:
        self._options = spec.manifest.options | spec.chosen.options
        self._outputs = tuple(output.name for output in spec.manifest.signature.outputs)
        time.sleep(float(self._options.get("load_delay", 0)))
        if end := self._options.get("die"):
            os._exit(139) if end == "exit" else os.kill(os.getpid(), signal.Signals[str(end)])
        if reason := self._options.get("fail_load"):
            raise EngineFailed(str(reason))
        self._memory = bytearray(b"\x01") * int(self._options.get("allocate", 0))

    def run(self, inputs: Tensors) -> Tensors:
        options = self._options
        (values, *_) = inputs.values()
        if "exit_on" in options and (values == options["exit_on"]).any():
            os._exit(139)
        if delay := float(options.get("delay", 0)) + float(options.get("delay_a_token", 0)) * values.size:
            time.sleep(delay)
        if reason := options.get("raises"):
            raise ValueError(str(reason))
        if "poison" in options and (values == options["poison"]).any():
            raise ValueError(f"the input holds the poison value {options['poison']}")
        answer = values
        if values.dtype != object:
            answer = values * options.get("factor", 1) + options.get("batch_offset", 0) * (len(values) - 1)
        made = _instead(np.asarray(answer, dtype=values.dtype), str(options.get("answer", "")))
        if made is None:
            return {}
        return dict.fromkeys(self._outputs, made) | {name: _pooled(made) for name in options.get("pooled", ())}

    def describe(self) -> dict[str, str]:
        return {"library": "openmaas.dummy", "device": "cpu"}


def _pooled(answer: Tensor) -> Tensor:
    """Each row's values, weighted by their places, as one number."""
    weights = np.arange(1, answer.shape[1] + 1, dtype=answer.dtype)
    return np.asarray((answer * weights).sum(axis=1, keepdims=True), dtype=answer.dtype)


def _instead(answer: Tensor, wish: str) -> Tensor | None:
    """What a model that is broken in this way answers."""
    if wish == "nan":
        return np.full_like(answer, np.nan)
    if wish == "wrong_shape":
        return np.concatenate([answer, answer[..., :1]], axis=-1)
    if wish == "wrong_type":
        return answer.astype(np.float64 if answer.dtype != np.float64 else np.int64)
    return None if wish == "nothing" else answer
