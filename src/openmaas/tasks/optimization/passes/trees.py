"""Fewer trees in an ensemble, and no splits that decide nothing. The method trees of the pass prune.

What is left without the last trees depends on what the ensemble adds up:

    sum        boosting: each tree corrects the sum of those before it, so that without the last ones the model answers as it
               did so many rounds earlier. Leaves and base values stay as they are.
    mean       forests: each tree is a whole model, and its leaves hold 1/n of its answer, so that the leaves that stay are
               multiplied by n over the number of trees that stay. An operator that averages does that itself.

ONNX does not say which of the two an ensemble is. Forests of classifiers are known by their leaves, which add up to 1/n
everywhere, boosters by what only they have (base values, a last function, a tree for each class), and xgboost's forests by
the booster's own file. What is left is a forest of one number or a booster without base values: of the two rules, that is
taken which leaves the answers of half of the trees nearer to those of all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmaas.core.recipes import Prune
from openmaas.tasks.comparing import sample_of
from openmaas.tasks.optimization.base import Arrays, Bench, Piece, cannot
from openmaas.tasks.optimization.ensembles import Ensemble, is_ensemble, read_ensemble
from openmaas.tasks.optimization.graphs import answers_of, label_of, read_graph, write_graph

_ROWS = 1024
_FEW = 64
_EQUAL = 1e-4  # relative; weights are float32


class _Rule(NamedTuple):
    kind: Literal["sum", "mean", "average"]
    reason: str
    together: int = 1
    """Trees of one round and one output: of a booster whose rounds are small forests."""


class _Kept(NamedTuple):
    trees: list[int]
    rounds: int
    of: int


def prune_trees(piece: Piece, parameters: Prune, bench: Bench) -> Piece:
    """Without the last `amount` of each ensemble's rounds, and without splits whose leaves are equal, which decide nothing.

    Facts: `trees`, for each ensemble its trees, rounds and nodes before and after, and the rule; `moved`, how far the outputs
    moved on rows of the training set, or of the sample. Raises Refused where there is no ensemble or nothing to drop.
    """
    if piece.artifact.kind != "onnx":
        raise cannot(
            parameters,
            f"the trees are in {piece.artifact.entry!r} ({piece.artifact.kind}), and only those of ONNX can be dropped",
            "Push a model that has an ONNX form; models of HistGradientBoosting have none and are served by scikit-learn.",
        )
    model = read_graph(piece.path)
    nodes = [node for node in model.graph.node if is_ensemble(node)]
    if not nodes:
        raise cannot(parameters, "the graph has no ensemble of trees", "Use another method: global, layer or channels.")
    inputs = _inputs(piece, bench)
    values = answers_of(model, inputs, [node.input[0] for node in nodes])
    before = answers_of(model, inputs)
    told = []
    for number, node in enumerate(nodes):
        bench.progress("dropping trees", number, len(nodes))
        told.append(_prune(node, values[node.input[0]], piece, parameters, bench))
    if all(line["nodes"][0] == line["nodes"][1] for line in told):
        least = max(line["rounds"][0] for line in told)
        raise cannot(
            parameters,
            f"of {least} {'round' if least == 1 else 'rounds'} in {label_of(nodes[0])}, {parameters.amount:g} is not one",
            "Give a larger amount." if least > 1 else "An ensemble of one tree has none to drop.",
        )
    moved = _moved(before, answers_of(model, inputs))
    for line in told:
        bench.log(
            f"{line['node']}: {line['trees'][0]} → {line['trees'][1]} trees, {line['nodes'][0]} → {line['nodes'][1]} nodes, "
            f"{line['rule']} ({line['reason']})"
        )
    artifact = write_graph(model, bench.folder, piece.artifact.options)
    return piece.changed(artifact, bench.folder, *_notes(piece), trees=told, moved=moved)


def _notes(piece: Piece) -> list[str]:
    native = [one.kind for one in piece.manifest.artifacts if one.kind in ("xgboost", "lightgbm", "skops", "pickle")]
    if not native:
        return []
    return [f"The trees of the ONNX form were dropped; the version's {native[0]} file is no part of the variant."]


def _prune(node: Any, rows: NDArray[Any], piece: Piece, parameters: Prune, bench: Bench) -> dict[str, Any]:
    """Change the node in place; what was done."""
    try:
        ensemble = read_ensemble(node)
    except ValueError as error:
        raise cannot(parameters, f"{label_of(node)} cannot be taken apart: {error}", "Exclude the step.") from None
    rows = _enough(rows, ensemble, bench.seed)
    rule = _rule(ensemble, rows, piece, bench)
    kept = _keep(ensemble, parameters.amount, rule.together)
    scale = kept.of / kept.rounds if rule.kind == "mean" else 1.0
    made = ensemble.kept(kept.trees, scale).collapsed()
    _require_same_reading(ensemble, made, parameters)
    node.CopyFrom(made.to_node())
    return {
        "node": label_of(node),
        "trees": [len(ensemble.trees), len(kept.trees)],
        "rounds": [kept.of, kept.rounds],
        "nodes": [len(ensemble.tree), len(made.tree)],
        "rule": rule.kind,
        "reason": rule.reason,
    }


def _keep(ensemble: Ensemble, amount: float, together: int) -> _Kept:
    """The first trees. Of trees that each add to one output of several, as many of each output: a round is one of each."""
    queues = _queues(ensemble)
    rounds = max(-(-len(queue) // together) for queue in queues)
    kept = max(1, rounds - int(amount * rounds + 1e-9))
    if rounds == 1:  # one round, which is a forest of its own
        rounds = len(queues[0])
        kept, together = max(1, rounds - int(amount * rounds + 1e-9)), 1
    return _Kept(sorted(tree for queue in queues for tree in queue[: kept * together]), kept, rounds)


def _queues(ensemble: Ensemble) -> list[list[int]]:
    targets = ensemble.targets()
    if not all(len(found) <= 1 for found in targets.values()):
        return [ensemble.trees]
    queues: dict[int, list[int]] = {}
    for tree in ensemble.trees:
        queues.setdefault(next(iter(targets[tree]), 0), []).append(tree)
    return list(queues.values())


def _require_same_reading(before: Ensemble, after: Ensemble, parameters: Prune) -> None:
    """Of two classes with one score, ONNX takes a half for the border where no leaf is below 0, and 0 where one is."""
    if before.node.op_type != "TreeEnsembleClassifier" or len(set(before.target.tolist())) > 1:
        return
    if (before.weight < 0).any() != (after.weight < 0).any():
        raise cannot(
            parameters,
            f"of {label_of(before.node)} only leaves above 0 would be left, for which ONNX draws the border between "
            "the classes elsewhere",
            "Give a smaller amount.",
        )


# ── boosting, or a forest? ───────────────────────────────────────────────────────────────────────────────────────────


def _rule(ensemble: Ensemble, rows: NDArray[Any], piece: Piece, bench: Bench) -> _Rule:
    if ensemble.averages:
        return _Rule("average", "the operator averages")
    if not ensemble.adds:
        return _Rule("sum", "the operator takes the least or the largest")
    if not ensemble.transformed and not ensemble.based and _shares_of_one(ensemble):
        return _Rule("mean", "leaves hold shares of 1/n")
    together = _trees_together(piece, bench)
    if together > 1:
        forest = max(map(len, _queues(ensemble))) <= together
        reason = f"xgboost trained {together} trees at once"
        return _Rule("mean" if forest else "sum", reason, together)
    if ensemble.transformed or ensemble.based or len(_queues(ensemble)) > 1:
        return _Rule("sum", "boosting: base values, a last function or a tree for each class")
    return _nearer(ensemble, rows)


def _shares_of_one(ensemble: Ensemble) -> bool:
    """Whether the weights of each leaf add up to 1/n, or lie between 0 and that where one class stands for two."""
    if ensemble.node.op_type != "TreeEnsembleClassifier":
        return False
    share = 1 / len(ensemble.trees)
    if (ensemble.weight < 0).any():
        return False
    sums = np.bincount(ensemble.leaf, ensemble.weight.astype(np.float64))[np.unique(ensemble.leaf)]
    if len(set(ensemble.target.tolist())) > 1:
        return bool(np.allclose(sums, share, rtol=_EQUAL))
    return bool(sums.max() <= share * (1 + _EQUAL))


def _trees_together(piece: Piece, bench: Bench) -> int:
    """What the version's xgboost file says of trees that are trained in one round; 1 without one."""
    import json

    native = next((one for one in piece.manifest.artifacts if one.kind == "xgboost"), None)
    if native is None:
        return 1
    from openmaas.engines.boosters.booster import Booster, read_booster

    _, folder = bench.job.files(str(bench.job.arguments["version"]))
    config = json.loads(Booster(read_booster(folder / native.entry)).model.save_config())
    booster = config["learner"]["gradient_booster"]
    parameters = booster.get("gbtree", booster).get("gbtree_model_param", {})
    return int(parameters.get("num_parallel_tree", 1))


def _nearer(ensemble: Ensemble, rows: NDArray[Any]) -> _Rule:
    """The rule by which the first half of the trees is nearer to all of them."""
    trees = ensemble.trees
    if len(trees) < 2:
        return _Rule("sum", "one tree")
    half = trees[: -(-len(trees) // 2)]
    whole = _scores(ensemble, rows)
    distance = {
        scale: float(np.abs(_scores(ensemble.kept(half, scale), rows) - whole).mean())
        for scale in (1.0, len(trees) / len(half))
    }
    by_sum, by_mean = distance.values()
    told = f"half of the trees are off by {by_sum:.3g} as a sum and by {by_mean:.3g} as a mean"
    return _Rule("mean" if by_mean < by_sum else "sum", told)


def _scores(ensemble: Ensemble, rows: NDArray[Any]) -> NDArray[Any]:
    """What an ensemble of numbers, without a last function, answers on its own."""
    from onnx import helper

    node = ensemble.to_node()
    model = helper.make_model(
        helper.make_graph(
            [node],
            "ensemble",
            [helper.make_tensor_value_info(node.input[0], helper.np_dtype_to_tensor_dtype(rows.dtype), [None, rows.shape[1]])],
            [helper.make_empty_tensor_value_info(ensemble.scores)],
        ),
        opset_imports=[
            helper.make_opsetid("", 17),
            helper.make_opsetid("ai.onnx.ml", 5 if node.op_type == "TreeEnsemble" else 3),
        ],
        ir_version=8,
    )
    return answers_of(model, {node.input[0]: rows}, [ensemble.scores])[ensemble.scores].astype(np.float64)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _inputs(piece: Piece, bench: Bench) -> Arrays:
    """Engine inputs of the training set, else of the version's sample."""
    if bench.training is not None:
        given = bench.training.inputs
    else:
        folder: Path = piece.folder
        if piece.manifest.sample is not None:
            _, folder = bench.job.files(str(bench.job.arguments["version"]))
        given = sample_of(piece.manifest, folder)[0]
    return {name: array[:_ROWS] for name, array in given.items()}


def _enough(rows: NDArray[Any], ensemble: Ensemble, seed: int) -> NDArray[Any]:
    """The rows, and where they are few, others whose features lie around the ensemble's thresholds."""
    if len(rows) >= _FEW:
        return rows
    random = np.random.default_rng(seed)
    splits = ensemble.true >= 0
    values = next(
        ensemble.columns[name]
        for name in ("nodes_values", "nodes_values_as_tensor", "nodes_splits")
        if name in ensemble.columns
    )
    made = np.repeat(rows[:1], _FEW * 4, axis=0)
    for feature in np.unique(ensemble.columns["nodes_featureids"][splits]).tolist():
        borders = values[splits & (ensemble.columns["nodes_featureids"] == feature)]
        made[:, feature] = random.choice(borders, len(made)) + random.choice([-1e-3, 0.0, 1e-3], len(made))
    return np.concatenate([rows, made])


def _moved(before: Arrays, after: Arrays) -> dict[str, Any]:
    """Of outputs that are numbers, the mean and the largest difference; of labels, the share that is another."""
    moved: dict[str, Any] = {"rows": len(next(iter(before.values())))}
    for name, array in before.items():
        if array.dtype.kind == "f":
            gap = np.abs(array.astype(np.float64) - after[name])
            moved[name] = {"mean": float(gap.mean()), "largest": float(gap.max())}
        else:
            moved[name] = {"changed": float(np.mean(array != after[name]))}
    return moved
