"""ONNX files as passes read and write them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import to_text
from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.packed import plain_file
from openmaas.engines.onnxruntime.session import OnnxSession

_NAME = "model.onnx"
_MOST = 2**31 - 2**20
"""Bytes that one file can hold; larger weights lie beside it."""
_UNLISTED = 4
"""The first version of the format whose constants are no inputs."""


def read_graph(path: Path) -> Any:
    """An onnx.ModelProto with all of its tensors, those from files beside it too; the file may be packed.

    Constants that are listed as inputs, as old exporters do, are constants alone: no engine here is given others.
    """
    import onnx

    with plain_file(path) as plain:
        model = onnx.load(plain)
    held = {tensor.name for tensor in model.graph.initializer}
    if any(value.name in held for value in model.graph.input):
        _keep(model.graph.input, lambda value: value.name not in held)
        model.ir_version = max(model.ir_version, _UNLISTED)
    return model


def write_graph(model: Any, folder: Path, options: Mapping[str, Any] | None = None) -> Artifact:
    """The model as `folder`/model.onnx, with weights beside it beyond 2 GiB, and without what only people and tools read.

    Raises onnx's error where it is no valid model.
    """
    import onnx

    strip(model)
    large = model.ByteSize() > _MOST
    onnx.save(model, folder / _NAME, save_as_external_data=large, location=f"{_NAME}.data" if large else None)
    onnx.checker.check_model(str(folder / _NAME))
    return Artifact(kind="onnx", entry=_NAME, options=dict(options or {}))


def strip(model: Any) -> None:
    """Leave out what only people and tools read: where each node came from, inferred shapes of values between nodes."""
    model.ClearField("doc_string")
    del model.metadata_props[:]
    graphs = [model.graph, *model.functions]
    while graphs:
        graph = graphs.pop()
        graph.ClearField("doc_string")
        del graph.metadata_props[:]
        del graph.value_info[:]
        for described in (*graph.node, *getattr(graph, "initializer", ()), *getattr(graph, "quantization_annotation", ())):
            for field in ("doc_string", "metadata_props"):
                if field in described.DESCRIPTOR.fields_by_name:
                    described.ClearField(field)
        for node in graph.node:
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs


def onnx_of(manifest: Manifest) -> Artifact | None:
    """The ONNX form among a version's artifacts, if it has one."""
    artifacts = manifest.artifacts or (manifest.choice.artifact,)
    return next((artifact for artifact in artifacts if artifact.kind == "onnx"), None)


def constants(model: Any) -> dict[str, Any]:
    """TensorProtos by the name of the value in the main graph: initializers, and what nodes of type Constant hold."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], one.t) for one in node.attribute if one.name == "value")
    return found


def array_of(tensor: Any) -> NDArray[Any]:
    """A TensorProto's numbers."""
    import onnx

    return np.asarray(onnx.numpy_helper.to_array(tensor))


def tensor_of(array: NDArray[Any], name: str) -> Any:
    """Numbers as a TensorProto."""
    import onnx

    return onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)


def answers_of(model: Any, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """What a model of less than 2 GiB answers by onnxruntime: its outputs, or any values of its main graph by name."""
    import onnx

    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    known = {value.name for value in (*asked.graph.output, *asked.graph.input)}
    wanted = [value.name for value in asked.graph.output] if outputs is None else list(dict.fromkeys(outputs))
    computed = [name for name in wanted if name not in inputs]
    asked.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in computed if name not in known)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(asked, Path(folder) / _NAME)
        session = OnnxSession(Path(folder) / _NAME, threads=2).session
    given = {name: to_text(array) if array.dtype.kind == "O" else array for name, array in inputs.items()}
    found = dict(zip(computed, session.run(computed, given), strict=True)) if computed else {}
    return {name: np.asarray(found[name] if name in found else inputs[name]) for name in wanted}


def label_of(node: Any) -> str:
    """A node as people find it: its name, else what it computes."""
    return node.name or f"{node.op_type} → {node.output[0]}"


def uses(model: Any) -> dict[str, int]:
    """How often each value is read: by nodes, by nodes of subgraphs, as an output of the graph."""
    found: dict[str, int] = {}
    for name in _read(model.graph):
        found[name] = found.get(name, 0) + 1
    return found


def _read(graph: Any) -> Iterator[str]:
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from filter(None, node.input)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _read(inner)


def drop_unused(model: Any) -> None:
    """Leave out initializers and Constant nodes that nothing reads."""
    used = uses(model)
    _keep(model.graph.initializer, lambda tensor: tensor.name in used)
    _keep(model.graph.node, lambda node: node.op_type != "Constant" or node.output[0] in used)


def _keep(repeated: Any, wanted: Callable[[Any], bool]) -> None:
    for index in reversed(range(len(repeated))):
        if not wanted(repeated[index]):
            del repeated[index]
