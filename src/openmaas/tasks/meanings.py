"""What a version's answers mean: the class, the number or the vector that they give of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput
from openmaas.core.manifest import Manifest
from openmaas.core.processing import Embedding, Labels
from openmaas.core.types import TensorSpec

Arrays = dict[str, NDArray[Any]]
LABEL = "label"
_SCORES = ("probabilities", "logits", "scores")
_FLOATS = ("FP16", "FP32", "FP64", "BF16")


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """kind: classes, number (one a row), vector (an embedding), scores (several numbers a row that nobody has named: of
    classes where the dataset has classes), or other.

    output: the public one that it is read from. names: of the classes in the order of the scores, where they have any.
    count: of classes, 0 where that is not known.
    """

    kind: Literal["classes", "number", "vector", "scores", "other"]
    output: str = ""
    names: tuple[str, ...] = ()
    count: int = 0


def meaning_of(manifest: Manifest) -> Meaning:
    """Of the public outputs, as processing/ makes them where the manifest declares it."""
    declared = manifest.processing.output if manifest.processing is not None else None
    outputs = {spec.name: spec for spec in manifest.signature.outputs}
    if isinstance(declared, Labels):
        if declared.tokens:
            return Meaning(kind="other")
        scores = outputs.get(declared.output)
        count = len(declared.labels) or (_width(scores) if scores is not None else 0)
        return Meaning(kind="classes", output=LABEL, names=declared.labels, count=max(0, count))
    if isinstance(declared, Embedding):
        return Meaning(kind="vector", output="embedding")
    if LABEL in outputs and _width(outputs[LABEL]) in (1, -1):
        scored = next((outputs[name] for name in _SCORES if name in outputs), None)
        return Meaning(kind="classes", output=LABEL, count=0 if scored is None else max(0, _width(scored)))
    return _of_numbers([spec for spec in outputs.values() if spec.datatype in _FLOATS and len(spec.shape) in (1, 2)], outputs)


def _of_numbers(floats: list[TensorSpec], outputs: dict[str, TensorSpec]) -> Meaning:
    named = [spec for spec in floats if spec.name in _SCORES]
    found = named if len(outputs) > 1 else floats
    if len(found) != 1:
        return Meaning(kind="other")
    (spec,) = found
    if _width(spec) == 1:
        return Meaning(kind="number", output=spec.name)
    return Meaning(kind="scores", output=spec.name, count=max(0, _width(spec)))


def _width(spec: TensorSpec) -> int:
    """Values a row; -1 where that is free."""
    return 1 if len(spec.shape) == 1 else spec.shape[1] if len(spec.shape) == 2 else -2


def class_names(values: NDArray[Any]) -> NDArray[Any]:
    """Labels of any kind as text [N]: 3, 3.0 and b"3" are the class 3."""
    flat = values.reshape(-1)
    if flat.dtype.kind == "f" and np.array_equal(flat, np.floor(flat)):
        flat = flat.astype(np.int64)
    texts = [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in flat.tolist()]
    names: NDArray[Any] = np.array(texts, dtype=object)
    return names


def predicted(manifest: Manifest, outputs: Arrays, classes: tuple[str, ...] = (), task: str = "") -> NDArray[Any]:
    """What is held against the truth, of all rows.

    outputs: the public ones, as serving.answer gives them. classes and task: those of the Examples. Returns int64 class indices
    [N], of which len(classes) stands for a class that is none of them; float64 numbers [N]; or for similarity the cosines
    [N / 2] of rows 2i and 2i + 1. Raises InvalidInput for answers that mean none of these.
    """
    meaning = meaning_of(manifest)
    if task == "similarity" or (not task and meaning.kind == "vector"):
        return cosines(np.asarray(outputs[meaning.output], np.float64))
    if task == "regression" or (not task and meaning.kind == "number"):
        return np.asarray(outputs[meaning.output], np.float64).reshape(-1)
    if meaning.kind == "classes":
        return _places(outputs[meaning.output], classes, named=bool(meaning.names))
    if meaning.kind == "scores":
        places = outputs[meaning.output].argmax(axis=1).astype(np.int64)
        return np.asarray(np.minimum(places, len(classes)) if classes else places)
    raise InvalidInput("Its answers are no classes, no numbers and no vectors.", code="not_comparable")


def _places(labels: NDArray[Any], classes: tuple[str, ...], *, named: bool) -> NDArray[Any]:
    """Of the classes that a model answers by itself. named: they are in the order of its scores, so that numbers which are
    not among their names are their places: what was exported often counts classes that have other names, as False and True."""
    known, places = np.unique(class_names(labels), return_inverse=True)
    index = {name: place for place, name in enumerate(classes)}
    if named and labels.dtype.kind in "biuf" and not index.keys() >= set(known.tolist()):
        counted = {str(place): place for place in range(len(classes))}
        index = counted if counted.keys() >= set(known.tolist()) else index
    order = np.array([index.get(name, len(classes)) for name in known.tolist()], np.int64)
    return np.asarray(order[places])


def cosines(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of rows 2i and 2i + 1 of [2 N, D]; 0 where one is nothing but zeros."""
    lengths = np.linalg.norm(vectors, axis=1)
    products = (vectors[::2] * vectors[1::2]).sum(axis=1)
    both = lengths[::2] * lengths[1::2]
    return np.asarray(np.divide(products, both, out=np.zeros(len(products)), where=both > 0))
