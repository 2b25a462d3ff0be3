"""From an ONNX graph to torch."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from openmaas.core.errors import Refused
from openmaas.core.made_up import make_up
from openmaas.formats.onnx.graph import axis_names, read_signature
from openmaas.tasks.optimization.trainable.functions import FUNCTIONS, Node, Unsupported
from openmaas.tasks.optimization.trainable.graph import Constants, has_function, live_nodes, opsets_of, plain, read_node
from openmaas.tasks.optimization.trainable.layers import Layer, make_layer, with_bias
from openmaas.tasks.optimization.trainable.lifted import Binding, Step, Trainable
from openmaas.tasks.optimization.trainable.proof import Arrays, prove

_QUANTIZED = ("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "MatMulNBits")
_TRAINED = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "PRelu",
    "MatMul",
    "LayerNormalization",
    "RMSNormalization",
    "InstanceNormalization",
    "GroupNormalization",
)
_ROWS, _LENGTHS = (3, 2), (16, 11)
"""Of the two samples: lengths that agree by chance in one of them differ in the other."""


def lift(model: Any, sample: Arrays | None = None) -> Trainable:
    """An onnx.ModelProto (with its weights, opset 13 to 26) as a module of torch that answers as it does.

    sample: engine inputs by name, at least three rows where the batch is free; made up where none are given. The module is held
    against onnxruntime on them. Raises Refused that names a node without a counterpart, and where the answers differ.
    """
    if texts := [spec.name for spec in read_signature(model).inputs if spec.datatype == "BYTES"]:
        raise Refused(
            f"Input {texts[0]!r} holds texts, which torch cannot compute with.",
            code="pass_not_applicable",
            next_step="Use a version whose inputs are numbers.",
        )
    graph, constants = plain(model)
    outputs = _outputs(graph)
    nodes = live_nodes(graph.graph, outputs)
    inputs = tuple(value.name for value in graph.graph.input)
    lifting = _Lifting(graph, nodes, constants, outputs)
    trainable = Trainable(graph, tuple(lifting.steps), lifting.nodes, lifting.free, lifting.kept, inputs, tuple(outputs))
    trainable.bindings = tuple(lifting.bindings(trainable))
    trainable.samples = tuple(_samples(graph, sample))
    trainable.eval()
    _find_flattens(trainable)
    serialized = model.SerializeToString()
    for rows in trainable.samples:
        with torch.no_grad():
            prove(serialized, rows, {name: value.numpy() for name, value in trainable(**rows).items()})
    return trainable


def _outputs(model: Any) -> list[str]:
    """Outputs that training can be held to: those of floating point."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise Refused(f"onnxruntime cannot load the model: {reason}.", code="model_not_runnable") from None
    found = [value.name for value in session.get_outputs() if value.type in ("tensor(float)", "tensor(double)")]
    if not found:
        raise Refused(
            "The model has no output of float32 numbers that training could be held to.",
            code="pass_not_applicable",
            next_step="Train before the model is cast, or export it with its scores as an output.",
        )
    return found


def _samples(model: Any, given: Arrays | None) -> list[Arrays]:
    inputs, axes = read_signature(model).inputs, axis_names(model)
    free = all(spec.shape and spec.shape[0] == -1 for spec in inputs)
    if not free:
        return [make_up(inputs, 1, axes)]
    if given is None or len(next(iter(given.values()))) < max(_ROWS):
        return [make_up(inputs, rows, axes, length) for rows, length in zip(_ROWS, _LENGTHS, strict=True)]
    return [{spec.name: given[spec.name][:rows] for spec in inputs} for rows in _ROWS]


def _find_flattens(trainable: Trainable) -> None:
    """Reshapes that join all axes from one on, in every sample: they do so whatever length their constant says."""
    reshapes = [step for step in trainable.steps if step.operator == "Reshape"]
    wanted = {name for step in reshapes for name in (step.inputs[0], step.outputs[0])}
    found: list[dict[str, int]] = []
    for sample in trainable.samples:
        with torch.no_grad():
            shapes = {name: tuple(value.shape) for name, value in trainable.values(sample, wanted).items()}
        starts: dict[str, int] = {}
        for step in reshapes:
            before, after = shapes[step.inputs[0]], shapes[step.outputs[0]]
            start = len(after) - 1
            if start >= 0 and len(before) > start and before[:start] == after[:start]:
                starts[step.node] = start
        found.append(starts)
    trainable.flattens = {node: start for node, start in found[0].items() if all(one.get(node) == start for one in found)}


class _Lifting:
    """Nodes become steps, one after the other."""

    def __init__(self, model: Any, nodes: list[Any], constants: Constants, outputs: list[str]) -> None:
        self.opsets, self.constants = opsets_of(model), constants
        self.steps: list[Step] = []
        self.nodes: dict[str, nn.Module] = {}
        self.free: dict[str, Tensor] = {}
        self._layers: dict[str, tuple[Layer, list[str]]] = {}
        self._added: dict[str, tuple[str, str, int]] = {}
        self._matrices: dict[tuple[str, bool], nn.Parameter] = {}
        self._uses = Counter(name for node in nodes for name in node.input)
        self._uses.update(outputs)
        self._free_uses: dict[str, tuple[str, str, int]] = {}
        self._made: dict[str, int] = {}
        for node in nodes:
            self._add(node)

    def bindings(self, trainable: Trainable) -> Iterable[Binding]:
        shapes = {name: tuple(tensor.shape) for name, tensor in self.constants.items()}
        for name, (layer, inputs) in self._layers.items():
            for bound in layer.bound:
                initializer = inputs[bound.position]
                yield Binding(
                    parameter=f"layers.{trainable.keys[name]}.{bound.tensor}", initializer=initializer, node=bound.node,
                    position=bound.position, transposed=bound.transposed, shape=shapes[initializer],
                )  # fmt: skip
            if name in self._added:
                node, initializer, position = self._added[name]
                yield Binding(
                    parameter=f"layers.{trainable.keys[name]}.bias", initializer=initializer, node=node, position=position,
                    transposed=False, shape=shapes[initializer],
                )  # fmt: skip
        for name, (initializer, node, position) in self._free_uses.items():
            yield Binding(
                parameter=f"free.{trainable.free_keys[name]}", initializer=initializer, node=node, position=position,
                transposed=False, shape=shapes[initializer],
            )  # fmt: skip

    def _add(self, proto: Any) -> None:
        node, inputs = self._read(proto), list(proto.input)
        layer = make_layer(node, inputs, self.constants) if not proto.domain else None
        if layer is not None:
            self._add_layer(node, layer, inputs, list(proto.output))
            return
        if self._is_bias(node, inputs, proto.output[0]):
            return
        if not has_function(proto):
            raise _no_counterpart(proto)
        self._keep_free(node, inputs)
        self._step(node, tuple(inputs), list(proto.output), functools.partial(_call, FUNCTIONS[node.operator], node))

    def _read(self, proto: Any) -> Node:
        try:
            return read_node(proto, self.opsets)
        except Unsupported as error:
            raise _no_counterpart(proto, str(error)) from None

    def _add_layer(self, node: Node, layer: Layer, inputs: list[str], outputs: list[str]) -> None:
        half = [inputs[bound.position] for bound in layer.bound]
        if any(self.constants[name].dtype in (torch.float16, torch.bfloat16) for name in half):
            raise Refused(
                f"Node {node.name!r} ({node.operator}) has weights of 16 bits, which training would lose itself in.",
                code="pass_not_applicable",
                next_step="Put the step that trains before the one that casts.",
            )
        for bound in layer.bound:
            tensor = getattr(layer.module, bound.tensor)
            if tensor.ndim >= 2:
                # One matrix in two places stays one: what was tied is trained together.
                tied = self._matrices.setdefault((inputs[bound.position], bound.transposed), tensor)
                setattr(layer.module, bound.tensor, tied)
        self.nodes[node.name] = layer.module
        self._layers[node.name] = (layer, inputs)
        self._step(node, (inputs[layer.data],), outputs, layer.run)

    def _step(self, node: Node, inputs: tuple[str, ...], outputs: list[str], run: Any) -> None:
        for name in outputs:
            self._made[name] = len(self.steps)
        self.steps.append(Step(node=node.name, operator=node.operator, inputs=inputs, outputs=tuple(outputs), run=run))

    def _is_bias(self, node: Node, inputs: list[str], output: str) -> bool:
        """Whether the node only adds a constant to a linear layer's answer, which then has it as its bias."""
        if node.operator != "Add" or len(inputs) != 2:
            return False
        for position in (0, 1):
            bias, made = self.constants.get(inputs[position]), self._made.get(inputs[1 - position])
            if bias is None or made is None or self._uses[inputs[1 - position]] != 1:
                continue
            step = self.steps[made]
            layer, _ = self._layers.get(step.node, (None, None))
            if layer is not None and step.operator == "MatMul" and with_bias(layer, node.name, position, bias):
                self.steps[made] = Step(
                    node=step.node, operator=step.operator, inputs=step.inputs, outputs=(output,), run=step.run
                )
                self._made[output] = made
                self._added[step.node] = (node.name, inputs[position], position)
                return True
        return False

    def _keep_free(self, node: Node, inputs: list[str]) -> None:
        """Constants that the node adds or multiplies with are trained, unless they are single numbers or masks."""
        if node.operator not in _TRAINED:
            return
        for position, name in enumerate(inputs):
            tensor = self.constants.get(name)
            if tensor is None or tensor.dtype not in (torch.float32, torch.float64) or tensor.numel() < 2:
                continue
            if bool(torch.isfinite(tensor).all()) and float(tensor.abs().max()) < 1e6:
                # Each use is trained apart: exporters keep equal tensors once.
                inputs[position] = use = f"{name}/{node.name}/{position}"
                self.free[use] = tensor
                self._free_uses[use] = (name, node.name, position)

    @property
    def kept(self) -> Constants:
        """Constants that steps are given; the others are in layers."""
        used = {name for step in self.steps for name in step.inputs}
        return {name: tensor for name, tensor in self.constants.items() if name in used}


def _call(function: Any, node: Node, *inputs: Tensor | None) -> Any:
    try:
        return function(node, *inputs)
    except Unsupported as error:
        raise Refused(
            f"Node {node.name!r} ({node.operator}) has no counterpart in torch: {error}.",
            code="pass_not_applicable",
            next_step="Use passes that do not train: quantize, fuse, cast, or prune without epochs.",
        ) from None


def _no_counterpart(node: Any, reason: str = "") -> Refused:
    kind = ".".join(filter(None, (node.domain, node.op_type)))
    if node.op_type in _QUANTIZED or "QLinear" in node.op_type or "QAttention" in node.op_type:
        return Refused(
            f"Node {node.name!r} ({kind}) computes with quantised numbers, which cannot be trained.",
            code="pass_not_applicable",
            next_step="Put the step that trains before quantize, or take the version that was quantised.",
        )
    step = "Use passes that do not train: quantize, fuse, cast, or prune without epochs."
    if "TreeEnsemble" in node.op_type:
        step = "Trees are not trained here; prune the last of them: prune: {method: trees}."
    elif node.domain == "com.microsoft":
        step = "Put the step that trains before the one that fuses, or use passes that do not train."
    return Refused(
        f"Node {node.name!r} ({kind}) has no counterpart in torch here{': ' * bool(reason) + reason}.",
        code="pass_not_applicable",
        next_step=step,
    )
