"""ZipMap, which skl2onnx appends by default, turns probabilities [N, C] into a list of maps that no protocol carries.

Served without it: the same numbers as a tensor, whose columns are the classes in the model's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openmaas.core.errors import Refused
from openmaas.formats.base import Task
from openmaas.formats.files import free_name

NOTE = "ZipMap was removed: the probabilities are a tensor whose columns are the classes in the model's order."


def has_zipmap(model: Any) -> bool:
    return bool(_zipmaps(model))


def _zipmaps(model: Any) -> list[Any]:
    outputs = {value.name for value in model.graph.output}
    return [node for node in model.graph.node if node.op_type == "ZipMap" and node.output[0] in outputs]


def write_without(model: Any, task: Task, external: Sequence[str]) -> tuple[str, Path]:
    """Write the model with each ZipMap replaced by Identity; the new file's relative path and its place in `output`."""
    import onnx

    if external:
        raise Refused(
            "The model ends in a ZipMap and keeps tensors in other files.",
            code="unsupported_type",
            next_step="Convert it again with options={'zipmap': False}.",
        )
    for node in _zipmaps(model):
        labels = next((a for a in node.attribute if a.name in ("classlabels_strings", "classlabels_int64s")), None)
        count = len(labels.strings or labels.ints) if labels else None
        _make_tensor(model, node.output[0], count)
        node.CopyFrom(onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name))
    name = free_name(task.folder, "without-zipmap.onnx")
    path = task.output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return name, path


def _make_tensor(model: Any, name: str, columns: int | None) -> None:
    import onnx

    for value in model.graph.output:
        if value.name == name:
            value.CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, columns]))
