"""ONNX operators as functions of torch: what each computes, as the operator's specification says.

A function takes the node and its inputs (None for one that is left out) and gives a tensor, or a tuple of several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Function = Callable[..., Any]


@dataclass(frozen=True)
class Node:
    """What a function may ask of its node. opset: of the node's domain. results: how many outputs it has."""

    name: str
    operator: str
    opset: int
    results: int
    attributes: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)


class Unsupported(Exception):
    """A node in a form that has no function here; its text says what of it."""


def numbers(tensor: Tensor) -> list[int]:
    return [int(value) for value in tensor.reshape(-1).tolist()]


# ── one number at a time ─────────────────────────────────────────────────────────────────────────────────────────────


def _plain(function: Function) -> Function:
    return lambda node, *inputs: function(*inputs)


def _div(node: Node, left: Tensor, right: Tensor) -> Tensor:
    whole = not (left.is_floating_point() or right.is_floating_point())
    return torch.div(left, right, rounding_mode="trunc" if whole else None)


def _pow(node: Node, base: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(base, exponent).to(base.dtype)


def _mod(node: Node, left: Tensor, right: Tensor) -> Tensor:
    return torch.fmod(left, right) if node.get("fmod", 0) else torch.remainder(left, right)


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    def run(node: Node, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = function(first, other)
        return first

    return run


def _mean(node: Node, *inputs: Tensor) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*inputs)).mean(0)


def _gelu(node: Node, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=node.get("approximate", "none"))


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


def _swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.0) * x)


def _scaler(node: Node, x: Tensor) -> Tensor:
    """ai.onnx.ml: of columns, as scikit-learn's."""
    offset, scale = (torch.tensor(node.get(name), dtype=torch.float32) for name in ("offset", "scale"))
    return (x.float() - offset) * scale


def _softmax(function: Function) -> Function:
    return lambda node, x: function(x, dim=node.get("axis", -1))


# ── matrices ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _gemm(node: Node, left: Tensor, right: Tensor, added: Tensor | None = None) -> Tensor:
    left = left.T if node.get("transA", 0) else left
    right = right.T if node.get("transB", 0) else right
    product = node.get("alpha", 1.0) * (left @ right)
    return product if added is None else product + node.get("beta", 1.0) * added


def _einsum(node: Node, *inputs: Tensor) -> Tensor:
    return torch.einsum(node.get("equation"), *inputs)


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _shape(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[node.get("start", 0) : node.get("end", None)], dtype=torch.int64)


def _reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    wanted = numbers(shape)
    if not node.get("allowzero", 0):
        wanted = [x.shape[axis] if length == 0 else length for axis, length in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    leading = 1
    for length in x.shape[:axis]:
        leading *= length
    # As a flatten of what follows the first axis, a tracer sees which channels become which columns.
    return torch.flatten(x, 1) if axis == 1 else x.reshape(leading, -1)


def _axes(node: Node, given: Tensor | None) -> list[int] | None:
    return numbers(given) if given is not None else node.get("axes")


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    found = _axes(node, axes)
    return x.squeeze() if found is None else x.squeeze(tuple(found))


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    found = _axes(node, axes) or []
    rank = x.ndim + len(found)
    for axis in sorted(axis % rank for axis in found):
        x = x.unsqueeze(axis)
    return x


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm", list(range(x.ndim))[::-1]))


def _concat(node: Node, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, dim=node.get("axis"))


def _split(node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = node.get("axis", 0)
    parts: tuple[Tensor, ...]
    if sizes is not None:
        parts = torch.split(x, numbers(sizes), dim=axis)
    else:
        parts = torch.split(x, -(-x.shape[axis] // node.get("num_outputs", node.results)), dim=axis)
    return parts


def _slice(
    node: Node, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    first, last = numbers(starts), numbers(ends)
    along = numbers(axes) if axes is not None else list(range(len(first)))
    strides = numbers(steps) if steps is not None else [1] * len(first)
    for start, end, axis, step in zip(first, last, along, strides, strict=True):
        if step > 0:
            index: list[slice] = [slice(None)] * x.ndim
            span = range(x.shape[axis])[slice(start, end, step)]
            index[axis] = slice(span.start, max(span.start, span.stop), step)
            x = x[tuple(index)]
        else:
            chosen = range(x.shape[axis])[slice(start, end if end >= -x.shape[axis] else None, step)]
            x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))
    return x


def _expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, numbers(shape)))


def _tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(numbers(repeats))


def _constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    value = node.get("value")
    filled = torch.tensor([0.0]) if value is None else value
    return filled.reshape(1).expand(numbers(shape) or ()).clone() if shape.numel() else filled.reshape(()).clone()


def _range(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _pad(node: Node, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    given = numbers(pads)
    along = [axis % x.ndim for axis in numbers(axes)] if axes is not None else list(range(x.ndim))
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[node.get("mode", "constant")]
    both = {axis: (given[at], given[at + len(along)]) for at, axis in enumerate(along)}
    first = min((axis for axis, pair in both.items() if pair != (0, 0)), default=x.ndim)
    flat = [length for axis in reversed(range(first, x.ndim)) for length in both.get(axis, (0, 0))]
    if not flat:
        return x
    if mode != "constant":
        return functional.pad(x, flat, mode=mode)
    return functional.pad(x, flat, value=value.item() if value is not None else 0.0)


# ── choosing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0) % x.ndim
    indices = torch.where(indices < 0, indices + x.shape[axis], indices).long()
    chosen = x.index_select(axis, indices.reshape(-1))
    return chosen.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices).long())


def _gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    if node.get("batch_dims", 0):
        raise Unsupported("batch_dims above 0")
    return x[tuple(indices.long().unbind(-1))]


def _where(node: Node, condition: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return torch.where(condition, left, right)


def _arg(function: Function) -> Function:
    def run(node: Node, x: Tensor) -> Tensor:
        if node.get("select_last_index", 0):
            raise Unsupported("select_last_index")
        chosen: Tensor = function(x, dim=node.get("axis", 0), keepdim=bool(node.get("keepdims", 1)))
        return chosen

    return run


def _cumsum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    if node.get("exclusive", 0) or node.get("reverse", 0):
        raise Unsupported("exclusive or reverse")
    return torch.cumsum(x, int(axis.item()))


def _trilu(node: Node, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    function = torch.triu if node.get("upper", 1) else torch.tril
    return function(x, int(diagonal.item()) if diagonal is not None else 0)


# ── reductions, normalisation, pooling ───────────────────────────────────────────────────────────────────────────────


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Function:
    def run(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        found = _axes(node, axes)
        if not found:
            if node.get("noop_with_empty_axes", 0):
                return x
            found = list(range(x.ndim))
        return function(x, found, bool(node.get("keepdims", 1)))

    return run


def _product(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.layer_norm(x, x.shape[node.get("axis", -1) % x.ndim :], scale, bias, node.get("epsilon", 1e-5))


def _rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    axes = list(range(node.get("axis", -1) % x.ndim, x.ndim))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + node.get("epsilon", 1e-5)) * scale


def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    if scale.numel() != x.shape[1]:
        raise Unsupported("a scale for each group, as before version 21")
    return functional.group_norm(x, node.get("num_groups"), scale, bias, node.get("epsilon", 1e-5))


def pads_of(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis of a convolution or pooling, of an input with these lengths."""
    rank, auto = len(kernel), node.get("auto_pad", "NOTSET")
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        pads = node.get("pads", [0] * (2 * rank)) if auto == "NOTSET" else [0] * (2 * rank)
        return list(pads[:rank]), list(pads[rank:])
    strides, dilations = node.get("strides", [1] * rank), node.get("dilations", [1] * rank)
    totals = [
        max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size)
        for size, stride, width, dilation in zip(sizes, strides, kernel, dilations, strict=True)
    ]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (less, more) if auto == "SAME_UPPER" else (more, less)


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    flat = [length for pair in zip(reversed(before), reversed(after), strict=True) for length in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x


def _pool(node: Node, x: Tensor, value: float, function: Function, **options: Any) -> Tensor:
    kernel = node.get("kernel_shape")
    before, after = pads_of(node, x.shape[2:], kernel)
    strides = node.get("strides", [1] * len(kernel))
    # torch pads both sides alike and at most half of a window.
    same = before == after and all(2 * pad <= width for pad, width in zip(before, kernel, strict=True))
    if not same:
        x, before = padded(x, before, after, value), [0] * len(kernel)
    pooled: Tensor = function(x, kernel, strides, before, ceil_mode=bool(node.get("ceil_mode", 0)), **options)
    return pooled


def _max_pool(node: Node, x: Tensor) -> Tensor:
    if node.results > 1:
        raise Unsupported("indices as a second output")
    function = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[x.ndim - 3]
    return _pool(node, x, float("-inf"), function, dilation=node.get("dilations", 1))


def _average_pool(node: Node, x: Tensor) -> Tensor:
    if any(dilation != 1 for dilation in node.get("dilations", [])):
        raise Unsupported("dilations")
    function = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[x.ndim - 3]
    include = bool(node.get("count_include_pad", 0))
    pooled = _pool(node, x, 0.0, function, count_include_pad=True)
    return pooled if include else pooled / _pool(node, torch.ones_like(x), 0.0, function, count_include_pad=True)


def _global_pool(function: Function) -> Function:
    return lambda node, x: function(x, dim=tuple(range(2, x.ndim)), keepdim=True)


def _resize(node: Node, x: Tensor, roi: Any = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
    mode = {("nearest", x.ndim): "nearest", ("linear", 3): "linear", ("linear", 4): "bilinear"}.get((node.get("mode"), x.ndim))
    if mode is None:
        raise Unsupported(f"mode {node.get('mode')} of {x.ndim} axes")
    if sizes is not None and sizes.numel():
        wanted = numbers(sizes)[2:]
    elif scales is not None:
        wanted = [int(length * scale) for length, scale in zip(x.shape[2:], scales.tolist()[2:], strict=True)]
    else:
        raise Unsupported("neither sizes nor scales")
    corners = {"align_corners": node.get("coordinate_transformation_mode") == "align_corners"} if mode != "nearest" else {}
    return functional.interpolate(x, wanted, mode=mode, **corners)


FUNCTIONS: dict[str, Function] = {
    **{
        name: _plain(function)
        for name, function in {
            "Abs": torch.abs, "Add": torch.add, "And": torch.logical_and, "Ceil": torch.ceil, "Cos": torch.cos,
            "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Greater": torch.gt,
            "GreaterOrEqual": torch.ge, "HardSwish": functional.hardswish, "IsInf": torch.isinf, "IsNaN": torch.isnan,
            "Less": torch.lt, "LessOrEqual": torch.le, "Log": torch.log, "MatMul": torch.matmul, "Mish": functional.mish,
            "Mul": torch.mul, "Neg": torch.neg, "Not": torch.logical_not, "Or": torch.logical_or,
            "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round, "Sigmoid": torch.sigmoid,
            "Sign": torch.sign, "Sin": torch.sin, "Softplus": functional.softplus, "Softsign": functional.softsign,
            "Sqrt": torch.sqrt, "Sub": torch.sub, "Tanh": torch.tanh, "Xor": torch.logical_xor,
        }.items()
    },
    "Div": _div, "Pow": _pow, "Mod": _mod, "Clip": _clip, "Max": _folded(torch.maximum), "Min": _folded(torch.minimum),
    "Sum": _folded(torch.add), "Mean": _mean, "Gelu": _gelu, "HardSigmoid": _hard_sigmoid, "Swish": _swish, "Scaler": _scaler,
    "Identity": lambda node, x: x,
    "Dropout": lambda node, x, *others: x,
    "LeakyRelu": lambda node, x: functional.leaky_relu(x, node.get("alpha", 0.01)),
    "Elu": lambda node, x: functional.elu(x, node.get("alpha", 1.0)),
    "PRelu": lambda node, x, slope: torch.where(x < 0, x * slope, x),
    "Softmax": _softmax(torch.softmax), "LogSoftmax": _softmax(torch.log_softmax),
    "Gemm": _gemm, "Einsum": _einsum,
    "Shape": _shape, "Size": lambda node, x: torch.tensor(x.numel(), dtype=torch.int64), "Reshape": _reshape,
    "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Transpose": _transpose, "Concat": _concat,
    "Split": _split, "Slice": _slice, "Expand": _expand, "Tile": _tile, "ConstantOfShape": _constant_of_shape,
    "Range": _range, "Pad": _pad, "Resize": _resize,
    "Cast": lambda node, x: x.to(node.get("to")), "CastLike": lambda node, x, like: x.to(like.dtype),
    "Gather": _gather, "GatherElements": _gather_elements, "GatherND": _gather_nd, "Where": _where,
    "ArgMax": _arg(torch.argmax), "ArgMin": _arg(torch.argmin), "CumSum": _cumsum, "Trilu": _trilu,
    "ReduceMean": _reduce(lambda x, axes, keep: torch.mean(x, axes, keepdim=keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: torch.sum(x, axes, keepdim=keep)),
    "ReduceMax": _reduce(lambda x, axes, keep: torch.amax(x, axes, keepdim=keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: torch.amin(x, axes, keepdim=keep)),
    "ReduceProd": _reduce(_product),
    "ReduceL1": _reduce(lambda x, axes, keep: torch.sum(x.abs(), axes, keepdim=keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: torch.sqrt(torch.sum(x.square(), axes, keepdim=keep))),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: torch.sum(x.square(), axes, keepdim=keep)),
    "ReduceLogSumExp": _reduce(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "LayerNormalization": _layer_norm, "RMSNormalization": _rms_norm, "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm, "MaxPool": _max_pool, "AveragePool": _average_pool,
    "GlobalAveragePool": _global_pool(torch.mean), "GlobalMaxPool": _global_pool(torch.amax),
}  # fmt: skip
"""Of the domains "", ai.onnx.ml (Scaler) and com.microsoft (Gelu)."""
