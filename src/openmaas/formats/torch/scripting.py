"""An exported program as TorchScript: each operator of its graph becomes a line of TorchScript's language.

Tracing would write the sample's sizes into the result as constants, and cannot follow symbolic sizes at all.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from openmaas.core.errors import InvalidInput
from openmaas.engines.torch.program import ExportedProgram

_INFIX: dict[Callable[..., Any], str] = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//", operator.truediv: "/", operator.mod: "%",
    operator.pow: "**", operator.eq: "==", operator.ne: "!=", operator.lt: "<", operator.le: "<=", operator.gt: ">",
    operator.ge: ">=", operator.and_: "and", operator.or_: "or",
}  # fmt: skip
_CHECKS = ("_assert", "sym_constrain_range")


def to_script(program: ExportedProgram, outputs: Sequence[str]) -> Any:
    """A ScriptModule that takes the program's inputs and gives these outputs as a dict. Raises InvalidInput for an operator
    that has no form there."""
    import torch

    holder = torch.nn.Module()
    held = _hold(program, holder)
    module = torch.jit.script(holder)
    module.define("\n".join(_source(program, held, outputs)) + "\n")
    return module.eval()


def _hold(program: ExportedProgram, holder: Any) -> dict[str, str]:
    """Give the module all tensors of the program; the attribute that each placeholder stands for."""
    from torch.export.graph_signature import InputKind

    exported = program.exported
    held: dict[str, str] = {}
    for number, spec in enumerate(exported.graph_signature.input_specs):
        if spec.kind is InputKind.USER_INPUT:
            continue
        tensor = exported.state_dict.get(spec.target)
        tensor = exported.constants.get(spec.target) if tensor is None else tensor
        if tensor is None:
            raise InvalidInput(f"The program's {spec.target!r} is no tensor.", code="not_convertible")
        held[spec.arg.name] = f"tensor_{number}"
        holder.register_buffer(held[spec.arg.name], tensor.detach())
    return held


def _source(program: ExportedProgram, held: dict[str, str], outputs: Sequence[str]) -> Iterator[str]:
    graph = program.exported.graph
    names = {node: f"__value_{number}" for number, node in enumerate(graph.nodes)}
    yield f"def forward(self, {', '.join(f'{name}: Tensor' for name in program.inputs)}) -> Dict[str, Tensor]:"
    for node in graph.nodes:
        if node.op == "placeholder":
            if node.name in held or node.name in program.inputs:
                yield f"    {names[node]} = {f'self.{held[node.name]}' if node.name in held else node.name}"
        elif node.op == "call_function":
            if (line := _call(node, names)) is not None:
                yield f"    {names[node]} = {line}"
        elif node.op != "output":
            raise InvalidInput(f"TorchScript has no form for the program's {node.op} {node.name!r}.", code="not_convertible")
    by_name = {node.name: node for node in graph.nodes}
    leaves = [by_name[name] for name in program.exported.graph_signature.user_outputs if isinstance(name, str)]
    given = dict(zip(program.answer_nodes(), leaves, strict=True))
    yield f"    return {{{', '.join(f'{name!r}: {names[given[name]]}' for name in outputs)}}}"


def _call(node: Any, names: dict[Any, str]) -> str | None:
    """The line for one node; None for one that only checks."""
    import torch

    arguments = [_value(argument, names) for argument in node.args]
    if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten":
        return _operator(node, arguments, names)
    return _arithmetic(node.target, arguments)


def _arithmetic(target: Any, arguments: Sequence[str]) -> str:
    """Python's own operators on sizes."""
    import torch

    if target in _INFIX:
        return f"({f' {_INFIX[target]} '.join(arguments)})"
    if target is operator.getitem:
        return f"{arguments[0]}[{arguments[1]}]"
    if target in (operator.neg, operator.not_):
        return f"({'-' if target is operator.neg else 'not '}{arguments[0]})"
    if getattr(target, "__module__", "") == "math":
        return f"math.{target.__name__}({', '.join(arguments)})"
    if target in (torch.sym_max, torch.sym_min):
        return f"{target.__name__.removeprefix('sym_')}({', '.join(arguments)})"
    raise InvalidInput(f"TorchScript has no form for the operator {target}.", code="not_convertible")


def _operator(node: Any, arguments: Sequence[str], names: dict[Any, str]) -> str | None:
    name = node.target._schema.name.partition("::")[2]
    if name.startswith(_CHECKS):
        return None
    if name == "sym_size":
        return f"{arguments[0]}.size({', '.join(arguments[1:])})"
    if name == "sym_numel":
        return f"{arguments[0]}.numel()"
    named = [f"{key}={_value(value, names)}" for key, value in node.kwargs.items()]
    return f"torch.ops.aten.{name}({', '.join([*arguments, *named])})"


def _value(value: Any, names: dict[Any, str]) -> str:
    import torch

    if isinstance(value, torch.fx.Node):
        return names[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item, names) for item in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, torch.device):
        return f"torch.device({str(value)!r})"
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    raise InvalidInput(f"TorchScript has no form for the value {str(value)[:60]!r}.", code="not_convertible")
