"""Weights of models of one architecture, merged: their mean, or TIES-Merging.

Two graphs are of one architecture where they have the same nodes with the same attributes, joined in the same way; names do not
count. Weights are matched by where they are used, so that an exporter that keeps two equal tensors once does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import Refused
from openmaas.core.recipes import Merge
from openmaas.tasks.optimization.base import Bench, Piece, cannot
from openmaas.tasks.optimization.graphs import array_of, label_of, onnx_of, read_graph, tensor_of, write_graph

Arrays = list[NDArray[Any]]

_LINEAR: Final = {
    "LinearClassifier": ("coefficients", "intercepts"),
    "LinearRegressor": ("coefficients", "intercepts"),
    "Scaler": ("offset", "scale"),
}
"""Operators that keep their weights as attributes."""
_TREES: Final = ("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor")
_NEXT: Final = "Merge versions that were trained from the same architecture, or chain them."


class _Slot(NamedTuple):
    """Where a weight is used: the node, and which of its inputs, or its attribute."""

    node: int
    place: int | str


class _Network:
    """A graph taken apart: its plan without weights and names, and its weights by where they are used."""

    def __init__(self, reference: str, model: Any) -> None:
        self.reference = reference
        self.model = model
        self.nodes = [node for node in model.graph.node if node.op_type != "Constant"]
        self.tensors = _constants(model)
        self.weights: dict[_Slot, NDArray[Any]] = {}
        self.names: dict[_Slot, str] = {}
        self.plan = self._take_apart()

    def _take_apart(self) -> list[tuple[Any, ...]]:
        given = [value.name for value in self.model.graph.input if value.name not in self.tensors]
        known: dict[str, str] = {name: f"input {number}" for number, name in enumerate(given)}
        plan: list[tuple[Any, ...]] = []
        for number, node in enumerate(self.nodes):
            inputs = []
            for place, name in enumerate(node.input):
                if name in self.tensors:
                    self._keep(_Slot(number, place), name, self.tensors[name])
                inputs.append("weight" if name in self.tensors else known.get(name, name))
            attributes = []
            for one in sorted(node.attribute, key=lambda one: str(one.name)):
                if one.name in _LINEAR.get(node.op_type, ()):
                    self._keep(_Slot(number, one.name), f"{label_of(node)}.{one.name}", np.array(one.floats, np.float32))
                else:
                    attributes.append((one.name, one.SerializeToString(deterministic=True)))
            plan.append((node.domain, node.op_type, tuple(inputs), len(node.output), tuple(attributes)))
            known |= {name: f"node {number} output {place}" for place, name in enumerate(node.output)}
        plan.append(("", "outputs", tuple(known.get(value.name, value.name) for value in self.model.graph.output), 0, ()))
        return plan

    def _keep(self, slot: _Slot, name: str, value: NDArray[Any]) -> None:
        self.weights[slot], self.names[slot] = value, name

    def label(self, number: int) -> str:
        return label_of(self.nodes[number]) if number < len(self.nodes) else "the outputs"


def merge_weights(piece: Piece, parameters: Merge, bench: Bench) -> Piece:
    """The mean of the weights by `weights`, or TIES-Merging of them; all other things are those of the piece.

    Raises Refused that names the first node or tensor in which the models are not alike.
    """
    first = _Network("the version that is optimised", read_graph(piece.path))
    networks = [first]
    for number, reference in enumerate(parameters.versions):
        bench.progress(f"reading {reference}", number, len(parameters.versions))
        networks.append(_read(reference, parameters, bench))
    base = _read(parameters.base, parameters, bench) if parameters.method == "ties" else None
    for other in (*networks[1:], *([base] if base else [])):
        _require_alike(first, other, parameters)
    floats = _float_slots([*networks, *([base] if base else [])], parameters)
    shares = np.array(parameters.weights or [1.0] * len(networks))
    bench.progress("merging the weights")
    columns = [[network.weights[slot] for network in networks] for slot in floats]
    if base is None:
        merged = [_mean(column, shares) for column in columns]
        facts: dict[str, Any] = {"merged": [piece_name(bench), *parameters.versions], "method": "average"}
    else:
        merged, told = ties([base.weights[slot] for slot in floats], columns, shares, parameters.density)
        facts = {"merged": [piece_name(bench), *parameters.versions], "method": "ties", "base": parameters.base, **told}
    model = _rebuilt(first, networks, dict(zip(floats, merged, strict=True)))
    weights = sum(array.size for array in merged)
    bench.log(f"{len(networks)} versions merged: {len(floats)} tensors, {weights} weights")
    notes = []
    if any(node.op_type == "BatchNormalization" for node in first.nodes):
        notes.append("The statistics of batch normalisation were merged as weights are; training a little sets them right.")
    return piece.changed(write_graph(model, bench.folder, piece.artifact.options), bench.folder, *notes, merge=facts)


def piece_name(bench: Bench) -> str:
    """The reference of the version that is optimised, as the job has it."""
    return str(bench.job.arguments.get("version", "")) or "the version that is optimised"


def _read(reference: str, parameters: Merge, bench: Bench) -> _Network:
    manifest, folder = bench.source(reference)
    artifact = onnx_of(manifest)
    if artifact is None:
        kinds = ", ".join(sorted({one.kind for one in manifest.artifacts}) or [manifest.format])
        raise cannot(
            parameters, f"{reference} has no ONNX form, only {kinds}", f"Convert it: openmaas convert {reference} --to onnx."
        )
    return _Network(reference, read_graph(folder / artifact.entry))


# ── are they alike? ──────────────────────────────────────────────────────────────────────────────────────────────────


def _require_alike(first: _Network, other: _Network, parameters: Merge) -> None:
    for network in (first, other):
        for node in network.nodes:
            if any(one.HasField("g") or one.graphs for one in node.attribute) or network.model.functions:
                raise cannot(
                    parameters,
                    f"{network.reference} has graphs inside of {label_of(node)}, whose weights cannot be matched",
                    "Export the model without control flow and local functions.",
                )
    for number, (mine, theirs) in enumerate(zip(first.plan, other.plan, strict=False)):
        if mine != theirs:
            raise _unlike(first, other, number, parameters)
    if len(first.plan) != len(other.plan):
        raise cannot(
            parameters,
            f"{other.reference} has {len(other.nodes)} nodes and {first.reference} {len(first.nodes)}",
            _NEXT,
        )
    unequal = [slot for slot in first.weights if first.weights[slot].shape != other.weights[slot].shape]
    if unequal:
        told = "; ".join(
            f"{first.names[slot]!r} is {list(first.weights[slot].shape)} in {first.reference} and "
            f"{list(other.weights[slot].shape)} in {other.reference}"
            for slot in unequal[:3]
        )
        more = f"; and {len(unequal) - 3} more" if len(unequal) > 3 else ""
        raise cannot(parameters, f"weights have different shapes: {told}{more}", _NEXT)


def _unlike(first: _Network, other: _Network, number: int, parameters: Merge) -> Exception:
    mine, theirs = first.plan[number], other.plan[number]
    where = f"node {number} ({first.label(number)})"
    if mine[:2] != theirs[:2]:
        return cannot(parameters, f"{where} is a {mine[1]} in {first.reference} and a {theirs[1]} in {other.reference}", _NEXT)
    if mine[2:4] != theirs[2:4]:
        return cannot(parameters, f"{where} is joined to other values in {other.reference} than in {first.reference}", _NEXT)
    unequal = sorted({name for name, _ in set(mine[4]) ^ set(theirs[4])})
    if mine[1] in _TREES:
        return cannot(
            parameters, f"{where} is an ensemble of trees, which have no weights of equal places", "Chain them, or choose one."
        )
    return cannot(parameters, f"{where} has another {', '.join(unequal)} in {other.reference} than in {first.reference}", _NEXT)


def _float_slots(networks: Sequence[_Network], parameters: Merge) -> list[_Slot]:
    """Places of the weights. Whole numbers and texts must be the same everywhere, and all weights finite."""
    first, floats = networks[0], []
    for slot, weight in first.weights.items():
        name = first.names[slot]
        if not np.issubdtype(weight.dtype, np.floating) and weight.dtype.name != "bfloat16":
            for other in networks[1:]:
                if not np.array_equal(weight, other.weights[slot]):
                    raise cannot(
                        parameters,
                        f"{name!r} holds {weight.dtype} and is not the same in {first.reference} and {other.reference}; "
                        "whole numbers have no mean",
                        "Merge the float versions and quantise the result.",
                    )
            continue
        for network in networks:
            if not np.isfinite(network.weights[slot].astype(np.float32)).all():
                raise Refused(
                    f"The weights {network.names[slot]!r} of {network.reference} hold NaN or Infinity.",
                    code="weights_not_finite",
                    next_step="Train the version again, or merge others.",
                )
        floats.append(slot)
    if not floats:
        raise cannot(parameters, "the models have no weights that could be merged", "Choose one of the versions.")
    return floats


def _constants(model: Any) -> dict[str, NDArray[Any]]:
    from onnx import numpy_helper

    found = {tensor.name: array_of(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Constant":
            continue
        one = node.attribute[0]
        if one.name == "value":
            found[node.output[0]] = array_of(one.t)
        elif one.name in ("value_float", "value_floats"):
            found[node.output[0]] = np.array(one.f if one.name == "value_float" else one.floats, np.float32)
        elif one.name in ("value_int", "value_ints"):
            found[node.output[0]] = np.array(one.i if one.name == "value_int" else one.ints, np.int64)
        elif one.name in ("value_string", "value_strings"):
            found[node.output[0]] = np.array([one.s] if one.name == "value_string" else list(one.strings), object)
        elif one.name == "sparse_value":
            dense = np.zeros(list(one.sparse_tensor.dims), array_of(one.sparse_tensor.values).dtype)
            dense.flat[numpy_helper.to_array(one.sparse_tensor.indices)] = array_of(one.sparse_tensor.values)
            found[node.output[0]] = dense
    return found


# ── merging ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _mean(column: Arrays, shares: NDArray[Any]) -> NDArray[Any]:
    total = sum(share * array.astype(np.float64) for share, array in zip(shares / shares.sum(), column, strict=True))
    return np.asarray(total).astype(column[0].dtype)


def ties(base: Arrays, columns: Sequence[Arrays], shares: NDArray[Any], density: float) -> tuple[Arrays, dict[str, Any]]:
    """TIES-Merging (Yadav et al. 2023, arXiv 2306.01708), with λ = 1: `columns` hold each tensor of all models.

    trim: of each model's change from the base, the `density` largest of all tensors together stay. elect: the sign of the sum
    of changes. merge: the mean of the changes with that sign. Returns tensors in the base's types, and the share of weights
    whose trimmed changes were of both signs.
    """
    sizes = [array.size for array in base]
    start = np.concatenate([array.astype(np.float32).ravel() for array in base])
    total = np.zeros(start.size, np.float64)
    trimmed = []
    for number, share in enumerate(shares):
        change = np.concatenate([column[number].astype(np.float32).ravel() for column in columns]) - start
        kept = max(1, round(density * change.size))
        # The kept ones by rank and not by a threshold, so that equal changes do not make it more.
        change[np.argpartition(np.abs(change), change.size - kept)[: change.size - kept]] = 0.0
        trimmed.append(change)
        total += share * change
    sign = np.sign(total)
    above, weight = np.zeros(start.size, np.float64), np.zeros(start.size, np.float64)
    signs = np.zeros((2, start.size), bool)
    for change, share in zip(trimmed, shares, strict=True):
        agrees = (np.sign(change) == sign) & (change != 0)
        above += np.where(agrees, share * change, 0.0)
        weight += np.where(agrees, share, 0.0)
        signs |= np.stack([change > 0, change < 0])
    merged = start + np.divide(above, weight, out=np.zeros_like(above), where=weight != 0)
    parts = np.split(merged, np.cumsum(sizes)[:-1])
    told = {"density": density, "conflicts": float(np.mean(signs.all(0)))}
    return [part.reshape(array.shape).astype(array.dtype) for part, array in zip(parts, base, strict=True)], told


def _rebuilt(first: _Network, networks: Sequence[_Network], merged: Mapping[_Slot, NDArray[Any]]) -> Any:
    """The first graph with other weights. One tensor that another model keeps as two becomes two."""
    model = first.model
    old = {first.names[slot] for slot in merged if isinstance(slot.place, int)}
    _keep_only(model.graph.initializer, [tensor for tensor in model.graph.initializer if tensor.name not in old])
    _keep_only(model.graph.node, [node for node in model.graph.node if node.op_type != "Constant" or node.output[0] not in old])
    made: dict[tuple[str, ...], str] = {}
    taken: set[str] = set()
    for number, node in enumerate(node for node in model.graph.node if node.op_type != "Constant"):
        for attribute in node.attribute:
            if (slot := _Slot(number, attribute.name)) in merged:
                attribute.floats[:] = merged[slot].astype(float).tolist()
        for place, name in enumerate(node.input):
            if (slot := _Slot(number, place)) not in merged:
                continue
            key = tuple(network.names[slot] for network in networks)
            if key not in made:
                made[key] = name if name not in taken else f"{name}.{len(taken)}"
                taken.add(made[key])
                model.graph.initializer.append(tensor_of(merged[slot], made[key]))
            node.input[place] = made[key]
    return model


def _keep_only(repeated: Any, kept: Sequence[Any]) -> None:
    if len(kept) < len(repeated):
        kept = [type(one).FromString(one.SerializeToString()) for one in kept]
        del repeated[:]
        repeated.extend(kept)
