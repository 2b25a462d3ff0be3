"""Nodes with weights as layers of torch, and which initializer each parameter came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openmaas.tasks.optimization.trainable.functions import Node, padded, pads_of
from openmaas.tasks.optimization.trainable.graph import Constants

_CONVOLUTIONS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {
    3: (nn.Conv1d, nn.ConvTranspose1d), 4: (nn.Conv2d, nn.ConvTranspose2d), 5: (nn.Conv3d, nn.ConvTranspose3d),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A tensor of a layer and the input of the node that it came from. transposed: of a matrix, in the layer."""

    tensor: str
    node: str
    position: int
    transposed: bool = False


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A node as a module. data: position of the node's only input that is not a weight. run: the module with what must come
    before it, a padding that torch has not."""

    module: Any
    bound: tuple[Bound, ...]
    data: int = 0
    run: Callable[[Tensor], Tensor]


class _BatchNorm(nn.modules.batchnorm._BatchNorm):  # type: ignore[misc]
    """Of any number of axes."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        pass


def make_layer(node: Node, inputs: list[str], constants: Constants) -> Layer | None:
    """The layer that a node is; None where it is none, and a function or nothing."""
    make = _MAKERS.get(node.operator)
    given = [constants.get(name) if name else None for name in inputs]
    return make(node, inputs, given) if make is not None else None


def with_bias(layer: Layer, node: str, position: int, bias: Tensor) -> bool:
    """Take the constant that a node adds after a linear layer into it; False where it is none."""
    module = layer.module
    if not isinstance(module, nn.Linear) or module.bias is not None or bias.numel() != module.out_features:
        return False
    if bias.dtype != module.weight.dtype or (bias.ndim and bias.shape[-1] != bias.numel()):
        return False
    module.bias = nn.Parameter(bias.reshape(-1).clone())
    return True


def _weight(tensor: Tensor | None, rank: int | None = None) -> bool:
    """Whether it is a constant that can be trained."""
    return tensor is not None and tensor.is_floating_point() and (rank is None or tensor.ndim == rank)


def _filled(module: nn.Module, **tensors: Tensor | None) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor is not None:
                getattr(module, name).copy_(tensor.reshape(getattr(module, name).shape))


def _linear(weight: Tensor, bias: Tensor | None, transposed: bool) -> nn.Linear:
    matrix = weight.T if transposed else weight
    module = nn.utils.skip_init(
        nn.Linear, matrix.shape[1], matrix.shape[0], bias=bias is not None, dtype=weight.dtype, device="cpu"
    )
    _filled(module, weight=matrix, bias=bias)
    return module


def _matmul(node: Node, inputs: list[str], given: list[Tensor | None]) -> Layer | None:
    weight = given[1]
    if not _weight(weight, 2) or given[0] is not None:
        return None
    assert weight is not None
    module = _linear(weight, None, transposed=True)
    return Layer(module=module, bound=(Bound(tensor="weight", node=node.name, position=1, transposed=True),), run=module)


def _gemm(node: Node, inputs: list[str], given: list[Tensor | None]) -> Layer | None:
    weight, bias = given[1], given[2] if len(given) > 2 else None
    if not _weight(weight, 2) or given[0] is not None or node.get("transA", 0):
        return None
    assert weight is not None
    if node.get("alpha", 1.0) != 1 or node.get("beta", 1.0) != 1:
        return None
    turned = not node.get("transB", 0)
    outputs = weight.shape[1] if turned else weight.shape[0]
    if len(inputs) > 2 and inputs[2] and (not _weight(bias) or bias is None or bias.numel() != outputs):
        return None
    if bias is not None and bias.shape[-1] != outputs:
        return None
    module = _linear(weight, bias, turned)
    bound = [Bound(tensor="weight", node=node.name, position=1, transposed=turned)]
    if bias is not None:
        bound.append(Bound(tensor="bias", node=node.name, position=2))
    return Layer(module=module, bound=tuple(bound), run=module)


def _convolution(node: Node, inputs: list[str], given: list[Tensor | None]) -> Layer | None:
    weight, bias = given[1], given[2] if len(given) > 2 else None
    if not _weight(weight) or given[0] is not None or weight is None or weight.ndim not in _CONVOLUTIONS:
        return None
    if len(inputs) > 2 and inputs[2] and not _weight(bias, 1):
        return None
    kernel, groups = list(weight.shape[2:]), node.get("group", 1)
    ones = [1] * len(kernel)
    automatic = node.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    before, after = ([0] * len(kernel), [0] * len(kernel)) if automatic else pads_of(node, [], kernel)
    symmetric = before == after and not automatic
    module = nn.utils.skip_init(
        _CONVOLUTIONS[weight.ndim][0], weight.shape[1] * groups, weight.shape[0], kernel,
        stride=node.get("strides", ones), padding=before if symmetric else 0, dilation=node.get("dilations", ones),
        groups=groups, bias=bias is not None, dtype=weight.dtype, device="cpu",
    )  # fmt: skip
    _filled(module, weight=weight, bias=bias)

    def run(x: Tensor) -> Tensor:
        if not symmetric:
            x = padded(x, *pads_of(node, x.shape[2:], kernel))
        answer: Tensor = module(x)
        return answer

    return Layer(module=module, bound=_weight_and_bias(node, bias), run=run)


def _transposed_convolution(node: Node, inputs: list[str], given: list[Tensor | None]) -> Layer | None:
    weight, bias = given[1], given[2] if len(given) > 2 else None
    if not _weight(weight) or given[0] is not None or weight is None or weight.ndim not in _CONVOLUTIONS:
        return None
    kernel, groups = list(weight.shape[2:]), node.get("group", 1)
    before, after = pads_of(node, [], kernel)
    if before != after or "output_shape" in node.attributes or node.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    ones = [1] * len(kernel)
    module = nn.utils.skip_init(
        _CONVOLUTIONS[weight.ndim][1], weight.shape[0], weight.shape[1] * groups, kernel,
        stride=node.get("strides", ones), padding=before, output_padding=node.get("output_padding", [0] * len(kernel)),
        groups=groups, bias=bias is not None, dilation=node.get("dilations", ones), dtype=weight.dtype, device="cpu",
    )  # fmt: skip
    _filled(module, weight=weight, bias=bias)
    return Layer(module=module, bound=_weight_and_bias(node, bias), run=module)


def _batch_norm(node: Node, inputs: list[str], given: list[Tensor | None]) -> Layer | None:
    if not all(_weight(tensor, 1) for tensor in given[1:5]) or len(given) != 5 or node.get("training_mode", 0):
        return None
    scale, bias, mean, variance = given[1:5]
    assert scale is not None
    # ONNX's momentum is the share that the old value keeps, torch's that of the new one.
    momentum = 1 - node.get("momentum", 0.9)
    module = _BatchNorm(len(scale), eps=node.get("epsilon", 1e-5), momentum=momentum, dtype=scale.dtype)
    _filled(module, weight=scale, bias=bias, running_mean=mean, running_var=variance)
    names = ("weight", "bias", "running_mean", "running_var")
    bound = tuple(Bound(tensor=name, node=node.name, position=at) for at, name in enumerate(names, 1))
    return Layer(module=module, bound=bound, run=module)


def _layer_norm(node: Node, inputs: list[str], given: list[Tensor | None]) -> Layer | None:
    scale, bias = given[1], given[2] if len(given) > 2 else None
    if not _weight(scale, 1) or scale is None or node.get("axis", -1) != -1 or node.results > 1:
        return None
    if len(inputs) > 2 and inputs[2] and not _weight(bias, 1):
        return None
    module = nn.LayerNorm(len(scale), eps=node.get("epsilon", 1e-5), bias=bias is not None, dtype=scale.dtype)
    _filled(module, weight=scale, bias=bias)
    return Layer(module=module, bound=_weight_and_bias(node, bias), run=module)


def _embedding(node: Node, inputs: list[str], given: list[Tensor | None]) -> Layer | None:
    table = given[0]
    if not _weight(table, 2) or table is None or node.get("axis", 0) != 0 or given[1] is not None:
        return None
    module = nn.utils.skip_init(nn.Embedding, *table.shape, dtype=table.dtype, device="cpu")
    _filled(module, weight=table)
    return Layer(module=module, bound=(Bound(tensor="weight", node=node.name, position=0),), data=1, run=module)


def _weight_and_bias(node: Node, bias: Tensor | None) -> tuple[Bound, ...]:
    weight = Bound(tensor="weight", node=node.name, position=1)
    return (weight,) if bias is None else (weight, Bound(tensor="bias", node=node.name, position=2))


_MAKERS: dict[str, Callable[[Node, list[str], list[Tensor | None]], Layer | None]] = {
    "MatMul": _matmul, "Gemm": _gemm, "Conv": _convolution, "ConvTranspose": _transposed_convolution,
    "BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm, "Gather": _embedding,
}  # fmt: skip
