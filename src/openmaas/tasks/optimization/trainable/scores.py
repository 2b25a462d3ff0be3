"""Which value of a model training is held to: the scores of its classes before they become probabilities, or its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from openmaas.core.errors import Refused
from openmaas.core.processing import Embedding, Labels, Processing
from openmaas.tasks.optimization.trainable.lifted import Trainable

_TINY = 1e-7


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Class scores of a lifted model, [N, C] of any size, whose softmax are the probabilities.

    value: the graph's value that they are read from. output: the output of the graph that carries them. form: logits as they
    are, or probabilities, whose logarithm is taken. A single column becomes two: of no and of yes.
    """

    value: str
    output: str
    form: Literal["logits", "probabilities"]

    def of(self, trainable: Trainable, inputs: Mapping[str, Tensor | NDArray[Any]]) -> Tensor:
        """Scores of these rows, with gradients."""
        return self.read(trainable.values(inputs, [self.value])[self.value])

    def read(self, values: Tensor) -> Tensor:
        """Scores of what the value held."""
        values = values.reshape(len(values), -1)
        if self.form == "probabilities":
            if values.shape[1] == 1:
                values = torch.cat((1 - values, values), 1)
            return torch.log(values.clamp(min=_TINY))
        return torch.cat((torch.zeros_like(values), values), 1) if values.shape[1] == 1 else values


def find_scores(trainable: Trainable, processing: Processing | None, classes: int = 0) -> Scores:
    """Where the class scores are: the output that the manifest declares, else the only one that could be.

    A softmax or sigmoid at the end is looked through. classes: how many there are, 0 where that is not known.
    Raises Refused where no output, or more than one, could be it.
    """
    shapes = _shapes(trainable)
    labels = processing.output if processing and isinstance(processing.output, Labels) else None
    output = labels.output if labels and labels.output else _only(trainable, shapes, classes)
    if output not in shapes:
        raise _unclear(f"the manifest's output of scores {output!r} is no output of floating point", shapes)
    shape = shapes[output]
    if len(shape) > 2 or (classes and shape[1:] not in ((classes,), *([(1,), ()] if classes == 2 else []))):
        raise _unclear(f"output {output!r} does not hold {classes or 'class'} scores for each row", shapes)
    value, operator, axis = _source(trainable, output)
    if (operator == "Softmax" and axis in (-1, 1)) or operator == "Sigmoid":
        return Scores(value=value, output=output, form="logits")
    known = labels is not None and labels.gives == "probabilities" and labels.activation == "none"
    probabilities = operator != "LogSoftmax" and (known or output == "probabilities" or _sum_to_one(trainable, output))
    return Scores(value=output, output=output, form="probabilities" if probabilities else "logits")


def find_numbers(trainable: Trainable, processing: Processing | None = None) -> str:
    """The output with the numbers of a regression, or the vectors of an embedding. Raises Refused as find_scores does."""
    declared = processing.output.output if processing and isinstance(processing.output, Embedding) else ""
    if declared in trainable.outputs:
        return declared
    if len(trainable.outputs) > 1:
        raise _unclear("it has several outputs of floating point", _shapes(trainable))
    return trainable.outputs[0]


def _shapes(trainable: Trainable) -> dict[str, tuple[int, ...]]:
    with torch.no_grad():
        return {name: tuple(value.shape) for name, value in trainable(**trainable.samples[0]).items()}


def _only(trainable: Trainable, shapes: dict[str, tuple[int, ...]], classes: int) -> str:
    if len(shapes) == 1:
        return next(iter(shapes))
    if "probabilities" in shapes:
        return "probabilities"
    fitting = [name for name, shape in shapes.items() if len(shape) == 2 and (shape[1] == classes or not classes)]
    if len(fitting) != 1:
        raise _unclear("it has several outputs that could be class scores", shapes)
    return fitting[0]


def _source(trainable: Trainable, output: str) -> tuple[str, str, int]:
    """What computes an output: the value that it takes, the operator and its axis."""
    steps = {name: step for step in trainable.steps for name in step.outputs}
    step = steps.get(output)
    while step is not None and step.operator == "Identity" and step.inputs[0] in steps:
        step = steps[step.inputs[0]]
    if step is None:
        return output, "", -1
    node = next(node for node in trainable.model.graph.node if node.name == step.node)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
    return step.inputs[0], step.operator, axis


def _sum_to_one(trainable: Trainable, output: str) -> bool:
    with torch.no_grad():
        values = [trainable(**sample)[output] for sample in trainable.samples]
    return all(
        one.ndim == 2
        and one.shape[1] > 1
        and bool((one >= 0).all() and torch.allclose(one.sum(1), torch.ones(()).to(one), atol=1e-4))
        for one in values
    )


def _unclear(reason: str, shapes: dict[str, tuple[int, ...]]) -> Refused:
    told = ", ".join(f"{name!r} {list(shape)}" for name, shape in shapes.items())
    return Refused(
        f"It cannot be told which output training is held to: {reason}. There are {told}.",
        code="pass_not_applicable",
        next_step="Declare the output of the scores in openmaas.yaml (processing: output: labels) and push the model again.",
    )
