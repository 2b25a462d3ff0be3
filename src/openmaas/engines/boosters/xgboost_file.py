"""xgboost's model files, JSON and UBJSON (https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html)."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput
from openmaas.engines.boosters.checked import (
    CATEGORIES_SPLIT,
    MAX_FEATURES,
    MAX_OUTPUTS,
    Answer,
    Checked,
    Feature,
    check_children,
    numbers,
    require,
    spans,
    whole_numbers,
)
from openmaas.engines.boosters.ubjson import NotUbjson, decode

_LOOK = 4096
_JSON = re.compile(rb'\s*\{\s*"(learner|version)"\s*:\s*[\[{]')
_UBJSON = re.compile(rb"\{L\0{7}\x07(learner\{|version\[)")
_LEARNER = (b'"learner"', b"learner{")
_ANSWERS: dict[str, Answer] = {
    "binary:logistic": "binary", "binary:hinge": "decision", "multi:softprob": "multiclass", "multi:softmax": "multiclass",
}  # fmt: skip
_NUMBERS = re.compile(r"(reg|count|rank|survival|binary):[a-z0-9_]{1,40}")
_MAX_CATEGORY = 1 << 24


def is_xgboost(path: Path) -> bool:
    """Whether the file begins as xgboost's JSON or UBJSON does. Older ones put the version first."""
    with path.open("rb") as file:
        start = file.read(_LOOK)
    return bool(_JSON.match(start) or _UBJSON.match(start)) and any(word in start for word in _LEARNER)


def read_xgboost(path: Path) -> Checked:
    """The checked model. Raises InvalidInput where it cannot be read, Refused where it points outside of itself."""
    document = _parse(path.read_bytes())
    learner = _dict(document, "learner")
    parameters = _dict(learner, "learner_model_param")
    features = _number(parameters, "num_feature", MAX_FEATURES)
    require(features > 0, "it has no features")
    groups = max(_number(parameters, "num_class", MAX_OUTPUTS), _number(parameters, "num_target", MAX_OUTPUTS, "1"), 1)
    _check_base_score(parameters, groups)
    objective = str(_dict(learner, "objective").get("name"))
    answer = _answer(objective, _number(parameters, "num_class", MAX_OUTPUTS), groups)
    booster = _dict(learner, "gradient_booster")
    name = booster.get("name")
    require(name in ("gbtree", "dart", "gblinear"), f"it names no booster that exists ({str(name)[:40]!r})")
    columns, categorical, rounds = _check_booster(booster, str(name), features, groups)
    named = _names(learner, features)
    categories = _categories(booster, str(name), features)
    categorical |= np.array([known is not None for known in categories])
    return Checked(
        library="xgboost",
        content=_rewritten(document, learner),
        objective=objective,
        answer=answer,
        outputs=groups,
        features=tuple(
            Feature(names, bool(is_category), values, float(low), float(high))
            for names, is_category, values, (low, high) in zip(
                named or [f"f{index}" for index in range(features)],
                categorical,
                categories,
                columns,
                strict=True,
            )
        ),
        named=bool(named),
        softmax=objective == "multi:softmax",
        linear=name == "gblinear",
        iterations=_iterations(learner, rounds) if name != "gblinear" else None,
        obstacle=_obstacle(str(name), bool(categorical.any())),
    )


def _obstacle(name: str, categorical: bool) -> str | None:
    if name != "gbtree":
        return f"ONNX has no form for the booster {name}."
    return CATEGORIES_SPLIT if categorical else None


def _parse(data: bytes) -> dict[str, Any]:
    try:
        document = decode(data) if _UBJSON.match(data) else msgspec.json.decode(data)
    except (NotUbjson, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(
            f"The xgboost file cannot be read: {str(error)[:200]}.", code="damaged", next_step="Save the model again."
        ) from None
    require(isinstance(document, dict), "it is no object")
    return dict(document)


def _dict(parent: dict[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    require(isinstance(value, dict), f"{key!r} is missing")
    return value  # type: ignore[return-value]


def _number(parent: dict[str, Any], key: str, most: int, default: str = "0") -> int:
    text = parent.get(key, default)
    require(isinstance(text, str) and re.fullmatch(r"[0-9]{1,9}", text) is not None, f"{key!r} is no number")
    require(int(text) <= most, f"{key!r} is {text}, at most {most} are read")
    return int(text)


def _check_base_score(parameters: dict[str, Any], groups: int) -> None:
    text = parameters.get("base_score", "")
    number = r"-?[0-9.]{1,40}(E[-+]?[0-9]{1,3})?"
    require(
        isinstance(text, str) and re.fullmatch(rf"\[?{number}(,{number})*\]?", text) is not None, "'base_score' is no number"
    )
    require(text.count(",") + 1 in (1, groups), "'base_score' has another length than the answers")


def _answer(objective: str, classes: int, groups: int) -> Answer:
    if objective.startswith("multi:"):
        require(objective in _ANSWERS and classes >= 2, f"the objective {objective[:40]!r} does not fit {classes} classes")
    elif objective not in _ANSWERS:
        require(_NUMBERS.fullmatch(objective) is not None, f"the objective {objective[:40]!r} does not exist")
    answer = _ANSWERS.get(objective, "number")
    return "multilabel" if answer == "binary" and groups > 1 else answer


def _names(learner: dict[str, Any], features: int) -> list[str]:
    for key in ("feature_names", "feature_types"):
        values = learner.get(key, [])
        require(isinstance(values, list) and all(isinstance(value, str) for value in values), f"{key!r} is no list of text")
        require(len(values) in (0, features), f"{key!r} has {len(values)} entries for {features} features")
    names: list[str] = learner.get("feature_names", [])
    require(len(set(names)) == len(names), "two features have the same name")
    return names


def _iterations(learner: dict[str, Any], rounds: int) -> int | None:
    """Rounds that the scikit-learn wrapper uses after an early stop; the library's own Booster uses all."""
    attributes = learner.get("attributes", {})
    require(isinstance(attributes, dict), "'attributes' is no object")
    best = attributes.get("best_iteration")
    if best is None or "scikit_learn" not in attributes:
        return None
    require(isinstance(best, str) and re.fullmatch(r"[0-9]{1,9}", best) is not None, "'best_iteration' is no number")
    require(int(best) < rounds, f"'best_iteration' is {best} of {rounds} rounds")
    return int(best) + 1


def _rewritten(document: dict[str, Any], learner: dict[str, Any]) -> bytes:
    """What was checked as JSON, without names and category values: rows come as an array of numbers and codes."""
    booster = _dict(learner, "gradient_booster")
    bare = {**learner, "gradient_booster": _without_categories(booster), "feature_names": [], "attributes": {}}
    return msgspec.json.encode({"learner": bare, "version": document.get("version")})


def _without_categories(booster: dict[str, Any]) -> dict[str, Any]:
    if "gbtree" in booster:
        return {**booster, "gbtree": _without_categories(booster["gbtree"])}
    if "cats" not in booster.get("model", {}):
        return booster
    return {**booster, "model": {**booster["model"], "cats": {"enc": [], "feature_segments": [], "sorted_idx": []}}}


# ── boosters ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_booster(
    booster: dict[str, Any], name: str, features: int, groups: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """Spans of the thresholds, which features are split by category, and the number of rounds."""
    if name == "gblinear":
        weights = numbers(_dict(booster, "model").get("weights"), "the weights")
        require(len(weights) == (features + 1) * groups, f"there are {len(weights)} weights for {features} features")
        return np.zeros((features, 2)), np.zeros(features, bool), 0
    if name == "dart":
        tree_booster = _dict(booster, "gbtree")
        model = _dict(tree_booster, "model")
        drops = numbers(booster.get("weight_drop"), "the weights of the trees")
        require(isinstance(model.get("trees"), list) and len(drops) == len(model["trees"]), "there is no weight for each tree")
        return _check_trees(model, features, groups)
    return _check_trees(_dict(booster, "model"), features, groups)


def _check_trees(model: dict[str, Any], features: int, groups: int) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    trees, parameters = model.get("trees"), _dict(model, "gbtree_model_param")
    require(isinstance(trees, list) and all(isinstance(tree, dict) for tree in trees), "'trees' is no list of trees")
    assert isinstance(trees, list)
    count = _number(parameters, "num_trees", 2**30)
    require(count == len(trees), f"it declares {count} trees and has {len(trees)}")
    owners = whole_numbers(model.get("tree_info"), "the trees' groups", low=0, high=groups - 1)
    require(len(owners) == count, "there is no group for each tree")
    rounds = _check_rounds(model, parameters, count, groups)
    indices, thresholds, categorical = [], [], np.zeros(features, bool)
    for tree in trees:
        index, threshold, by_category = _check_tree(tree, features)
        indices.append(index[~by_category])
        thresholds.append(threshold[~by_category])
        categorical[index[by_category]] = True
    return spans(features, indices, thresholds), categorical, rounds


def _check_rounds(model: dict[str, Any], parameters: dict[str, Any], count: int, groups: int) -> int:
    bounds = model.get("iteration_indptr")
    if bounds is None:  # before xgboost 2
        return count // max(1, groups * max(1, _number(parameters, "num_parallel_tree", 2**30, "1")))
    edges = whole_numbers(bounds, "the rounds", low=0, high=count)
    require(len(edges) > 0 and edges[0] == 0 and edges[-1] == count and bool((np.diff(edges) >= 0).all()), "the rounds overlap")
    return len(edges) - 1


def _check_tree(tree: dict[str, Any], features: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Of its inner nodes: the feature, the threshold, and whether it is split by category."""
    parameters = _dict(tree, "tree_param")
    count = _number(parameters, "num_nodes", 2**30)
    require(count > 0, "a tree has no node")
    if _number(parameters, "size_leaf_vector", MAX_OUTPUTS, "1") > 1:
        raise InvalidInput(
            "Its leaves hold a vector each (multi_strategy='multi_output_tree'), which is not served.",
            code="unsupported_model",
            next_step="Train it with multi_strategy='one_output_per_tree'.",
        )
    require(
        _number(parameters, "num_feature", MAX_FEATURES, str(features)) <= features, "a tree has more features than the model"
    )
    left, right = (whole_numbers(tree.get(f"{side}_children"), "the children", low=-1) for side in ("left", "right"))
    index = whole_numbers(tree.get("split_indices"), "the split features", low=0, high=2**32 - 1)
    threshold = numbers(tree.get("split_conditions"), "the thresholds")
    kinds = whole_numbers(tree.get("split_type", [0] * count), "the kinds of splits", low=0, high=1)
    others = (numbers(_as_numbers(tree.get(key)), f"{key!r}") for key in _EVERY_NODE if key in tree)
    require(
        all(len(array) == count for array in (left, right, index, threshold, kinds, *others)), "a tree's lists differ in length"
    )
    inner = left != -1
    require(bool((inner == (right != -1)).all()), "a tree's node has one child")
    check_children(left, right, inner, count)
    require(bool((index[inner] < features).all()), "a tree splits a feature that does not exist")
    _check_categories(tree, np.flatnonzero(inner & (kinds == 1)), count)
    return index[inner], threshold[inner], kinds[inner] == 1


_EVERY_NODE = ("base_weights", "default_left", "loss_changes", "parents", "sum_hessian")


def _as_numbers(values: Any) -> Any:
    """Older files write default_left as booleans."""
    return [int(value) if isinstance(value, bool) else value for value in values] if isinstance(values, list) else values


def _check_categories(tree: dict[str, Any], nodes: NDArray[np.int64], count: int) -> None:
    values = whole_numbers(tree.get("categories", []), "the categories", low=0, high=_MAX_CATEGORY)
    keys = ("categories_nodes", "categories_segments", "categories_sizes")
    owners, starts, sizes = (whole_numbers(tree.get(key, []), "the categories", low=0) for key in keys)
    require(len(owners) == len(starts) == len(sizes), "the categories' lists differ in length")
    require(
        bool((owners < count).all()) and bool(((starts + sizes) <= len(values)).all()), "categories lie outside of the tree"
    )
    require(np.array_equal(np.sort(owners), nodes), "a split by category has no categories")
    require(bool((sizes > 0).all()), "a split by category has no categories")


# ── names of categories ──────────────────────────────────────────────────────────────────────────────────────────────


def _categories(booster: dict[str, Any], name: str, features: int) -> list[tuple[str | int, ...] | None]:
    """The category values of each feature, None for numbers and where the file (before xgboost 3.1) has none."""
    nothing: list[tuple[str | int, ...] | None] = [None] * features
    model = booster.get("gbtree", booster).get("model", {}) if name != "gblinear" else {}
    encoded = model.get("cats", {}).get("enc", []) if isinstance(model.get("cats", {}), dict) else []
    if not encoded:
        return nothing
    require(isinstance(encoded, list) and len(encoded) == features, "the category values do not fit the features")
    return [_decoded(entry) for entry in encoded]


def _decoded(entry: Any) -> tuple[str | int, ...] | None:
    require(isinstance(entry, dict), "the category values are no object")
    values = entry.get("values")
    if "offsets" not in entry:
        plain = isinstance(values, list) and values and all(type(value) is int for value in values)
        return tuple(values) if plain and isinstance(values, list) else None
    codes = whole_numbers(values, "the category values", low=-128, high=255)
    text = bytes((codes & 0xFF).astype(np.uint8))
    edges = whole_numbers(entry["offsets"], "the category values", low=0, high=len(text))
    require(bool((np.diff(edges) >= 0).all()), "the category values overlap")
    if not text.isascii():  # xgboost 3.2 counts letters where it should count bytes, and cuts them short
        raise InvalidInput(
            "xgboost cuts names of categories that have letters beyond ASCII when it saves them.",
            code="unsupported_model",
            next_step="Name the categories in ASCII, or number them, and train again.",
        )
    found = tuple(text[start:stop].decode() for start, stop in itertools.pairwise(edges))
    require(len(set(found)) == len(found), "two categories have the same value")
    return found or None
