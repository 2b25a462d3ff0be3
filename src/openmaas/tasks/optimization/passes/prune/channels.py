"""Whole channels taken away, so that layers become smaller: DepGraph (Fang et al. 2023, arXiv 2301.12900) by torch-pruning.

Layers whose channels hang together (a residual sum, a concatenation, a depthwise convolution) lose the same ones. Which go is
told by the norm of all weights that belong to a channel. Layers that give the model's outputs keep theirs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch_pruning
from torch import nn

from openmaas.core.recipes import Prune
from openmaas.tasks.optimization.base import Bench, Piece, cannot
from openmaas.tasks.optimization.checks import require_finite
from openmaas.tasks.optimization.graphs import read_graph, write_graph
from openmaas.tasks.optimization.passes.prune.layers import check_exclude, excluded
from openmaas.tasks.optimization.passes.prune.reach import Reach
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
    kept_whole = _obstacles(trainable, parameters)
    before = {name: _width(module) for name, module in _layers(trainable).items()}
    weights = _count(trainable)
    loss = None
    if parameters.epochs:
        assert bench.training is not None
        loss, kind = default_loss(trainable, bench.training, piece.manifest.processing)
    histories: list[History] = []
    for number in range(1, parameters.schedule + 1):
        bench.progress("pruning channels", number - 1, parameters.schedule)
        _shrink(trainable, kept_whole, before, parameters.amount * number / parameters.schedule, bench.seed)
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


def _obstacles(trainable: Trainable, parameters: Prune) -> dict[str, str]:
    """Layers that keep their channels, and why. Raises Refused where all do."""
    layers = _layers(trainable)
    check_exclude(parameters, list(layers))
    names = {name for step in trainable.steps for name in (*step.inputs, *step.outputs) if name}
    with torch.no_grad():
        shapes = {name: tuple(value.shape) for name, value in trainable.values(trainable.samples[0], names).items()}
    reach = Reach(trainable, shapes)
    found = {name: "excluded" if excluded(parameters, name) else reach.obstacle(name) for name in layers}
    found = {name: reason for name, reason in found.items() if reason}
    if len(found) == len(layers):
        told = "; ".join(f"{name!r}: {reason}" for name, reason in list(found.items())[:_TOLD])
        more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
        reason = f"no layer can lose channels ({told}{more})" if found else "the graph has no convolution or linear layer"
        raise cannot(parameters, reason, "Use method global or n:m, which leave the layers as large as they are.")
    return found


def _shrink(trainable: Trainable, kept_whole: dict[str, str], widths: dict[str, int], amount: float, seed: int) -> None:
    """Take channels until `amount` of each layer's first width is gone."""
    names = {module: name for name, module in trainable.nodes.items()}
    ignored = [trainable.nodes[name] for name in kept_whole]
    torch.manual_seed(seed)
    graph = _dependencies(trainable)
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    for group in graph.get_all_groups(ignored_layers=ignored):
        root, function = group[0].dep.target.module, group[0].dep.handler
        width, now = widths[names[root]], _width(root)
        keep = max(1, width - round(amount * width))
        if keep >= now:
            continue
        scores = importance(group)
        if scores is None:
            continue
        gone = torch.argsort(scores, stable=True)[: now - keep].tolist()
        chosen = graph.get_pruning_group(root, function, gone)
        if graph.check_pruning_group(chosen):
            chosen.prune()
    _check_answers(trainable)


def _dependencies(trainable: Trainable) -> Any:
    graph = torch_pruning.DependencyGraph()
    sample = {name: torch.as_tensor(array) for name, array in trainable.samples[0].items()}
    free: Sequence[tuple[nn.Parameter, int]] = [
        (parameter, max((axis for axis, length in enumerate(parameter.shape) if length > 1), default=0))
        for parameter in trainable.free.values()
    ]
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        graph.build_dependency(
            trainable,
            example_inputs=sample,
            forward_fn=lambda model, inputs: list(model(**inputs).values()),
            unwrapped_parameters=list(free),
            verbose=False,
        )
    return graph


def _check_answers(trainable: Trainable) -> None:
    """The smaller model computes, and its outputs have the shapes that they had. Raises Refused that names the node."""
    with torch.no_grad():
        for sample in trainable.samples:
            trainable(**sample)
