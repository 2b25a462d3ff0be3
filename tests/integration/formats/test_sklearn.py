"""scikit-learn on real data: live estimators as a client pushes them, skops files, approved pickles, through the child."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.manifest import Manifest
from openmaas.engines import EngineSpec, create_engine
from openmaas.engines.sklearn.estimator import Estimator
from openmaas.formats import Examined, Exported, export
from openmaas.formats.files import sha256_of
from tests.integration.formats.conftest import Examine

datasets = pytest.importorskip("sklearn.datasets")
skops_io = pytest.importorskip("skops.io")
pytest.importorskip("skl2onnx")

from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.cluster import KMeans  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.decomposition import PCA  # noqa: E402
from sklearn.ensemble import (  # noqa: E402
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge  # noqa: E402
from sklearn.mixture import GaussianMixture  # noqa: E402
from sklearn.naive_bayes import MultinomialNB  # noqa: E402
from sklearn.neighbors import KNeighborsClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: E402
from sklearn.svm import SVC, LinearSVC  # noqa: E402

IRIS = datasets.load_iris(return_X_y=True)
CANCER = datasets.load_breast_cancer(return_X_y=True)
DIGITS = datasets.load_digits(return_X_y=True)
DIABETES = datasets.load_diabetes(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])


def serve(found: Examined, *folders: Path) -> Any:
    """The engine that the manifest asks for, loaded."""
    folder = next(folder for folder in folders if (folder / found.entry).is_file())
    manifest = Manifest(
        format=found.format, engine=found.engine, entry=found.entry, artifacts=found.artifacts,
        signature=found.signature, files=(),
    )  # fmt: skip
    engine = create_engine(found.engine)
    engine.load(EngineSpec(folder=folder, manifest=manifest))
    engine.warm()
    return engine


def pushed(model: Any, sample: Any, folder: Path, look: Examine) -> tuple[Exported, Examined]:
    exported = export(model, sample, folder)
    return exported, look(sample=exported.sample, parity=exported.parity)


LIVE = {
    "iris": (LogisticRegression(max_iter=500).fit(*IRIS), IRIS[0]),
    "digits": (RandomForestClassifier(n_estimators=10, random_state=0).fit(*DIGITS), DIGITS[0]),
    "cancer": (make_pipeline(StandardScaler(), PCA(5), SVC(random_state=0)).fit(*CANCER), CANCER[0]),
    "names": (LogisticRegression(max_iter=500).fit(IRIS[0], NAMES[IRIS[1]]), IRIS[0]),
    "float labels": (LogisticRegression(max_iter=500).fit(IRIS[0], IRIS[1].astype(float)), IRIS[0]),
    "regression": (Ridge().fit(*DIABETES), DIABETES[0]),
    "boosting": (GradientBoostingRegressor(n_estimators=20, random_state=0).fit(*DIABETES), DIABETES[0]),
    "two targets": (LinearRegression().fit(DIABETES[0], np.c_[DIABETES[1], -DIABETES[1]]), DIABETES[0]),
    "clusters": (KMeans(3, n_init=1, random_state=0).fit(IRIS[0]), IRIS[0]),
    "scaler": (StandardScaler().fit(IRIS[0]), IRIS[0]),
    "linear support vectors": (LinearSVC(random_state=0).fit(*IRIS), IRIS[0]),
    "outliers": (IsolationForest(n_estimators=10, random_state=0).fit(CANCER[0]), CANCER[0]),
    "mixture": (GaussianMixture(2, random_state=0).fit(IRIS[0]), IRIS[0]),
    "text columns": (OneHotEncoder().fit([["a", "x"], ["b", "y"]]), [["a", "y"], ["b", "x"], ["a", "x"]]),
}


@pytest.mark.parametrize("name", LIVE)
def test_a_live_estimator_is_served_as_onnx_with_the_same_answers(name: str, folder: Path, look: Examine) -> None:
    model, sample = LIVE[name]
    exported, found = pushed(model, sample, folder, look)
    assert exported.parity is not None
    assert exported.parity.passed
    assert exported.parity.sample == "given"
    assert [comparison.batch for comparison in exported.parity.comparisons] == [1, 2, 7]
    assert all(comparison.labels_equal for comparison in exported.parity.comparisons)
    assert (found.format, found.engine, found.added) == ("sklearn", "onnxruntime", ())
    assert found.parity == exported.parity
    assert found.batchable
    rows = np.asarray(sample)
    served = {
        "X": np.array([[s.encode() for s in row] for row in rows], object)
        if rows.dtype.kind == "U"
        else rows.astype(np.float32)
    }
    answers = serve(found, folder).run(served)
    for output, expected in Estimator(model).answer({"X": served["X"] if rows.dtype.kind == "U" else rows}).items():
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(answers[output], expected, rtol=1e-3, atol=1e-3)
        else:
            assert answers[output].tolist() == expected.tolist()


def test_names_of_the_outputs(folder: Path, look: Examine) -> None:
    _, found = pushed(*LIVE["names"], folder, look)
    assert [(spec.name, spec.datatype, spec.shape) for spec in (*found.signature.inputs, *found.signature.outputs)] == [
        ("X", "FP32", (-1, 4)), ("label", "BYTES", (-1,)), ("probabilities", "FP32", (-1, 3))
    ]  # fmt: skip


NATIVE = {
    "boosting classifier": (HistGradientBoostingClassifier(max_iter=10).fit(*CANCER), CANCER[0]),
    "boosting regressor": (HistGradientBoostingRegressor(max_iter=10).fit(*DIABETES), DIABETES[0]),
    "neighbours in a tie": (KNeighborsClassifier().fit(*IRIS), IRIS[0]),
    "two labels": (RandomForestClassifier(n_estimators=3, random_state=0).fit(IRIS[0], np.c_[IRIS[1], IRIS[1]]), IRIS[0]),
}


@pytest.mark.parametrize("name", NATIVE)
def test_what_onnx_cannot_answer_equally_is_served_by_scikit_learn(name: str, folder: Path, look: Examine) -> None:
    model, sample = NATIVE[name]
    exported, found = pushed(model, sample, folder, look)
    assert exported.files == ("model.skops", "sample.npz")
    assert (found.engine, found.entry, found.added) == ("sklearn", "model.skops", ())
    assert found.parity is not None
    assert not found.parity.passed
    assert found.parity.reason
    assert any("scikit-learn itself serves it" in note for note in found.notes)
    assert found.batchable
    answers = serve(found, folder).run({"X": np.asarray(sample, np.float64)})
    assert np.array_equal(answers[found.signature.outputs[0].name].ravel(), np.asarray(model.predict(sample)).ravel())


def test_the_reason_and_the_figures_of_a_conversion_beyond_tolerance_are_kept(folder: Path) -> None:
    parity = export(*NATIVE["neighbours in a tie"], folder).parity
    assert parity is not None
    assert parity.reason is not None
    assert "'probabilities' differs by up to 0.2" in parity.reason
    assert parity.max_abs_diff == pytest.approx(0.2)


def test_a_wrong_conversion_is_caught(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter that gives slightly wrong numbers: each is held against the source, so scikit-learn serves."""
    from openmaas.formats.sklearn import conversion

    right = conversion._to_onnx

    def wrong(*arguments: Any) -> Any:
        from onnx import numpy_helper

        graph = right(*arguments)
        for tensor in graph.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype.kind == "f":
                tensor.CopyFrom(numpy_helper.from_array(values * 1.002, tensor.name))
        for node in graph.graph.node:
            for attribute in node.attribute:
                if attribute.name == "coefficients":
                    attribute.floats[:] = [value * 1.002 for value in attribute.floats]
        return graph

    monkeypatch.setattr(conversion, "_to_onnx", wrong)
    exported = export(*LIVE["regression"], folder)
    assert exported.parity is not None
    assert not exported.parity.passed
    assert "'prediction' differs" in (exported.parity.reason or "")
    assert not (folder / "model.onnx").exists()


def test_inputs_that_float32_cannot_hold_are_served_in_double_precision(folder: Path, look: Examine) -> None:
    rows = np.arange(400, dtype=np.float64).reshape(-1, 1) * 0.25 + 2.0**30
    model = LinearRegression().fit(rows, np.arange(400))
    exported, found = pushed(model, rows, folder, look)
    assert exported.parity is not None
    assert exported.parity.passed
    assert (found.engine, found.signature.inputs[0].datatype) == ("onnxruntime", "FP64")
    assert "float32 inputs" in (exported.parity.reason or "")
    answers = serve(found, folder).run({"X": rows})
    np.testing.assert_allclose(answers["prediction"].ravel(), model.predict(rows))


def test_a_data_frame_with_text_and_numbers_has_an_input_for_each_column(folder: Path, look: Examine) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [20.0, 35, 50, 65, 41, 28, 33], "city": list("abcabca"), "rooms": [1, 2, 3, 4, 5, 6, 7]})
    columns = ColumnTransformer([("n", StandardScaler(), ["age", "rooms"]), ("c", OneHotEncoder(), ["city"])])
    model = make_pipeline(columns, LogisticRegression()).fit(frame, [0, 1, 0, 1, 1, 0, 1])
    exported, found = pushed(model, frame, folder, look)
    assert exported.parity is not None
    assert exported.parity.passed
    assert [(spec.name, spec.datatype, spec.shape) for spec in found.signature.inputs] == [
        ("age", "FP32", (-1, 1)), ("city", "BYTES", (-1, 1)), ("rooms", "INT64", (-1, 1))
    ]  # fmt: skip
    inputs = {
        "age": frame[["age"]].to_numpy(np.float32),
        "city": np.array([[city.encode()] for city in frame["city"]], object),
        "rooms": frame[["rooms"]].to_numpy(),
    }
    assert serve(found, folder).run(inputs)["label"].tolist() == model.predict(frame).tolist()


def test_a_data_frame_that_scikit_learn_serves(folder: Path, look: Examine) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": np.linspace(0, 1, 40), "kind": ["a", "b"] * 20})
    columns = ColumnTransformer([("c", OneHotEncoder(sparse_output=False), ["kind"])], remainder="passthrough")
    model = make_pipeline(columns, HistGradientBoostingClassifier(max_iter=3)).fit(frame, [0, 1] * 20)
    _, found = pushed(model, frame, folder, look)
    assert (found.engine, found.artifacts[0].options) == ("sklearn", {"layout": "columns"})
    inputs = {"x": frame[["x"]].to_numpy(), "kind": np.array([[kind.encode()] for kind in frame["kind"]], object)}
    assert serve(found, folder).run(inputs)["label"].tolist() == model.predict(frame).tolist()


def test_a_column_called_like_an_output(folder: Path, look: Examine) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"label": [1.0, 2, 3, 4] * 5, "kind": list("abab") * 5})
    columns = ColumnTransformer([("n", StandardScaler(), ["label"]), ("c", OneHotEncoder(), ["kind"])])
    model = make_pipeline(columns, LogisticRegression()).fit(frame, [0, 1, 0, 1] * 5)
    exported, found = pushed(model, frame, folder, look)
    assert exported.parity is not None
    assert found.engine == ("onnxruntime" if exported.parity.passed else "sklearn")
    number = np.float32 if exported.parity.passed else np.float64
    inputs = {"label": frame[["label"]].to_numpy(number), "kind": np.array([[k.encode()] for k in frame["kind"]], object)}
    assert serve(found, folder).run(inputs)["label"].tolist() == model.predict(frame).tolist()


def test_a_conversion_that_takes_for_ever_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openmaas.formats.sklearn import conversion

    def endless(*_: Any) -> Any:
        while True:
            pass

    monkeypatch.setattr(conversion, "SECONDS", 0.05)
    monkeypatch.setattr(conversion, "_convert", endless)
    parity = export(*LIVE["iris"], folder).parity
    assert parity is not None
    assert not parity.passed
    assert "longer than 0.05 s" in (parity.reason or "")


def test_texts(folder: Path, look: Examine) -> None:
    texts = ["a good film", "a bad film", "great fun", "awful bore", "good great fun", "bad awful thing"] * 3
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["pos", "neg"] * 9)
    _, found = pushed(model, texts, folder, look)
    assert [(spec.datatype, spec.shape) for spec in found.signature.inputs] == [("BYTES", (-1, 1))]
    answers = serve(found, folder).run({"text": np.array([[text.encode()] for text in texts[:4]], object)})
    assert [label.decode() for label in answers["label"]] == model.predict(texts[:4]).tolist()


def test_a_skops_file_under_any_name_without_a_sample(folder: Path, output: Path, look: Examine) -> None:
    model, sample = LIVE["iris"]
    skops_io.dump(model, folder / "weights.onnx")
    found = look()
    assert (found.format, found.engine, found.added) == ("sklearn", "onnxruntime", (found.entry, "sample.npz"))
    assert found.parity is not None
    assert found.parity.sample == "generated"
    assert any("generated input" in note for note in found.notes)
    answers = serve(found, output).run({"X": sample.astype(np.float32)})
    assert answers["label"].tolist() == model.predict(sample).tolist()


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "json"])
def test_a_skops_file_with_a_sample(kind: str, folder: Path, look: Examine) -> None:
    model, sample = LIVE["iris"]
    skops_io.dump(model, folder / "model.skops")
    path = folder / f"rows.{kind}"
    if kind == "npy":
        np.save(path, sample)
    elif kind == "npz":
        np.savez(path, rows=sample)
    elif kind == "csv":
        np.savetxt(path, sample, delimiter=",", header="a,b,c,d", comments="")
    else:
        path.write_text(str(sample.tolist()))
    found = look(sample=path.name)
    assert found.parity is not None
    assert (found.parity.passed, found.parity.sample) == (True, "given")


def test_what_openmaas_yaml_says_is_used_or_refused(folder: Path, look: Examine) -> None:
    skops_io.dump(LIVE["iris"][0], folder / "model.skops")
    (folder / "openmaas.yaml").write_text("batchable: false\ncard: Iris\n")
    found = look()
    assert (found.batchable, found.card) == (False, "Iris")
    (folder / "openmaas.yaml").write_text("options: {layout: text}")
    with pytest.raises(InvalidInput, match="'options' means nothing for the format sklearn"):
        look()


def test_a_model_that_takes_no_negative_numbers_is_tried_on_others(folder: Path, look: Examine) -> None:
    skops_io.dump(MultinomialNB().fit(*DIGITS), folder / "model.skops")
    found = look()
    assert found.parity is not None
    assert found.parity.sample == "generated"


def test_a_sample_that_does_not_fit_is_told(folder: Path, look: Examine) -> None:
    skops_io.dump(LIVE["iris"][0], folder / "model.skops")
    np.save(folder / "rows.npy", np.zeros((5, 3)))
    with pytest.raises(InvalidInput, match="expecting 4 features") as caught:
        look(sample="rows.npy")
    assert caught.value.code == "invalid_sample"


def test_a_model_that_needs_a_sample_asks_for_it(folder: Path, look: Examine) -> None:
    skops_io.dump(OneHotEncoder().fit([["a"], ["b"]]), folder / "model.skops")
    with pytest.raises(InvalidInput) as caught:
        look()
    assert caught.value.code == "sample_needed"


@pytest.mark.parametrize("how", ["pickle", "joblib"])
def test_an_approved_pickle_is_converted_in_the_child(how: str, folder: Path, output: Path, look: Examine) -> None:
    import joblib

    model, sample = LIVE["iris"]
    path = folder / "model.bin"
    if how == "pickle":
        path.write_bytes(pickle.dumps(model))
    else:
        joblib.dump(model, path, compress=("lzma", 3))
    with pytest.raises(Refused) as caught:
        look()
    assert caught.value.code == "pickle_refused"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest in caught.value.message
    found = look(approved=frozenset({digest}))
    assert (found.format, found.engine) == ("sklearn", "onnxruntime")
    assert serve(found, output).run({"X": sample.astype(np.float32)})["label"].tolist() == model.predict(sample).tolist()


def test_an_approved_pickle_that_onnx_cannot_replace_carries_its_digest(folder: Path, look: Examine) -> None:
    model, sample = NATIVE["boosting classifier"]
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps(model))
    digest = sha256_of(path)
    found = look(approved=frozenset({digest}))
    assert (found.engine, found.artifacts[0].options["pickle_sha256"]) == ("sklearn", digest)
    assert serve(found, folder).run({"X": sample})["label"].tolist() == model.predict(sample).tolist()


def test_an_approved_pickle_of_something_else_is_refused(folder: Path, look: Examine) -> None:
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InvalidInput, match=r"builtins\.dict, not a scikit-learn estimator"):
        look(approved=frozenset({sha256_of(path)}))


class Custom(ClassifierMixin, BaseEstimator):
    """A class of the user's own, which neither skl2onnx nor a server knows."""

    def fit(self, rows: Any, labels: Any) -> Custom:
        self.classes_ = np.unique(labels)
        self.n_features_in_ = np.asarray(rows).shape[1]
        return self

    def predict(self, rows: Any) -> Any:
        return np.where(np.asarray(rows)[:, 0] > 5, 1, 0)


def test_a_class_of_ones_own_cannot_be_pushed_and_it_is_said_why(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="Custom") as caught:
        export(Custom().fit(*IRIS), IRIS[0], folder)
    assert caught.value.code == "not_exportable"
    assert caught.value.next_step


def test_an_estimator_that_is_not_fitted(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="not fitted") as caught:
        export(LogisticRegression(), IRIS[0], folder)
    assert caught.value.next_step == "Call fit before push."


def test_a_sample_keeps_few_rows_taken_from_everywhere(folder: Path) -> None:
    export(*LIVE["digits"], folder)
    with np.load(folder / "sample.npz", allow_pickle=False) as sample:
        assert len(sample["X"]) == 256
        assert np.array_equal(sample["X"][-1], DIGITS[0][-1])
        assert sample["expected/label"].shape == (256,)


def test_pushing_the_same_estimator_again_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        model = RandomForestClassifier(n_estimators=3, random_state=0).fit(*IRIS)
        files = export(model, IRIS[0], tmp_path / name).files
        digests.append({file: sha256_of(tmp_path / name / file) for file in files})
    assert digests[0] == digests[1]


def test_an_exported_skops_file_is_still_the_estimator(tmp_path: Path) -> None:
    from openmaas.engines.sklearn.estimator import load_skops

    model, sample = LIVE["digits"]
    export(model, sample, tmp_path)
    assert np.array_equal(load_skops(tmp_path / "model.skops")[0].predict_proba(sample), model.predict_proba(sample))


def test_a_server_without_scikit_learn_serves_what_the_client_converted(folder: Path, look: Examine) -> None:
    """What scikit-learn would load is not even a file of its own here."""
    exported = export(*LIVE["iris"], folder)
    (folder / "model.skops").write_bytes(b"not even read")
    found = look(sample=exported.sample, parity=exported.parity)
    assert (found.format, found.engine) == ("sklearn", "onnxruntime")


def test_without_the_library_the_next_step_is_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from openmaas.engines.sklearn.estimator import load_skops

    skops_io.dump(LIVE["iris"][0], tmp_path / "m.skops")
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(InvalidInput) as caught:
        load_skops(tmp_path / "m.skops")
    assert caught.value.code == "library_missing"
    assert "pip install 'openmaas[sklearn]'" in (caught.value.next_step or "")
