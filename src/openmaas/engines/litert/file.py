"""A TensorFlow Lite flatbuffer read as data: which operators it needs, and whether its parts refer to parts that exist."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused

_IDENTIFIER = b"TFL3"  # at byte 4
_MAX_TENSORS = 1_000_000


class Contents(NamedTuple):
    """What matters of a file: whether it keeps state within one run, to be cleared before the next."""

    variables: bool


def is_tflite(path: Path) -> bool:
    """Told by the flatbuffer's identifier, and by a root that lies in the file. Nothing is loaded."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    return len(start) == 8 and start[4:] == _IDENTIFIER and 8 <= int.from_bytes(start[:4], "little") < size


def read_contents(path: Path) -> Contents:
    """Raises Refused for operators that the library does not bring (code custom_operator) and for models with a memory,
    InvalidInput for a file that is damaged or cut short."""
    data = path.read_bytes()
    try:
        model = _schema().Model.GetRootAs(data, 0)
        _check_operators(model)
        return Contents(_check_parts(model, len(data)))
    except (OpenMaaSError, MemoryError):
        raise
    except Exception as error:  # the reader follows whatever offsets the file gives
        said = " ".join(str(error).split())[:120]
        raise InvalidInput(f"The TensorFlow Lite file is damaged or cut short: {said}.", code="damaged") from None


@cache
def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise InvalidInput(
            "This is a TensorFlow Lite model, and ai-edge-litert is not installed here.",
            code="library_missing",
            next_step="pip install 'openmaas[litert]' where the server runs.",
        ) from None
    return schema_py_generated


@cache
def _names() -> dict[int, str]:
    operators = _schema().BuiltinOperator
    return {code: name for name, code in vars(operators).items() if not name.startswith("_")}


def _check_operators(model: Any) -> None:
    custom = _schema().BuiltinOperator.CUSTOM
    foreign = set()
    for code in _each(model, "OperatorCodes"):
        # Older files write the code in a byte of its own.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if number == custom:
            foreign.add((code.CustomCode() or b"?").decode("utf-8", "replace")[:60])
        elif number not in _names():
            foreign.add(f"number {number}")
    if foreign:
        flex = any(name.startswith("Flex") for name in foreign)
        raise Refused(
            f"The model uses operators that TensorFlow Lite does not bring: {', '.join(sorted(foreign)[:12])}.",
            code="custom_operator",
            next_step="Convert it with TFLITE_BUILTINS alone, or push the SavedModel."
            if flex
            else "Push another format of it.",
        )


def _check_parts(model: Any, size: int) -> bool:
    """Whether there are variables. Raises InvalidInput where an index points outside of what there is."""
    buffers = model.BuffersLength()
    for buffer in _each(model, "Buffers"):
        _require(buffer.Offset() + buffer.Size() <= size)
        if length := buffer.DataLength():
            start = buffer._tab.Vector(buffer._tab.Offset(4))
            _require(0 <= start <= size - length)
    _require(model.SubgraphsLength() > 0)
    variables = False
    for number, graph in enumerate(_each(model, "Subgraphs")):
        tensors = graph.TensorsLength()
        _require(tensors <= _MAX_TENSORS)
        for tensor in _each(graph, "Tensors"):
            _require(tensor.Buffer() < buffers)
            variables = variables or tensor.IsVariable()
        for index in (*_numbers(graph, "Inputs"), *_numbers(graph, "Outputs")):
            _require(0 <= index < tensors)
        _check_steps(model, graph, first=number == 0)
    return bool(variables)


def _check_steps(model: Any, graph: Any, first: bool) -> None:
    tensors = graph.TensorsLength()
    assign = _schema().BuiltinOperator.ASSIGN_VARIABLE
    for step in _each(graph, "Operators"):
        _require(step.OpcodeIndex() < model.OperatorCodesLength())
        for index in (*_numbers(step, "Inputs"), *_numbers(step, "Outputs"), *_numbers(step, "Intermediates")):
            _require(-1 <= index < tensors)
        if first and model.OperatorCodes(step.OpcodeIndex()).BuiltinCode() == assign:
            raise Refused(
                "The model keeps a memory between calls: an answer would depend on whoever called before.",
                code="stateful",
                next_step="Make the memory an input and an output of the model.",
            )


def _each(owner: Any, name: str) -> Iterator[Any]:
    get = getattr(owner, name)
    return (get(index) for index in range(getattr(owner, f"{name}Length")()))


def _numbers(owner: Any, name: str) -> list[int]:
    if not getattr(owner, f"{name}Length")():
        return []
    return [int(index) for index in getattr(owner, f"{name}AsNumpy")()]


def _require(sound: bool) -> None:
    if not sound:
        raise InvalidInput("The TensorFlow Lite file is damaged: it refers to parts that it does not have.", code="damaged")
