"""How far the channels that a layer gives can be followed, through the nodes after it to the layers that take them.

torch-pruning follows channels along torch's own record of a computation, in which an axis has no name. What it cannot follow
rightly is found here first, where the axes are known: such a layer keeps its channels, and the reason is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from openmaas.tasks.optimization.trainable import Step, Trainable

_ALONE = frozenset({
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "Erf", "Elu", "HardSwish", "HardSigmoid", "Mish", "Swish", "Softplus",
    "Softsign", "Sqrt", "Exp", "Log", "Neg", "Abs", "Clip", "Identity", "Dropout", "Cast", "Reciprocal",
})  # fmt: skip
_TOGETHER = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "PRelu"})
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"})
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
_ASIDE = frozenset({"Shape", "Size"})


class _Stop(Exception):
    """Its text says why."""


class Reach:
    """shapes: of every value of the lifted part, for some number of rows."""

    def __init__(self, trainable: Trainable, shapes: dict[str, tuple[int, ...]]) -> None:
        self._trainable, self._shapes = trainable, shapes
        self._takers: dict[str, list[Step]] = {}
        self._makers: dict[str, Step] = {}
        for step in trainable.steps:
            for name in step.inputs:
                self._takers.setdefault(name, []).append(step)
            for name in step.outputs:
                self._makers[name] = step
        lifted = {step.node for step in trainable.steps} | {binding.node for binding in trainable.bindings}
        self._left = {name: node.name for node in trainable.model.graph.node if node.name not in lifted for name in node.input}

    def obstacle(self, node: str) -> str:
        """Why a layer must keep its channels; empty where they can be followed."""
        module = self._trainable.nodes[node]
        if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1 and not _depthwise(module):
            return "it is a convolution in groups"
        step = next(step for step in self._trainable.steps if step.node == node)
        value = step.outputs[0]
        axis = 1 if isinstance(module, nn.modules.conv._ConvNd) else len(self._shapes[value]) - 1
        try:
            self._follow(value, axis)
        except _Stop as stop:
            return str(stop)
        return ""

    def _follow(self, value: str, axis: int) -> None:
        waiting, seen = [(value, axis)], set()
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            name, at = place
            if name in self._trainable.outputs:
                raise _Stop(f"its channels are those of the output {name!r}")
            if name in self._left:
                raise _Stop(f"node {self._left[name]!r}, which was not lifted, takes its channels")
            for step in self._takers.get(name, ()):
                waiting += [(step.outputs[0], after) for after in self._through(step, name, at)]

    def _through(self, step: Step, name: str, axis: int) -> Iterator[int]:
        """The axis on which the channels leave a node; none where a layer ends them."""
        module = self._trainable.nodes.get(step.node)
        if module is not None:
            yield from self._through_layer(step, module, axis)
        elif step.operator in _ALONE:
            yield axis
        elif step.operator in _TOGETHER:
            yield self._with_others(step, name, axis)
        elif step.operator in _POOLS and axis == 1:
            yield axis
        elif step.operator in ("Transpose", "Flatten", "Reshape", "Concat", "Softmax", "Squeeze", "Unsqueeze"):
            yield self._moved(step, axis)
        elif step.operator.startswith("Reduce"):
            yield self._reduced(step, axis)
        elif step.operator not in _ASIDE:
            raise _Stop(f"node {step.node!r} ({step.operator}) takes its channels in a way that cannot be followed")

    def _through_layer(self, step: Step, module: nn.Module, axis: int) -> Iterator[int]:
        last = len(self._shapes[step.inputs[0]]) - 1
        if isinstance(module, nn.modules.conv._ConvNd) and axis == 1:
            if _depthwise(module):
                yield axis
            elif module.groups > 1:
                raise _Stop(f"node {step.node!r} is a convolution in groups")
        elif axis == (1 if isinstance(module, nn.modules.batchnorm._BatchNorm) else last) and isinstance(module, _NORMS):
            yield axis
        elif not (isinstance(module, nn.Linear) and axis == last):
            raise _Stop(f"node {step.node!r} ({step.operator}) works along another axis than its channels")

    def _with_others(self, step: Step, name: str, axis: int) -> int:
        shape, result = self._shapes[name], self._shapes[step.outputs[0]]
        right = len(shape) - axis
        for other in step.inputs:
            if not other or other == name:
                continue
            theirs = self._shapes[other]
            length = theirs[-right] if right <= len(theirs) else 1
            if length == 1:
                continue
            if other in self._trainable.free_keys:
                # torch-pruning shrinks the last axis of such a constant that is longer than 1.
                if sum(1 for one in theirs if one > 1) > 1:
                    raise _Stop(f"node {step.node!r} ({step.operator}) has a constant of shape {list(theirs)}")
            elif other in self._trainable.constants:
                raise _Stop(f"node {step.node!r} ({step.operator}) has a constant of a fixed length")
            else:
                self._from_layers(other, len(theirs) - right)
        return len(result) - right

    def _from_layers(self, name: str, axis: int) -> None:
        """Whether the channels that ours are joined with are a layer's too."""
        waiting, seen = [(name, axis)], set()
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            value, at = place
            step = self._makers.get(value)
            if step is None:
                raise _Stop(f"its channels are added to those of {value!r}, which is no layer's")
            module = self._trainable.nodes.get(step.node)
            if module is not None and not _keeps_channels(module):
                fits = at == (1 if isinstance(module, nn.modules.conv._ConvNd) else len(self._shapes[value]) - 1)
                if not fits or isinstance(module, nn.Embedding):
                    raise _Stop(f"its channels are joined with what node {step.node!r} ({step.operator}) gives")
                continue
            found = [
                (one, before)
                for one in step.inputs
                if one in self._makers or one in self._trainable.inputs
                for before in range(len(self._shapes[one]))
                if self._shapes[one][before] == self._shapes[value][at] and at in self._after(step, one, before)
            ]
            if not found:
                raise _Stop(f"its channels are joined with what node {step.node!r} ({step.operator}) gives")
            waiting += found

    def _after(self, step: Step, name: str, axis: int) -> list[int]:
        if step.operator in _TOGETHER:
            return [len(self._shapes[step.outputs[0]]) - len(self._shapes[name]) + axis]
        if step.operator == "Concat":
            return []
        try:
            return list(self._through(step, name, axis))
        except _Stop:
            return []

    def _moved(self, step: Step, axis: int) -> int:
        before, after = self._shapes[step.inputs[0]], self._shapes[step.outputs[0]]
        attributes = self._attributes(step)
        if step.operator == "Transpose":
            order: list[int] = list(attributes.get("perm", range(len(before))[::-1]))
            return order.index(axis)
        if step.operator in ("Reshape", "Flatten"):
            start = self._trainable.flattens.get(step.node, 1 if step.operator == "Flatten" and len(after) == 2 else -1)
            if axis == start == 1:
                return 1
            if start >= 0 and axis > start:
                raise _Stop(f"node {step.node!r} flattens it with the channels behind other axes")
            raise _Stop(f"node {step.node!r} ({step.operator}) gives its channels other lengths")
        if step.operator in ("Concat", "Softmax"):
            along = int(attributes.get("axis", -1)) % len(before)
            if (along == axis) != (step.operator == "Concat"):
                raise _Stop(f"node {step.node!r} ({step.operator}) works along another axis than can be followed")
            for other in step.inputs if step.operator == "Concat" else ():
                self._from_layers(other, axis)
            return axis
        # Squeeze and Unsqueeze: where the same axes are left in the same order.
        kept = [length for length in before if length != 1]
        if kept != [length for length in after if length != 1] or before[axis] == 1:
            raise _Stop(f"node {step.node!r} ({step.operator}) leaves out its channels")
        nth = sum(1 for length in before[:axis] if length != 1)
        return [at for at, length in enumerate(after) if length != 1][nth]

    def _reduced(self, step: Step, axis: int) -> int:
        before, after = self._shapes[step.inputs[0]], self._shapes[step.outputs[0]]
        axes = self._attributes(step).get("axes")
        if axes is None and len(step.inputs) > 1 and step.inputs[1] in self._trainable.constants:
            axes = self._trainable.constants[step.inputs[1]].tolist()
        gone = {one % len(before) for one in axes} if axes else set(range(len(before)))
        if axis in gone:
            raise _Stop(f"node {step.node!r} ({step.operator}) joins its channels")
        return axis if len(after) == len(before) else axis - sum(1 for one in gone if one < axis)

    def _attributes(self, step: Step) -> dict[str, Any]:
        from onnx import helper

        node = next(node for node in self._trainable.model.graph.node if node.name == step.node)
        return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def _depthwise(module: nn.Module) -> bool:
    return bool(1 < module.groups == module.out_channels == module.in_channels)


def _keeps_channels(module: nn.Module) -> bool:
    return isinstance(module, _NORMS) or (isinstance(module, nn.modules.conv._ConvNd) and _depthwise(module))
