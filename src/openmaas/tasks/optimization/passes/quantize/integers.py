"""Layers computed in int8 by onnxruntime: methods dynamic and static."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from openmaas.core.made_up import make_up
from openmaas.core.recipes import Quantize
from openmaas.tasks.optimization.base import Arrays, Bench, Piece
from openmaas.tasks.optimization.graphs import constants, drop_unused, uses
from openmaas.tasks.optimization.passes.quantize.layers import Layer
from openmaas.tasks.optimization.passes.quantize.stored import store
from openmaas.tasks.optimization.rows import row_batches

DYNAMIC_OPS: Final = frozenset({"MatMul", "Gemm", "Conv", "LSTM", "Gather"})
STATIC_OPS: Final = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Gather"})
_BATCH: Final = 16
_FROM_13: Final = 13
"""The first operator set with a scale for each channel."""


def dynamic(model: Any, layers: Sequence[Layer], parameters: Quantize) -> Any:
    """Inputs of these layers are quantised at each call, by their range then. Rows of tables are kept in 8 bits."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    computed = _tables_stored(model, layers, parameters)
    if not computed:
        return model
    _unshare(model)
    with _quietly(), TemporaryDirectory(prefix="openmaas-") as folder:
        path = Path(folder) / "model.onnx"
        quantize_dynamic(
            _shaped(model),
            path,
            op_types_to_quantize=sorted({"MatMul" if layer.op == "Gemm" else layer.op for layer in computed}),
            per_channel=parameters.per_channel,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=_names(computed),
            extra_options={"WeightSymmetric": parameters.symmetric},
        )
        return _read(path)


def static(
    model: Any, layers: Sequence[Layer], parameters: Quantize, batches: Sequence[Arrays], told: Callable[[int], None],
    folder: Path, alone: bool,
) -> Any:  # fmt: skip
    """Ranges of what flows between nodes come from calibration. folder: where they are kept from one call to the next.

    alone: only these layers; otherwise, in a convolutional network, also the nodes between them, so that it stays in int8.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    convolutional = any(layer.op.startswith("Conv") for layer in layers)
    computed = _tables_stored(model, layers, parameters)
    if not computed:
        return model
    methods = {"entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile}
    activations = QuantType.QInt8 if parameters.symmetric else QuantType.QUInt8
    options: dict[str, Any] = {
        "ActivationSymmetric": parameters.symmetric,
        "WeightSymmetric": True,
        "MatMulConstBOnly": True,
        "CalibPercentile": parameters.percentile,
        # Each batch by itself: rows of different lengths cannot be joined, and all of them at once fill the memory.
        "CalibStridedMinMax": 1,
    }
    kept = {layer.name for layer in computed}
    held = [node.name for node in model.graph.node if node.op_type in STATIC_OPS and node.name not in kept]
    ops = sorted({node.op_type for node in model.graph.node} & STATIC_OPS) if alone or not convolutional else []
    with _quietly():
        path = folder / "static.onnx"
        quantize_static(
            _shaped(model),
            path,
            Reader(batches, told),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=ops,
            per_channel=parameters.per_channel,
            activation_type=activations,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=_names(computed) if alone or not convolutional else [],
            nodes_to_exclude=held,
            calibrate_method=methods.get(parameters.calibration, CalibrationMethod.MinMax),
            calibration_cache_path=folder / f"ranges-{'-'.join(ops)}.json",
            extra_options=options,
        )
        return _read(path)


def calibration(piece: Piece, parameters: Quantize, bench: Bench) -> list[Arrays]:
    """Batches that calibrate: a seeded sample of the training set, or rows made up within the signature."""
    if parameters.calibration != "random":
        assert bench.training is not None
        return row_batches(piece.manifest, bench.training, parameters.samples, bench.seed, _BATCH)
    inputs = piece.manifest.signature.inputs
    fixed = [spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] > 0]
    rows = fixed[0] if fixed else min(parameters.samples, _BATCH)
    return [make_up(inputs, rows)]


class Reader:
    """Batches as onnxruntime's calibration reads them. told: how many were read."""

    def __init__(self, batches: Sequence[Arrays], told: Callable[[int], None]) -> None:
        self._batches = batches
        self._told = told
        self._range = (0, len(batches))

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._range = (start_index, end_index)

    def get_next(self) -> Arrays | None:
        start, end = self._range
        if start >= end:
            return None
        self._told(start)
        self._range = (start + 1, end)
        return self._batches[start]


def _tables_stored(model: Any, layers: Sequence[Layer], parameters: Quantize) -> list[Layer]:
    """The layers that are left to compute with: what rows are looked up in is no computing, and is kept in 8 bits here."""
    tables = [layer for layer in layers if layer.op == "Gather"]
    if tables:
        store(model, tables, parameters, 0)
    return [layer for layer in layers if layer.op != "Gather"]


def _unshare(model: Any) -> None:
    """Weights of its own for each Gemm: the quantiser turns them round in place, whoever else reads them."""
    known, used = constants(model), uses(model)
    for number, node in enumerate(model.graph.node):
        if node.op_type == "Gemm" and node.input[1] in known and used[node.input[1]] > 1:
            own = type(known[node.input[1]])()
            own.CopyFrom(known[node.input[1]])
            own.name = f"{node.input[1]}.own{number}"
            model.graph.initializer.append(own)
            node.input[1] = own.name
    drop_unused(model)


def _names(layers: Sequence[Layer]) -> list[str]:
    """As the quantiser knows them: it makes a MatMul of each Gemm first, and gives it another name."""
    return [layer.name for layer in layers] + [f"{layer.name}_MatMul" for layer in layers if layer.op == "Gemm"]


def _shaped(model: Any) -> Any:
    """With inferred types and shapes, which the quantiser asks for, in an operator set that it can write."""
    import onnx
    from onnx import version_converter
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset < _FROM_13:
        model = version_converter.convert_version(model, _FROM_13)
    del model.graph.value_info[:]  # exporters describe weights there too, which the quantiser transposes
    shaped = onnx.shape_inference.infer_shapes(model)
    add_pre_process_metadata(shaped)
    return shaped


def _read(path: Path) -> Any:
    from openmaas.tasks.optimization.graphs import read_graph

    model = read_graph(path)
    del model.metadata_props[:]
    del model.graph.value_info[:]
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the quantiser logs and prints of every node and batch: what it left as it is, is counted afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)
