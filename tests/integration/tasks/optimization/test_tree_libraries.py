"""What is left of real ensembles answers as the libraries' own shorter ones do."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from openmaas.core.manifest import Artifact
from openmaas.core.recipes import Prune
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.base import Piece
from openmaas.tasks.optimization.passes.trees import prune_trees
from tests.unit.tasks.optimization.graph_models import bench, piece_of, run

_HALF = Prune(method="trees", amount=0.5)


def _data(kind: str) -> tuple[Any, Any]:
    from sklearn import datasets

    load = {"binary": datasets.load_breast_cancer, "classes": datasets.load_digits, "number": datasets.load_diabetes}[kind]
    x, y = load(return_X_y=True)
    return np.asarray(x[:400], np.float32), y[:400]


def _converted(model: Any, x: Any) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if type(model).__module__.startswith("sklearn"):
            from skl2onnx import to_onnx

            return to_onnx(model, x[:1], options={"zipmap": False} if hasattr(model, "predict_proba") else None)
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType

        types = [("X", FloatTensorType([None, x.shape[1]]))]
        if type(model).__module__.startswith("xgboost"):
            made = onnxmltools.convert_xgboost(model, initial_types=types, target_opset=15)
        else:
            made = onnxmltools.convert_lightgbm(model, initial_types=types, target_opset=15, zipmap=False)
        if all(opset.domain for opset in made.opset_import):
            made.opset_import.append(onnx.helper.make_opsetid("", 15))
        return made


def _pruned(model: Any, x: Any, folder: Path, **changes: Any) -> Piece:
    examples = Examples(inputs={"X": x}, truth=None, task="agreement", index=np.arange(len(x)), digest="d")
    made = _converted(model, x)
    examples = replace(examples, inputs={made.graph.input[0].name: x})
    piece = piece_of(made, folder / "piece")
    piece = replace(piece, manifest=_with_artifacts(piece, changes.get("artifacts", ())))
    return prune_trees(piece, _HALF, bench(folder, training=examples))


def _with_artifacts(piece: Piece, more: tuple[Artifact, ...]) -> Any:
    return msgspec.structs.replace(piece.manifest, artifacts=(*piece.manifest.artifacts, *more))


def _answers(piece: Piece, x: Any) -> Any:
    name = piece.manifest.signature.inputs[0].name
    return list(run(piece.path, {name: x}).values())


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_gradient_boosting_is_what_it_was_so_many_rounds_before(tmp_path: Path, kind: str) -> None:
    from sklearn.ensemble import GradientBoostingClassifier

    x, y = _data(kind)
    model = GradientBoostingClassifier(n_estimators=8, max_depth=2, random_state=0).fit(x, y)
    made = _pruned(model, x, tmp_path)
    np.testing.assert_allclose(_answers(made, x)[1], list(model.staged_predict_proba(x))[3], atol=2e-6)
    np.testing.assert_array_equal(_answers(made, x)[0], list(model.staged_predict(x))[3])
    assert made.facts["trees"][0]["rounds"] == [8, 4]


def test_a_boosted_number(tmp_path: Path) -> None:
    from sklearn.ensemble import GradientBoostingRegressor

    x, y = _data("number")
    model = GradientBoostingRegressor(n_estimators=10, learning_rate=0.01, random_state=0).fit(x, y)  # all trees nearly alike
    made = _pruned(model, x, tmp_path)
    np.testing.assert_allclose(_answers(made, x)[0].ravel(), list(model.staged_predict(x))[4], rtol=1e-5)


@pytest.mark.parametrize("kind", ["binary", "classes", "number"])
@pytest.mark.parametrize("extra", [False, True])
def test_a_forest_is_the_mean_of_the_trees_that_stay(tmp_path: Path, kind: str, extra: bool) -> None:
    from sklearn import ensemble

    x, y = _data(kind)
    name = f"{'ExtraTrees' if extra else 'RandomForest'}{'Regressor' if kind == 'number' else 'Classifier'}"
    model = getattr(ensemble, name)(10, max_depth=5, random_state=0).fit(x, y)
    made = _pruned(model, x, tmp_path)
    model.estimators_ = model.estimators_[:5]
    expected = model.predict(x) if kind == "number" else model.predict_proba(x)
    given = _answers(made, x)[0].ravel() if kind == "number" else _answers(made, x)[1]
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=2e-6)
    assert made.facts["trees"][0]["rule"] == "mean"


@pytest.mark.parametrize("kind", ["binary", "classes", "number"])
def test_xgboost_is_what_it_was_so_many_rounds_before(tmp_path: Path, kind: str) -> None:
    import xgboost

    x, y = _data(kind)
    options = {"n_estimators": 8, "max_depth": 3, "n_jobs": 1}
    model = (xgboost.XGBRegressor if kind == "number" else xgboost.XGBClassifier)(**options).fit(x, y)
    made = _pruned(model, x, tmp_path)
    ask = model.predict if kind == "number" else model.predict_proba
    expected = ask(x, iteration_range=(0, 4))
    np.testing.assert_allclose(_answers(made, x)[-1].reshape(expected.shape), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ["binary", "number"])
def test_a_forest_of_xgboost_is_known_by_its_own_file(tmp_path: Path, kind: str) -> None:
    import xgboost

    x, y = _data(kind)
    model = (xgboost.XGBRFRegressor if kind == "number" else xgboost.XGBRFClassifier)(
        n_estimators=10, max_depth=3, n_jobs=1
    ).fit(x, y)
    model.save_model(tmp_path / "model.json")
    native = (Artifact(kind="xgboost", entry="model.json"),)
    before = _answers(piece_of(_converted(model, x), tmp_path / "whole"), x)[-1]
    made = _pruned(model, x, tmp_path, artifacts=native)
    assert made.facts["trees"][0]["rule"] == "mean"
    assert made.facts["trees"][0]["trees"] == [10, 5]
    after = _answers(made, x)[-1]
    assert np.abs(after - before).mean() < 0.1 * np.ptp(before)  # a sum of half of the shares would be off by far more
    assert "no part of the variant" in made.notes[-1]


def test_rounds_of_several_trees_stay_whole(tmp_path: Path) -> None:
    import xgboost

    x, y = _data("number")
    model = xgboost.XGBRegressor(n_estimators=6, num_parallel_tree=3, subsample=0.5, max_depth=2, n_jobs=1).fit(x, y)
    model.save_model(tmp_path / "model.json")
    made = _pruned(model, x, tmp_path, artifacts=(Artifact(kind="xgboost", entry="model.json"),))
    np.testing.assert_allclose(_answers(made, x)[0].ravel(), model.predict(x, iteration_range=(0, 3)), rtol=1e-5)
    assert made.facts["trees"][0]["trees"] == [18, 9]


@pytest.mark.parametrize("kind", ["binary", "classes", "number"])
def test_lightgbm_is_what_it_was_so_many_rounds_before(tmp_path: Path, kind: str) -> None:
    import lightgbm

    x, y = _data(kind)
    options = {"n_estimators": 8, "num_leaves": 7, "n_jobs": 1, "verbose": -1}
    model = (lightgbm.LGBMRegressor if kind == "number" else lightgbm.LGBMClassifier)(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y)
        made = _pruned(model, x, tmp_path)
        ask = model.predict if kind == "number" else model.predict_proba
        expected = ask(x, num_iteration=4)
    np.testing.assert_allclose(_answers(made, x)[-1].reshape(expected.shape), expected, rtol=1e-5, atol=2e-6)
