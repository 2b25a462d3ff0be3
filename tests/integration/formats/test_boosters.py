"""xgboost and LightGBM on real data: live models as a client pushes them, and files, through the child to the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.core.processing import Labels, TableInput
from openmaas.engines import EngineSpec, create_engine
from openmaas.formats import Examined, Exported, export
from openmaas.formats.sample import read_sample, split_expected
from tests.integration.formats.conftest import Examine

xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")
pandas = pytest.importorskip("pandas")
pytest.importorskip("onnxmltools")
datasets = pytest.importorskip("sklearn.datasets")

from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: E402

IRIS = datasets.load_iris(return_X_y=True)
CANCER = datasets.load_breast_cancer(return_X_y=True, as_frame=True)
DIABETES = datasets.load_diabetes(return_X_y=True)
GROUPS = (DIABETES[1] / 100).astype(int)
RANDOM = np.random.default_rng(0)
HOLES = np.where(RANDOM.random(IRIS[0].shape) < 0.2, np.nan, IRIS[0])
TABLE = pandas.DataFrame(
    {
        "size": IRIS[0][:, 0],
        "kind": pandas.Categorical(np.array(["x", "y", "z"])[np.arange(150) % 3]),
        "code": pandas.Categorical(np.array([3, 5, 9])[IRIS[1]]),
    }
)
FEW: dict[str, Any] = {"n_estimators": 10}
QUIET: dict[str, Any] = FEW | {"verbose": -1}
STOPPED: dict[str, Any] = {"n_estimators": 80, "early_stopping_rounds": 2, "learning_rate": 1.0}


def stopped() -> Any:
    rows, classes = CANCER
    model = xgboost.XGBClassifier(**STOPPED)
    return model.fit(rows[:300], classes[:300], eval_set=[(rows[300:], classes[300:])], verbose=False)


CONVERTED = {
    "xgboost, two classes": (xgboost.XGBClassifier(**FEW).fit(*CANCER), CANCER[0]),
    "xgboost, three classes": (xgboost.XGBClassifier(**FEW).fit(*IRIS), IRIS[0]),
    "xgboost, numbers": (xgboost.XGBRegressor(**FEW).fit(*DIABETES), DIABETES[0]),
    "xgboost, counts": (xgboost.XGBRegressor(objective="count:poisson", **FEW).fit(*DIABETES), DIABETES[0]),
    "xgboost, missing values": (xgboost.XGBClassifier(**FEW).fit(HOLES, IRIS[1]), HOLES),
    "xgboost, stopped early": (stopped(), CANCER[0]),
    "lightgbm, two classes": (lightgbm.LGBMClassifier(**QUIET).fit(*CANCER), CANCER[0]),
    "lightgbm, named classes": (lightgbm.LGBMClassifier(**QUIET).fit(IRIS[0], np.array(["a", "b", "ü"])[IRIS[1]]), IRIS[0]),
    "lightgbm, other numbers": (lightgbm.LGBMClassifier(**QUIET).fit(IRIS[0], IRIS[1] * 2 + 7), IRIS[0]),
    "lightgbm, numbers": (lightgbm.LGBMRegressor(**QUIET).fit(*DIABETES), DIABETES[0]),
    "lightgbm, ranks": (lightgbm.LGBMRanker(**QUIET).fit(DIABETES[0], GROUPS, group=[34] * 13), DIABETES[0]),
    "lightgbm, missing values": (lightgbm.LGBMClassifier(**QUIET).fit(HOLES, IRIS[1]), HOLES),
    "lightgbm, dropping trees": (lightgbm.LGBMRegressor(boosting_type="dart", **QUIET).fit(*DIABETES), DIABETES[0]),
}
"""Served as ONNX."""

ZEROS = np.where(np.isnan(HOLES), 0, HOLES)
NATIVE = {
    "xgboost, ranks": (
        xgboost.XGBRanker(**FEW).fit(DIABETES[0], GROUPS, qid=np.arange(442) // 10), DIABETES[0], "int64 instead of float32",
    ),
    "xgboost, dropping trees": (xgboost.XGBRegressor(booster="dart", **FEW).fit(*DIABETES), DIABETES[0], "the booster dart"),
    "xgboost, linear": (xgboost.XGBClassifier(booster="gblinear", **FEW).fit(*IRIS), IRIS[0], "the booster gblinear"),
    "xgboost, forest": (xgboost.XGBRFClassifier(**FEW).fit(*IRIS), IRIS[0], "'probabilities' differs"),
    "xgboost, two targets": (
        xgboost.XGBRegressor(**FEW).fit(DIABETES[0], np.c_[DIABETES[1], -DIABETES[1]]), DIABETES[0], "'prediction' differs",
    ),
    "xgboost, two labels": (
        xgboost.XGBClassifier(**FEW).fit(IRIS[0], np.c_[IRIS[1] == 1, IRIS[1] == 2].astype(int)), IRIS[0], "",
    ),
    "xgboost, categories": (xgboost.XGBClassifier(enable_categorical=True, **FEW).fit(TABLE, IRIS[1]), TABLE, "by category"),
    "xgboost, its own missing value": (xgboost.XGBClassifier(missing=0, **FEW).fit(ZEROS, IRIS[1]), ZEROS, "0 stands for"),
    "lightgbm, each against the rest": (
        lightgbm.LGBMClassifier(objective="multiclassova", **QUIET).fit(*IRIS), IRIS[0], "'probabilities' differs",
    ),
    "lightgbm, forest": (
        lightgbm.LGBMRegressor(boosting_type="rf", bagging_freq=1, bagging_fraction=0.5, **QUIET).fit(*DIABETES),
        DIABETES[0], "'prediction' differs",
    ),
    "lightgbm, linear leaves": (lightgbm.LGBMRegressor(linear_tree=True, **QUIET).fit(*DIABETES), DIABETES[0], "linear models"),
    "lightgbm, categories": (lightgbm.LGBMClassifier(**QUIET).fit(TABLE, IRIS[1]), TABLE, "by category"),
    "lightgbm, zeros are missing": (
        lightgbm.LGBMClassifier(zero_as_missing=True, **QUIET).fit(ZEROS, IRIS[1]), ZEROS, "zeros for missing values",
    ),
}  # fmt: skip
"""Served by the library itself, and why."""


def pushed(model: Any, sample: Any, folder: Path, look: Examine) -> tuple[Exported, Examined]:
    exported = export(model, sample, folder)
    return exported, look(sample=exported.sample, parity=exported.parity)


def serve(found: Examined, artifact: Artifact, folders: tuple[Path, Path]) -> Any:
    """An engine with one of the version's artifacts, loaded."""
    folder = next(folder for folder in folders if (folder / artifact.entry).is_file())
    manifest = Manifest(
        format=found.format, engine=found.engine, entry=found.entry, artifacts=found.artifacts, signature=found.signature,
        files=(),
    )  # fmt: skip
    name = "onnxruntime" if artifact.kind == "onnx" else artifact.kind
    engine = create_engine(name)
    engine.load(EngineSpec(folder=folder, manifest=manifest, choice=EngineChoice(engine=name, artifact=artifact)))
    engine.warm()
    return engine


def check_answers(model: Any, sample: Any, answers: dict[str, Any]) -> None:
    if "prediction" in answers:
        expected = np.asarray(model.predict(sample)).reshape(len(sample), -1)
        np.testing.assert_allclose(answers["prediction"], expected, rtol=1e-4, atol=1e-3)
        return
    labels = np.asarray(model.predict(sample))
    told = [label.decode() for label in answers["label"]] if labels.dtype.kind in "OU" else answers["label"].tolist()
    assert told == labels.tolist()
    np.testing.assert_allclose(answers["probabilities"], model.predict_proba(sample), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONVERTED)
def test_a_live_model_is_served_as_onnx_with_the_same_answers(name: str, folder: Path, output: Path, look: Examine) -> None:
    model, sample = CONVERTED[name]
    _, found = pushed(model, sample, folder, look)
    assert (found.format, found.engine) == ("boosters", "onnxruntime")
    assert [artifact.kind for artifact in found.artifacts] == ["onnx", name.partition(",")[0]]
    assert found.parity is not None
    assert (found.parity.passed, found.parity.sample) == (True, "given")
    assert found.batchable
    assert found.sample is not None
    inputs, expected = split_expected(read_sample(output / found.sample))
    assert np.isnan(inputs["X"]).any()  # missing values are among what was compared, and among what is kept
    for artifact in found.artifacts:
        engine = serve(found, artifact, (folder, output))
        check_answers(model, sample, engine.run({"X": np.asarray(sample, np.float32)}))
        kept = engine.run(inputs)
        assert all(
            np.allclose(kept[key], expected[key], rtol=1e-4, atol=1e-3) for key in expected if expected[key].dtype != object
        )


@pytest.mark.parametrize("name", NATIVE)
def test_what_onnx_cannot_answer_equally_is_served_by_the_library(name: str, folder: Path, output: Path, look: Examine) -> None:
    model, sample, reason = NATIVE[name]
    _, found = pushed(model, sample, folder, look)
    library = name.partition(",")[0]
    assert (found.engine, [artifact.kind for artifact in found.artifacts]) == (library, [library])
    assert found.parity is not None
    assert not found.parity.passed
    assert reason in (found.parity.reason or "")
    assert any(f"{library} itself serves it" in note for note in found.notes)
    assert found.batchable
    inputs = (
        {"X": np.asarray(sample, np.float32 if library == "xgboost" else np.float64)} if sample is not TABLE else TABLE_INPUTS
    )
    answers = serve(found, found.artifacts[0], (folder, output)).run(inputs)
    check_answers(model, sample, answers)


TABLE_INPUTS = {
    "size": TABLE[["size"]].to_numpy(),
    "kind": np.array([[kind.encode()] for kind in TABLE["kind"]], object),
    "code": TABLE["code"].to_numpy(np.int64).reshape(-1, 1),
}


def test_columns_and_classes_are_described(folder: Path, look: Examine) -> None:
    _, found = pushed(*CONVERTED["lightgbm, two classes"], folder, look)
    assert found.processing is not None
    table = found.processing.input
    assert isinstance(table, TableInput)
    assert (table.tensor, len(table.columns)) == ("X", 30)
    assert (table.columns[1].name, table.columns[1].datatype, table.columns[1].nullable) == ("mean_texture", "FP32", True)
    assert found.processing.output == Labels(output="probabilities", labels=("0", "1"))


def test_categories_are_described(folder: Path, look: Examine) -> None:
    model, sample, _ = NATIVE["xgboost, categories"]
    _, found = pushed(model, sample, folder, look)
    assert found.processing is not None
    assert isinstance(found.processing.input, TableInput)
    assert [(c.name, c.datatype, c.categories, c.nullable) for c in found.processing.input.columns] == [
        ("size", "FP32", None, True), ("kind", "BYTES", ("x", "y", "z"), False), ("code", "INT64", (3, 5, 9), False)
    ]  # fmt: skip
    assert found.processing.input.tensor is None


@pytest.mark.parametrize("name", ["booster.json", "booster.ubj", "booster.txt", "weights.bin"])
def test_a_file_under_any_name_without_a_sample(name: str, folder: Path, output: Path, look: Examine) -> None:
    kind = "lightgbm" if name == "booster.txt" else "xgboost"
    model, sample = CONVERTED[f"{kind}, three classes" if kind == "xgboost" else "lightgbm, missing values"]
    if kind == "xgboost":
        (folder / name).write_bytes(model.get_booster().save_raw("json" if name.endswith("json") else "ubj"))
    else:
        model.booster_.save_model(folder / name)
    found = look()
    assert (found.engine, found.format) == ("onnxruntime", "boosters")
    assert found.parity is not None
    assert found.parity.sample == "generated"
    assert any("around the trees' thresholds" in note for note in found.notes)
    answers = serve(found, found.artifacts[0], (folder, output)).run({"X": sample.astype(np.float32)})
    check_answers(model, sample, answers)


def test_bare_boosters_of_both_libraries(tmp_path: Path) -> None:
    bare = xgboost.train({"objective": "multi:softmax", "num_class": 3}, xgboost.DMatrix(*IRIS), 3)
    assert export(bare, IRIS[0], tmp_path).files == ("booster.json", "sample.npz")
    bare = lightgbm.train({"verbose": -1}, lightgbm.Dataset(*DIABETES), 3)
    assert export(bare, None, tmp_path).files == ("booster.txt",)


def test_a_bare_booster_that_gives_classes_alone(folder: Path, output: Path, look: Examine) -> None:
    bare = xgboost.train({"objective": "multi:softmax", "num_class": 3}, xgboost.DMatrix(*IRIS), 5)
    _, found = pushed(bare, IRIS[0], folder, look)
    answers = serve(found, found.artifacts[0], (folder, output)).run({"X": IRIS[0].astype(np.float32)})
    assert np.array_equal(answers["label"], bare.predict(xgboost.DMatrix(IRIS[0])))
    np.testing.assert_allclose(answers["probabilities"].sum(axis=1), 1, rtol=1e-5)


def test_answers_that_the_file_does_not_give_are_refused(folder: Path, look: Examine) -> None:
    """The sample's answers come from the object: another file beside them is caught."""
    exported = export(*CONVERTED["xgboost, three classes"], folder)
    xgboost.XGBClassifier(n_estimators=1).fit(IRIS[0], 2 - IRIS[1]).save_model(folder / "booster.json")
    with pytest.raises(Refused, match="does not give the answers that came with the sample") as caught:
        look(sample=exported.sample)
    assert caught.value.code == "parity_failed"


def test_a_hostile_file_is_refused_in_the_child(folder: Path, look: Examine) -> None:
    export(*CONVERTED["xgboost, three classes"], folder)
    (folder / "sample.npz").unlink()
    document = json.loads((folder / "booster.json").read_bytes())
    document["learner"]["gradient_booster"]["model"]["trees"][0]["left_children"][0] = 10**8
    (folder / "booster.json").write_text(json.dumps(document))
    with pytest.raises(Refused, match="a child that does not exist"):
        look()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("options: {labels: [a]}", "names 1 labels; the model has 3 classes"),
        ("options: {labels: [a, a, b]}", "each with one name"),
        ("options: {labels: [a, b, 3]}", "of the same type"),
        ("options: {threshold: 1}", "unknown field `threshold`"),
        ("signature: {inputs: [], outputs: []}", "'signature' means nothing"),
    ],
)
def test_what_openmaas_yaml_says_is_used_or_refused(text: str, told: str, folder: Path, look: Examine) -> None:
    CONVERTED["xgboost, three classes"][0].save_model(folder / "booster.json")
    (folder / "openmaas.yaml").write_text(text)
    with pytest.raises(InvalidInput, match=told):
        look()


@pytest.mark.parametrize("columns", [3, 5])
def test_a_sample_that_does_not_fit_is_told(columns: int, folder: Path, look: Examine) -> None:
    CONVERTED["xgboost, three classes"][0].save_model(folder / "booster.json")
    np.save(folder / "rows.npy", np.zeros((4, columns)))
    with pytest.raises(InvalidInput, match=rf"shape \[4, {columns}\]; the model takes \[-1, 4\]"):
        look(sample="rows.npy")


@pytest.mark.parametrize("model", [xgboost.XGBClassifier(), lightgbm.LGBMRegressor()])
def test_a_model_that_is_not_fitted(model: Any, folder: Path) -> None:
    with pytest.raises(InvalidInput, match="not fitted") as caught:
        export(model, None, folder)
    assert caught.value.next_step == "Call fit before push."


# ── inside scikit-learn's pipelines ──────────────────────────────────────────────────────────────────────────────────

PIPELINES = {
    "xgboost": make_pipeline(StandardScaler(), xgboost.XGBClassifier(**FEW)).fit(*IRIS),
    "lightgbm": make_pipeline(StandardScaler(), lightgbm.LGBMClassifier(**QUIET)).fit(
        IRIS[0], np.array(["a", "b", "c"])[IRIS[1]]
    ),
    "xgboost numbers": make_pipeline(StandardScaler(), xgboost.XGBRegressor(**FEW)).fit(*DIABETES),
    "lightgbm numbers": make_pipeline(StandardScaler(), lightgbm.LGBMRegressor(**QUIET)).fit(*DIABETES),
}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_with_a_booster_is_served_as_onnx(name: str, folder: Path, output: Path, look: Examine) -> None:
    model = PIPELINES[name]
    sample = DIABETES[0] if name.endswith("numbers") else IRIS[0]
    exported, found = pushed(model, sample, folder, look)
    assert exported.parity is not None
    assert exported.parity.passed
    assert (found.format, found.engine) == ("sklearn", "onnxruntime")
    assert [artifact.kind for artifact in found.artifacts] == ["onnx"]
    datatype = found.signature.inputs[0].datatype
    assert datatype == ("FP64" if name.startswith("xgboost") else "FP32")  # scaled in double precision, as scikit-learn does
    rows = {"X": sample.astype(numpy_dtype(datatype))}
    answers = serve(found, found.artifacts[0], (folder, output)).run(rows)
    check_answers(model, sample, answers)


def test_a_pipeline_with_columns_and_a_booster(folder: Path, output: Path, look: Examine) -> None:
    table = TABLE.assign(kind=TABLE["kind"].astype(str), code=TABLE["code"].astype(int))
    columns = ColumnTransformer([("n", StandardScaler(), ["size", "code"]), ("c", OneHotEncoder(), ["kind"])])
    model = make_pipeline(columns, xgboost.XGBClassifier(**FEW)).fit(table, IRIS[1])
    exported, found = pushed(model, table, folder, look)
    assert exported.parity is not None
    assert exported.parity.passed, exported.parity.reason
    size = table[["size"]].to_numpy(numpy_dtype(found.signature.inputs[0].datatype))
    answers = serve(found, found.artifacts[0], (folder, output)).run(TABLE_INPUTS | {"size": size})
    check_answers(model, table, answers)


def test_a_pipeline_that_no_server_could_run_says_why(folder: Path) -> None:
    """A booster inside of a pickle-like file is raw bytes for a native library, which no list of types can vouch for."""
    model = make_pipeline(StandardScaler(), xgboost.XGBRFClassifier(**FEW)).fit(*IRIS)
    with pytest.raises(InvalidInput) as caught:
        export(model, IRIS[0], folder)
    assert caught.value.code == "not_exportable"
    assert "'probabilities' differs" in caught.value.message
    assert "xgboost" in caught.value.message


def test_scikit_learns_own_are_left_to_its_format(folder: Path) -> None:
    assert "model.skops" in export(LogisticRegression(max_iter=500).fit(*IRIS), IRIS[0], folder).files
