"""Single weights set to 0, with training between rounds in which the zeros stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from openmaas.core.recipes import Prune
from openmaas.tasks.optimization.base import UNPACKED, Bench, Piece, cannot
from openmaas.tasks.optimization.checks import require_finite
from openmaas.tasks.optimization.graphs import array_of, constants, drop_unused, read_graph, tensor_of, write_graph
from openmaas.tasks.optimization.passes.prune.layers import Layer, find_layers
from openmaas.tasks.optimization.passes.prune.masks import (
    Masks,
    lamp,
    n_of_m,
    share_of_round,
    smallest_of_all,
    smallest_of_each,
)

_HOLLOW = 0.98


def prune_weights(piece: Piece, parameters: Prune, bench: Bench) -> Piece:
    """Methods global, layer, l1 and n:m. Raises Refused where a layer would be left without a weight."""
    model = read_graph(piece.path)
    require_finite(model)
    facts: dict[str, Any] = {}
    if parameters.epochs:
        model, masked, facts = _trained(piece, model, parameters, bench)
    else:
        layers = find_layers(model, parameters)
        masked = _masks(layers, parameters, parameters.amount)
        _apply(model, masked)
        drop_unused(model)
    told = _sparsity(find_layers(model, parameters), masked, parameters)
    facts |= {"method": parameters.method, **told}
    bench.log(f"{told['sparsity']:.1%} of {told['weights']} weights in {len(told['layers'])} layers are 0")
    artifact = write_graph(model, bench.folder, piece.artifact.options)
    return piece.changed(artifact, bench.folder, UNPACKED, *_hollow(told["layers"], parameters), prune=facts)


def _hollow(layers: Sequence[dict[str, Any]], parameters: Prune) -> list[str]:
    """What is to be said of layers that are nearly gone."""
    found = [layer for layer in layers if layer["sparsity"] > max(_HOLLOW, parameters.amount)]
    if not found or parameters.method == "n:m":
        return []
    told = ", ".join(f"{layer['node']!r} ({layer['sparsity']:.2%})" for layer in found[:3])
    return [f"Almost all weights of {told} are 0, since theirs are the smallest; ranking layer-adaptive is fairer to them."]


def _trained(piece: Piece, model: Any, parameters: Prune, bench: Bench) -> tuple[Any, Masks, dict[str, Any]]:
    from openmaas.tasks.optimization.trainable import lift
    from openmaas.tasks.optimization.training import Proximal, default_loss, train

    examples = bench.training
    assert examples is not None
    trainable = lift(model, examples.inputs)
    layers = find_layers(trainable.model, parameters)
    weights = {layer.weight for layer in layers}
    if missing := weights - {binding.initializer for binding in trainable.bindings}:
        layer = next(layer for layer in layers if layer.weight in missing)
        raise cannot(parameters, f"the weights of {layer.node!r} cannot be trained", f"Exclude {layer.node!r}.")
    _masks(layers, parameters, parameters.amount)
    loss, kind = default_loss(trainable, examples, piece.manifest.processing)
    histories, zeros = list[Any](), 0.0

    def trained(stage: str, **options: Any) -> None:
        history = train(
            trainable, examples, loss=loss, epochs=parameters.epochs, learning_rate=parameters.learning_rate,
            batch=parameters.batch, seed=bench.seed + len(histories), progress=bench.progress, stage=stage, **options,
        )  # fmt: skip
        histories.append(history)

    if parameters.method == "l1":
        shrinking = trainable.to_parameters({layer.weight: layer.array for layer in layers})
        proximal = Proximal(strength=parameters.strength, parameters=frozenset(shrinking))
        trained("training with L1", proximal=proximal, keep_best=False)
        zeros = _zeros(find_layers(trainable.to_onnx(), parameters))
        bench.log(f"L1 alone left {zeros:.1%} of the weights at 0")
        _require_some_left(find_layers(trainable.to_onnx(), parameters), parameters)
    masked: Masks = {}
    for number in range(1, parameters.schedule + 1):
        share = share_of_round(parameters.amount, number, parameters.schedule)
        masked = _masks(find_layers(trainable.to_onnx(), parameters), parameters, share)
        masks = trainable.to_parameters(masked)
        stage = f"round {number} of {parameters.schedule}" if parameters.schedule > 1 else "training"
        trained(stage, masks=masks)
    facts: dict[str, Any] = {"trained_on": kind, "training": [history.to_facts() for history in histories]}
    if parameters.method == "l1":
        facts["zeros_by_l1"] = round(zeros, 4)
    return trainable.to_onnx(), masked, facts


def _masks(layers: Sequence[Layer], parameters: Prune, amount: float) -> Masks:
    """What stays, by the name of the weights. Raises Refused where nothing would go, or a layer would vanish."""
    arrays = {layer.weight: layer.array for layer in layers}
    if parameters.method == "n:m":
        found = _neighbours(layers, parameters)
    elif parameters.method == "layer":
        found = smallest_of_each(arrays, amount)
    else:
        adaptive = parameters.ranking == "layer-adaptive"
        found = smallest_of_all({name: lamp(array) for name, array in arrays.items()} if adaptive else arrays, amount)
    if amount == parameters.amount and all(mask.all() for mask in found.values()):
        raise cannot(
            parameters, f"{amount:g} of {sum(a.size for a in arrays.values())} weights is none", "Give a larger amount."
        )
    for layer in layers:
        if not found[layer.weight].any():
            fairer = ", or use ranking layer-adaptive" if parameters.ranking == "magnitude" else ""
            raise cannot(
                parameters,
                f"all {layer.array.size} weights of {layer.node!r} would go, so that it would answer the same to everything",
                f"Give a smaller amount than {parameters.amount:g}, or exclude {layer.node!r}{fairer}.",
            )
    return found


def _require_some_left(layers: Sequence[Layer], parameters: Prune) -> None:
    if gone := next((layer for layer in layers if not layer.array.any()), None):
        raise cannot(
            parameters,
            f"L1 of strength {parameters.strength:g} left none of the {gone.array.size} weights of {gone.node!r}",
            f"Give a smaller strength, as {parameters.strength / 10:g}, fewer epochs, or exclude {gone.node!r}.",
        )


def _zeros(layers: Sequence[Layer]) -> float:
    arrays = {layer.weight: layer.array for layer in layers}.values()
    return float(sum(int((array == 0).sum()) for array in arrays) / sum(array.size for array in arrays))


def _neighbours(layers: Sequence[Layer], parameters: Prune) -> Masks:
    lengths = {layer.node: layer.array.shape[layer.along] for layer in layers}
    if max(lengths.values()) < parameters.m:
        raise cannot(
            parameters, f"no layer has {parameters.m} inputs; the most are {max(lengths.values())}", "Give a smaller m."
        )
    return {layer.weight: n_of_m(layer.array, layer.along, parameters.n, parameters.m) for layer in layers}


def _apply(model: Any, masked: Masks) -> None:
    known = constants(model)
    for name, mask in masked.items():
        array = array_of(known[name])
        known[name].CopyFrom(tensor_of(np.where(mask, array, 0).astype(array.dtype), name))


def _sparsity(layers: Sequence[Layer], masked: Masks, parameters: Prune) -> dict[str, Any]:
    """Counted in what was made. Raises Refused where a weight is not 0 that had to be."""
    arrays = {layer.weight: layer.array for layer in layers}
    promised, found = (
        sum(map(int, counts))
        for counts in ([(~mask).sum() for mask in masked.values()], [(array == 0).sum() for array in arrays.values()])
    )
    if found < promised:
        raise cannot(parameters, f"{found} weights are 0 and {promised} had to be", "Report this with the model.")
    return {
        "sparsity": round(_zeros(layers), 6),
        "weights": sum(array.size for array in arrays.values()),
        "layers": [
            {"node": layer.node, "shape": list(layer.array.shape), "sparsity": round(_zeros([layer]), 6)} for layer in layers
        ],
    }
