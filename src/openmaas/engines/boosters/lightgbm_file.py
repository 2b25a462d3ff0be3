"""LightGBM's model files: lines of key=value, a block for each tree (Tree::ToString of its source)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
    require,
    spans,
)

_LOOK = 4096
_HEAD = re.compile(rb"tree\r?\nversion=v[0-9]+\r?\n")
_END = "end of trees"
_INTEGERS = re.compile(r"-?[0-9]{1,10}( -?[0-9]{1,10})*")
_FLOATS = re.compile(r"[-+0-9.eE]{1,40}( [-+0-9.eE]{1,40})*|.*(nan|inf).*")
_OBJECTIVE = re.compile(r"[a-z0-9_]{1,40}( [a-z_]{1,40}(:[-+0-9.eE]{1,30})?)*")
_INFO = re.compile(r"none|\[[-+0-9.eEinfa]{1,40}:[-+0-9.eEinfa]{1,40}\]|-?[0-9]{1,10}(:-?[0-9]{1,10})*")
_UNNAMED = re.compile(r"Column_[0-9]+")
_BY_CATEGORY = 1  # the lowest bit of a node's decision type
_MISSING, _ZERO = 0b1100, 0b0100  # which two bits of it say what counts as missing, and how they do for zeros
_MAX_CATEGORY_WORDS = 1 << 24


def is_lightgbm(path: Path) -> bool:
    """Whether the file begins as a LightGBM model does."""
    with path.open("rb") as file:
        start = file.read(_LOOK)
    return _HEAD.match(start) is not None and b"num_tree_per_iteration=" in start


def read_lightgbm(path: Path) -> Checked:
    """The checked model. Raises InvalidInput where it cannot be read, Refused where it points outside of itself."""
    try:
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise InvalidInput("The LightGBM file is not UTF-8 text.", code="damaged", next_step="Save the model again.") from None
    body, end, rest = text.partition(f"\n{_END}\n")
    require(bool(end), f"it is cut short: the line {_END!r} is missing")
    head, *blocks = re.split(r"\n+(?=Tree=)", body)
    header = _header(head)
    features = _whole(header, "max_feature_idx", MAX_FEATURES) + 1
    each = _whole(header, "num_tree_per_iteration", MAX_OUTPUTS)
    answer = _answer(header, each)
    require(each > 0 and len(blocks) % each == 0, f"{len(blocks)} trees are no whole number of rounds of {each}")
    trees = [_tree(block, number, features) for number, block in enumerate(blocks)]
    names, infos = header["feature_names"].split(" "), header["feature_infos"].split(" ")
    require(len(names) == len(infos) == features, f"there are {len(names)} names for {features} features")
    require(len(set(names)) == features, "two features have the same name")
    require(all(_INFO.fullmatch(info) for info in infos), "'feature_infos' cannot be read")
    categorical = np.array([info[0] not in "[n" for info in infos])
    for tree in trees:
        categorical[tree.feature[tree.by_category]] = True
    values = _categories(rest, categorical)
    span = spans(
        features,
        [tree.feature[~tree.by_category] for tree in trees],
        [tree.threshold[~tree.by_category] for tree in trees],
    )
    return Checked(
        library="lightgbm",
        content=_rewritten(header, trees).encode(),
        objective=header.get("objective", "custom"),
        answer=answer,
        outputs=each,
        features=tuple(
            Feature(name, bool(is_category), known, float(low), float(high))
            for name, is_category, known, (low, high) in zip(names, categorical, values, span, strict=True)
        ),
        named=not all(_UNNAMED.fullmatch(name) for name in names),
        obstacle=_obstacle(trees, bool(categorical.any())),
    )


def _obstacle(trees: list[_Tree], categorical: bool) -> str | None:
    if any(tree.linear for tree in trees):
        return "Its leaves hold linear models, which no converter writes as ONNX."
    if any(tree.zero_is_missing for tree in trees):
        return "It takes zeros for missing values, for which ONNX has no form."
    return CATEGORIES_SPLIT if categorical else None


# ── header ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_KEPT = (
    "version",
    "num_class",
    "num_tree_per_iteration",
    "label_index",
    "max_feature_idx",
    "objective",
    "feature_names",
    "feature_infos",
)


def _header(head: str) -> dict[str, str]:
    header = _pairs(head.split("\n"))
    missing = [key for key in _KEPT if key not in header and key != "objective"]
    require(not missing, f"the header lacks {', '.join(missing)}")
    return header


def _pairs(lines: list[str]) -> dict[str, str]:
    """key=value lines; a line without a value counts as a flag."""
    found: dict[str, str] = {}
    for line in filter(None, lines):
        key, _, value = line.partition("=")
        require(key not in found, f"the key {key[:40]!r} is given twice")
        found[key] = " ".join(value.split())
    return found


def _whole(pairs: Mapping[str, str], key: str, most: int) -> int:
    text = pairs.get(key, "")
    require(re.fullmatch(r"[0-9]{1,9}", text) is not None, f"{key!r} is no number")
    require(int(text) <= most, f"{key!r} is {text}, at most {most} are read")
    return int(text)


def _answer(header: Mapping[str, str], each: int) -> Answer:
    """What the objective makes of the sums. Its own number of classes must be the trees': the library writes that many."""
    classes = _whole(header, "num_class", MAX_OUTPUTS)
    require(classes == each, f"there are {classes} classes and {each} trees a round")
    objective = header.get("objective", "")
    require(not objective or _OBJECTIVE.fullmatch(objective) is not None, "the objective cannot be read")
    name, *options = objective.split(" ")
    given = dict(option.partition(":")[::2] for option in options)
    if name in ("multiclass", "multiclassova"):
        require(each > 1 and given.get("num_class") == str(each), f"the objective has another number of classes than {each}")
        return "multiclass"
    require("num_class" not in given, f"the objective {name!r} has no classes")
    require(each == 1 or name in ("", "custom"), f"the objective {name!r} has one number a row, and the trees {each}")
    return "binary" if name == "binary" else "number"


# ── trees ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Tree(NamedTuple):
    """One checked tree: of its inner nodes the feature, the threshold and whether it is split by category; and its lines."""

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    by_category: NDArray[np.bool_]
    linear: bool
    zero_is_missing: bool
    lines: list[str]


def _tree(block: str, number: int, features: int) -> _Tree:
    pairs = _pairs(block.split("\n"))
    require(pairs.get("Tree") == str(number), f"tree {number} has another number")
    leaves = _whole(pairs, "num_leaves", 2**30)
    require(leaves > 0, "a tree has no leaf")
    inner = leaves - 1
    index, left, right, decision = (
        _integers(pairs, key, inner) for key in ("split_feature", "left_child", "right_child", "decision_type")
    )
    threshold = _floats(pairs, "threshold", inner)
    _floats(pairs, "leaf_value", leaves)
    require(bool(((index >= 0) & (index < features)).all()), "a tree splits a feature that does not exist")
    require(bool((np.concatenate([left, right]) >= -leaves).all()), "a tree's node has a leaf that does not exist")
    check_children(left, right, np.ones(inner, bool), inner)
    by_category = (decision & _BY_CATEGORY) == 1
    _check_categories(pairs, threshold[by_category])
    linear = pairs.get("is_linear", "0") == "1"
    if linear:
        _check_linear(pairs, leaves, features)
    zero_is_missing = bool((((decision & _MISSING) == _ZERO) & ~by_category).any())
    lines = [f"{key}={pairs[key]}" for key in (*_TREE_KEYS, *(_LINEAR_KEYS if linear else ())) if pairs.get(key)]
    return _Tree(index, threshold, by_category, linear, zero_is_missing, lines)


_TREE_KEYS = (
    "num_leaves", "num_cat", "split_feature", "threshold", "decision_type", "left_child", "right_child", "leaf_value",
    "cat_boundaries", "cat_threshold", "is_linear", "shrinkage",
)  # fmt: skip
_LINEAR_KEYS = ("leaf_const", "num_features", "leaf_features", "leaf_coeff")


def _integers(pairs: Mapping[str, str], key: str, count: int) -> NDArray[np.int64]:
    text = pairs.get(key, "")
    require(not text or _INTEGERS.fullmatch(text) is not None, f"a tree's {key!r} are not whole numbers")
    values = np.array(text.split(), np.int64)
    require(len(values) == count, f"a tree has {len(values)} {key!r} instead of {count}")
    require(bool((np.abs(values) <= 2**31 - 1).all()), f"a tree's {key!r} are too large")
    return values


def _floats(pairs: Mapping[str, str], key: str, count: int) -> NDArray[np.float64]:
    text = pairs.get(key, "")
    try:
        require(
            not text or (text.isascii() and "_" not in text and _FLOATS.fullmatch(text) is not None), f"{key!r} are no numbers"
        )
        values = np.array([float(part) for part in text.split()], np.float64)
    except ValueError:
        values = np.array([])
    require(len(values) == count, f"a tree has {len(values)} {key!r} instead of {count}")
    return values


def _check_categories(pairs: Mapping[str, str], thresholds: NDArray[np.float64]) -> None:
    """A split by category has the number of a set of categories; the sets lie one after the other as bits."""
    count = _whole(pairs, "num_cat", 2**30) if "num_cat" in pairs else 0
    if not count:
        require(not len(thresholds), "a split by category has no categories")
        return
    edges = _integers(pairs, "cat_boundaries", count + 1)
    require(edges[0] == 0 and bool((np.diff(edges) >= 0).all()), "the categories' bounds overlap")
    require(edges[-1] <= _MAX_CATEGORY_WORDS, "there are too many categories")
    words = pairs.get("cat_threshold", "")
    require(_INTEGERS.fullmatch(words) is not None and "-" not in words, "the categories are not whole numbers")
    require(words.count(" ") + 1 == edges[-1], "there are fewer categories than declared")
    require(all(int(word) < 2**32 for word in words.split(" ")), "a set of categories is too large")
    whole = (thresholds >= 0) & (thresholds < count) & (thresholds == np.floor(thresholds))
    require(bool(whole.all()), "a split by category has no categories")


def _check_linear(pairs: Mapping[str, str], leaves: int, features: int) -> None:
    _floats(pairs, "leaf_const", leaves)
    counts = _integers(pairs, "num_features", leaves)
    require(bool((counts >= 0).all()), "a leaf's number of features is negative")
    total = int(counts.sum())
    columns = _integers(pairs, "leaf_features", total)
    require(bool(((columns >= 0) & (columns < features)).all()), "a leaf has a feature that does not exist")
    _floats(pairs, "leaf_coeff", total)


# ── the file that the library reads, and names of categories ─────────────────────────────────────────────────────────


def _rewritten(header: Mapping[str, str], trees: list[_Tree]) -> str:
    """What was checked, without the trees' lengths in bytes, which the library would jump by."""
    lines = ["tree", *(f"{key}={header[key]}" for key in _KEPT if key in header)]
    lines += ["average_output"] if "average_output" in header else []
    for number, tree in enumerate(trees):
        lines += ["", f"Tree={number}", *tree.lines, ""]
    return "\n".join([*lines, "", _END, ""])


def _categories(rest: str, categorical: NDArray[np.bool_]) -> list[tuple[str | int, ...] | None]:
    """The values of each column that was a pandas category; None for the others, and where the file does not tell which."""
    nothing: list[tuple[str | int, ...] | None] = [None] * len(categorical)
    found = re.search(r"^pandas_categorical:(\[.*\])$", rest, re.MULTILINE)
    if found is None:
        return nothing
    try:
        values: Any = json.loads(found[1])
    except (ValueError, RecursionError):
        values = None
    require(isinstance(values, list) and all(isinstance(each, list) for each in values), "'pandas_categorical' cannot be read")
    if len(values) != int(categorical.sum()):
        return nothing
    for column, each in zip(np.flatnonzero(categorical), values, strict=True):
        plain = all(type(value) is str for value in each) or all(type(value) is int for value in each)
        require(len(set(map(str, each))) == len(each), "two categories have the same value")
        nothing[int(column)] = tuple(each) if plain and each else None
    return nothing
