"""May this Keras configuration be built? Decided before Keras sees it, from the configuration alone.

A configuration names classes and functions by module and name, and Keras builds what it names. Here a name must be one of
Keras' own numeric parts: a layer, an operation, an initializer … Whatever holds code or reads files is refused although it
is Keras' own, and whatever Keras does not bring is not looked for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple, NoReturn

from openmaas.core.errors import InvalidInput, Refused

_DATA = frozenset(
    {"__keras_tensor__", "__numpy__", "__tensor__", "__bytes__", "__ellipsis__", "__slice__", "__tuple__", "TensorShape"}
)
"""Class names that stand for plain data."""
_CODE = frozenset({"__lambda__", "__typespec__", "TypeSpec", "CompositeTensor"})
_RUNS_CODE = ("Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer")
"""Layers of Keras' own that hold code, a pickle, or the name of a file with a graph."""
_NAMESPACES = (
    "layers", "models", "src.models.functional", "initializers", "regularizers", "constraints", "dtype_policies",
    "optimizers", "losses", "metrics",
)  # fmt: skip
"""Where a name without a module, as older files write it, is looked for."""
_FUNCTIONS = ("activations", "ops", "losses", "metrics")
_NUMERIC = tuple(f"keras.src.{name}." for name in ("activations", "ops", "losses", "metrics"))
_REMOTE = ("file://", "http://", "https://", "ftp://", "gs://", "s3://", "hf://")
_READ_FROM = frozenset({"vocabulary", "idf_weights"})
"""Fields that are either data or, as a string, the name of a file that Keras would read."""
_STEP = "Push the live model from Python, where its code is: client.push(model, sample=X)."


class _Place(NamedTuple):
    """A part of the configuration, and the layer that it belongs to."""

    value: Any
    layer: str


def check_names(config: Any) -> None:
    """What `check_configuration` refuses by the names alone, without importing Keras, which takes seconds. Raises the same."""
    _check(config, thoroughly=False)


def check_configuration(config: Any) -> None:
    """Raises Refused that names the layer (code unsafe_layer, reads_files, custom_class), InvalidInput where it is none."""
    _check(config, thoroughly=True)


def _check(config: Any, *, thoroughly: bool) -> None:
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise InvalidInput("The Keras configuration names no model class.", code="damaged")
    # How it was compiled is never used here, and often names a loss of the author's own.
    waiting = [_Place({key: value for key, value in config.items() if key != "compile_config"}, "the model")]
    while waiting:
        place = waiting.pop()
        if isinstance(place.value, dict):
            place = _check_object(place, thoroughly) if "class_name" in place.value else place
            _check_fields(place)
        elif isinstance(place.value, str) and place.value.lower().startswith(_REMOTE):
            _refuse(place.layer, f"names a file elsewhere ({place.value[:60]!r})", "reads_files")
        waiting += [_Place(value, place.layer) for value in _children(place.value)]


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _check_object(place: _Place, thoroughly: bool) -> _Place:
    """Whether the class or function that is named may be built; the same place under its own layer's name."""
    name, config = place.value["class_name"], place.value.get("config")
    layer = _layer_name(place, name, config)
    if not isinstance(name, str) or name in _CODE:
        _refuse(layer, "holds a Python function as code", "unsafe_layer")
    if name in _DATA:
        return place
    _check_name(layer, name, place.value)
    if thoroughly:
        _check_function(layer, place.value) if name == "function" else _check_class(layer, name, place.value)
    return _Place(place.value, layer)


def _layer_name(place: _Place, name: Any, config: Any) -> str:
    own = config.get("name") if isinstance(config, dict) else None
    return f"{str(name)[:60]} {own[:60]!r}" if isinstance(own, str) else place.layer


def _check_name(layer: str, name: str, value: dict[str, Any]) -> None:
    """By the text alone: registered by somebody else, a layer with code, or of a module that is not Keras'."""
    module, function = value.get("module"), name == "function"
    own = (value.get("config"), "function") if function else (name,)
    if value.get("registered_name") not in (None, *own):
        _refuse_custom(layer, f"{value['registered_name']}"[:80])
    if name in _RUNS_CODE:
        _refuse_code(layer)
    if module is not None and not _is_of_keras(module) and not (function and module == "builtins"):
        _refuse_custom(layer, _function(value) if function else _class(name, module))


def _check_class(layer: str, name: str, value: dict[str, Any]) -> None:
    module = value.get("module")
    found = list(_classes(name, module))
    if any(issubclass(kind, _unsafe()) for kind in found):
        _refuse_code(layer)
    if not found or not all(issubclass(kind, _safe()) and kind.__module__.startswith("keras.") for kind in found):
        _refuse_custom(layer, _class(name, module))


def _class(name: str, module: Any) -> str:
    return f"{module or 'keras.layers'}.{name}"[:120]


def _classes(name: str, module: Any) -> Iterator[type]:
    modules = [f"keras.{namespace}" for namespace in _NAMESPACES] if module is None else [module]
    for each in modules:
        found = _attribute(each, name)
        if isinstance(found, type):
            yield found


def _attribute(module: Any, name: Any) -> Any:
    """A name in a module of Keras that `import keras` has loaded already; nothing is imported for a file's sake."""
    loaded = sys.modules.get(module) if _is_of_keras(module) else None
    return vars(loaded).get(name) if loaded is not None else None


def _is_of_keras(module: Any) -> bool:
    return isinstance(module, str) and (module == "keras" or module.startswith("keras."))


def _check_function(layer: str, value: dict[str, Any]) -> None:
    name, module = value.get("config"), value.get("module")
    modules = [f"keras.{namespace}" for namespace in _FUNCTIONS] if module in (None, "builtins") else [module]
    if not any(_is_numeric(_attribute(each, name)) for each in modules):
        _refuse_custom(layer, _function(value))


def _function(value: dict[str, Any]) -> str:
    return f"the function {str(value.get('module'))[:60]}.{str(value.get('config'))[:60]}"


def _is_numeric(function: Any) -> bool:
    return callable(function) and str(getattr(function, "__module__", "")).startswith(_NUMERIC)


def _check_fields(place: _Place) -> None:
    for field in _READ_FROM & place.value.keys():
        if isinstance(place.value[field], str):
            _refuse(place.layer, f"reads the file that its {field!r} names", "reads_files")


@cache
def _unsafe() -> tuple[type, ...]:
    import keras

    return tuple(getattr(keras.layers, name) for name in _RUNS_CODE if hasattr(keras.layers, name))


@cache
def _safe() -> tuple[type, ...]:
    import keras

    return (
        keras.Operation, keras.Initializer, keras.Regularizer, keras.constraints.Constraint, keras.DTypePolicy,
        keras.dtype_policies.DTypePolicyMap, keras.Loss, keras.Metric, keras.optimizers.Optimizer,
        keras.optimizers.schedules.LearningRateSchedule, keras.random.SeedGenerator, keras.Quantizer,
    )  # fmt: skip


def _refuse(layer: str, what: str, code: str) -> NoReturn:
    raise Refused(f"{layer[0].upper()}{layer[1:]} {what}.", code=code, next_step=_STEP)


def _refuse_code(layer: str) -> NoReturn:
    _refuse(layer, "runs code that the file holds or names", "unsafe_layer")


def _refuse_custom(layer: str, what: str) -> NoReturn:
    raise Refused(
        f"{layer[0].upper()}{layer[1:]} needs {what}, which is not one of Keras' own layers and functions.",
        code="custom_class",
        next_step=_STEP,
    )
