"""Whole channels taken away, so that layers become smaller.

Which go is told by the norm of the weights that give a channel (Li et al. 2017, arXiv 1608.08710). Layers whose channels hang
together (a residual sum, a depthwise convolution) lose the same ones. Layers that give the model's outputs keep theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from openmaas.core.recipes import Prune
from openmaas.tasks.optimization.base import Bench, Piece, cannot
from openmaas.tasks.optimization.checks import require_finite
from openmaas.tasks.optimization.graphs import read_graph, write_graph
from openmaas.tasks.optimization.passes.prune.labels import Channels, remove
from openmaas.tasks.optimization.passes.prune.layers import check_exclude, excluded
from openmaas.tasks.optimization.trainable import Trainable, lift
from openmaas.tasks.optimization.training import History, default_loss, train

_TOLD = 4


def prune_channels(piece: Piece, parameters: Prune, bench: Bench) -> Piece:
    """Each layer (or each set of layers that hang together) loses `amount` of its channels, and keeps one at least.

    Raises Refused where no layer's channels can be followed, with the reasons.
    """
    model = read_graph(piece.path)
    require_finite(model)
    trainable = lift(model, bench.training.inputs if bench.training is not None else None)
    names = list(_layers(trainable))
    check_exclude(parameters, names)
    left_out = [name for name in names if excluded(parameters, name)]
    kept_whole = _kept_whole(Channels(trainable, left_out), parameters, names)
    before = {name: _width(module) for name, module in _layers(trainable).items()}
    weights = _count(trainable)
    loss = None
    if parameters.epochs:
        assert bench.training is not None
        loss, kind = default_loss(trainable, bench.training, piece.manifest.processing)
    histories: list[History] = []
    for number in range(1, parameters.schedule + 1):
        bench.progress("pruning channels", number - 1, parameters.schedule)
        _shrink(trainable, left_out, before, parameters.amount * number / parameters.schedule)
        if loss is not None and bench.training is not None:
            stage = f"round {number} of {parameters.schedule}" if parameters.schedule > 1 else "training"
            histories.append(
                train(
                    trainable, bench.training, loss=loss, epochs=parameters.epochs, learning_rate=parameters.learning_rate,
                    batch=parameters.batch, seed=bench.seed + number, progress=bench.progress, stage=stage,
                )
            )  # fmt: skip
    after = {name: _width(module) for name, module in _layers(trainable).items()}
    if before == after:
        widest = max((width for name, width in before.items() if name not in kept_whole), default=0)
        raise cannot(parameters, f"{parameters.amount:g} of {widest} channels is none", "Give a larger amount.")
    changed = trainable.to_onnx()
    facts: dict[str, Any] = {
        "method": "channels",
        "layers": [{"node": name, "channels": [before[name], after[name]]} for name in before],
        "kept_whole": kept_whole,
        "parameters": {"before": weights, "after": _count(trainable)},
    }
    if histories:
        facts |= {"trained_on": kind, "training": [history.to_facts() for history in histories]}
    bench.log(f"{weights} → {facts['parameters']['after']} weights in {len(before)} layers")
    artifact = write_graph(changed, bench.folder, piece.artifact.options)
    return piece.changed(artifact, bench.folder, prune=facts)


def _layers(trainable: Trainable) -> dict[str, Any]:
    """Convolutions and linear layers, by node."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return {name: module for name, module in trainable.nodes.items() if isinstance(module, kinds)}


def _width(module: Any) -> int:
    """The channels that a layer gives."""
    return int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)


def _count(trainable: Trainable) -> int:
    return sum(parameter.numel() for parameter in trainable.parameters())


def _kept_whole(channels: Channels, parameters: Prune, names: list[str]) -> dict[str, str]:
    """Layers that keep their channels, and why. Raises Refused where all do."""
    found = {name: reason for name in names if (reason := channels.obstacle(name))}
    if len(found) == len(names):
        told = "; ".join(f"{name!r}: {reason}" for name, reason in list(found.items())[:_TOLD])
        more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
        reason = f"no layer can lose channels ({told}{more})" if found else "the graph has no convolution or linear layer"
        raise cannot(parameters, reason, "Use method global or n:m, which leave the layers as large as they are.")
    return found


def _shrink(trainable: Trainable, excluded_nodes: list[str], first: dict[str, int], amount: float) -> None:
    """Take channels until `amount` of what each layer had at first is gone; one stays at least."""
    channels = Channels(trainable, excluded_nodes)
    scores = _scores(channels)
    surplus = {node: _width(module) - _kept(first[node], amount) for node, module in _layers(trainable).items()}
    owners: dict[int, set[str]] = {}
    for node, labels in channels.given.items():
        for label in labels.tolist():
            owners.setdefault(label, set()).add(node)
    gone = set[int]()
    # A channel goes only where all layers that share it still have one to lose.
    for label in sorted(set(owners) - set(channels.frozen), key=lambda label: (scores[label], label)):
        if all(surplus[node] > 0 for node in owners[label]):
            gone.add(label)
            for node in owners[label]:
                surplus[node] -= 1
    remove(trainable, channels, gone)


def _kept(width: int, amount: float) -> int:
    return max(1, width - round(amount * width))


def _scores(channels: Channels) -> NDArray[np.float64]:
    """Of each label, the squared norm of the weights that give the channel, of each tensor relative to its mean."""
    scores = np.zeros(1 + max(int(place.labels.max()) for place in channels.places))
    for place in channels.places:
        if place.taken or place.tensor.startswith("running"):
            continue
        tensor = getattr(place.owner, place.tensor).detach().double()
        norms = tensor.square().sum([axis for axis in range(tensor.ndim) if axis != place.axis]).numpy()
        mean = float(norms.mean())
        np.add.at(scores, place.labels, norms / mean if mean > 0 else norms)
    return scores
