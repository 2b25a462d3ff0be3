"""A lifted model: the graph's nodes as steps over torch tensors, and the way back into the graph's initializers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openmaas.core.errors import Refused
from openmaas.tasks.optimization.graphs import drop_unused
from openmaas.tasks.optimization.trainable.graph import to_proto
from openmaas.tasks.optimization.trainable.proof import Arrays, prove

_NO_LAYER = frozenset(dir(nn.ModuleDict()))


@dataclass(frozen=True, kw_only=True)
class Step:
    """A node. inputs: names of values that `run` is given, empty for one left out. outputs: names of what it gives."""

    node: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Binding:
    """A tensor of the module and the initializer that it came from, which is input `position` of `node`.

    parameter: as state_dict names it. transposed: the module has the matrix the other way round. shape: of the initializer.
    """

    parameter: str
    initializer: str
    node: str
    position: int
    transposed: bool
    shape: tuple[int, ...]

    def to_graph(self, tensor: Tensor) -> Tensor:
        """As the initializer holds it: turned, and with the leading axes of length 1 that it had."""
        tensor = tensor.detach().T if self.transposed else tensor.detach()
        leading = len(self.shape) - tensor.ndim
        return tensor.reshape((1,) * leading + tuple(tensor.shape)) if leading > 0 else tensor


class Trainable(nn.Module):  # type: ignore[misc]
    """A model as torch computes it. Made by `lift`.

    layers: modules by the name of the node (with '_' for '.'); `nodes` has them by the node's exact name, in the graph's order.
    free: other constants that are trained, what a node adds or multiplies with. inputs, outputs: of the graph; outputs that are
    not floating point (labels) are left to the graph. bindings: which initializer each tensor of state_dict came from.
    """

    def __init__(
        self, graph: Any, steps: tuple[Step, ...], nodes: Mapping[str, nn.Module], free: Mapping[str, Tensor],
        constants: Mapping[str, Tensor], inputs: tuple[str, ...], outputs: tuple[str, ...],
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.steps = graph, steps
        self.inputs, self.outputs = inputs, outputs
        self.nodes = dict(nodes)
        self.layers, self.keys = nn.ModuleDict(), {}
        for name, module in nodes.items():
            self.keys[name] = key = _key(name, self.layers)
            self.layers[key] = module
        self.free = nn.ParameterDict()
        self.free_keys: dict[str, str] = {}
        for name, tensor in free.items():
            self.free_keys[name] = key = _key(name, self.free)
            self.free[key] = nn.Parameter(tensor.clone())
        self.constants = dict(constants)
        self.flattens: dict[str, int] = {}
        """Nodes that join all axes from this one on, whatever lengths they have; their graph says a fixed one perhaps."""
        self.bindings: tuple[Binding, ...] = ()
        self.samples: tuple[Arrays, ...] = ()
        self._last = {name: at for at, step in enumerate(steps) for name in step.inputs}

    @property
    def initializers(self) -> dict[str, str]:
        """The initializer of each tensor of state_dict."""
        return {binding.parameter: binding.initializer for binding in self.bindings}

    def to_parameters(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """Arrays shaped as initializers (masks of them), by and shaped as the parameters that come from these."""
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        found = {}
        for binding in self.bindings:
            name = names.get(id(self._tensor(binding)))
            if binding.initializer in arrays and name is not None:
                array = torch.from_numpy(np.array(arrays[binding.initializer]))
                found[name] = array.T if binding.transposed else array.reshape(self._tensor(binding).shape)
        return found

    def node_of(self, module: nn.Module) -> str:
        """The node that a layer is."""
        return next((name for name, one in self.nodes.items() if one is module), type(module).__name__)

    def forward(self, /, **inputs: Tensor | NDArray[Any]) -> dict[str, Tensor]:
        """The outputs by name. Raises Refused that names the node which cannot compute."""
        return self.values(inputs, self.outputs)

    def values(self, inputs: Mapping[str, Tensor | NDArray[Any]], wanted: Iterable[str]) -> dict[str, Tensor]:
        """Any values of the graph by name, those within it too."""
        asked = list(wanted)
        held: dict[str, Tensor] = {**self.constants, **{name: self.free[key] for name, key in self.free_keys.items()}}
        held |= {name: torch.as_tensor(inputs[name]) for name in self.inputs}
        missing = set(asked) - set(held)
        for at, step in enumerate(self.steps):
            if not missing:
                break
            answers = self._run(step, [held[name] if name else None for name in step.inputs])
            held.update(zip(step.outputs, answers, strict=False))
            missing.difference_update(step.outputs)
            for name in step.inputs:
                if self._last.get(name) == at and name not in asked:
                    held.pop(name, None)
        return {name: held[name] for name in asked}

    def _run(self, step: Step, given: list[Tensor | None]) -> Any:
        try:
            start = self.flattens.get(step.node)
            answer = step.run(*given) if start is None else torch.flatten(given[0], start)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            shapes = [tuple(one.shape) if one is not None else None for one in given]
            raise Refused(
                f"Node {step.node!r} ({step.operator}) cannot compute on inputs of shapes {shapes}: {_brief(error)}.",
                code="pass_not_applicable",
                next_step="Leave the layers before it out (exclude), or export the model without fixed lengths.",
            ) from None
        return answer if isinstance(answer, tuple) else (answer,)

    def to_onnx(self) -> Any:
        """The graph with the weights as they are now, as an onnx.ModelProto.

        Raises Refused where onnxruntime does not answer as the module does, or a weight is not finite.
        """
        model = type(self.model)()
        model.CopyFrom(self.model)
        state = self.state_dict(keep_vars=True)
        for name, tensor in state.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise Refused(f"The weights {name!r} are not finite numbers.", code="not_finite")
        _write_back(model.graph, self.bindings, {name: tensor.detach() for name, tensor in state.items()})
        self._write_shapes(model.graph)
        drop_unused(model)
        was = self.training
        self.eval()
        try:
            for sample in self.samples:
                with torch.no_grad():
                    answers = {name: value.numpy() for name, value in self(**sample).items()}
                prove(model.SerializeToString(), sample, answers)
        finally:
            self.train(was)
        return model

    def _write_shapes(self, graph: Any) -> None:
        """What the graph says of lengths that changed: groups of convolutions, and where a flatten ends."""
        changed = any(tuple(binding.to_graph(self._tensor(binding)).shape) != binding.shape for binding in self.bindings)
        if not changed:
            return
        del graph.value_info[:]
        for node in graph.node:
            module = self.nodes.get(node.name)
            if isinstance(module, nn.modules.conv._ConvNd):
                for attribute in (one for one in node.attribute if one.name == "group"):
                    attribute.i = module.groups
            start = self.flattens.get(node.name)
            if node.op_type == "Reshape" and start is not None:
                name = _unused(f"{node.name}/flattened", {tensor.name: tensor for tensor in graph.initializer})
                graph.initializer.append(to_proto(torch.tensor([0] * start + [-1]), name))
                node.input[1] = name
                for attribute in [attribute for attribute in node.attribute if attribute.name == "allowzero"]:
                    node.attribute.remove(attribute)

    def _tensor(self, binding: Binding) -> Tensor:
        path, _, leaf = binding.parameter.rpartition(".")
        found: Tensor = getattr(self.get_submodule(path), leaf)
        return found


def _key(name: str, taken: Any) -> str:
    key = name.replace(".", "_") or "_"
    while key in _NO_LAYER or key in taken or key.startswith("__") or hasattr(taken, key):
        key += "_"
    return key


def _write_back(graph: Any, bindings: tuple[Binding, ...], state: Mapping[str, Tensor]) -> None:
    nodes = {node.name: node for node in graph.node}
    held = {tensor.name: tensor for tensor in graph.initializer}
    uses: dict[str, set[tuple[str, int]]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            uses.setdefault(name, set()).add((node.name, position))
    ours: dict[str, list[Binding]] = {}
    for binding in bindings:
        ours.setdefault(binding.initializer, []).append(binding)
    outputs = {value.name for value in graph.output}
    for name, group in ours.items():
        arrays = [binding.to_graph(state[binding.parameter]) for binding in group]
        alone = uses[name] == {(binding.node, binding.position) for binding in group} and name not in outputs
        if alone and all(torch.equal(arrays[0], other) for other in arrays[1:]):
            held[name].CopyFrom(to_proto(arrays[0], name))
            continue
        # An initializer that several nodes read, which were trained apart: each gets its own.
        for binding, array in zip(group, arrays, strict=True):
            fresh = _unused(f"{name}/{binding.node}/{binding.position}", held)
            held[fresh] = tensor = graph.initializer.add()
            tensor.CopyFrom(to_proto(array, fresh))
            nodes[binding.node].input[binding.position] = fresh
        if alone:
            graph.initializer.remove(held.pop(name))


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
