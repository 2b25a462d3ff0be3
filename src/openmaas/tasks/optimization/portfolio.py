"""Which recipes a search tries: from what the model is made of, what is installed, and what data there are.

First what pays most for its time: weights in 8 bits, int8 by calibration, padding passed over; then smaller copies that are
distilled, each also in fewer bits or int8 where the copy alone is good enough; from there to smaller copies, and to a larger
one where the first is too much. Then what pays less, or more rarely.

    nothing needed   graph fused, padding passed over, weights kept in 8 or 4 bits, numbers cast, int8 scaled at each call,
                     affine 8 to 3 bits
    inputs           int8 scaled by calibration, of either tool; or at each call, smoothed first
    training         smaller copies distilled, channels pruned and trained again, most weights zero, linear layers split
    trees            the last trees left out

For the target size each ends with `compress`, which costs nothing but the time to load.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from openmaas.core.manifest import Manifest
from openmaas.core.recipes import Cast, Compress, Convert, Distil, Fuse, LowRank, Pass, Prune, Quantize, Recipe
from openmaas.tasks.optimization.unpadding import MASK

Target = Literal["latency", "throughput", "size", "memory"]

_CHANNELS: Final = (0.5, 0.7, 0.85)
_SPARSE: Final = (0.8, 0.9)
_SHARES: Final = (0.35, 0.25, 0.15)  # of the channels, that smaller copies keep
_LARGER: Final = 0.5  # where the first of these is too small
_TREES: Final = (0.75, 0.9, 0.96)
_FEWER: Final = (0.5, 0.25)  # where the first of these is too much
_GENTLE: Final = 0.25  # of the channels, where the first of these is too much
_ROW_VISITS: Final = 40_000
"""Rows times epochs that training in a search is given."""

_EPOCHS: Final = (4, 40)
_PATIENCE: Final = 2.5  # epochs of distillation for one of other training
_MANY: Final = 1_000_000  # weights
_SMOOTH: Final = 0.6
_INPUTS_GROUP: Final = 128  # a divisor of the widths that encoders have; OpenVINO computes others in float
_CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose"})
_LINEAR: Final = frozenset({"Gemm", "MatMul"})
_BOOSTERS: Final = frozenset({"xgboost", "lightgbm", "catboost"})
_TREE_NODES: Final = frozenset({"TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble"})


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What the choice depends on. Layers are nodes of the ONNX graph; parameters: numbers of all weights.

    kinds: of the version's artifacts. mask: rows of different lengths share a batch by an attention mask.
    training: rows that are trained on, 0 without a training set. labels: it has a truth.
    tools: modules that are installed.
    """

    kinds: tuple[str, ...] = ("onnx",)
    mask: bool = False
    convolutions: int = 0
    linear: int = 0
    trees: bool = False
    parameters: int = 0
    training: int = 0
    labels: bool = False
    tools: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A parameter that trades quality for the target: the larger, the smaller the model. reverse: the other way round."""

    step: int
    field: str
    least: float
    most: float
    reverse: bool = False


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recipe to be tried. family: recipes that differ in the knob only. after: label of a recipe that must be good enough;
    instead: of one that must have been tried and not be."""

    recipe: Recipe
    family: str
    knob: Knob | None = None
    after: str = ""
    instead: str = ""

    @cached_property
    def label(self) -> str:
        return self.recipe.label

    @property
    def amount(self) -> float:
        """Where the knob stands, so that more is smaller."""
        assert self.knob is not None
        value = float(getattr(self.recipe.steps[self.knob.step], self.knob.field))
        return -value if self.knob.reverse else value

    def at(self, amount: float) -> Candidate:
        """The same with the knob elsewhere."""
        assert self.knob is not None
        value = round(-amount if self.knob.reverse else amount, 3)
        if isinstance(getattr(self.recipe.steps[self.knob.step], self.knob.field), int):
            value = round(value)
        steps = list(self.recipe.steps)
        steps[self.knob.step] = msgspec.structs.replace(steps[self.knob.step], **{self.knob.field: value})
        return replace(self, recipe=msgspec.structs.replace(self.recipe, steps=tuple(steps)), after="", instead="")


def traits_of(manifest: Manifest, folder: Path, rows: int, labels: bool) -> Traits:
    """rows: that can be trained on, 0 for none."""
    from openmaas.tasks.optimization.graphs import onnx_of, read_graph

    artifacts = manifest.artifacts or (manifest.choice.artifact,)
    found = Traits(
        kinds=tuple(dict.fromkeys(artifact.kind for artifact in artifacts)),
        mask=any(spec.name == MASK for spec in manifest.signature.inputs),
        training=rows,
        labels=labels,
        tools=frozenset(name for name in ("openvino", "nncf", "torch") if find_spec(name) is not None),
    )
    artifact = onnx_of(manifest)
    if artifact is None:
        trees = bool(_BOOSTERS & set(found.kinds))
        return replace(found, trees=trees, linear=int(not trees), convolutions=int(not trees))
    model = read_graph(folder / artifact.entry)
    kinds = [node.op_type for node in _nodes(model.graph)]
    return replace(
        found,
        convolutions=sum(kind in _CONVOLUTIONS for kind in kinds),
        linear=sum(kind in _LINEAR for kind in kinds),
        trees=any(kind in _TREE_NODES for kind in kinds),
        parameters=sum(_count(tensor.dims) for tensor in model.graph.initializer),
    )


def portfolio(traits: Traits, target: Target, seed: int) -> list[Candidate]:
    """All that may fit, in the order in which they are tried. The same for the same arguments."""
    made = _Made(seed, target, () if "onnx" in traits.kinds else (Convert(to="onnx"),))
    if "onnx" not in traits.kinds:
        made.add("convert")
    elif len(traits.kinds) > 1 and target != "size":
        made.add("fuse", Fuse(what="graph"))  # the ONNX form alone, where the version holds others too
    if traits.trees:
        _trees(made)
    if traits.convolutions or traits.linear:
        (_small if target == "size" else _quick)(made, traits)
    if "onnx" in traits.kinds and target == "size":
        made.add("fuse", Fuse(what="graph"))
    return made.candidates


def _small(made: _Made, traits: Traits) -> None:
    """For the size of the file."""
    trains = bool(traits.training) and "torch" in traits.tools
    _affine(made, 8)
    if traits.parameters > _MANY:  # scales of small groups are little beside so many weights, and save what 4 bits lose
        _weights(made, traits, 4, only="onnxruntime")
    _affine(made, 4)
    if traits.mask:
        for bits in (5, 4):
            made.add("affine tables", Quantize(method="affine", bits=bits, tables=bits - 1))
    if trains:
        _distilled(made, traits, [_affine_of(bits) for bits in (8, 5, 4, 3)])
    _affine(made, 6, 5, 3)
    if trains:
        _sparse(made, traits)
        _pruned(made, traits, [_affine_of(bits) for bits in (8, 5, 4)])
    _weights(made, traits, 8, 4)
    made.add("dynamic", Quantize(method="dynamic"))
    _cast(made)
    if traits.training:
        _static(made, traits)
    if trains:
        _split(made, traits, [_affine_of(bits) for bits in (8, 5)])


def _quick(made: _Made, traits: Traits) -> None:
    """For the time of a call, or the memory."""
    trains = bool(traits.training) and "torch" in traits.tools
    made.add("fuse", Fuse())
    if traits.mask:
        made.add("padding", Fuse(what="padding"))
    static = _static_steps(traits) if traits.training else []
    if traits.training:
        _smoothed(made, traits)
        for step in (static[0], *static[3:]):
            made.add(f"static {step.tool} {step.calibration}", step)
    if "openvino" in _tools(traits):
        _weights(made, traits, 8, only="openvino")
    if trains:
        _distilled(made, traits, [static[0], *static[3:]])
        _pruned(made, traits, [static[0], *static[3:]])
    made.add("dynamic", Quantize(method="dynamic"))
    _weights(made, traits, 8, 4)
    _cast(made)
    if traits.training:
        _static(made, traits)
    if trains:
        _split(made, traits, [static[0], *static[3:]])


def epochs_for(rows: int) -> int:
    """As many as give training its share of row visits."""
    return max(_EPOCHS[0], min(_EPOCHS[1], round(_ROW_VISITS / max(1, rows))))


def distilled_epochs(rows: int) -> int:
    """A teacher's answers are not learnt by heart as soon as labels are, and a small student needs them for longer."""
    return round(_PATIENCE * epochs_for(rows))


class _Made:
    """Candidates in order, each once. first: steps that each of them begins with."""

    def __init__(self, seed: int, target: Target, first: tuple[Pass, ...]) -> None:
        self.candidates: list[Candidate] = []
        self.target = target
        self._first = first
        self._seed = seed
        self._labels: set[str] = set()

    def add(self, family: str, *steps: Pass, knob: Knob | None = None, after: str = "", instead: str = "") -> str:
        """The label of the recipe."""
        steps = (*self._first, *steps)
        if self.target == "size" and _leaves_onnx(steps):
            steps = (*steps, Compress())
        if knob is not None:
            knob = replace(knob, step=knob.step + len(self._first))
        recipe = Recipe(steps=steps, seed=self._seed)
        if recipe.label not in self._labels:
            self._labels.add(recipe.label)
            self.candidates.append(Candidate(recipe=recipe, family=family, knob=knob, after=after, instead=instead))
        return recipe.label


def _trees(made: _Made) -> None:
    knob = Knob(step=0, field="amount", least=0.02, most=0.98)
    first = last = ""
    for amount in _TREES:
        last = made.add("trees", Prune(method="trees", amount=amount), knob=knob, after=last)
        first = first or last
    last = first
    for amount in _FEWER:
        last = made.add("trees", Prune(method="trees", amount=amount), knob=knob, instead=last)


def _affine_of(bits: int) -> Quantize:
    return Quantize(method="affine", bits=bits)


def _affine(made: _Made, *bits: int) -> None:
    for number in bits:
        made.add("affine", _affine_of(number), knob=Knob(step=0, field="bits", least=-8, most=-2, reverse=True))


def _tools(traits: Traits) -> list[Literal["onnxruntime", "openvino"]]:
    return ["openvino", "onnxruntime"] if {"openvino", "nncf"} <= traits.tools else ["onnxruntime"]


def _weights(made: _Made, traits: Traits, *bits: int, only: str = "") -> None:
    for number in bits:
        for tool in _tools(traits):
            if only in ("", tool):
                group = 0 if number == 8 else 64
                made.add(f"weights {tool} {number}", Quantize(method="weights", tool=tool, bits=number, group=group))


def _cast(made: _Made) -> None:
    made.add("cast fp16", Cast(to="fp16"))
    made.add("cast bf16", Cast(to="bf16"))


def _smoothed(made: _Made, traits: Traits) -> None:
    if traits.linear and "openvino" in _tools(traits):
        first = [Fuse(what="padding")] if traits.mask else []
        made.add("smoothed", *first, Quantize(method="weights", tool="openvino", smooth=_SMOOTH, inputs_group=_INPUTS_GROUP))


def _static(made: _Made, traits: Traits) -> None:
    for step in _static_steps(traits):
        made.add(f"static {step.tool} {step.calibration}", step)


def _static_steps(traits: Traits) -> list[Quantize]:
    found = [Quantize(method="static", calibration=calibration) for calibration in ("min-max", "entropy", "percentile")]
    if "openvino" in _tools(traits):
        found.append(Quantize(method="static", tool="openvino"))
    return found


def _distilled(made: _Made, traits: Traits, followers: Sequence[Quantize]) -> None:
    """Copies with ever fewer channels as long as they are good enough; where the first is not, one with more."""
    epochs = distilled_epochs(traits.training)
    mix = 0.9 if traits.labels else 1.0
    knob = Knob(step=0, field="shrink", least=-0.9, most=-0.03, reverse=True)

    def add(share: float, after: str = "", instead: str = "") -> str:
        student = Distil(shrink=share, epochs=epochs, mix=mix)
        last = made.add("distil", student, knob=knob, after=after, instead=instead)
        _followed(made, "distil", student, last, followers, knob)
        return last

    first, *further = _SHARES
    last = first_label = add(first)
    for share in further:
        last = add(share, after=last)
    add(_LARGER, instead=first_label)


def _followed(made: _Made, family: str, step: Pass, label: str, followers: Sequence[Quantize], knob: Knob) -> None:
    """Each in fewer bits only where the one before is good enough, the first of them aside, which is the gentlest."""
    after = label
    for number, follower in enumerate(followers):
        given = made.add(f"{family} → {_kind(follower)}", step, follower, knob=knob, after=after)
        after = given if number and follower.method == "affine" else label


def _pruned(made: _Made, traits: Traits, followers: Sequence[Quantize]) -> None:
    epochs, knob = epochs_for(traits.training), Knob(step=0, field="amount", least=0.1, most=0.97)
    last = first = ""
    for amount in _CHANNELS:
        step = Prune(method="channels", amount=amount, epochs=epochs)
        last = made.add("channels", step, knob=knob, after=last)
        first = first or last
        _followed(made, "channels", step, last, followers, knob)
    step = Prune(method="channels", amount=_GENTLE, epochs=epochs)
    gentle = made.add("channels", step, knob=knob, instead=first)
    _followed(made, "channels", step, gentle, followers, knob)


def _sparse(made: _Made, traits: Traits) -> None:
    """Most weights zero, which a packed file has for nothing."""
    epochs, knob = epochs_for(traits.training), Knob(step=0, field="amount", least=0.3, most=0.98)
    last = ""
    for amount in _SPARSE:
        step = Prune(method="global", amount=amount, epochs=epochs, schedule=3)
        last = made.add("global", step, knob=knob, after=last)
        _followed(made, "global", step, last, [_affine_of(6), _affine_of(4)], knob)


def _split(made: _Made, traits: Traits, followers: Sequence[Quantize]) -> None:
    if not traits.linear:
        return
    epochs, knob = epochs_for(traits.training), Knob(step=0, field="energy", least=-0.999, most=-0.5, reverse=True)
    last = ""
    for energy in (0.95, 0.85):
        step = LowRank(energy=energy, epochs=epochs)
        last = made.add("low-rank", step, knob=knob, after=last)
        _followed(made, "low-rank", step, last, followers, knob)


def _kind(step: Pass) -> str:
    given: dict[str, Any] = msgspec.to_builtins(step)
    return " ".join(str(given[name]) for name in ("method", "tool", "bits") if name in given)


def _leaves_onnx(steps: Sequence[Pass]) -> bool:
    return not any(isinstance(step, Quantize) and step.tool == "openvino" for step in steps)


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _count(dims: Sequence[int]) -> int:
    count = 1
    for size in dims:
        count *= size
    return count
