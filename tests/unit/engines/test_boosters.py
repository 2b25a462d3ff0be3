"""Booster files read as data: what they say, and that nothing points outside before a native library follows it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError, Refused
from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.types import Signature
from openmaas.engines import EngineSpec, create_engine
from openmaas.engines.boosters.booster import Booster, read_booster
from openmaas.engines.boosters.lightgbm_file import is_lightgbm
from openmaas.engines.boosters.ubjson import NotUbjson, decode
from openmaas.engines.boosters.xgboost_file import is_xgboost
from openmaas.formats.observed import specs_of

xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")
pandas = pytest.importorskip("pandas")
datasets = pytest.importorskip("sklearn.datasets")

X, Y = datasets.load_iris(return_X_y=True)
TABLE = pandas.DataFrame({"size": X[:, 0], "kind": pandas.Categorical(np.array(["x", "y", "z"])[np.arange(150) % 3])})
TABLE["code"] = pandas.Categorical(np.array([3, 5, 9])[Y])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("boosters")
    plain = xgboost.XGBClassifier(n_estimators=3, max_depth=3).fit(X, Y)
    split = xgboost.XGBClassifier(n_estimators=3, max_depth=3, enable_categorical=True).fit(TABLE, Y)
    dart = xgboost.XGBClassifier(n_estimators=3, max_depth=2, booster="dart").fit(X, Y)
    linear = xgboost.XGBClassifier(n_estimators=3, booster="gblinear").fit(X, Y)
    names = {"plain": plain, "split": split, "dart": dart, "linear": linear}
    for name, model in names.items():
        model.save_model(folder / f"{name}.json")
        model.save_model(folder / f"{name}.ubj")
    options = {"n_estimators": 3, "num_leaves": 5, "min_child_samples": 5, "verbose": -1}
    lightgbm.LGBMClassifier(**options).fit(X, Y).booster_.save_model(folder / "plain.txt")
    lightgbm.LGBMClassifier(**options).fit(TABLE, Y).booster_.save_model(folder / "split.txt")
    lightgbm.LGBMRegressor(linear_tree=True, **options).fit(X, Y.astype(float)).booster_.save_model(folder / "linear.txt")
    return {path.name: path for path in folder.iterdir()}


def test_told_by_content(files: dict[str, Path], tmp_path: Path) -> None:
    assert {name for name, path in files.items() if is_xgboost(path)} == {n for n in files if not n.endswith("txt")}
    assert {name for name, path in files.items() if is_lightgbm(path)} == {n for n in files if n.endswith("txt")}
    for text in (b"", b"{", b'{"learner"', b'{"model": {"learner": 1}}', b"tree\nversion=v4\n", b"tree\n", b"{L\0\0"):
        (tmp_path / "other").write_bytes(text)
        assert not is_xgboost(tmp_path / "other")
        assert not is_lightgbm(tmp_path / "other")


@pytest.mark.parametrize("name", ["plain", "split", "dart", "linear"])
def test_ubjson_says_what_json_says(name: str, files: dict[str, Path]) -> None:
    one, other = read_booster(files[f"{name}.json"]), read_booster(files[f"{name}.ubj"])
    assert one.features == other.features
    assert (one.objective, one.outputs, one.answer) == ("multi:softprob", 3, "multiclass")
    assert (other.objective, other.outputs, other.linear) == ("multi:softprob", 3, name == "linear")
    rows = {"X": X[:9].astype(np.float32)}
    if name == "split":
        rows = columns_of(TABLE[:9])
    first, second = Booster(one).answer(rows), Booster(other).answer(rows)
    assert np.array_equal(first["probabilities"], second["probabilities"])


def columns_of(table: Any) -> dict[str, Any]:
    return {
        "size": table[["size"]].to_numpy(np.float64),
        "kind": np.array([[kind.encode()] for kind in table["kind"]], object),
        "code": table["code"].to_numpy(np.int64).reshape(-1, 1),
    }


@pytest.mark.parametrize("file", ["split.json", "split.txt"])
def test_categories_are_known_by_their_values(file: str, files: dict[str, Path]) -> None:
    checked = read_booster(files[file])
    assert [feature.categories for feature in checked.features] == [None, ("x", "y", "z"), (3, 5, 9)]
    assert checked.by_column
    assert checked.obstacle is not None
    booster = Booster(checked)
    rows = columns_of(TABLE)
    assert (booster.answer(rows)["label"] == Y).mean() > 0.9
    rows["kind"][4, 0] = b"w"
    with pytest.raises(InvalidInput, match=r"Column 'kind' holds 'w'; its categories are 'x', 'y', 'z'") as caught:
        booster.answer(rows)
    assert caught.value.code == "unknown_category"
    rows["kind"][4, 0] = b""  # missing
    assert len(booster.answer(rows)["label"]) == 150


def test_names_that_xgboost_cuts_are_refused(tmp_path: Path) -> None:
    table = pandas.DataFrame({"kind": pandas.Categorical(np.array(["éx", "y", "z"])[Y])})
    xgboost.XGBClassifier(n_estimators=2, enable_categorical=True).fit(table, Y).save_model(tmp_path / "m.json")
    with pytest.raises(InvalidInput, match="beyond ASCII"):
        read_booster(tmp_path / "m.json")


# ── hostile xgboost files ────────────────────────────────────────────────────────────────────────────────────────────

Document = dict[str, Any]


def model_of(document: Document) -> Document:
    booster = document["learner"]["gradient_booster"]
    found: Document = booster.get("gbtree", booster)["model"]
    return found


def tree(document: Document) -> Document:
    found: Document = next(tree for tree in model_of(document)["trees"] if len(tree["left_children"]) > 3)
    return found


def put(*path: str | int, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        place: Any = tree(document)
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


def parameter(name: str, value: Any) -> Callable[[Document], None]:
    return lambda document: document["learner"]["learner_model_param"].update({name: value})


def deep(document: Document) -> None:
    document["learner"]["objective"] = json.loads("[" * 60 + "]" * 60)


HOSTILE: dict[str, tuple[str, Callable[[Document], None]]] = {
    "a child that does not exist": ("plain", put("left_children", 0, value=10**6)),
    "a negative child": ("plain", put("right_children", 0, value=-7)),
    "a loop": ("plain", put("left_children", 0, value=0)),
    "two parents": (
        "plain",
        lambda document: tree(document)["left_children"].__setitem__(1, tree(document)["left_children"][0]),
    ),
    "one child only": ("plain", put("right_children", 0, value=-1)),
    "a child as text": ("plain", put("left_children", 0, value="1")),
    "a child as a fraction": ("plain", put("left_children", 0, value=1.5)),
    "a feature that does not exist": ("plain", put("split_indices", 0, value=4)),
    "a short list": ("plain", lambda document: tree(document)["split_conditions"].pop()),
    "a short list that is seldom read": ("plain", lambda document: tree(document)["sum_hessian"].pop()),
    "more nodes than there are": ("plain", put("tree_param", "num_nodes", value="99")),
    "no nodes": ("plain", put("tree_param", "num_nodes", value="0")),
    "a tree wider than the model": ("plain", put("tree_param", "num_feature", value="9")),
    "more trees than there are": ("plain", lambda document: model_of(document)["gbtree_model_param"].update(num_trees="10")),
    "a tree of no class": ("plain", lambda document: model_of(document)["tree_info"].__setitem__(0, 3)),
    "rounds that overlap": ("plain", lambda document: model_of(document)["iteration_indptr"].__setitem__(1, 99)),
    "more features": ("plain", parameter("num_feature", str(2**31))),
    "fewer classes": ("plain", parameter("num_class", "2")),
    "a number that is none": ("plain", parameter("num_class", "-3")),
    "a score for nobody": ("plain", parameter("base_score", "[1,2]")),
    "a score that is none": ("plain", parameter("base_score", "[x]")),
    "an objective of somebody": ("plain", lambda document: document["learner"]["objective"].update(name="../x")),
    "no booster": ("plain", lambda document: document["learner"]["gradient_booster"].update(name="gbother")),
    "names for other features": ("plain", lambda document: document["learner"].update(feature_names=["a"])),
    "something else": ("plain", lambda document: document["learner"].update(gradient_booster=[])),
    "trees that are none": ("plain", lambda document: model_of(document).update(trees=[1])),
    "nested deeply": ("plain", deep),
    "no categories of a split": ("split", lambda document: category_tree(document).update(categories_nodes=[0] * 50)),
    "categories outside": ("split", lambda document: category_tree(document)["categories_segments"].__setitem__(0, 10**6)),
    "a giant category": ("split", lambda document: category_tree(document)["categories"].__setitem__(0, 2**30)),
    "a negative category": ("split", lambda document: category_tree(document)["categories"].__setitem__(0, -5)),
    "names outside": ("split", lambda document: model_of(document)["cats"]["enc"][1]["offsets"].__setitem__(1, 10**6)),
    "names in disorder": ("split", lambda document: model_of(document)["cats"]["enc"][1]["offsets"].__setitem__(1, 3)),
    "weights missing": ("dart", lambda document: document["learner"]["gradient_booster"]["weight_drop"].pop()),
    "coefficients missing": ("linear", lambda document: model_of(document)["weights"].pop()),
}


def category_tree(document: Document) -> Document:
    found: Document = next(tree for tree in model_of(document)["trees"] if tree["categories_nodes"])
    return found


@pytest.mark.parametrize("harm", HOSTILE)
def test_an_xgboost_file_that_points_outside_of_itself(harm: str, files: dict[str, Path], tmp_path: Path) -> None:
    source, change = HOSTILE[harm]
    document = json.loads(files[f"{source}.json"].read_bytes())
    change(document)
    (tmp_path / "m.json").write_text(json.dumps(document))
    with pytest.raises(Refused) as caught:
        read_booster(tmp_path / "m.json")
    assert caught.value.code == "damaged"
    assert "booster's file is damaged" in caught.value.message


def test_the_library_reads_only_what_was_checked(files: dict[str, Path], tmp_path: Path) -> None:
    """A key that is given twice: what the library would take of the two must be what was looked at."""
    text = files["plain.json"].read_text()
    twice = text.replace('"left_children":', '"left_children":[1000000],"left_children":', 1)
    (tmp_path / "m.json").write_text(twice)
    answers = Booster(read_booster(tmp_path / "m.json")).answer({"X": X.astype(np.float32)})
    assert np.array_equal(answers["label"], Booster(read_booster(files["plain.json"])).answer({"X": X})["label"])


@pytest.mark.parametrize("name", ["plain.json", "plain.ubj", "plain.txt", "split.json", "split.ubj", "split.txt", "linear.txt"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_answers(
    name: str, files: dict[str, Path], data: st.DataObject, tmp_path_factory: Any
) -> None:
    """Cut short and with bytes changed: an error of ours, or a model that the library can run."""
    content = bytearray(files[name].read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.sampled_from(list(b"-0129]},= \n\xff")))
    path = tmp_path_factory.mktemp("damaged") / "file"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2, len(content) - 3]))])
    try:
        checked = read_booster(path)
        booster = Booster(checked)
        features = len(checked.features)
        rows = {"X": np.zeros((3, features), np.float32)}
        if checked.by_column:
            rows = {f.name: empty_column(f.categories) for f in checked.features}
        booster.answer(rows)
    except OpenMaaSError as error:
        assert error.message


def empty_column(categories: Any) -> Any:
    if categories is None:
        return np.zeros((3, 1))
    return np.full((3, 1), b"", object) if isinstance(categories[0], str) else np.full((3, 1), categories[0])


# ── hostile UBJSON ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"{}", {}),
        (b"[]", []),
        (b"{i\x01aU\xff}", {"a": 255}),
        (b"[$l#i\x02\0\0\0\1\xff\xff\xff\xff", [1, -1]),
        (b"[$d#i\x01\x3d\xcc\xcc\xcd", [0.1]),
        (b"[#i\x02TZ", [True, None]),
        (b"[i\x05Si\x02hi]", [5, "hi"]),
        (b"{i\x01aD\x3f\xf0\0\0\0\0\0\0}", {"a": 1.0}),
    ],
)
def test_ubjson(data: bytes, value: Any) -> None:
    assert decode(data) == value


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[", b"x", b"{}x", b"Si\x05hi", b"SU", b"Si\xff", b"[$l#L\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"[#L\x00\x00\x00\xff\0\0\0\0",
        b"[$S#i\x01i\x01a", b"[" * 100, b"{i\x01aTi\x01aT}", b"[$l#i\xff", b"Si\x01\xff", b"[$",
    ],
)  # fmt: skip
def test_what_is_no_ubjson(data: bytes) -> None:
    with pytest.raises(NotUbjson):
        decode(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_ubjson_or_not(data: bytes) -> None:
    try:
        decode(b"{" + data)
    except NotUbjson:
        return


# ── hostile LightGBM files ───────────────────────────────────────────────────────────────────────────────────────────


def replaced(pattern: str, new: str) -> Callable[[str], str]:
    return lambda text: re.sub(pattern, new, text, count=1, flags=re.MULTILINE)


HOSTILE_TEXT: dict[str, tuple[str, Callable[[str], str]]] = {
    "a child that does not exist": ("plain", replaced(r"^left_child=\S+", "left_child=900000")),
    "a leaf that does not exist": ("plain", replaced(r"^right_child=\S+", "right_child=-900000")),
    "a loop": ("plain", replaced(r"^left_child=\S+", "left_child=0")),
    "a feature that does not exist": ("plain", replaced(r"^split_feature=\S+", "split_feature=4")),
    "a negative feature": ("plain", replaced(r"^split_feature=\S+", "split_feature=-1")),
    "more leaves than there are": ("plain", replaced(r"^num_leaves=\S+", "num_leaves=90000")),
    "no leaves": ("plain", replaced(r"^num_leaves=\S+", "num_leaves=0")),
    "a key given twice": ("plain", replaced(r"^(num_leaves=\S+)", r"\1\nnum_leaves=7")),
    "a value that is no number": ("plain", replaced(r"^leaf_value=\S+", "leaf_value=1_0")),
    "an objective with more classes": ("plain", replaced(r"num_class:3", "num_class:3000")),
    "more classes": ("plain", replaced(r"^num_class=3", "num_class=3000")),
    "more trees a round": ("plain", replaced(r"^num_tree_per_iteration=3", "num_tree_per_iteration=9")),
    "another objective": ("plain", replaced(r"^objective=.*", "objective=binary sigmoid:1")),
    "more features": ("plain", replaced(r"^max_feature_idx=3", "max_feature_idx=30")),
    "too many features": ("plain", replaced(r"^max_feature_idx=3", "max_feature_idx=999999999")),
    "no end": ("plain", replaced(r"^end of trees", "")),
    "a tree left out": ("plain", replaced(r"^Tree=1$", "Tree=2")),
    "a category that does not exist": ("split", replaced(r"^cat_boundaries=\S+", "cat_boundaries=900")),
    "fewer categories": ("split", replaced(r"^cat_threshold=\S+", "cat_threshold=1 2 3 4 5 6 7 8")),
    "no categories of a split": ("split", replaced(r"^num_cat=[1-9]", "num_cat=0")),
    "category names that cannot be read": ("split", replaced(r"^pandas_categorical:.*", "pandas_categorical:[1]")),
    "a leaf's feature that does not exist": ("linear", replaced(r"^leaf_features=\S+", "leaf_features=77")),
    "fewer coefficients": ("linear", replaced(r"^leaf_coeff=\S+ ", "leaf_coeff=")),
}


@pytest.mark.parametrize("harm", HOSTILE_TEXT)
def test_a_lightgbm_file_that_points_outside_of_itself(harm: str, files: dict[str, Path], tmp_path: Path) -> None:
    source, change = HOSTILE_TEXT[harm]
    text = files[f"{source}.txt"].read_text()
    assert change(text) != text
    (tmp_path / "m.txt").write_text(change(text))
    with pytest.raises(Refused) as caught:
        read_booster(tmp_path / "m.txt")
    assert caught.value.code == "damaged"


def test_lying_lengths_of_trees_are_not_even_read(files: dict[str, Path], tmp_path: Path) -> None:
    """LightGBM jumps by them from tree to tree; it is given the file without them."""
    text = files["plain.txt"].read_text()
    (tmp_path / "m.txt").write_text(replaced(r"^tree_sizes=.*", "tree_sizes=" + " ".join(["999999999"] * 9))(text))
    checked = read_booster(tmp_path / "m.txt")
    assert b"tree_sizes" not in checked.content
    model = lightgbm.Booster(model_str=text)
    answers = Booster(checked).answer({"X": X})
    assert np.array_equal(answers["probabilities"], model.predict(X))
    assert np.array_equal(answers["label"], model.predict(X).argmax(axis=1))


# ── engines ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def manifest(file: str, kind: str, booster: Booster, inputs: Any, **options: Any) -> Manifest:
    signature = Signature(inputs=specs_of(inputs), outputs=specs_of(booster.answer(inputs)))
    artifact = Artifact(kind=kind, entry=file, options=options)
    return Manifest(format="boosters", engine=kind, entry=file, artifacts=(artifact,), signature=signature, files=())


@pytest.mark.parametrize(("file", "kind"), [("plain.json", "xgboost"), ("plain.ubj", "xgboost"), ("plain.txt", "lightgbm")])
def test_an_engine_serves_the_file(file: str, kind: str, files: dict[str, Path]) -> None:
    inputs = {"X": X.astype(np.float32)}
    labels = ["a", "b", "ç"]
    described = manifest(file, kind, Booster(read_booster(files[file]), labels=labels), inputs, labels=labels)
    engine = create_engine(kind)
    engine.load(EngineSpec(folder=files[file].parent, manifest=described, threads=2))
    engine.warm()
    answers = engine.run({"X": inputs["X"][:7]})
    assert [label.decode() for label in answers["label"]] == [labels[y] for y in Y[:7]]
    np.testing.assert_allclose(answers["probabilities"].sum(axis=1), 1, rtol=1e-5)
    assert engine.describe()["threads"] == "2"
    with pytest.raises(OpenMaaSError, match=r"shape \[2, 3\]"):
        engine.run({"X": inputs["X"][:2, :3]})


def test_an_engine_says_why_it_cannot_load(files: dict[str, Path], tmp_path: Path) -> None:
    booster = Booster(read_booster(files["plain.json"]))
    (tmp_path / "plain.json").write_text('{"learner":{}}')
    engine = create_engine("xgboost")
    with pytest.raises(EngineFailed, match="damaged") as caught:
        engine.load(EngineSpec(folder=tmp_path, manifest=manifest("plain.json", "xgboost", booster, {"X": X})))
    assert caught.value.code == "load_failed"


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e38, -1.0, 2.0**30])
def test_codes_of_categories_that_nobody_has(value: float, tmp_path: Path) -> None:
    """Trained on codes alone: any number may come."""
    codes = np.c_[X[:, 0], Y].astype(np.float32)
    data = xgboost.DMatrix(codes, Y, feature_types=["q", "c"], enable_categorical=True)
    xgboost.train({"objective": "multi:softprob", "num_class": 3}, data, 3).save_model(tmp_path / "m.json")
    booster = Booster(read_booster(tmp_path / "m.json"))
    codes[1] = value
    try:
        assert booster.answer({"X": codes})["probabilities"].shape == (150, 3)
    except EngineFailed as error:
        assert "xgboost cannot run this input" in error.message


def test_a_missing_value_of_ones_own(files: dict[str, Path]) -> None:
    checked = read_booster(files["plain.json"])
    rows = X.astype(np.float32).copy()
    rows[:, 2] = -999
    lacking = rows.copy()
    lacking[:, 2] = np.nan
    plain, own = Booster(checked), Booster(checked, missing=-999)
    assert np.array_equal(own.answer({"X": rows})["probabilities"], plain.answer({"X": lacking})["probabilities"])
    assert not np.array_equal(own.answer({"X": rows})["probabilities"], plain.answer({"X": rows})["probabilities"])


def test_reading_changes_nothing(files: dict[str, Path]) -> None:
    document = json.loads(files["split.json"].read_bytes())
    before = copy.deepcopy(document)
    read_booster(files["split.json"])
    assert json.loads(files["split.json"].read_bytes()) == before
