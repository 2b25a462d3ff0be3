"""Linear layers in two thin ones, by singular value decomposition of their weights."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import Refused
from openmaas.core.recipes import LowRank
from openmaas.tasks.optimization.base import Bench, Piece, cannot
from openmaas.tasks.optimization.graphs import (
    array_of,
    constants,
    drop_unused,
    label_of,
    read_graph,
    tensor_of,
    uses,
    write_graph,
)

TAKES = ("onnx",)
_LAYERS = ("MatMul", "Gemm", "Conv")


class _Layer(NamedTuple):
    """weight: [rows, columns] as the node multiplies with it, and which of its inputs that is. spatial: axes of a kernel."""

    node: Any
    weight: NDArray[Any]
    place: int
    spatial: int = 0


class _Split(NamedTuple):
    """first: [rows, rank] and second: [rank, columns], whose product is near the weight. energy: of its squared singular values
    the share that is kept."""

    layer: _Layer
    first: NDArray[Any]
    second: NDArray[Any]
    energy: float

    @property
    def saved(self) -> int:
        return int(self.layer.weight.size - self.first.size - self.second.size)


def run(piece: Piece, parameters: LowRank, bench: Bench) -> Piece:
    """Raises Refused where no layer would become smaller, and names the one that came nearest."""
    model = read_graph(piece.path)
    layers, skipped = _find(model, parameters)
    splits: list[_Split] = []
    least: _Split | None = None
    for number, layer in enumerate(layers):
        bench.progress("decomposing", number, len(layers))
        split = _decompose(layer, parameters)
        if split.saved > 0:
            splits.append(split)
            continue
        skipped[label_of(layer.node)] = f"rank {split.first.shape[1]} would not make it smaller"
        least = split if least is None or split.saved > least.saved else least
    if not splits:
        raise _nothing(parameters, least, skipped)
    before = sum(array_of(tensor).size for tensor in model.graph.initializer)
    told = [_told(split) for split in splits]
    for number, split in enumerate(splits):
        _replace(model, split, number)
    drop_unused(model)
    after = sum(array_of(tensor).size for tensor in model.graph.initializer)
    for line in told:
        bench.log(
            f"{line['node']}: rank {line['rank']} of {line['of']}, {line['energy']:.1%} of the energy, "
            f"{line['before']} → {line['after']} weights"
        )
    facts: dict[str, Any] = {"layers": told, "skipped": skipped, "parameters": {"before": before, "after": after}}
    if parameters.epochs:
        model, trained = _trained(piece, model, parameters, bench)
        facts |= trained
    artifact = write_graph(model, bench.folder, piece.artifact.options)
    return piece.changed(artifact, bench.folder, low_rank=facts)


def _trained(piece: Piece, model: Any, parameters: LowRank, bench: Bench) -> tuple[Any, dict[str, Any]]:
    """The split model after training. Without labels it is held to what the model answered before it was split."""
    from openmaas.tasks.optimization.trainable import lift
    from openmaas.tasks.optimization.training import default_loss, train

    examples = bench.training
    assert examples is not None
    loss, kind = default_loss(lift(read_graph(piece.path), examples.inputs), examples, piece.manifest.processing)
    trainable = lift(model, examples.inputs)
    history = train(
        trainable, examples, loss=loss, epochs=parameters.epochs, learning_rate=parameters.learning_rate,
        batch=parameters.batch, seed=bench.seed, progress=bench.progress,
    )  # fmt: skip
    return trainable.to_onnx(), {"trained_on": kind, "training": history.to_facts()}


def _find(model: Any, parameters: LowRank) -> tuple[list[_Layer], dict[str, str]]:
    """Layers whose weights are constants of two axes, and why others are left as they are."""
    known, used = constants(model), uses(model)
    layers, skipped = [], dict[str, str]()
    for node in model.graph.node:
        if node.op_type not in _LAYERS or node.domain not in ("", "ai.onnx"):
            continue
        place = next((place for place in (1, 0) if node.input[place] in known), None)
        if place is None or (node.op_type == "Conv" and place == 0):
            continue  # two values of a computation, as in attention
        name = label_of(node)
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in parameters.exclude):
            skipped[name] = "excluded"
            continue
        weight = array_of(known[node.input[place]])
        reason = _obstacle(node, weight, place, used)
        if reason:
            skipped[name] = reason
            continue
        if not np.isfinite(weight.astype(np.float32)).all():
            raise Refused(
                f"The weights of {name} hold NaN or Infinity.",
                code="weights_not_finite",
                next_step="Train the version again, or exclude the layer.",
            )
        flipped = node.op_type == "Gemm" and _attribute(node, "transA" if place == 0 else "transB", 0)
        matrix = weight.reshape(weight.shape[:2]) if node.op_type == "Conv" else weight.T if flipped else weight
        layers.append(_Layer(_copied(node), matrix, place, max(0, weight.ndim - 2)))
    return layers, skipped


def _copied(node: Any) -> Any:
    return type(node).FromString(node.SerializeToString())


def _obstacle(node: Any, weight: NDArray[Any], place: int, used: dict[str, int]) -> str:
    """Why a layer cannot be split; empty where it can."""
    if node.op_type == "Conv":
        if _attribute(node, "group", 1) != 1:
            return "a convolution in groups"
        if any(side != 1 for side in weight.shape[2:]):
            return f"a convolution of {' × '.join(map(str, weight.shape[2:]))}; only those of 1 × 1 are linear"
    elif weight.ndim != 2:
        return f"its weights have {weight.ndim} axes"
    if weight.dtype.kind != "f":
        return f"its weights are {weight.dtype}"
    return "its weights are used by another node too" if used[node.input[place]] > 1 else ""


def _attribute(node: Any, name: str, default: Any) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def _decompose(layer: _Layer, parameters: LowRank) -> _Split:
    """The best product of that rank (Eckart and Young 1936), the singular values shared by both parts as square roots."""
    left, values, right = np.linalg.svd(layer.weight.astype(np.float64), full_matrices=False)
    energies = np.cumsum(values**2) / max(float(np.sum(values**2)), np.finfo(float).tiny)
    # Rounding leaves the last sums below 1.
    wanted = parameters.rank or int(np.searchsorted(energies, parameters.energy - 1e-12)) + 1
    rank = min(wanted, len(values))
    root = np.sqrt(values[:rank])
    kind = layer.weight.dtype
    return _Split(
        layer, (left[:, :rank] * root).astype(kind), (root[:, None] * right[:rank]).astype(kind), float(energies[rank - 1])
    )


def _told(split: _Split) -> dict[str, Any]:
    weight = split.layer.weight
    return {
        "node": label_of(split.layer.node),
        "rank": split.first.shape[1],
        "of": min(weight.shape),
        "energy": split.energy,
        "before": int(weight.size),
        "after": int(split.first.size + split.second.size),
    }


def _nothing(parameters: LowRank, least: _Split | None, skipped: dict[str, str]) -> Exception:
    if least is None:
        told = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:4])
        return cannot(
            parameters, f"the graph has no linear layer that could be split ({told or 'none at all'})", "Leave the step out."
        )
    rows, columns = least.layer.weight.shape
    largest = max(1, (rows * columns - 1) // (rows + columns))
    return cannot(
        parameters,
        f"no layer would become smaller; the nearest, {label_of(least.layer.node)} [{rows}, {columns}], would need rank "
        f"{least.first.shape[1]}, and only up to {largest} is smaller",
        f"Give a lower energy than {parameters.energy:g}, or rank {largest}.",
    )


# ── the graph ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _replace(model: Any, split: _Split, number: int) -> None:
    """Two nodes in place of the one, with its name and output at the second."""
    node = split.layer.node
    stem = f"{node.input[split.layer.place]}.low_rank_{number}"
    names = (f"{stem}.first", f"{stem}.second")
    axes = (1,) * split.layer.spatial
    for name, part in zip(names, (split.first, split.second), strict=True):
        model.graph.initializer.append(tensor_of(part.reshape(*part.shape, *axes), name))
    made = (_two_convolutions if node.op_type == "Conv" else _two_products)(split.layer, names, f"{stem}.between")
    index = next(place for place, one in enumerate(model.graph.node) if one.output[0] == node.output[0])
    model.graph.node.insert(index, made[0])
    model.graph.node[index + 1].CopyFrom(made[1])


def _two_products(layer: _Layer, names: Sequence[str], between: str) -> list[Any]:
    from onnx import helper

    node, (first, second) = layer.node, names
    value = node.input[1 - layer.place]
    rest = list(node.input[2:])
    scales = {one.name: helper.get_attribute_value(one) for one in node.attribute if one.name in ("alpha", "beta")}
    turned = bool(_attribute(node, "transB" if layer.place == 0 else "transA", 0))
    pair = [value, first] if layer.place == 1 else [second, value]
    if turned:
        inner = helper.make_node("Gemm", pair, [between], **{"transA" if layer.place == 1 else "transB": 1})
    else:
        inner = helper.make_node("MatMul", pair, [between])
    pair = [between, second] if layer.place == 1 else [first, between]
    inner.name = f"{label_of(node)}.low_rank"
    return [inner, helper.make_node(node.op_type, [*pair, *rest], list(node.output), name=node.name, **scales)]


def _two_convolutions(layer: _Layer, names: Sequence[str], between: str) -> list[Any]:
    """The weight is [outputs, inputs]: its second part comes first, with strides and pads, and its first part has the bias."""
    from onnx import helper

    node, (first, second) = layer.node, names
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    inner = helper.make_node("Conv", [node.input[0], second], [between], name=f"{label_of(node)}.low_rank", **given)
    rest = list(node.input[2:])
    outer = helper.make_node(
        "Conv", [between, first, *rest], list(node.output), name=node.name, kernel_shape=[1] * layer.spatial
    )
    return [inner, outer]
