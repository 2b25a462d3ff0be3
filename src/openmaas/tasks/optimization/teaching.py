"""What a teacher says of the rows of a training set, in the order of the student's classes. The teacher is any version."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.manifest import Manifest
from openmaas.core.processing import Labels
from openmaas.core.recipes import Distil
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.base import Arrays, cannot

_TINY = 1e-7


def scores_of(answers: Arrays, teacher: Manifest, examples: Examples, parameters: Distil) -> NDArray[np.float32]:
    """[rows, classes], whose softmax are the teacher's probabilities. Raises Refused where its classes are others."""
    labels = teacher.processing.output if teacher.processing and isinstance(teacher.processing.output, Labels) else None
    name = parameters.teacher or "the version itself"
    output = labels.output if labels and labels.output in answers else _output(answers, len(examples.classes), name, parameters)
    values = answers[output].astype(np.float64)
    values = values.reshape(len(values), -1)
    if not np.isfinite(values).all():
        raise cannot(parameters, f"{name} answers the training set with NaN or Infinity", "Choose another teacher.")
    scores = _scores(values, _are_probabilities(values, output, labels))
    names = tuple(map(str, labels.labels)) if labels else ()
    if len(names) == scores.shape[1] and examples.classes and names != examples.classes:
        scores = scores[:, _order(names, examples.classes, name, parameters)]
    if examples.classes and scores.shape[1] != len(examples.classes):
        raise cannot(
            parameters,
            f"{name} tells {scores.shape[1]} classes apart ({output!r}) and the student {len(examples.classes)}",
            "Choose a teacher of the same classes.",
        )
    return scores.astype(np.float32)


def _output(answers: Arrays, classes: int, name: str, parameters: Distil) -> str:
    if "probabilities" in answers:
        return "probabilities"
    numbers = {key: array for key, array in answers.items() if array.dtype.kind == "f" and array.ndim <= 2}
    fitting = [key for key, array in numbers.items() if not classes or array.reshape(len(array), -1).shape[1] in (classes, 1)]
    if len(fitting) == 1:
        return fitting[0]
    told = ", ".join(f"{key!r} {list(array.shape[1:])}" for key, array in answers.items())
    raise cannot(
        parameters,
        f"it cannot be told which output of {name} holds the scores of {classes or 'the'} classes; there are {told}",
        "Choose another teacher, or declare its output of scores in openmaas.yaml and push it again.",
    )


def _are_probabilities(values: NDArray[Any], output: str, labels: Labels | None) -> bool:
    within = bool((values >= 0).all() and (values <= 1 + 1e-4).all())
    if labels is not None and labels.activation != "none":
        return False  # they become probabilities after the engine
    if values.shape[1] == 1:
        return within and (output == "probabilities" or (labels is not None and labels.probabilities))
    return within and bool(np.allclose(values.sum(1), 1, atol=1e-3))


def _scores(values: NDArray[Any], probabilities: bool) -> NDArray[Any]:
    if probabilities:
        both = np.concatenate([1 - values, values], 1) if values.shape[1] == 1 else values
        return np.asarray(np.log(np.clip(both, _TINY, None)))
    return np.concatenate([np.zeros_like(values), values], 1) if values.shape[1] == 1 else values


def _order(theirs: tuple[str, ...], ours: tuple[str, ...], name: str, parameters: Distil) -> list[int]:
    if set(theirs) != set(ours):
        unknown = sorted(set(ours) ^ set(theirs))[:4]
        raise cannot(
            parameters,
            f"{name} and the student have other classes ({', '.join(unknown)})",
            "Choose a teacher of the same classes.",
        )
    return [theirs.index(one) for one in ours]
