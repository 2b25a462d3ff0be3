"""Weights kept with few bits in an ONNX graph: codes as initializers, and nodes that make numbers of them.

restored   Cast, Sub and Mul in front of the layer. Every engine folds them when it loads, so that it computes in float with
           just the rounded weights, as fast as before. (Behind DequantizeLinear onnxruntime and OpenVINO would quantise the
           layer's inputs as well.)
compact    DequantizeLinear, whole channels or groups, for MatMul: engines keep the codes in memory and have kernels for them.
gathered   rows of a table are looked up as codes, and only they become numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openmaas.tasks.optimization.graphs import tensor_of
from openmaas.tasks.optimization.passes.quantize.rounding import Codes

_NONE: Final[Mapping[str, int]] = {}
_FLOAT: Final = 1  # onnx.TensorProto.FLOAT
NIBBLES_FROM: Final = 21
"""The first ONNX operator set whose Cast and DequantizeLinear know numbers of 4 bits and groups."""
_NIBBLES_IR: Final = 10


class Store:
    """Edits a graph. Weights that several nodes read are written once."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
        self._taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
        self._taken |= {tensor.name for tensor in model.graph.initializer}
        self._made: dict[tuple[str, str], str] = {}
        self._nodes: list[Any] = []
        self._at: dict[str, list[Any]] = {}

    @property
    def nibbles(self) -> bool:
        """Whether 4 bits can be kept in 4 bits."""
        return self._opset >= NIBBLES_FROM

    def restored(self, node: Any, place: int, codes: Codes, bits: int, datatype: int = _FLOAT) -> None:
        """The node reads the restored numbers instead of its weight."""
        weight = node.input[place]
        key = (weight, "restored")
        if key not in self._made:
            small = self._codes(weight, codes.codes, bits)
            value = self._node("Cast", [small], weight, {"to": _FLOAT})
            if codes.zero.any():
                value = self._node("Sub", [value, self._tensor(weight, codes.zero.astype(np.float32), "z")], weight)
            value = self._node("Mul", [value, self._tensor(weight, codes.scale, "s")], weight)
            self._made[key] = value if datatype == _FLOAT else self._node("Cast", [value], weight, {"to": datatype})
        node.input[place] = self._made[key]

    def compact(self, node: Any, place: int, codes: Codes, bits: int, axis: int, group: int = 0) -> None:
        """The same by DequantizeLinear. axis: the channels', or with `group` the one along which groups lie."""
        weight = node.input[place]
        key = (weight, "compact")
        if key not in self._made:
            scale, zero = codes.scale, np.broadcast_to(codes.zero, codes.scale.shape)
            if not group:
                scale, zero = scale.ravel(), zero.ravel()
            if scale.size == 1:
                scale, zero = scale.reshape(()), zero.reshape(())
            inputs = [self._codes(weight, codes.codes, bits), self._tensor(weight, scale, "s"), self._codes(weight, zero, bits)]
            options = {"axis": axis} | ({"block_size": group} if group else {})
            self._made[key] = self._node("DequantizeLinear", inputs, weight, options)
        node.input[place] = self._made[key]

    def gathered(self, node: Any, codes: Codes, bits: int, datatype: int = _FLOAT) -> None:
        """A Gather of rows reads codes; scales (and zeros) of the rows are looked up beside them."""
        if bits <= 4 and self.nibbles:  # Gather has no kernel for 4 bits
            return self.restored(node, 0, codes, bits, datatype)
        weight, index, output = node.input[0], node.input[1], node.output[0]
        node.input[0] = self._once(weight, "q", lambda: self._codes(weight, codes.codes, bits))
        node.output[0] = self._free(f"{output}.q")
        after: list[Any] = []

        def rows(array: NDArray[np.float32], suffix: str) -> str:
            kept = array if array.size > 1 else array.reshape(())
            name = self._once(weight, suffix, lambda: self._tensor(weight, kept, suffix))
            return self._later(after, "Gather", [name, index], f"{output}.{suffix}") if kept.ndim else name

        value = self._later(after, "Cast", [node.output[0]], f"{output}.c", {"to": _FLOAT})
        if codes.zero.any():
            value = self._later(after, "Sub", [value, rows(codes.zero.astype(np.float32), "z")], f"{output}.d")
        last = output if datatype == _FLOAT else f"{output}.f"
        value = self._later(after, "Mul", [value, rows(codes.scale, "s")], last, exact=datatype == _FLOAT)
        if datatype != _FLOAT:
            self._later(after, "Cast", [value], output, {"to": datatype}, exact=True)
        self._at[node.name] = after
        return None

    def finish(self) -> None:
        """Put the new nodes in their places, and leave out what nothing reads any more."""
        from openmaas.tasks.optimization.graphs import drop_unused

        graph = self._model.graph
        order = [*self._nodes]
        for node in graph.node:
            order.append(node)
            order += self._at.get(node.name, ())
        constant = [node for node in order if node.op_type == "Constant"]  # before those that read them
        copies = [_copy(node) for node in (*constant, *(node for node in order if node.op_type != "Constant"))]
        del graph.node[:]
        graph.node.extend(copies)
        drop_unused(self._model)

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _codes(self, weight: str, array: NDArray[np.uint8], bits: int) -> str:
        if bits <= 4 and self.nibbles:
            import ml_dtypes

            return self._tensor(weight, array.astype(ml_dtypes.uint4), "q")
        return self._tensor(weight, array, "q")

    def _tensor(self, weight: str, array: NDArray[Any], suffix: str) -> str:
        name = self._free(f"{weight}.{suffix}")
        self._model.graph.initializer.append(tensor_of(array, name))
        return name

    def _once(self, weight: str, what: str, make: Any) -> str:
        if (weight, what) not in self._made:
            self._made[weight, what] = make()
        return self._made[weight, what]

    def _node(self, op: str, inputs: list[str], weight: str, attributes: Mapping[str, int] = _NONE) -> str:
        return self._later(self._nodes, op, inputs, f"{weight}.{op[0].lower()}", attributes)

    def _later(
        self, nodes: list[Any], op: str, inputs: list[str], output: str, attributes: Mapping[str, int] = _NONE,
        exact: bool = False,
    ) -> str:  # fmt: skip
        from onnx import helper

        name = output if exact else self._free(output)
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def _free(self, name: str) -> str:
        free, number = name, 1
        while free in self._taken:
            free, number = f"{name}{number}", number + 1
        self._taken.add(free)
        return free


def with_nibbles(model: Any) -> Any:
    """The model in an operator set that has 4 bits, or as it is where it cannot be brought there."""
    import onnx
    from onnx import version_converter

    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset >= NIBBLES_FROM:
        model.ir_version = max(model.ir_version, _NIBBLES_IR)
        return model
    try:
        newer = version_converter.convert_version(model, NIBBLES_FROM)
        onnx.checker.check_model(newer)
    except Exception:  # whatever its adapters have not learned; 4 bits are then kept in 8
        return model
    newer.ir_version = max(model.ir_version, _NIBBLES_IR)
    return newer


def _copy(node: Any) -> Any:
    import onnx

    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied
