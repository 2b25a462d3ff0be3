from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import EngineFailed, InvalidInput, Refused
from openmaas.core.manifest import Manifest
from openmaas.core.types import Signature
from openmaas.engines import Engine, EngineSpec, create_engine
from openmaas.engines.sklearn.estimator import Estimator, check_trees
from openmaas.formats.observed import specs_of

datasets = pytest.importorskip("sklearn.datasets")
skops_io = pytest.importorskip("skops.io")

from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402
from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

X, Y = datasets.load_iris(return_X_y=True)


def manifest(model: Any, inputs: dict[str, np.ndarray], entry: str, **options: Any) -> Manifest:
    outputs = Estimator(model, options.get("layout", "matrix")).answer(inputs)
    signature = Signature(inputs=specs_of(inputs), outputs=specs_of(outputs))
    return Manifest(format="sklearn", engine="sklearn", entry=entry, signature=signature, files=(), options=options)


def load(folder: Path, described: Manifest) -> Engine:
    engine = create_engine("sklearn")
    engine.load(EngineSpec(folder=folder, manifest=described))
    return engine


def test_a_classifier_gives_labels_and_probabilities(tmp_path: Path) -> None:
    model = LogisticRegression(max_iter=500).fit(X, Y)
    skops_io.dump(model, tmp_path / "m.skops")
    engine = load(tmp_path, manifest(model, {"X": X}, "m.skops"))
    engine.warm()
    answers = engine.run({"X": X[:5]})
    assert list(answers) == ["label", "probabilities"]
    assert answers["label"].dtype == np.int64
    assert np.array_equal(answers["label"], model.predict(X[:5]))
    assert np.array_equal(answers["probabilities"], model.predict_proba(X[:5]))
    assert engine.describe()["library"] == "scikit-learn"


@pytest.mark.parametrize(
    ("model", "names", "kinds"),
    [
        (LinearRegression().fit(X, Y), ["prediction"], ["f"]),
        (LinearRegression().fit(X, np.c_[Y, Y]), ["prediction"], ["f"]),
        (StandardScaler().fit(X), ["transformed"], ["f"]),
        (IsolationForest(n_estimators=5, random_state=0).fit(X), ["label", "scores"], ["i", "f"]),
        (DecisionTreeClassifier().fit(X, Y.astype(float)), ["label", "probabilities"], ["i", "f"]),
        (DecisionTreeClassifier().fit(X, Y == 1), ["label", "probabilities"], ["i", "f"]),
        (DecisionTreeClassifier().fit(X, np.array(["a", "b", "ç"])[Y]), ["label", "probabilities"], ["O", "f"]),
        (
            RandomForestClassifier(n_estimators=2).fit(X, np.c_[Y, Y]),
            ["label", "probabilities_0", "probabilities_1"],
            ["i", "f", "f"],
        ),
    ],
)
def test_the_outputs_of_each_kind(model: Any, names: list[str], kinds: list[str]) -> None:
    answers = Estimator(model).answer({"X": X[:3]})
    assert list(answers) == names
    assert [array.dtype.kind for array in answers.values()] == kinds
    assert all(len(array) == 3 for array in answers.values())
    assert all(array.ndim == 2 for name, array in answers.items() if name != "label")


def test_sparse_answers_are_made_dense() -> None:
    cities = np.array([["a"], ["b"]], object)
    model = OneHotEncoder().fit(cities)
    assert Estimator(model).answer({"X": np.array([[b"b"]], object)})["transformed"].tolist() == [[0.0, 1.0]]


def test_what_neither_predicts_nor_transforms_is_refused() -> None:
    from sklearn.neighbors import KernelDensity

    with pytest.raises(InvalidInput, match="KernelDensity neither predicts nor transforms"):
        Estimator(KernelDensity().fit(X))


def test_a_failing_input_is_told() -> None:
    with pytest.raises(EngineFailed, match="expecting 4 features"):
        Estimator(LinearRegression().fit(X, Y)).answer({"X": X[:, :2]})


def test_types_that_are_not_ours_are_not_built(tmp_path: Path) -> None:
    model = StandardScaler().fit(X)
    skops_io.dump(model, tmp_path / "m.skops")
    described = manifest(model, {"X": X}, "m.skops")
    _replace(tmp_path / "m.skops", b"sklearn.preprocessing._data", b"openmaas_no_such_module")
    with pytest.raises(EngineFailed, match=r"openmaas_no_such_module\.StandardScaler"):
        load(tmp_path, described)


def _replace(path: Path, old: bytes, new: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert old in members["schema.json"]
    members["schema.json"] = members["schema.json"].replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_an_approved_pickle_is_loaded_and_another_is_not(tmp_path: Path) -> None:
    model = LinearRegression().fit(X, Y)
    data = pickle.dumps(model)
    (tmp_path / "m.pkl").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    engine = load(tmp_path, manifest(model, {"X": X}, "m.pkl", pickle_sha256=digest))
    assert np.array_equal(engine.run({"X": X[:2]})["prediction"], model.predict(X[:2]).reshape(-1, 1))
    with pytest.raises(EngineFailed, match="not the approved one"):
        load(tmp_path, manifest(model, {"X": X}, "m.pkl", pickle_sha256="0" * 64))


def test_a_pickle_that_pretends_to_be_skops_is_not_unpickled(tmp_path: Path) -> None:
    model = LinearRegression().fit(X, Y)
    (tmp_path / "m.skops").write_bytes(pickle.dumps(model))
    with pytest.raises(EngineFailed, match="cannot be read"):
        load(tmp_path, manifest(model, {"X": X}, "m.skops"))


@pytest.mark.parametrize("harm", ["left", "right", "feature", "loop", "features"])
def test_a_tree_that_points_outside_of_itself_is_refused(harm: str) -> None:
    model = DecisionTreeClassifier(random_state=0).fit(X, Y)
    check_trees(model)
    state = model.tree_.__getstate__()
    nodes = state["nodes"].copy()
    field, value = {
        "left": ("left_child", 10**6),
        "right": ("right_child", -7),
        "feature": ("feature", 4),
        "loop": ("left_child", 0),
    }.get(harm, ("feature", 0))
    nodes[field][0] = value
    model.tree_.__setstate__(state | {"nodes": nodes})
    if harm == "features":
        model.n_features_in_ = 1
    with pytest.raises(Refused, match="point outside"):
        check_trees({"deep": [np.array([model], dtype=object)]})


def test_a_boosted_tree_that_points_outside_of_itself_is_refused() -> None:
    model = HistGradientBoostingClassifier(max_iter=2).fit(X, Y)
    check_trees(model)
    model._predictors[0][0].nodes["left"][0] = 10**6
    with pytest.raises(Refused, match="point outside"):
        check_trees(model)
