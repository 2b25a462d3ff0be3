"""A TensorFlow SavedModel read as data, without TensorFlow: what it takes and gives, and whether it may be loaded.

Loading one runs its graph: the initialisers at once, the rest with each answer. A graph can read and write files and call into
Python, so every operator that could is refused by name, wherever in the file it is. The few that save and restore the
weights belong to every SavedModel; they are refused only where an answer or the start would run them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.types import DataType, Signature, TensorSpec
from openmaas.formats.wire import BYTES, FIXED32, FIXED64, VARINT, NotProtobuf, walk

_MAX_NODES = 2_000_000
_SERVE, _DEFAULT = "serve", "serving_default"
_STARTS = ("__saved_model_init_op", "__saved_model_main_op")
_SAVER = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename", "ShardedFilespec"})
_HARMFUL = re.compile(
    r"File|Dataset|Iterator|Record|Reader|Summary|PyFunc|Rpc|Remote|^_?(Debug|Send|Recv|Host|Nccl|Xla\w*Call|XlaHost)|Print"
    r"|Save|Restore|Snapshot|Checkpoint|CustomCall|CallModule|HostCompute|Collective|TPU|Sql|LMDB|Library|LoadAndRemap"
    r"|Proto|DumpTensor|ImportEvent|Session|Heartbeat"
)
_DATATYPES: dict[int, DataType] = {
    1: "FP32", 2: "FP64", 3: "INT32", 4: "UINT8", 5: "INT16", 6: "INT8", 7: "BYTES", 9: "INT64", 10: "BOOL", 14: "BF16",
    17: "UINT16", 19: "FP16", 22: "UINT32", 23: "UINT64",
}  # fmt: skip

Message = memoryview


class Endpoint(NamedTuple):
    """One signature of the file: its name there, and what it takes and gives."""

    name: str
    signature: Signature


class _Node(NamedTuple):
    """One operator: what it is, the nodes whose values it takes, the functions that it calls."""

    operator: str
    inputs: tuple[str, ...]
    functions: tuple[str, ...]


def is_saved_model(path: Path) -> bool:
    """Whether the file's outermost layer is a SavedModel's, with a graph in it. Nothing is loaded."""
    try:
        kinds = {field.number: field.kind for field in walk(path, limit=64)}
    except NotProtobuf:
        return False
    if kinds != {1: VARINT, 2: BYTES}:
        return False
    try:
        content = Message(path.read_bytes())
        return any({2, 5} <= {number for number, _ in _fields(graph)} for graph in _all(content, 2))
    except (NotProtobuf, OSError):
        return False


def read_endpoint(path: Path) -> Endpoint:
    """The signature that serves. Raises Refused for operators that touch files or run code, InvalidInput for a damaged file."""
    try:
        graph = _served_graph(Message(path.read_bytes()))
        main, functions = _nodes(graph)
        endpoints = {_text(_one(entry, 1)): _merged(entry, 2) for entry in _all(graph, 5)}
        _check_assets(graph)
        _check_operators(main, functions, endpoints)
        name = _chosen(endpoints)
        return Endpoint(name, Signature(inputs=_specs(endpoints[name], 1), outputs=_specs(endpoints[name], 2)))
    except NotProtobuf as error:
        raise InvalidInput(f"The SavedModel is damaged or cut short: {error}.", code="damaged") from None


def _served_graph(content: Message) -> Message:
    graphs = [
        graph
        for graph in _all(content, 2)
        if any(_text(tag) == _SERVE for information in _all(graph, 1) for tag in _all(information, 4))
    ]
    if len(graphs) > 1:  # TensorFlow might load another than the one that is checked here
        raise Refused(
            "The SavedModel holds several graphs with the tag 'serve'.",
            code="several_models",
            next_step="Save it again with one.",
        )
    if graphs:
        return graphs[0]
    raise InvalidInput(
        "The SavedModel holds no graph with the tag 'serve'.",
        code="no_model",
        next_step="Save it for serving: model.export(folder), or tf.saved_model.save(model, folder, signatures=…).",
    )


def _chosen(endpoints: Mapping[str, Message]) -> str:
    names = sorted(name for name in endpoints if not name.startswith("__"))
    if _DEFAULT in names:
        return _DEFAULT
    if len(names) == 1:
        return names[0]
    listed = ", ".join(map(repr, names[:8])) or "none"
    raise InvalidInput(
        f"The SavedModel has no signature 'serving_default'; it has {listed}.",
        code="signature_needed",
        next_step="Save it with signatures={'serving_default': function}.",
    )


# ── what it takes and gives ──────────────────────────────────────────────────────────────────────────────────────────


def _specs(endpoint: Message, side: int) -> tuple[TensorSpec, ...]:
    return tuple(sorted((_spec(_text(_one(e, 1)), _merged(e, 2)) for e in _all(endpoint, side)), key=lambda spec: spec.name))


def _spec(name: str, information: Message) -> TensorSpec:
    found = dict(_fields(information))
    kind, shape = found.get(2), found.get(3)
    datatype = _DATATYPES.get(kind) if isinstance(kind, int) else None
    if datatype is None or 1 not in found or not isinstance(shape, Message):
        raise Refused(f"{name[:80]!r} is no plain tensor; only tensors can be served.", code="unsupported_type")
    if any(number == 3 and value for number, value in _fields(shape)):
        raise Refused(
            f"The SavedModel gives no shape for {name[:80]!r}.",
            code="signature_needed",
            next_step="Save it with an input signature: tf.TensorSpec([None, 4], tf.float32, name='x').",
        )
    return TensorSpec(name=name, datatype=datatype, shape=tuple(_length(dimension) for dimension in _all(shape, 2)))


def _length(dimension: Message) -> int:
    size = dict(_fields(dimension)).get(1, 0)
    assert isinstance(size, int)
    return size if size < 1 << 63 else -1  # a negative number in two's complement


# ── may it be loaded? ────────────────────────────────────────────────────────────────────────────────────────────────


def _check_assets(graph: Message) -> None:
    """Files that the graph reads, and tables, which are filled by functions that run when it is loaded."""
    objects = (one for index in _all(graph, 7) for one in _all(index, 1))
    if any(True for _ in _all(graph, 6)) or any(number in (5, 10) for one in objects for number, _ in _fields(one)):
        raise Refused(
            "The SavedModel reads files or fills tables when it is loaded (a vocabulary, a hash table).",
            code="reads_files",
            next_step="Leave the preprocessing of text out of the model, and export it again.",
        )


def _check_operators(main: Mapping[str, _Node], functions: Mapping[str, list[_Node]], endpoints: Mapping[str, Message]) -> None:
    nodes = [*main.values(), *(node for body in functions.values() for node in body)]
    harmful = {node.operator for node in nodes if node.operator not in _SAVER and _HARMFUL.search(node.operator)}
    harmful |= _SAVER & _reached(main, functions, endpoints)
    if harmful:
        raise Refused(
            "The SavedModel's graph holds operators that touch files, the network or Python: "
            f"{', '.join(sorted(harmful)[:12])}.",
            code="unsafe_operator",
            next_step="Export the model without them, for serving alone.",
        )


def _reached(main: Mapping[str, _Node], functions: Mapping[str, list[_Node]], endpoints: Mapping[str, Message]) -> set[str]:
    """The operators that an answer, or the start, would run."""
    waiting = [_node_of(name) for endpoint in endpoints.values() for name in _tensor_names(endpoint)]
    waiting += [name for name in main if name.startswith(_STARTS) or name == "init"]
    seen, called, operators = set(waiting), list[str](), set[str]()
    while waiting:
        node = main.get(waiting.pop())
        if node is not None:
            operators.add(node.operator)
            called += node.functions
            fresh = {_node_of(name) for name in node.inputs} - seen
            seen |= fresh
            waiting += fresh
    entered: set[str] = set()
    while called:
        name = called.pop()
        if name not in entered:
            entered.add(name)
            operators.update(node.operator for node in functions.get(name, ()))
            called += [inner for node in functions.get(name, ()) for inner in node.functions]
    return operators


def _tensor_names(endpoint: Message) -> Iterator[str]:
    for side in (1, 2):
        for entry in _all(endpoint, side):
            yield from (_text(name) for name in _all(_merged(entry, 2), 1))


def _node_of(name: str) -> str:
    """The node of a value `name:0`, or of a control input `^name`."""
    return name.removeprefix("^").partition(":")[0]


def _nodes(graph: Message) -> tuple[dict[str, _Node], dict[str, list[_Node]]]:
    """The main graph's nodes by name, and each function's."""
    main: dict[str, _Node] = {}
    functions: dict[str, list[_Node]] = {}
    count = 0
    for definition in _all(graph, 2):
        bodies = [function for library in _all(definition, 2) for function in _all(library, 1)]
        main |= {_text(_one(node, 1)): _node(node) for node in _all(definition, 1)}
        for body in bodies:
            functions.setdefault(_text(_one(_merged(body, 1), 1)), []).extend(_node(node) for node in _all(body, 3))
        count = len(main) + sum(map(len, functions.values()))
    if count > _MAX_NODES:
        raise Refused(f"The SavedModel has more than {_MAX_NODES} operators.", code="damaged")
    return main, functions


def _node(node: Message) -> _Node:
    functions = tuple(name for entry in _all(node, 5) for name in _called(_merged(entry, 2)))
    operator = _text(_one(node, 2))
    # A function may be called by its own name, as if it were an operator.
    return _Node(operator, tuple(_text(name) for name in _all(node, 3)), (*functions, operator))


def _called(attribute: Message) -> Iterator[str]:
    """The functions that an attribute names, also those that it hands to them."""
    several = (function for functions in _all(attribute, 1) for function in _all(functions, 9))
    for function in (*_all(attribute, 10), *several):
        yield _text(_one(function, 1))
        for entry in _all(function, 2):
            yield from _called(_merged(entry, 2))


# ── protobuf ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fields(message: Message) -> Iterator[tuple[int, int | Message]]:
    """Field numbers and values: numbers, or the bytes of what is nested. Raises NotProtobuf beyond the end."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        length = {FIXED64: 8, FIXED32: 4}.get(kind, 0)
        if kind == BYTES:
            length, at = _varint(message, at)
        elif not length:
            raise NotProtobuf(f"wire type {kind}")
        if length > len(message) - at:
            raise NotProtobuf("a field ends beyond its message")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: Message, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise NotProtobuf("it ends inside a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise NotProtobuf("a number has more than ten bytes")


def _all(message: Message, number: int) -> Iterator[Message]:
    """The nested messages (or texts) of one field."""
    return (value for found, value in _fields(message) if found == number and isinstance(value, Message))


def _one(message: Message, number: int) -> Message:
    """The last of them, as protobuf reads text; empty where there is none."""
    found = Message(b"")
    for value in _all(message, number):
        found = value
    return found


def _merged(message: Message, number: int) -> Message:
    """All of them as one nested message, as protobuf reads it when it comes in parts; empty where there is none."""
    parts = list(_all(message, number))
    return parts[0] if len(parts) == 1 else Message(b"".join(parts))


def _text(value: Message) -> str:
    return bytes(value).decode("utf-8", "replace")
