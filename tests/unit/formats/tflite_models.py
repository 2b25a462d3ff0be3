"""TensorFlow Lite files made by hand with the format's own schema, from weights that scikit-learn trained."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int32": schema.TensorType.INT32,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
}
_OPERATORS = schema.BuiltinOperator


class Builder:
    """A graph of operators over tensors that are numbered in the order of their making."""

    def __init__(self) -> None:
        self._buffers = [schema.BufferT(data=[])]
        self._tensors: list[Any] = []
        self._codes: list[Any] = []
        self._steps: list[Any] = []

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...] = (),
        *,
        dtype: str = "float32",
        values: NDArray[Any] | None = None,
        scale: float = 0.0,
        zero_point: int = 0,
        variable: bool = False,
    ) -> int:
        buffer = 0
        if values is not None:
            shape, dtype, buffer = values.shape, values.dtype.name, len(self._buffers)
            self._buffers.append(schema.BufferT(data=np.frombuffer(values.tobytes(), np.uint8)))
        made = schema.TensorT(name=name, type=_TYPES[dtype], buffer=buffer, isVariable=variable)
        made.shape = [abs(axis) for axis in shape]
        if -1 in shape:
            made.shapeSignature = list(shape)
        if scale:
            made.quantization = schema.QuantizationParametersT(scale=[scale], zeroPoint=[zero_point])
        self._tensors.append(made)
        return len(self._tensors) - 1

    def step(self, operator: int, inputs: list[int], outputs: list[int], options: Any = None, custom: str = "") -> None:
        code = schema.OperatorCodeT(builtinCode=operator, deprecatedBuiltinCode=min(operator, 127), version=1)
        code.customCode = custom or None
        self._codes.append(code)
        made = schema.OperatorT(opcodeIndex=len(self._codes) - 1, inputs=inputs, outputs=outputs)
        if options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self._steps.append(made)

    def save(
        self, path: Path, inputs: list[int], outputs: list[int], signature: tuple[dict[str, int], dict[str, int]] | None
    ) -> Path:
        graph = schema.SubGraphT(tensors=self._tensors, inputs=inputs, outputs=outputs, operators=self._steps, name="main")
        model = schema.ModelT(version=3, operatorCodes=self._codes, subgraphs=[graph], buffers=self._buffers)
        if signature is not None:
            taken, given = (
                [schema.TensorMapT(name=name, tensorIndex=index) for name, index in side.items()] for side in signature
            )
            model.signatureDefs = [
                schema.SignatureDefT(inputs=taken, outputs=given, signatureKey="serving_default", subgraphIndex=0)
            ]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


@cache
def digits() -> tuple[Any, Any, Any]:
    """A perceptron trained on scikit-learn's digits, with the images and what they show."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    data = load_digits()
    images = (data.data / 16).astype(np.float32)
    trained = MLPClassifier((16,), max_iter=300, tol=1e-2, random_state=0).fit(images, data.target)
    return trained, images, data.target


def perceptron(path: Path, *, rows: int = 1, signature: bool = True) -> Path:
    """Images of digits to probabilities, the trained perceptron's own. rows: -1 where the file leaves them free."""
    trained, _, _ = digits()
    build = Builder()
    pixels = build.tensor("serving_default_pixels:0", (rows, 64))
    hidden = _dense(build, pixels, trained.coefs_[0], trained.intercepts_[0], rows, schema.ActivationFunctionType.RELU)
    scores = _dense(build, hidden, trained.coefs_[1], trained.intercepts_[1], rows)
    answer = build.tensor("StatefulPartitionedCall:0", (rows, 10))
    build.step(_OPERATORS.SOFTMAX, [scores], [answer], schema.SoftmaxOptionsT(beta=1.0))
    return build.save(path, [pixels], [answer], ({"pixels": pixels}, {"digit": answer}) if signature else None)


def _dense(build: Builder, given: int, weights: NDArray[Any], bias: NDArray[Any], rows: int, activation: int = 0) -> int:
    kernel = build.tensor("kernel", values=weights.T.astype(np.float32).copy())
    offset = build.tensor("bias", values=bias.astype(np.float32))
    answer = build.tensor("dense", (rows, len(bias)))
    options = schema.FullyConnectedOptionsT(fusedActivationFunction=activation)
    build.step(_OPERATORS.FULLY_CONNECTED, [given, kernel, offset], [answer], options)
    return answer


def quantised(path: Path) -> Path:
    """y = x in eight bits, with the scales and zero points of a real conversion: a quantity from -1 to 1 to a logistic."""
    build = Builder()
    given = build.tensor("x", (1, 4), dtype="int8", scale=1 / 128, zero_point=0)
    answer = build.tensor("y", (1, 4), dtype="int8", scale=1 / 256, zero_point=-128)
    build.step(_OPERATORS.LOGISTIC, [given], [answer])
    return build.save(path, [given], [answer], None)


def fixed_by_reshape(path: Path) -> Path:
    """One row for good: its values are laid out anew by a shape that is a constant."""
    build = Builder()
    given = build.tensor("x", (1, 4))
    shape = build.tensor("shape", values=np.array([1, 2, 2], np.int32))
    answer = build.tensor("y", (1, 2, 2))
    build.step(_OPERATORS.RESHAPE, [given, shape], [answer], schema.ReshapeOptionsT(newShape=[1, 2, 2]))
    return build.save(path, [given], [answer], None)


def custom(path: Path, name: str = "FlexErf") -> Path:
    build = Builder()
    given, answer = build.tensor("x", (1, 4)), build.tensor("y", (1, 4))
    build.step(_OPERATORS.CUSTOM, [given], [answer], custom=name)
    return build.save(path, [given], [answer], None)


def recurrent(path: Path) -> Path:
    """A fused LSTM, whose state lies in variables of the interpreter that outlive a call."""
    random = np.random.default_rng(2)
    build = Builder()
    given = build.tensor("steps", (1, 3, 4))
    weights = [build.tensor(f"w{n}", values=random.standard_normal((5, 4)).astype(np.float32)) for n in range(4)]
    loops = [build.tensor(f"r{n}", values=random.standard_normal((5, 5)).astype(np.float32)) for n in range(4)]
    biases = [build.tensor(f"b{n}", values=random.standard_normal(5).astype(np.float32)) for n in range(4)]
    states = [build.tensor(f"state{n}", (1, 5), variable=True) for n in range(2)]
    answer = build.tensor("answer", (1, 3, 5))
    inputs = [given, *weights, *loops, -1, -1, -1, *biases, -1, -1, *states, -1, -1, -1, -1]
    options = schema.UnidirectionalSequenceLSTMOptionsT(fusedActivationFunction=schema.ActivationFunctionType.TANH)
    build.step(_OPERATORS.UNIDIRECTIONAL_SEQUENCE_LSTM, inputs, [answer], options)
    return build.save(path, [given], [answer], None)


def pointing(path: Path, **where: int) -> Path:
    """A perceptron one of whose indexes points outside of what there is."""
    perceptron(path)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    if "buffer" in where:
        graph.tensors[0].buffer = where["buffer"]
    if "tensor" in where:
        graph.operators[0].inputs = [where["tensor"], *graph.operators[0].inputs[1:]]
    if "operator" in where:
        graph.operators[0].opcodeIndex = where["operator"]
    if "output" in where:
        graph.outputs = [where["output"]]
    if "bytes" in where:
        model.buffers[1].data, model.buffers[1].offset, model.buffers[1].size = None, 8, where["bytes"]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
