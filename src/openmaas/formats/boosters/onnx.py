"""Boosters as ONNX, through onnxmltools: alone, and inside of scikit-learn's pipelines."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from openmaas.core.errors import OpenMaaSError
from openmaas.formats.sklearn.conversion import converted_by, name_outputs

if TYPE_CHECKING:
    from openmaas.engines.boosters.booster import Arrays, Booster

_OPSET = 15
"""The newest that onnxmltools' converters of both libraries write."""


def to_onnx(booster: Booster, features: int, outputs: Arrays) -> Any:
    """The booster with float32 inputs. Raises OpenMaaSError where there is no converter, or it fails."""
    if booster.checked.obstacle:
        raise OpenMaaSError(booster.checked.obstacle)
    if booster.missing is not None:
        raise OpenMaaSError(f"{booster.missing:g} stands for a missing value, for which ONNX has no form.")
    return converted_by(
        "onnxmltools", lambda: name_outputs(_named(_complete(_convert(booster, features)), booster.labels), outputs)
    )


def _convert(booster: Booster, features: int) -> Any:
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    types = [("X", FloatTensorType([None, features]))]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if booster.checked.library == "xgboost":
            return onnxmltools.convert_xgboost(booster.model, initial_types=types, target_opset=_OPSET)
        return onnxmltools.convert_lightgbm(booster.model, initial_types=types, target_opset=_OPSET, zipmap=False)


def _complete(graph: Any) -> Any:
    """With the import of ONNX's own operators, which the converters leave out where trees need none."""
    import onnx

    if all(opset.domain for opset in graph.opset_import):
        graph.opset_import.append(onnx.helper.make_opsetid("", _OPSET))
    return graph


def _named(graph: Any, labels: NDArray[Any] | None) -> Any:
    """With a last node that looks the class up, where the classes are not 0, 1, 2 …"""
    import onnx

    if labels is None:
        return graph
    if graph.graph.output[0].name != "label":
        raise OpenMaaSError("The converter gives no label.")
    graph.graph.initializer.append(onnx.numpy_helper.from_array(labels, "classes"))
    graph.graph.node.append(onnx.helper.make_node("Gather", ["classes", "label"], ["class_of_row"]))
    kind = onnx.TensorProto.STRING if labels.dtype == object else onnx.TensorProto.INT64
    graph.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("class_of_row", kind, [None]))
    return graph


def register(library: str) -> None:
    """Tell skl2onnx how the library's scikit-learn classes are converted, once."""
    import importlib

    from skl2onnx import update_registered_converter
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    module, path, classifier, regressor = _CLASSES[library]
    converters = importlib.import_module(path)
    owner = importlib.import_module(module)
    convert = getattr(converters, f"convert_{library}")
    if library == "xgboost":
        convert = _in_single_precision(convert)
    for names, shapes, options in (
        (
            classifier,
            _in_float32(calculate_linear_classifier_output_shapes),
            {"nocl": [True, False], "zipmap": [True, False, "columns"]},
        ),
        (regressor, _in_float32(calculate_linear_regressor_output_shapes), {"split": [None, 100, 500]}),
    ):
        for name in names:
            kind = getattr(owner, name)
            if kind not in sklearn_operator_name_map:
                update_registered_converter(kind, f"OpenMaaS{name}", shapes, convert, options=options)


class _Cast:
    """An operator whose input is another value; all else is the operator's own."""

    def __init__(self, operator: Any, name: str) -> None:
        self._operator = operator
        self.input_full_names = [name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operator, name)


def _in_single_precision(convert: Any) -> Any:
    """A converter that rounds doubles to float32 first, as xgboost itself does: its thresholds lie exactly on values."""
    import onnx

    def cast_and_convert(scope: Any, operator: Any, container: Any) -> None:
        name = scope.get_unique_variable_name("single")
        container.add_node("Cast", operator.input_full_names, [name], to=onnx.TensorProto.FLOAT)
        convert(scope, _Cast(operator, name), container)

    return cast_and_convert


def _in_float32(shapes: Any) -> Any:
    """A shape calculator that knows that these converters give float32, whatever comes in."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    def calculate(operator: Any) -> None:
        shapes(operator)
        for output in operator.outputs:
            if isinstance(output.type, DoubleTensorType):
                output.type = FloatTensorType(output.type.shape)

    return calculate


_CLASSES = {
    "xgboost": (
        "xgboost", "onnxmltools.convert.xgboost.operator_converters.XGBoost",
        ("XGBClassifier", "XGBRFClassifier"), ("XGBRegressor", "XGBRFRegressor"),
    ),
    "lightgbm": (
        "lightgbm", "onnxmltools.convert.lightgbm.operator_converters.LightGbm", ("LGBMClassifier",), ("LGBMRegressor",),
    ),
}  # fmt: skip
