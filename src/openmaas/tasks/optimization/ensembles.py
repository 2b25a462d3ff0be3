"""Ensembles of trees in ONNX, taken apart and put together: of the domain ai.onnx.ml, the newer TreeEnsemble too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openmaas.tasks.optimization.graphs import array_of, tensor_of

_OPERATORS: Final = ("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble")
_NONE: Final = -1
_PER_NODE: Final = (
    "nodes_nodeids", "nodes_featureids", "nodes_modes", "nodes_values", "nodes_values_as_tensor", "nodes_hitrates",
    "nodes_hitrates_as_tensor", "nodes_missing_value_tracks_true", "nodes_splits",
)  # fmt: skip
_LEAF: Final = b"LEAF"
_AVERAGES: Final = (b"AVERAGE", 0)
_MEMBER: Final = 6  # the mode that looks a value up in a list
_SUM: Final = 1


def is_ensemble(node: Any) -> bool:
    return node.domain == "ai.onnx.ml" and node.op_type in _OPERATORS


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Nodes as rows, those of a tree together. node: as the graph has it.

    tree: each row's tree. true, false: the rows of its children, -1 of a leaf. columns: what else the operator keeps of each
    row. leaf, target, weight: which row is how much of which output (of one leaf several, where trees have several outputs).
    """

    node: Any
    tree: NDArray[np.int64]
    true: NDArray[np.int64]
    false: NDArray[np.int64]
    columns: Mapping[str, NDArray[Any]]
    leaf: NDArray[np.int64]
    target: NDArray[np.int64]
    weight: NDArray[Any]

    @property
    def trees(self) -> list[int]:
        """In the order of their numbers, in which they were trained."""
        return [int(number) for number in np.unique(self.tree)]

    @property
    def averages(self) -> bool:
        """Whether the operator divides the sum by the number of trees itself."""
        return _attribute(self.node, "aggregate_function", b"SUM") in _AVERAGES

    @property
    def adds(self) -> bool:
        """Whether it adds the trees up; the others take the least or the largest."""
        return _attribute(self.node, "aggregate_function", b"SUM") in (b"SUM", _SUM) or self.averages

    @property
    def transformed(self) -> bool:
        """Whether what is added up becomes something else, as probabilities."""
        return _attribute(self.node, "post_transform", b"NONE") not in (b"NONE", 0)

    @property
    def based(self) -> bool:
        """Whether there are values that the trees are added to."""
        return any(one.name in ("base_values", "base_values_as_tensor") for one in self.node.attribute)

    @property
    def scores(self) -> str:
        """The output that holds numbers."""
        return str(self.node.output[1 if self.node.op_type == "TreeEnsembleClassifier" else 0])

    def targets(self) -> dict[int, set[int]]:
        """The outputs that each tree adds to."""
        found: dict[int, set[int]] = {number: set() for number in self.trees}
        for number, target in np.unique(np.stack([self.tree[self.leaf], self.target], axis=1), axis=0).tolist():
            found[number].add(target)
        return found

    def kept(self, trees: Sequence[int], scale: float = 1.0) -> Ensemble:
        """Only these trees, the weights of their leaves times `scale`."""
        made = self._rows(np.isin(self.tree, trees))
        return replace(made, weight=(made.weight.astype(np.float64) * scale).astype(made.weight.dtype))

    def collapsed(self) -> Ensemble:
        """Without splits whose two leaves say the same; every answer stays as it is."""
        true, false = self.true.copy(), self.false.copy()
        says: dict[int, tuple[tuple[int, float], ...]] = {}
        for row, target, weight in zip(self.leaf.tolist(), self.target.tolist(), self.weight.tolist(), strict=True):
            says[row] = (*says.get(row, ()), (target, weight))
        says = {row: tuple(sorted(said)) for row, said in says.items()}
        gone = np.zeros(len(self.tree), bool)
        for row in self._children_first():
            one, other = int(true[row]), int(false[row])
            if one != _NONE and true[one] == _NONE and true[other] == _NONE and says.get(one, ()) == says.get(other, ()):
                says[row] = says.get(one, ())
                true[row] = false[row] = _NONE
                gone[[one, other]] = True
        kept = ~gone
        said = [
            (row, target, weight) for row in np.flatnonzero(kept & (true == _NONE)) for target, weight in says.get(int(row), ())
        ]
        columns = dict(self.columns)
        if "nodes_modes" in columns and columns["nodes_modes"].dtype == object:
            columns["nodes_modes"] = np.where(true == _NONE, np.array(_LEAF, object), columns["nodes_modes"])
        made = replace(
            self,
            true=true,
            false=false,
            columns=columns,
            leaf=np.array([row for row, _, _ in said], np.int64),
            target=np.array([target for _, target, _ in said], np.int64),
            weight=np.array([weight for _, _, weight in said], self.weight.dtype),
        )
        return made._rows(kept)

    def _children_first(self) -> list[int]:
        """Rows that split, none before its children."""
        splits = self.true != _NONE
        below = np.zeros(len(self.tree), bool)
        below[self.true[splits]] = below[self.false[splits]] = True
        order: list[int] = []
        level = np.flatnonzero(splits & ~below)
        while len(level):
            order += level.tolist()
            children = np.concatenate([self.true[level], self.false[level]])
            level = children[splits[children]]
        return order[::-1]

    def _rows(self, kept: NDArray[np.bool_]) -> Ensemble:
        moved = np.cumsum(kept) - 1

        def children(side: NDArray[np.int64]) -> NDArray[np.int64]:
            return np.where(side[kept] == _NONE, _NONE, moved[side[kept]])

        stays = kept[self.leaf]
        return replace(
            self,
            tree=self.tree[kept],
            true=children(self.true),
            false=children(self.false),
            columns={name: column[kept] for name, column in self.columns.items()},
            leaf=moved[self.leaf[stays]],
            target=self.target[stays],
            weight=self.weight[stays],
        )

    def to_node(self) -> Any:
        """The operator with these trees."""
        node = type(self.node).FromString(self.node.SerializeToString())
        (_write_rooted if node.op_type == "TreeEnsemble" else _write_numbered)(self, node)
        return node


def read_ensemble(node: Any) -> Ensemble:
    """Raises ValueError for what it cannot take apart."""
    return _read_rooted(node) if node.op_type == "TreeEnsemble" else _read_numbered(node)


def _attribute(node: Any, name: str, default: Any = None) -> Any:
    import onnx

    for one in node.attribute:
        if one.name == name:
            value = onnx.helper.get_attribute_value(one)
            return array_of(value) if one.type == onnx.AttributeProto.TENSOR else value
    return default


def _set(node: Any, name: str, value: NDArray[Any]) -> None:
    """Write the attribute anew in the form that it has; an empty one stays away."""
    import onnx

    one = next((one for one in node.attribute if one.name == name), None)
    if one is None:
        return
    if not len(value):
        node.attribute.remove(one)
    elif one.type == onnx.AttributeProto.TENSOR:
        one.t.CopyFrom(tensor_of(value, one.t.name))
    else:
        one.CopyFrom(onnx.helper.make_attribute(name, value.tolist()))


def _columns(node: Any, count: int) -> dict[str, NDArray[Any]]:
    """What the operator keeps of each node; lists that are empty are left out."""
    found = {}
    for name in _PER_NODE:
        value = _attribute(node, name)
        if value is not None and len(value):
            if len(value) != count:
                raise ValueError(f"its {name} has {len(value)} entries for {count} nodes")
            found[name] = np.array(value, object) if isinstance(value[0], bytes) else np.asarray(value)
    return found


# ── nodes with numbers: TreeEnsembleClassifier, TreeEnsembleRegressor ────────────────────────────────────────────────


def _prefix(node: Any) -> str:
    return "class" if node.op_type == "TreeEnsembleClassifier" else "target"


def _weights(node: Any) -> str:
    tensor = f"{_prefix(node)}_weights_as_tensor"
    return tensor if _attribute(node, tensor) is not None else f"{_prefix(node)}_weights"


def _read_numbered(node: Any) -> Ensemble:
    tree = np.asarray(_attribute(node, "nodes_treeids"), np.int64)
    numbers = np.asarray(_attribute(node, "nodes_nodeids"), np.int64)
    rows = {key: row for row, key in enumerate(zip(tree.tolist(), numbers.tolist(), strict=True))}
    if len(rows) != len(tree):
        raise ValueError("two of its nodes have one number")
    columns = _columns(node, len(tree))
    split = columns["nodes_modes"] != _LEAF
    sides = []
    for name in ("nodes_truenodeids", "nodes_falsenodeids"):
        children = zip(tree.tolist(), _attribute(node, name), split.tolist(), strict=True)
        sides.append(np.array([rows[number, child] if splits else _NONE for number, child, splits in children], np.int64))
    prefix = _prefix(node)
    leaves = zip(_attribute(node, f"{prefix}_treeids"), _attribute(node, f"{prefix}_nodeids"), strict=True)
    return Ensemble(
        node=node,
        tree=tree,
        true=sides[0],
        false=sides[1],
        columns=columns,
        leaf=np.array([rows[key] for key in leaves], np.int64),
        target=np.asarray(_attribute(node, f"{prefix}_ids"), np.int64),
        weight=np.asarray(_attribute(node, _weights(node)), None if _weights(node).endswith("tensor") else np.float32),
    )


def _write_numbered(ensemble: Ensemble, node: Any) -> None:
    numbers = ensemble.columns["nodes_nodeids"]
    _set(node, "nodes_treeids", ensemble.tree)
    for name, side in (("nodes_truenodeids", ensemble.true), ("nodes_falsenodeids", ensemble.false)):
        _set(node, name, np.where(side == _NONE, 0, numbers[side]))
    for name, column in ensemble.columns.items():
        _set(node, name, column)
    prefix = _prefix(node)
    _set(node, f"{prefix}_treeids", ensemble.tree[ensemble.leaf])
    _set(node, f"{prefix}_nodeids", numbers[ensemble.leaf])
    _set(node, f"{prefix}_ids", ensemble.target)
    _set(node, _weights(node), ensemble.weight)


# ── trees by their roots: TreeEnsemble ───────────────────────────────────────────────────────────────────────────────


def _read_rooted(node: Any) -> Ensemble:
    """Its rows are the splits and then the leaves. A tree that is one leaf is a split with that leaf on both sides."""
    roots = np.asarray(_attribute(node, "tree_roots"), np.int64)
    leaves = np.asarray(_attribute(node, "leaf_targetids"), np.int64)
    sides, count = [], len(_attribute(node, "nodes_featureids"))
    for name, is_leaf in (("nodes_truenodeids", "nodes_trueleafs"), ("nodes_falsenodeids", "nodes_falseleafs")):
        children = np.asarray(_attribute(node, name), np.int64)
        side = np.where(np.asarray(_attribute(node, is_leaf), bool), children + count, children)
        sides.append(np.concatenate([side, np.full(len(leaves), _NONE)]))
    columns = _columns(node, count)
    if (columns["nodes_modes"] == _MEMBER).any():
        raise ValueError("it has splits by sets of values")
    tree = np.full(count + len(leaves), _NONE, np.int64)
    for number, root in enumerate(roots.tolist()):
        waiting = [root]
        while waiting:
            row = waiting.pop()
            if tree[row] not in (_NONE, number):
                raise ValueError("two of its trees share nodes")
            tree[row] = number
            waiting += [int(side[row]) for side in sides if side[row] != _NONE]
    if (tree == _NONE).any():
        raise ValueError("it has nodes that no tree reaches")
    filled = {name: np.concatenate([column, np.zeros(len(leaves), column.dtype)]) for name, column in columns.items()}
    return Ensemble(
        node=node,
        tree=tree,
        true=sides[0],
        false=sides[1],
        columns=filled | {"root": np.isin(np.arange(len(tree)), roots)},
        leaf=np.arange(count, count + len(leaves)),
        target=leaves,
        weight=np.asarray(_attribute(node, "leaf_weights")),
    )


def _write_rooted(ensemble: Ensemble, node: Any) -> None:
    split = ensemble.true != _NONE
    alone = ensemble.columns["root"] & ~split  # a tree that became a leaf
    inner = np.flatnonzero(split | alone)
    place = {int(row): number for number, row in enumerate(inner)}
    leaf = {int(row): number for number, row in enumerate(ensemble.leaf)}
    for name, is_leaf, side in (
        ("nodes_truenodeids", "nodes_trueleafs", ensemble.true), ("nodes_falsenodeids", "nodes_falseleafs", ensemble.false),
    ):  # fmt: skip
        children = [int(row) if alone[row] else int(side[row]) for row in inner]
        ends = [alone[row] or not split[child] for row, child in zip(inner, children, strict=True)]
        _set(node, name, np.array([leaf[c] if end else place[c] for c, end in zip(children, ends, strict=True)], np.int64))
        _set(node, is_leaf, np.array(ends, np.int64))
    for name, column in ensemble.columns.items():
        if name != "root":
            _set(node, name, column[inner])
    _set(node, "tree_roots", np.array([place[int(row)] for row in inner if ensemble.columns["root"][row]], np.int64))
    _set(node, "leaf_targetids", ensemble.target)
    _set(node, "leaf_weights", ensemble.weight)
