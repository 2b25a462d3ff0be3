"""Which recipes a search tries: from what the model is made of, what is installed, and what data there are. Cheap ones first.

    nothing needed   graph fused, padding passed over, weights kept in 8 or 4 bits, numbers cast, int8 scaled at each call,
                     affine 8 to 3 bits
    inputs           int8 scaled by calibration, of either tool; or at each call, smoothed first
    training         channels pruned and trained again, smaller copies distilled, linear layers split; each of them then also in
                     int8, which is tried only where the trained one alone is good enough
    trees            the last trees left out

For the target size each ends with `compress`, which costs nothing but the time to load.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from openmaas.core.manifest import Manifest
from openmaas.core.recipes import Cast, Compress, Convert, Distil, Fuse, LowRank, Pass, Prune, Quantize, Recipe
from openmaas.tasks.optimization.unpadding import MASK

Target = Literal["latency", "throughput", "size", "memory"]

_CHANNELS: Final = (0.5, 0.7, 0.85)
_TREES: Final = (0.5, 0.75, 0.9)
_GENTLE: Final = 0.25  # for the case that the first of these is too much
_ROW_VISITS: Final = 40_000
"""Rows times epochs that training in a search is given."""

_EPOCHS: Final = (4, 40)
_PATIENCE: Final = 2.5  # epochs of distillation for one of other training
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

    @property
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
    elif len(traits.kinds) > 1 or target == "size":
        made.add("fuse", Fuse(what="graph"))  # the ONNX form alone, where the version holds others too
    if traits.trees:
        _trees(made)
    if traits.convolutions or traits.linear:
        _untrained(made, traits)
        if traits.training:
            _calibrated(made, traits)
            _trained(made, traits)
    return made.candidates


def epochs_for(rows: int) -> int:
    """As many as give training its share of row visits."""
    return max(_EPOCHS[0], min(_EPOCHS[1], round(_ROW_VISITS / max(1, rows))))


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
    made.add("trees", Prune(method="trees", amount=_GENTLE), knob=knob, instead=first)


def _untrained(made: _Made, traits: Traits) -> None:
    made.add("fuse", Fuse())
    if traits.mask and made.target != "size":
        made.add("padding", Fuse(what="padding"))
    for step in _weights(traits):
        made.add(f"weights {step.tool} {step.bits}", step)
    made.add("cast fp16", Cast(to="fp16"))
    made.add("cast bf16", Cast(to="bf16"))
    made.add("dynamic", Quantize(method="dynamic"))
    if made.target == "size":
        for bits in (8, 6, 5, 4, 3):
            made.add(
                "affine", Quantize(method="affine", bits=bits), knob=Knob(step=0, field="bits", least=2, most=8, reverse=True)
            )


def _weights(traits: Traits) -> Iterator[Quantize]:
    tools: list[Literal["onnxruntime", "openvino"]] = ["onnxruntime"]
    if {"openvino", "nncf"} <= traits.tools:
        tools.insert(0, "openvino")
    for bits in (8, 4):
        for tool in tools:
            yield Quantize(method="weights", tool=tool, bits=bits, group=0 if bits == 8 else 64)


def _calibrated(made: _Made, traits: Traits) -> None:
    if traits.linear and {"openvino", "nncf"} <= traits.tools and made.target != "size":
        first = [Fuse(what="padding")] if traits.mask else []
        made.add("smoothed", *first, Quantize(method="weights", tool="openvino", smooth=_SMOOTH, inputs_group=_INPUTS_GROUP))
    for step in _static(traits):
        made.add(f"static {step.tool} {step.calibration}", step)


def _static(traits: Traits) -> list[Quantize]:
    found = [Quantize(method="static", calibration=calibration) for calibration in ("min-max", "entropy", "percentile")]
    if {"openvino", "nncf"} <= traits.tools:
        found.append(Quantize(method="static", tool="openvino"))
    return found


def _trained(made: _Made, traits: Traits) -> None:
    if "torch" not in traits.tools:
        return
    epochs = epochs_for(traits.training)
    for family, knob, variants in _shrinking(traits, epochs):
        last = ""
        for number, step in enumerate(variants):
            gentle = family == "channels" and number == len(variants) - 1
            last = made.add(family, step, knob=knob, after="" if gentle else last)
            for follower in _followers(made, traits):
                made.add(f"{family} → {_kind(follower)}", step, follower, knob=knob, after=last)
    if made.target == "size":
        sparse = Prune(method="global", amount=0.8, epochs=epochs, schedule=2)
        after = made.add("global", sparse, knob=Knob(step=0, field="amount", least=0.3, most=0.98))
        made.add("global → affine", sparse, Quantize(method="affine", bits=8), after=after)


def _shrinking(traits: Traits, epochs: int) -> Iterator[tuple[str, Knob, list[Pass]]]:
    """Passes that train a smaller model, by family, each a step further than the one before."""
    if "torch" in traits.tools:
        amounts = (*_CHANNELS, _GENTLE)
        steps: list[Pass] = [Prune(method="channels", amount=amount, epochs=epochs) for amount in amounts]
        yield "channels", Knob(step=0, field="amount", least=0.1, most=0.97), steps
        mix = 0.9 if traits.labels else 1.0
        # A teacher's answers are not learnt by heart as soon as labels are, and a small student needs them for longer.
        steps = [Distil(shrink=share, epochs=round(_PATIENCE * epochs), mix=mix) for share in (0.5, 0.25)]
        yield "distil", Knob(step=0, field="shrink", least=-0.9, most=-0.03, reverse=True), steps
    if traits.linear:
        steps = [LowRank(energy=share, epochs=epochs) for share in (0.95, 0.85)]
        yield "low-rank", Knob(step=0, field="energy", least=-0.999, most=-0.5, reverse=True), steps


def _followers(made: _Made, traits: Traits) -> list[Pass]:
    """What a smaller model is then kept in."""
    static = _static(traits)
    if made.target == "size":
        return [static[0], *(Quantize(method="affine", bits=bits) for bits in (8, 5, 4, 3))]
    return [*static[:1], *static[3:]]


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
