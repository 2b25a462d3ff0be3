"""A live module's sample as forward's arguments: which tensor is called what, and which axes are dynamic."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.engines.torch.values import datatype_of, to_tensor
from openmaas.formats.sample import MAX_ROWS
from openmaas.formats.torch.shapes import sequences

_STEP = "Give the sample as forward takes it: one array, a tuple, or a dict by parameter name."


class Call(NamedTuple):
    """One call of forward. tensors: by name, in order. positional: those that are passed by place. dynamic: axes by input."""

    tensors: dict[str, Any]
    positional: tuple[str, ...]
    dynamic: dict[str, set[int]]

    @property
    def rows(self) -> int:
        return max((len(tensor) for tensor in self.tensors.values() if tensor.ndim), default=1)

    def arranged(self, tensors: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and named arguments of forward."""
        named = {name: tensor for name, tensor in tensors.items() if name not in self.positional}
        return [tensors[name] for name in self.positional], named

    def traced(self, rows: int) -> dict[str, Any]:
        """The tensors with so many rows: cut, or begun again from the first."""
        import torch

        return {
            name: tensor[torch.arange(rows) % len(tensor)].contiguous() if tensor.ndim else tensor
            for name, tensor in self.tensors.items()
        }


def calls_of(module: Any, sample: Any) -> Call:
    """Raises InvalidInput where the sample does not fit forward's parameters, or has no rows."""
    several = isinstance(sample, list) and len(sample) > 1 and all(isinstance(one, tuple | dict) for one in sample)
    bound = [_bound(module, one) for one in (sample if several else [sample])]
    samples = [tensors for tensors, _ in bound]
    if any(list(tensors) != list(samples[0]) for tensors in samples) or len({by_place for _, by_place in bound}) > 1:
        raise InvalidInput("The samples do not all have the same inputs.", code="invalid_sample", next_step=_STEP)
    for tensors in samples:
        _require_rows(tensors)
    longest = max(samples, key=lambda tensors: sum(tensor[:1].numel() for tensor in tensors.values()))
    return Call(longest, bound[0][1], dynamic_axes(samples))


def dynamic_axes(samples: list[dict[str, Any]]) -> dict[str, set[int]]:
    """Axis 0, and the sequences, as the module's documentation in live.py says. A sequence of one element shows none."""
    first = samples[0]
    axes: dict[str, set[int]] = {name: {0} if tensor.ndim else set() for name, tensor in first.items()}
    if len(samples) > 1:
        for name, tensor in first.items():
            ranks = {other[name].ndim for other in samples}
            if len(ranks) > 1:
                raise InvalidInput(f"The samples' {name!r} differ in their number of axes.", code="invalid_sample")
            axes[name] |= {n for n in range(1, tensor.ndim) if len({other[name].shape[n] for other in samples}) > 1}
        return axes
    found = sequences(first, [name for name, tensor in first.items() if not tensor.is_floating_point()])
    return {name: axes[name] | found[name] for name in first}


def _bound(module: Any, sample: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Tensors by parameter name, and the names of those that are passed by place."""
    parameters = inspect.signature(module.forward).parameters
    if isinstance(sample, Mapping):
        return _by_name(parameters, {str(name): _tensor(value, str(name)) for name, value in sample.items()})
    values = list(sample) if isinstance(sample, tuple | list) and _holds_arrays(sample) else [sample]
    names = _places(parameters, len(values))
    return {name: _tensor(value, name) for name, value in zip(names, values, strict=True)}, names


def _by_name(parameters: Mapping[str, Any], tensors: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    kinds = {parameter.kind for parameter in parameters.values()}
    unknown = [name for name in tensors if name not in parameters and inspect.Parameter.VAR_KEYWORD not in kinds]
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and name not in tensors
    ]
    if unknown or missing or not all(name.isidentifier() for name in tensors):
        raise InvalidInput(
            f"The sample names {', '.join(map(repr, tensors)) or 'nothing'}; forward takes {', '.join(map(repr, parameters))}.",
            code="invalid_sample",
            next_step=_STEP,
        )
    placed = tuple(
        name for name in tensors if name in parameters and parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY
    )
    return tensors, placed


def _places(parameters: Mapping[str, Any], count: int) -> tuple[str, ...]:
    names = [
        parameter.name
        for parameter in parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    rest = next((p.name for p in parameters.values() if p.kind is p.VAR_POSITIONAL), None)
    if rest is not None:
        names += [f"{rest}_{number}" for number in range(count - len(names))]
    required = sum(1 for name in names if name in parameters and parameters[name].default is inspect.Parameter.empty)
    if not required <= count <= len(names):
        raise InvalidInput(
            f"The sample has {count} inputs; forward takes {', '.join(map(repr, parameters)) or 'none'}.",
            code="invalid_sample",
            next_step=_STEP,
        )
    return tuple(names[:count])


def _holds_arrays(values: Any) -> bool:
    return bool(values) and all(hasattr(value, "shape") and hasattr(value, "dtype") for value in values)


def _tensor(value: Any, name: str) -> Any:
    import torch

    try:
        tensor = value.detach().cpu().clone() if isinstance(value, torch.Tensor) else _from_numpy(value)
    except (TypeError, ValueError, OpenMaaSError):
        tensor = None
    if tensor is None or tensor.layout is not torch.strided or datatype_of(tensor) is None:
        raise InvalidInput(
            f"The sample's {name!r} is a {type(value).__name__}, of which no tensor of numbers can be made.",
            code="invalid_sample",
            next_step=_STEP,
        )
    return tensor[:MAX_ROWS].contiguous() if tensor.ndim else tensor


def _from_numpy(value: Any) -> Any:
    """Lists and data frames too. What numpy makes float64 of Python's own numbers is meant as PyTorch's float32."""
    import torch

    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    array = np.asarray(value)
    if array.dtype.kind == "O":
        raise TypeError("objects")
    tensor = to_tensor(array.copy())
    return tensor.to(torch.get_default_dtype()) if array.dtype == np.float64 and not isinstance(value, np.ndarray) else tensor


def _require_rows(tensors: Mapping[str, Any]) -> None:
    counts = {len(tensor) for tensor in tensors.values() if tensor.ndim}
    if len(counts) != 1 or 0 in counts or not all(tensor.ndim for tensor in tensors.values()):
        told = ", ".join(f"{name!r} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise InvalidInput(
            f"Every input needs the same number of rows along axis 0, at least one; the sample has {told}.",
            code="invalid_sample",
            next_step=_STEP,
        )
