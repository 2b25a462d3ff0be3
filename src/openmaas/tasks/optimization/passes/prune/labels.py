"""Which weights belong to one channel, followed through a graph from the layer that gives it to the layers that take it.

Every channel of every layer gets a label. A value has labels along one of its axes; nodes pass them on, move them to another
axis, repeat them (a flatten), join them end to end (a concatenation) or make two of them one (a sum: both channels go or stay
together). The labels that reach a weight say which of its rows or columns go with a channel: this is the dependency graph of
DepGraph (Fang et al. 2023, arXiv 2301.12900), kept for each channel. What a node does that is not known here freezes the labels
that it is given, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

if TYPE_CHECKING:
    from openmaas.tasks.optimization.trainable import Step, Trainable

Labels = NDArray[np.int64]

_ALONE = frozenset({
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "Erf", "Elu", "HardSwish", "HardSigmoid", "Mish", "Swish", "Softplus",
    "Softsign", "Sqrt", "Exp", "Log", "Neg", "Abs", "Clip", "Identity", "Dropout", "Cast", "Reciprocal",
})  # fmt: skip
_TOGETHER = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "PRelu", "Where"})
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"})
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_TURNED = (nn.modules.conv._ConvTransposeNd,)


class Along(NamedTuple):
    """The axis of a value that has labels, and them."""

    axis: int
    labels: Labels


@dataclass(frozen=True)
class Place:
    """An axis of a tensor whose entries belong to channels. owner: a module, or the parameters of no layer. taken: the layer
    takes the channels, and does not give them."""

    owner: Any
    tensor: str
    axis: int
    labels: Labels
    taken: bool = False


class _Stop(Exception):
    """Its text says why."""


class Channels:
    """The labels of a lifted model's channels.

    given: of each convolution and linear layer, by node. places: where they are. frozen: labels that must stay, and why.
    """

    def __init__(self, trainable: Trainable, excluded: Iterable[str] = ()) -> None:
        self._trainable = trainable
        self._nodes = {node.name: node for node in trainable.model.graph.node}
        names = {name for step in trainable.steps for name in (*step.inputs, *step.outputs) if name}
        with torch.no_grad():
            values = trainable.values(trainable.samples[0], names)
        self._shapes = {name: tuple(value.shape) for name, value in values.items()}
        self._same: list[int] = []
        self.given: dict[str, Labels] = {}
        self.places: list[Place] = []
        self.frozen: dict[int, str] = {}
        self._known: dict[str, Along] = {}
        for step in trainable.steps:
            self._visit(step)
        self._freeze_ends()
        for node in excluded:
            self._freeze(self.given[node], "it is excluded")
        self.given = {node: self._roots(labels) for node, labels in self.given.items()}
        self.places = [replace(place, labels=self._roots(place.labels)) for place in self.places]
        reasons: dict[int, str] = {}
        for label, reason in self.frozen.items():
            reasons.setdefault(self._root(label), reason)
        self.frozen = reasons

    def obstacle(self, node: str) -> str:
        """Why a layer keeps all its channels; empty where some could go."""
        reasons = [self.frozen.get(int(label), "") for label in self.given[node]]
        return reasons[0] if all(reasons) else ""

    # ── labels ──

    def _fresh(self, count: int) -> Labels:
        start = len(self._same)
        self._same.extend(range(start, start + count))
        return np.arange(start, start + count)

    def _root(self, label: int) -> int:
        while self._same[label] != label:
            self._same[label] = self._same[self._same[label]]
            label = self._same[label]
        return label

    def _roots(self, labels: Labels) -> Labels:
        return np.array([self._root(int(label)) for label in labels], np.int64)

    def _join(self, left: Labels, right: Labels) -> None:
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            self._same[self._root(one)] = self._root(other)

    def _freeze(self, labels: Labels, reason: str) -> None:
        for label in labels.tolist():
            self.frozen.setdefault(label, reason)

    def _freeze_ends(self) -> None:
        for name in self._trainable.outputs:
            if name in self._known:
                self._freeze(self._known[name].labels, f"its channels are those of the output {name!r}")
        lifted = {step.node for step in self._trainable.steps} | {binding.node for binding in self._trainable.bindings}
        for node in self._nodes.values():
            for name in node.input if node.name not in lifted else ():
                if name in self._known:
                    self._freeze(self._known[name].labels, f"node {node.name!r}, which was not lifted, takes its channels")

    # ── nodes ──

    def _visit(self, step: Step) -> None:
        module = self._trainable.nodes.get(step.node)
        given = {name: self._known[name] for name in step.inputs if name in self._known}
        try:
            if module is not None:
                after = self._through_layer(step, module, self._known.get(step.inputs[0]))
            elif not given or step.operator in ("Shape", "Size"):
                after = None
            else:
                after = self._through(step, given)
        except _Stop as stop:
            after = None
            for along in given.values():
                self._freeze(along.labels, str(stop))
        if after is not None:
            self._known[step.outputs[0]] = after

    def _through_layer(self, step: Step, module: Any, given: Along | None) -> Along | None:
        if isinstance(module, _NORMS):
            return self._through_norm(step, module, given)
        if isinstance(module, nn.Embedding):
            return None
        if isinstance(module, _CONVOLUTIONS):
            if _depthwise(module):
                self._give(step, module, given.labels if given and given.axis == 1 else None, 0)
                return given if given and given.axis == 1 else None
            taken, gives, axis = (0, 1, 1) if isinstance(module, _TURNED) else (1, 0, 1)
        else:
            taken, gives, axis = 1, 0, len(self._shapes[step.inputs[0]]) - 1
        labels = self._fresh(module.out_channels if isinstance(module, _CONVOLUTIONS) else module.out_features)
        groups = getattr(module, "groups", 1)
        if given is not None and (groups > 1 or given.axis != axis or len(given.labels) != module.weight.shape[taken]):
            how = "is a convolution in groups" if groups > 1 else "works along another axis than its channels"
            self._freeze(given.labels, f"node {step.node!r} ({step.operator}) {how}")
        elif given is not None:
            self.places.append(Place(module, "weight", taken, given.labels, taken=True))
        if groups > 1:
            self._freeze(labels, "it is a convolution in groups")
        self._give(step, module, labels, gives)
        return Along(axis, labels)

    def _give(self, step: Step, module: Any, labels: Labels | None, axis: int) -> None:
        if labels is None:  # a depthwise convolution of the model's input
            labels = self._fresh(module.out_channels)
            self._freeze(labels, "its channels are those of a value that is no layer's")
        self.given[step.node] = labels
        self.places.append(Place(module, "weight", axis, labels))
        if module.bias is not None:
            self.places.append(Place(module, "bias", 0, labels))

    def _through_norm(self, step: Step, module: Any, given: Along | None) -> Along | None:
        if given is None:
            return None
        wanted = len(self._shapes[step.inputs[0]]) - 1 if isinstance(module, nn.LayerNorm) else 1
        if given.axis != wanted:
            raise _Stop(f"node {step.node!r} ({step.operator}) works along another axis than its channels")
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            if getattr(module, tensor, None) is not None:
                self.places.append(Place(module, tensor, 0, given.labels))
        return given

    def _through(self, step: Step, given: dict[str, Along]) -> Along:
        first = next(iter(given.values()))
        if step.operator in _ALONE or (step.operator in _POOLS and first.axis == 1):
            return first
        if step.operator in _TOGETHER:
            return self._together(step, given)
        if step.operator == "Concat":
            return self._concatenated(step, given)
        one = "Reduce" if step.operator.startswith("Reduce") else step.operator
        moved = {
            "Reshape": self._flattened, "Flatten": self._flattened, "Reduce": self._reduced, "Transpose": self._transposed,
            "Softmax": self._compared, "Squeeze": self._squeezed, "Unsqueeze": self._squeezed,
        }.get(one)  # fmt: skip
        if moved is None or step.inputs[0] not in given:
            raise _unknown(step)
        return moved(step, first)

    def _together(self, step: Step, given: dict[str, Along]) -> Along:
        """Values of which each is spread over the axes of the largest, counted from the last."""
        rank = len(self._shapes[step.outputs[0]])
        rights = {len(self._shapes[name]) - along.axis for name, along in given.items()}
        first = next(iter(given.values()))
        if len(rights) > 1:
            raise _Stop(f"node {step.node!r} ({step.operator}) joins its channels with another axis")
        right = rights.pop()
        if any(len(along.labels) != len(first.labels) for along in given.values()):
            raise _Stop(f"node {step.node!r} ({step.operator}) spreads one channel over several")
        for along in given.values():
            self._join(first.labels, along.labels)
        for name in step.inputs:
            theirs = self._shapes.get(name, ())
            if not name or name in given or right > len(theirs) or theirs[-right] == 1:
                continue
            if name in self._trainable.free_keys:
                owner, key = self._trainable.free, self._trainable.free_keys[name]
                self.places.append(Place(owner, key, len(theirs) - right, first.labels))
            elif name in self._trainable.constants:
                raise _Stop(f"node {step.node!r} ({step.operator}) has a constant of a fixed length")
            else:
                raise _Stop(f"node {step.node!r} ({step.operator}) joins its channels with {name!r}, which is no layer's")
        return Along(rank - right, first.labels)

    def _concatenated(self, step: Step, given: dict[str, Along]) -> Along:
        rank = len(self._shapes[step.outputs[0]])
        axis = int(self._attributes(step)["axis"]) % rank
        axes = {along.axis for along in given.values()}
        if len(axes) > 1:
            raise _Stop(f"node {step.node!r} (Concat) joins its channels with another axis")
        if axes != {axis}:
            if len(given) < len(set(step.inputs)):
                raise _Stop(f"node {step.node!r} (Concat) joins its channels with what is no layer's")
            return self._together(step, given)
        parts = []
        for name in step.inputs:
            if name in given:
                parts.append(given[name].labels)
            else:
                parts.append(self._fresh(self._shapes[name][axis]))
                self._freeze(parts[-1], f"{name!r} is no layer's")
        return Along(axis, np.concatenate(parts))

    def _flattened(self, step: Step, given: Along) -> Along:
        before, after = self._shapes[step.inputs[0]], self._shapes[step.outputs[0]]
        start = self._trainable.flattens.get(step.node, -1)
        if step.operator == "Flatten" and int(self._attributes(step).get("axis", 1)) == 1:
            start = 1
        if start < 0 or len(after) != start + 1:
            raise _Stop(f"node {step.node!r} ({step.operator}) gives its channels other lengths")
        if given.axis < start:
            return given
        outer, inner = math.prod(before[start : given.axis]), math.prod(before[given.axis + 1 :])
        return Along(start, np.tile(np.repeat(given.labels, inner), outer))

    def _transposed(self, step: Step, given: Along) -> Along:
        order = list(self._attributes(step).get("perm", range(len(self._shapes[step.inputs[0]]))[::-1]))
        return Along(order.index(given.axis), given.labels)

    def _compared(self, step: Step, given: Along) -> Along:
        if int(self._attributes(step).get("axis", -1)) % len(self._shapes[step.inputs[0]]) == given.axis:
            raise _Stop(f"its channels are the scores that node {step.node!r} (Softmax) compares")
        return given

    def _reduced(self, step: Step, given: Along) -> Along:
        before, after = self._shapes[step.inputs[0]], self._shapes[step.outputs[0]]
        axes = self._attributes(step).get("axes")
        if axes is None and len(step.inputs) > 1 and step.inputs[1] in self._trainable.constants:
            axes = self._trainable.constants[step.inputs[1]].tolist()
        gone = {one % len(before) for one in axes} if axes else set(range(len(before)))
        if given.axis in gone:
            raise _Stop(f"node {step.node!r} ({step.operator}) joins its channels")
        kept = len(after) == len(before)
        return given if kept else Along(given.axis - sum(1 for one in gone if one < given.axis), given.labels)

    def _squeezed(self, step: Step, given: Along) -> Along:
        before, after = self._shapes[step.inputs[0]], self._shapes[step.outputs[0]]
        long = [length for length in after if length != 1]
        if long != [length for length in before if length != 1] or before[given.axis] == 1:
            raise _unknown(step)
        nth = sum(1 for length in before[: given.axis] if length != 1)
        return Along([axis for axis, length in enumerate(after) if length != 1][nth], given.labels)

    def _attributes(self, step: Step) -> dict[str, Any]:
        from onnx import helper

        return {one.name: helper.get_attribute_value(one) for one in self._nodes[step.node].attribute}


def remove(trainable: Trainable, channels: Channels, gone: set[int]) -> None:
    """Take the weights of these labels away; the layers become smaller."""
    kept: dict[tuple[int, str], list[Place]] = {}
    for place in channels.places:
        kept.setdefault((id(place.owner), place.tensor), []).append(place)
    labels = np.array(sorted(gone), np.int64)
    for places in kept.values():
        owner, name = places[0].owner, places[0].tensor
        tensor = getattr(owner, name).detach()
        for place in places:
            tensor = tensor.index_select(place.axis, torch.from_numpy(np.flatnonzero(~np.isin(place.labels, labels))))
        if isinstance(getattr(owner, name), nn.Parameter):
            setattr(owner, name, nn.Parameter(tensor.clone()))
        else:
            setattr(owner, name, tensor.clone())
    for module in trainable.nodes.values():
        _resize(module)


def _resize(module: Any) -> None:
    """What a layer says of its lengths, after its weights."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _CONVOLUTIONS):
        gives, takes = (1, 0) if isinstance(module, _TURNED) else (0, 1)
        if _depthwise(module):
            module.groups = module.in_channels = module.out_channels = module.weight.shape[0]
        elif module.groups == 1:
            module.out_channels, module.in_channels = module.weight.shape[gives], module.weight.shape[takes]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = len(module.weight)


def _depthwise(module: Any) -> bool:
    """Each channel by itself. One of a single channel is a convolution as others are."""
    return bool(1 < module.groups == module.out_channels == module.in_channels)


def _unknown(step: Step) -> _Stop:
    return _Stop(f"node {step.node!r} ({step.operator}) takes its channels in a way that cannot be followed")
