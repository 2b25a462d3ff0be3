"""The source's own file beside what was converted from it: an artifact of the same version, if it takes the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import msgspec
from numpy.typing import NDArray

from openmaas.core.errors import OpenMaaSError
from openmaas.core.manifest import Artifact
from openmaas.engines.sklearn.estimator import Estimator, Layout, load_skops
from openmaas.formats.base import Examined, Task
from openmaas.formats.compare import compare
from openmaas.formats.sample import read_sample, split_expected
from openmaas.formats.tables import describe_table


def answers_equally(estimator: Estimator, inputs: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> bool:
    """Whether it takes these inputs and gives these answers."""
    try:
        answers = estimator.answer(inputs)
    except OpenMaaSError:
        return False
    return compare(len(next(iter(inputs.values()))), answers, expected)[1] is None


def with_estimator(task: Task, examined: Examined, entry: str) -> Examined:
    """The examined ONNX version with the skops file that it was converted from, and what that says of columns and classes.

    As it is where the library is missing, the file cannot be loaded, or it does not give the sample's answers.
    """
    from openmaas.engines.onnxruntime.session import OnnxSession

    assert task.sample is not None
    inputs, expected = split_expected(read_sample(task.folder / task.sample))
    try:
        model, _ = load_skops(task.folder / entry)
        estimators = [Estimator(model, layout) for layout in get_args(Layout)]
        estimator = next((found for found in estimators if expected and answers_equally(found, inputs, expected)), None)
        if estimator is None:
            return examined
        session = OnnxSession(task.folder / examined.entry, threads=2)
        session.bind(examined.signature)
    except OpenMaaSError:
        return examined
    artifact = Artifact(kind="skops", entry=entry, options={"layout": estimator.layout})
    processing, notes = describe_table(model, estimator.layout, examined.signature, inputs, estimator.answer, session.run)
    return msgspec.structs.replace(
        examined, artifacts=(*examined.artifacts, artifact), processing=processing, notes=(*examined.notes, *notes)
    )
