"""Recipes: an ordered list of optimisation passes, each with its parameters and a seed. Pure data, checked before any work.

As YAML, one pass a step, named as here; a pass without parameters may be only its name:

    seed: 7
    steps:
      - prune: {method: channels, amount: 0.5, epochs: 10}
      - quantize: {method: static, calibration: entropy}
      - fuse
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

import msgspec

from openmaas.core.errors import InvalidInput

Target = Literal["onnx", "openvino", "torchscript", "torch-export", "tflite", "openvino-genai"]
"""What a version can be converted to."""

Weights = Literal["", "auto", "bf16", "int8", "int4"]
"""Of a text generator that is converted."""

MOST_STEPS: Final = 16
_SEEDS: Final = 2**31


class Pass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one step. Node names in `exclude` are those of the ONNX graph, or globs of them (`/encoder/*`).

    seed: of everything random in it; None is the recipe's.
    """

    name: ClassVar[str]
    seed: int | None = None

    @property
    def needs_data(self) -> Literal["", "inputs", "labels"]:
        """What of a training set the pass cannot do without: nothing, its inputs, or its labels too."""
        return ""

    def check(self) -> None:
        """Raises ValueError with what is wrong with the parameters together or out of range."""
        if self.seed is not None:
            _within("seed", self.seed, 0, _SEEDS)


class Training(Pass, frozen=True, kw_only=True):
    """A pass that may train. epochs: over the training set, 0 for none. Labels are used where the set has them."""

    epochs: int = 0
    learning_rate: float = 1e-3
    batch: int = 64

    @property
    def needs_data(self) -> Literal["", "inputs", "labels"]:
        return "inputs" if self.epochs else ""

    def check(self) -> None:
        super().check()
        _within("epochs", self.epochs, 0, 1000)
        _within("learning_rate", self.learning_rate, 1e-8, 10)
        _within("batch", self.batch, 1, 4096)


class Prune(Training, frozen=True, kw_only=True):
    """Take away weights.

    method: global (smallest of all layers together), layer (of each layer), l1 (global, after L1-regularised training with the
    proximal step; then as many epochs with the zeros fixed), channels (whole channels, the layers shrink), n:m (n of each m
    neighbours stay), trees (of an ensemble: the last ones).
    amount: the share that goes, from 0 to 1. strength: of the L1 term. schedule: `amount` is reached in so many rounds of
    pruning and training, each of `epochs`. exclude: nodes that are left whole.
    ranking: of global and l1, how weights of different layers are compared: by their share in what is left of their layer
    (LAMP), or by their magnitude alone, which takes most of a layer whose weights are all small.
    """

    name: ClassVar[str] = "prune"
    method: Literal["global", "layer", "l1", "channels", "n:m", "trees"] = "global"
    amount: float = 0.5
    n: int = 2
    m: int = 4
    strength: float = 1e-4
    schedule: int = 1
    ranking: Literal["layer-adaptive", "magnitude"] = "layer-adaptive"
    exclude: tuple[str, ...] = ()

    @property
    def needs_data(self) -> Literal["", "inputs", "labels"]:
        return "inputs" if self.epochs or self.method == "l1" else ""

    def check(self) -> None:
        super().check()
        _within("amount", self.amount, 0, 0.999)
        _within("strength", self.strength, 0, 1)
        _within("schedule", self.schedule, 1, 100)
        _within("m", self.m, 2, 64)
        _within("n", self.n, 1, self.m - 1)
        if self.method == "l1" and not self.epochs:
            raise ValueError("method l1 trains; give epochs of at least 1")
        if self.method == "trees" and self.epochs:
            raise ValueError("trees are not trained again; epochs must be 0")


class Quantize(Pass, frozen=True, kw_only=True):
    """Compute, or only keep, weights with fewer bits.

    method: dynamic (int8; activations scaled at each call), static (int8; activations scaled by calibration), weights (weight-
    only, 8 or 4 bits, in groups), affine (min-max of the weights to 2 to 8 bits, computed in float). calibration: of static;
    random is a made-up range, the baseline that shows why data matters. percentile: of calibration percentile. samples: rows
    that calibrate. rounding: of affine; tables: its bits for tables that rows are looked up in, which often do with fewer than
    layers that compute, and 0 is as many. group: weights that share a scale in method weights; 0 is a whole channel.
    inputs_group: of openvino's weights, how many inputs of a layer share a scale when it is computed in int8: more is faster
    and less exact; 0 is OpenVINO's own choice. smooth: how far (0 to 1) large inputs of linear layers are moved into the
    weights first, found on the data (SmoothQuant's α; 0.5 to 0.7 helps encoders); 0 is not at all. exclude: nodes that stay in
    float; keep_worst: the share of layers, found by a sensitivity search on the data, that stay in float. symmetric: of
    weights, and of static the inputs (whose weights always are).
    tool: what does it, where several can: onnxruntime (the result is ONNX) or openvino (NNCF; the result is OpenVINO IR).
    """

    name: ClassVar[str] = "quantize"
    method: Literal["dynamic", "static", "weights", "affine"] = "dynamic"
    tool: Literal["onnxruntime", "openvino"] = "onnxruntime"
    calibration: Literal["min-max", "entropy", "percentile", "random"] = "min-max"
    percentile: float = 99.99
    samples: int = 256
    bits: int = 8
    tables: int = 0
    rounding: Literal["nearest", "stochastic"] = "nearest"
    per_channel: bool = True
    symmetric: bool = False
    group: int = 0
    inputs_group: int = 0
    smooth: float = 0.0
    exclude: tuple[str, ...] = ()
    keep_worst: float = 0.0

    @property
    def needs_data(self) -> Literal["", "inputs", "labels"]:
        calibrated = self.method == "static" and self.calibration != "random"
        return "inputs" if calibrated or self.keep_worst or self.smooth else ""

    def check(self) -> None:
        super().check()
        _within("percentile", self.percentile, 50, 100)
        _within("samples", self.samples, 1, 100_000)
        _within("bits", self.bits, 2, 8)
        _within("keep_worst", self.keep_worst, 0, 0.9)
        _within("group", self.group, 0, 1024)
        if self.method in ("dynamic", "static") and self.bits != 8:
            raise ValueError(f"method {self.method} has 8 bits, not {self.bits}; method affine takes 2 to 8")
        if self.method == "weights" and self.bits not in (4, 8):
            raise ValueError(f"method weights has 4 or 8 bits, not {self.bits}; method affine takes 2 to 8")
        if self.tables:
            _within("tables", self.tables, 2, 8)
            if self.method != "affine":
                raise ValueError(f"tables belongs to method affine, not to {self.method}")
        _within("inputs_group", self.inputs_group, 0, 4096)
        _within("smooth", self.smooth, 0, 1)
        if self.smooth and self.tool == "onnxruntime" and self.method not in ("dynamic", "static"):
            raise ValueError(
                f"smooth is for layers whose inputs are quantised, which method {self.method} of onnxruntime leaves"
            )
        if self.inputs_group and (self.tool, self.method) != ("openvino", "weights"):
            raise ValueError("inputs_group belongs to tool openvino and method weights")
        if self.tool == "openvino" and self.method not in ("static", "weights"):
            raise ValueError(f"openvino does method static and weights, not {self.method}")


class Distil(Training, frozen=True, kw_only=True):
    """Train a smaller model to answer as a larger one does.

    teacher: a version, digits:1; empty is the version that is optimised (as it was before the recipe). student: a version
    whose architecture is trained; empty is a copy of the model with `shrink` of its channels. fresh: begin with new weights
    instead of those that it has, which takes more rows and epochs. mix: the share of the teacher's answers in the loss, the
    rest are the labels; 0 is a student without a teacher. temperature: of both sides' scores. With the defaults, small
    convolutional students of scikit-learn's digits are better than the same ones without a teacher; encoders want a lower
    learning rate.
    """

    name: ClassVar[str] = "distil"
    teacher: str = ""
    student: str = ""
    shrink: float = 0.5
    fresh: bool = False
    temperature: float = 4.0
    mix: float = 0.9
    epochs: int = 100
    learning_rate: float = 3e-3

    @property
    def needs_data(self) -> Literal["", "inputs", "labels"]:
        return "inputs" if self.mix == 1 else "labels"

    def check(self) -> None:
        super().check()
        _within("epochs", self.epochs, 1, 1000)
        _within("shrink", self.shrink, 0.01, 1)
        _within("temperature", self.temperature, 0.1, 100)
        _within("mix", self.mix, 0, 1)


class Fuse(Pass, frozen=True, kw_only=True):
    """Join what can be computed at once. what: batch-norm (into the convolution or linear layer before it), graph (constants
    folded, onnxruntime's own fusions that every engine here reads), all (these two), padding (rows of different lengths, of
    which only the positions that hold something are computed; of encoders with an attention mask)."""

    name: ClassVar[str] = "fuse"
    what: Literal["batch-norm", "graph", "all", "padding"] = "all"


class Merge(Pass, frozen=True, kw_only=True):
    """One model of several.

    method: average (the mean of weights of equal shapes, by `weights`), ties (TIES: trim to `density`, elect a sign, mean of
    those that agree, against `base`), chain (the outputs of each are the inputs of the next: one graph).
    versions: the others, digits:2; the version that is optimised is the first. weights: one for each, it included.
    base: of ties, the version that all were trained from.
    """

    name: ClassVar[str] = "merge"
    method: Literal["average", "ties", "chain"] = "average"
    versions: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    base: str = ""
    density: float = 0.2

    def check(self) -> None:
        super().check()
        _within("density", self.density, 0.001, 1)
        if not self.versions:
            raise ValueError("versions names none to merge with")
        if self.weights and len(self.weights) != len(self.versions) + 1:
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.versions) + 1} versions (the first is the one optimised)"
            )
        if self.weights and (self.method == "chain" or sum(self.weights) <= 0):
            raise ValueError("weights belong to average and ties, and their sum must be above 0")
        if self.method == "ties" and not self.base:
            raise ValueError("ties needs a base: the version that all were trained from")


class LowRank(Training, frozen=True, kw_only=True):
    """Split linear layers in two thin ones (singular value decomposition). energy: the share of squared singular values that
    is kept; rank: a fixed one instead. Layers that would not become smaller stay. With epochs they are trained afterwards."""

    name: ClassVar[str] = "low-rank"
    energy: float = 0.95
    rank: int = 0
    exclude: tuple[str, ...] = ()

    def check(self) -> None:
        super().check()
        _within("energy", self.energy, 0.01, 1)
        _within("rank", self.rank, 0, 65_536)


class Cast(Pass, frozen=True, kw_only=True):
    """Numbers with fewer bits in the file and, where the engine can, in computing. exclude: nodes that stay in float32."""

    name: ClassVar[str] = "cast"
    to: Literal["fp16", "bf16"] = "fp16"
    exclude: tuple[str, ...] = ()


class Convert(Pass, frozen=True, kw_only=True):
    """Another kind of artifact, as `openmaas convert` makes it. weights: of a text generator; calibrated: its int4 weights are
    chosen on data (activation-aware scales)."""

    name: ClassVar[str] = "convert"
    to: Target
    weights: Weights = ""
    calibrated: bool = False

    @property
    def needs_data(self) -> Literal["", "inputs", "labels"]:
        return "inputs" if self.calibrated else ""

    def check(self) -> None:
        super().check()
        if self.calibrated and self.weights != "int4":
            raise ValueError(
                f"calibrated belongs to int4 weights, not to {self.weights or 'none'}: others are rounded as they are"
            )


class Compress(Pass, frozen=True, kw_only=True):
    """Pack the file (xz), which pays for pruned weights and few bits. The engine unpacks it when it loads."""

    name: ClassVar[str] = "compress"


PASSES: Final[dict[str, type[Pass]]] = {
    one.name: one for one in (Prune, Quantize, Distil, Fuse, Merge, LowRank, Cast, Convert, Compress)
}


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What is done to a model, in order."""

    steps: tuple[Pass, ...]
    seed: int = 0

    @property
    def needs_data(self) -> Literal["", "inputs", "labels"]:
        needs = {step.needs_data for step in self.steps}
        return "labels" if "labels" in needs else "inputs" if "inputs" in needs else ""

    @property
    def versions(self) -> tuple[str, ...]:
        """References that steps name besides the version that is optimised."""
        found: list[str] = []
        for step in self.steps:
            if isinstance(step, Distil):
                found += [step.teacher, step.student]
            elif isinstance(step, Merge):
                found += [*step.versions, step.base]
        return tuple(dict.fromkeys(filter(None, found)))

    def pinned(self, exact: Callable[[str], str]) -> Recipe:
        """With exact references in place of those that steps name."""
        return msgspec.structs.replace(self, steps=tuple(_pinned(step, exact) for step in self.steps))

    def to_plain(self, *, whole: bool = False) -> dict[str, Any]:
        """As it is written in YAML: every parameter that is not its default. whole: all of them, as they are kept with a
        version, so that another default does not change what a recipe of before means."""
        return {"seed": self.seed, "steps": [{step.name: _all(step) if whole else _given(step)} for step in self.steps]}

    @property
    def label(self) -> str:
        """Short, for tables: prune channels 0.5 → quantize static."""
        return " → ".join(step_label(step) for step in self.steps)


def read_recipe(plain: Any) -> Recipe:
    """A recipe of plain data, as YAML or JSON hold it. Raises InvalidInput that names the step, and what there is instead."""
    if not isinstance(plain, Mapping) or not isinstance(plain.get("steps"), Sequence) or isinstance(plain["steps"], str):
        raise _wrong("it needs a list of steps")
    if unknown := [str(key) for key in plain if key not in ("seed", "steps")]:
        raise _wrong(f"{unknown[0][:80]!r} is no field of a recipe; there are seed and steps")
    seed, steps = plain.get("seed", 0), plain["steps"]
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < _SEEDS:
        raise _wrong(f"the seed is {str(seed)[:40]!r}, it must be a whole number from 0 to {_SEEDS - 1}")
    if not 1 <= len(steps) <= MOST_STEPS:
        raise _wrong(f"it has {len(steps)} steps, it may have 1 to {MOST_STEPS}")
    return Recipe(steps=tuple(_step(number, step) for number, step in enumerate(steps, 1)), seed=seed)


def _step(number: int, step: Any) -> Pass:
    if isinstance(step, str):
        step = {step: {}}
    if not isinstance(step, Mapping) or len(step) != 1:
        raise _wrong(f"step {number} must be one pass with its parameters, as 'prune: {{amount: 0.5}}'")
    ((name, parameters),) = step.items()
    kind = PASSES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise _wrong(
            f"step {number}: {str(name)[:40]!r} is not a pass{_near(str(name), PASSES)}; there are {', '.join(PASSES)}"
        )
    given = parameters if parameters is not None else {}
    if isinstance(given, Mapping):
        known = kind.__struct_fields__
        for field in given:
            if field not in known:
                raise _wrong(
                    f"step {number} ({name}): {str(field)[:40]!r} is not a parameter{_near(str(field), known)}; "
                    f"there are {', '.join(sorted(known))}"
                )
    try:
        made = msgspec.convert(given, kind)
        made.check()
    except (msgspec.ValidationError, ValueError) as error:
        raise _wrong(f"step {number} ({name}): {error}") from None
    return made


def _pinned(step: Pass, exact: Callable[[str], str]) -> Pass:
    def settle(reference: str) -> str:
        return exact(reference) if reference else reference

    if isinstance(step, Distil):
        return msgspec.structs.replace(step, teacher=settle(step.teacher), student=settle(step.student))
    if isinstance(step, Merge):
        return msgspec.structs.replace(step, versions=tuple(map(exact, step.versions)), base=settle(step.base))
    return step


def _all(step: Pass) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(step)
    return plain


def _given(step: Pass) -> dict[str, Any]:
    """Parameters that are not their defaults."""
    plain: dict[str, Any] = msgspec.to_builtins(step)
    fields = {field.name: field.default for field in msgspec.structs.fields(step)}
    return {
        name: value
        for name, value in plain.items()
        if fields[name] is msgspec.NODEFAULT or value != msgspec.to_builtins(fields[name])
    }


_HEADS: Final = ("method", "to", "what")
_ALWAYS: Final = ("amount", "shrink", "energy")
"""Said in a label also where they are the default: they are what tells two recipes apart."""

_UNSAID: Final = ("seed", "exclude", "learning_rate", "batch")


def step_label(step: Pass) -> str:
    """Short, for tables and progress: prune channels amount=0.7 epochs=10."""
    plain: dict[str, Any] = msgspec.to_builtins(step)
    head = [str(plain[name]) for name in _HEADS if name in plain]
    given = _given(step)
    told = [name for name in plain if name in _ALWAYS or (name in given and name not in (*_HEADS, *_UNSAID))]
    return " ".join(filter(None, (step.name, *head, *(f"{name}={_said(plain[name])}" for name in told))))


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _near(word: str, known: Any) -> str:
    found = difflib.get_close_matches(word, list(known), n=1)
    return f" (is {found[0]!r} meant?)" if found else ""


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}, it must be from {low} to {high}")


def _wrong(reason: str) -> InvalidInput:
    return InvalidInput(f"The recipe: {reason}.", code="invalid_recipe", next_step="Correct it and submit again.")
