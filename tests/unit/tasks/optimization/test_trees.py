from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from openmaas.core.errors import Refused
from openmaas.core.recipes import Prune
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.ensembles import read_ensemble
from openmaas.tasks.optimization.passes.trees import prune_trees

from .graph_models import bench, graph, piece_of, rows, run


def _stumps(leaves: list[tuple[float, float]], **attributes: Any) -> onnx.ModelProto:
    """A regressor of trees with one split each: x[0] <= 0 gives the first number, else the second."""
    count = len(leaves)
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], name="trees", domain="ai.onnx.ml", n_targets=1,
        nodes_treeids=[tree for tree in range(count) for _ in range(3)],
        nodes_nodeids=[0, 1, 2] * count,
        nodes_featureids=[0, 0, 0] * count,
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * count,
        nodes_values=[0.0, 0.0, 0.0] * count,
        nodes_truenodeids=[1, 0, 0] * count,
        nodes_falsenodeids=[2, 0, 0] * count,
        target_treeids=[tree for tree in range(count) for _ in range(2)],
        target_nodeids=[1, 2] * count,
        target_ids=[0, 0] * count,
        target_weights=[float(weight) for pair in leaves for weight in pair],
        **attributes,
    )  # fmt: skip
    return graph([node], {}, {"x": ["n", 2]}, {"y": ["n", 1]})


def _examples(count: int = 128) -> Examples:
    return Examples(inputs={"x": rows(count, 2)}, truth=None, task="agreement", index=np.arange(count), digest="d")


_SIDES = np.float32([[-1, 0], [1, 0]])


def _sides(path: Any) -> list[float]:
    return [round(float(value), 5) for value in run(path, {"x": _SIDES})["y"].ravel()]


def test_a_booster_without_its_last_trees_is_the_booster_of_before(tmp_path: Path) -> None:
    model = _stumps([(8, -8), (4, -4), (2, -2), (1, -1)], base_values=[100.0])
    made = prune_trees(
        piece_of(model, tmp_path / "a"), Prune(method="trees", amount=0.5), bench(tmp_path, training=_examples())
    )
    assert _sides(made.path) == [112, 88]
    (told,) = made.facts["trees"]
    assert (told["trees"], told["nodes"], told["rule"]) == ([4, 2], [12, 6], "sum")
    assert made.facts["moved"]["y"]["largest"] == 3


def test_a_forest_without_its_last_trees_is_the_mean_of_the_others(tmp_path: Path) -> None:
    model = _stumps([(1.0, 3.0), (1.5, 3.0), (0.5, 3.0), (1.0, 3.5)])
    made = prune_trees(
        piece_of(model, tmp_path / "a"), Prune(method="trees", amount=0.5), bench(tmp_path, training=_examples())
    )
    assert _sides(made.path) == [5, 12]
    assert made.facts["trees"][0]["rule"] == "mean"


def test_boosters_without_base_values_are_found_out(tmp_path: Path) -> None:
    model = _stumps([(8, -8), (1, -1), (0.5, -0.5), (0.25, -0.25)])
    made = prune_trees(
        piece_of(model, tmp_path / "a"), Prune(method="trees", amount=0.5), bench(tmp_path, training=_examples())
    )
    assert _sides(made.path) == [9, -9]


def test_an_operator_that_averages_needs_no_other_leaves(tmp_path: Path) -> None:
    model = _stumps([(4, 12), (6, 12), (2, 12), (4, 14)], aggregate_function="AVERAGE")
    made = prune_trees(
        piece_of(model, tmp_path / "a"), Prune(method="trees", amount=0.5), bench(tmp_path, training=_examples())
    )
    assert _sides(made.path) == [5, 12]


def test_splits_that_decide_nothing_are_collapsed(tmp_path: Path) -> None:
    model = _stumps([(3, 3), (1, 2)], base_values=[0.0])
    made = prune_trees(piece_of(model, tmp_path / "a"), Prune(method="trees", amount=0), bench(tmp_path, training=_examples()))
    assert _sides(made.path) == [4, 5]
    assert made.facts["trees"][0]["nodes"] == [6, 4]
    assert made.facts["moved"]["y"]["largest"] == 0


def test_nothing_to_drop_is_told(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"of 2 rounds in trees, 0\.3 is not one"):
        prune_trees(
            piece_of(_stumps([(1, 2), (1, 2)]), tmp_path / "a"),
            Prune(method="trees", amount=0.3),
            bench(tmp_path, training=_examples()),
        )
    model = graph([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": ["n", 2]}, {"y": ["n", 2]})
    with pytest.raises(Refused, match="no ensemble of trees"):
        prune_trees(piece_of(model, tmp_path / "b"), Prune(method="trees"), bench(tmp_path / "b", training=_examples()))


def test_the_newer_operator(tmp_path: Path) -> None:
    """Two trees: of the first, both leaves of a split below the root are equal; the second is one split."""
    node = helper.make_node(
        "TreeEnsemble", ["x"], ["y"], name="trees", domain="ai.onnx.ml", n_targets=1, aggregate_function=1, post_transform=0,
        tree_roots=[0, 2], nodes_featureids=[0, 1, 0],
        nodes_modes=numpy_helper.from_array(np.uint8([0, 0, 0]), "m"),
        nodes_splits=numpy_helper.from_array(np.float32([0, 0, 0]), "s"),
        nodes_truenodeids=[1, 0, 3], nodes_trueleafs=[0, 1, 1], nodes_falsenodeids=[2, 1, 4], nodes_falseleafs=[1, 1, 1],
        leaf_targetids=[0, 0, 0, 0, 0],
        leaf_weights=numpy_helper.from_array(np.float32([7, 7, 9, 0.5, 0.25]), "w"),
    )  # fmt: skip
    model = helper.make_model(
        helper.make_graph(
            [node], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        ),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 5)], ir_version=10,
    )  # fmt: skip
    assert _sides(model) == [7.5, 9.25]
    made = prune_trees(piece_of(model, tmp_path / "a"), Prune(method="trees", amount=0), bench(tmp_path, training=_examples()))
    assert _sides(made.path) == [7.5, 9.25]
    assert made.facts["trees"][0]["nodes"] == [8, 6]
    folder = tmp_path / "half"
    folder.mkdir()
    made = prune_trees(piece_of(model, folder / "a"), Prune(method="trees", amount=0.5), bench(folder, training=_examples()))
    assert _sides(made.path) == [7, 9]


def test_a_tree_of_the_newer_operator_that_becomes_one_leaf() -> None:
    node = helper.make_node(
        "TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, tree_roots=[0], nodes_featureids=[0],
        nodes_modes=numpy_helper.from_array(np.uint8([0]), "m"), nodes_splits=numpy_helper.from_array(np.float32([0]), "s"),
        nodes_truenodeids=[0], nodes_trueleafs=[1], nodes_falsenodeids=[1], nodes_falseleafs=[1], leaf_targetids=[0, 0],
        leaf_weights=numpy_helper.from_array(np.float32([5, 5]), "w"),
    )  # fmt: skip
    made = read_ensemble(node).collapsed().to_node()
    values = {one.name: helper.get_attribute_value(one) for one in made.attribute}
    assert values["tree_roots"] == values["nodes_truenodeids"] == values["nodes_falsenodeids"] == [0]
    assert values["nodes_trueleafs"] == values["nodes_falseleafs"] == [1]
    assert numpy_helper.to_array(values["leaf_weights"]).tolist() == [5]


def test_numbers_of_double_precision_stay_so(tmp_path: Path) -> None:
    model = _stumps([(8, -8), (4, -4), (2, -2), (1, -1)], base_values=[100.0])
    (node,) = model.graph.node
    for name in ("nodes_values", "target_weights"):
        (old,) = [one for one in node.attribute if one.name == name]
        values = numpy_helper.from_array(np.array(old.floats, np.float64), name)
        node.attribute.remove(old)
        node.attribute.append(helper.make_attribute(f"{name}_as_tensor", values))
    (base,) = [one for one in node.attribute if one.name == "base_values"]
    node.attribute.remove(base)
    node.attribute.append(helper.make_attribute("base_values_as_tensor", numpy_helper.from_array(np.array([100.0]), "b")))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    examples = _examples()
    examples = replace(examples, inputs={"x": examples.inputs["x"].astype(np.float64)})
    made = prune_trees(piece_of(model, tmp_path / "a"), Prune(method="trees", amount=0.5), bench(tmp_path, training=examples))
    assert run(made.path, {"x": _SIDES.astype(np.float64)})["y"].ravel().tolist() == [112, 88]
    kept = {one.name: one for one in onnx.load(made.path).graph.node[0].attribute}
    assert kept["target_weights_as_tensor"].t.data_type == TensorProto.DOUBLE
    assert made.facts["trees"][0]["rule"] == "sum"
