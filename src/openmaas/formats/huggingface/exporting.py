"""An encoder as ONNX: rows and tokens of any number, pooling and normalisation inside the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from openmaas.core.errors import OpenMaaSError
from openmaas.engines.huggingface.encoder import Encoder, quietly, reason
from openmaas.formats.time_limit import time_limit

OPSET = 20
SECONDS = 300.0
"""Time for one export, of which a model of 300 million parameters takes a tenth."""
SINGLE_FILE = 1_500_000_000
"""Bytes of weights up to which one file holds all: protobuf allows 2 GiB, and the graph has some of them."""
_MAX_ROWS = 1 << 20


def write_program(encoder: Encoder, example: Mapping[str, NDArray[Any]], limit: int, path: Path) -> None:
    """Write a .pt2 to `path`; the arguments and errors are those of write_onnx."""
    import torch

    with _told("as a program"):
        torch.export.save(export_program(encoder, example, limit), path)


def write_onnx(encoder: Encoder, example: Mapping[str, NDArray[Any]], limit: int, path: Path) -> tuple[Path, ...]:
    """Write to `path`, and beside it the weights of a model too large for one file; the files that were written.

    example: two rows or more of two tokens or more, or the exporter takes the axes for fixed. limit: tokens of a row.
    Raises OpenMaaSError with what the exporter said.
    """
    with _told("to ONNX"):
        program = _export(encoder, example, limit)
        rename_values(program.model.graph, list(encoder.options.outputs))
        path.parent.mkdir(parents=True, exist_ok=True)
        size = sum(tensor.numel() * tensor.element_size() for tensor in encoder.module.state_dict().values())
        program.save(path, external_data=size > SINGLE_FILE)
    return tuple(sorted(path.parent.glob(f"{path.name}*")))


@contextmanager
def _told(target: str) -> Iterator[None]:
    """The exporter's errors as ours, and an end to an export that takes too long."""
    try:
        with time_limit(SECONDS), quietly():
            yield
    except (MemoryError, OpenMaaSError):
        raise
    except Exception as error:
        cause = error
        while isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        raise OpenMaaSError(f"torch cannot export it {target} ({type(cause).__name__}: {reason(cause)[:300]})") from None


def _export(encoder: Encoder, example: Mapping[str, NDArray[Any]], limit: int) -> Any:
    import torch

    return torch.onnx.export(export_program(encoder, example, limit), dynamo=True, opset_version=OPSET, verbose=False)


def export_program(encoder: Encoder, example: Mapping[str, NDArray[Any]], limit: int) -> Any:
    """A torch.export.ExportedProgram, which takes and gives tensors by name."""
    import torch

    rows, tokens = torch.export.Dim("batch", min=1, max=_MAX_ROWS), torch.export.Dim("sequence", min=1, max=limit)
    names = encoder.options.inputs
    with torch.no_grad():
        return torch.export.export(
            encoder.module,
            tuple(torch.from_numpy(example[name]) for name in names),
            dynamic_shapes={name: {0: rows, 1: tokens} for name in names},
            strict=False,
        )


def rename_values(graph: Any, outputs: list[str]) -> None:
    """Give a graph's outputs these names, and other values that bear one of them another.

    torch's exporter, given `output_names`, leaves such values as they are and writes a file that no engine loads.
    """
    wanted = set(outputs)
    values = [value for node in graph.all_nodes() for value in node.outputs]
    taken = {value.name for value in (*values, *graph.inputs)} | set(graph.initializers) | wanted
    for value in values:
        if value.name in wanted:
            number = next(number for number in range(len(taken) + 1) if f"{value.name}_{number}" not in taken)
            value.name = f"{value.name}_{number}"
            taken.add(value.name)
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name
