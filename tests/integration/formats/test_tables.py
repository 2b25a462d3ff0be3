"""What a version says of its columns and classes, its artifacts and the sample that it keeps: scikit-learn on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.core.processing import Labels, TableInput
from openmaas.engines import EngineSpec, create_engine
from openmaas.formats import Examined, export
from openmaas.formats.kept import keep_sample
from openmaas.formats.sample import fit, read_sample, split_expected
from tests.integration.formats.conftest import Examine

datasets = pytest.importorskip("sklearn.datasets")
pandas = pytest.importorskip("pandas")
skops_io = pytest.importorskip("skops.io")
pytest.importorskip("skl2onnx")

from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier  # noqa: E402
from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: E402
from sklearn.impute import SimpleImputer  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler  # noqa: E402

IRIS = datasets.load_iris(return_X_y=True)
CANCER = datasets.load_breast_cancer(return_X_y=True, as_frame=True)
DIGITS = datasets.load_digits(return_X_y=True)
RANDOM = np.random.default_rng(0)
PEOPLE = pandas.DataFrame(
    {
        "age": np.where(np.arange(120) % 5 == 0, np.nan, RANDOM.integers(18, 80, 120)),
        "height": RANDOM.normal(170, 10, 120),
        "city": np.array(["Bern", "Zürich", "Genf"])[RANDOM.integers(0, 3, 120)],
        "rooms": RANDOM.integers(1, 4, 120),
        "mood": np.array(["good", "bad"])[RANDOM.integers(0, 2, 120)],
    }
)
BUYS = np.array(["no", "yes"])[(PEOPLE["height"] > 170).astype(int)]


def people(last: Any) -> Any:
    columns = ColumnTransformer(
        [
            ("filled", make_pipeline(SimpleImputer(), StandardScaler()), ["age"]),
            ("scaled", StandardScaler(), ["height"]),
            ("strict", OneHotEncoder(sparse_output=False), ["city"]),
            ("numbers", OneHotEncoder(sparse_output=False), ["rooms"]),
            ("lenient", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["mood"]),
        ]
    )
    return make_pipeline(columns, last).fit(PEOPLE, BUYS)


def pushed(model: Any, sample: Any, folder: Path, look: Examine) -> Examined:
    exported = export(model, sample, folder)
    return look(sample=exported.sample, parity=exported.parity)


def columns_of(found: Examined) -> dict[str, Any]:
    assert found.processing is not None
    assert isinstance(found.processing.input, TableInput)
    return {column.name: column for column in found.processing.input.columns}


@pytest.mark.parametrize("last", [LogisticRegression(), HistGradientBoostingClassifier(max_iter=5)])
def test_columns_types_categories_and_missing_values(last: Any, folder: Path, look: Examine) -> None:
    found = pushed(people(last), PEOPLE, folder, look)
    columns = columns_of(found)
    assert list(columns) == ["age", "height", "city", "rooms", "mood"]
    assert columns["city"].categories == ("Bern", "Genf", "Zürich")
    assert columns["rooms"].categories == (1, 2, 3)
    assert columns["mood"].categories is None  # what it does not know is ignored
    assert (columns["city"].datatype, columns["rooms"].datatype) == ("BYTES", "INT64")
    assert columns["age"].nullable  # an imputer fills it
    assert columns["height"].nullable == isinstance(last, HistGradientBoostingClassifier)  # the trees themselves take it
    assert not columns["city"].nullable
    assert found.processing is not None
    assert found.processing.input.tensor is None  # type: ignore[union-attr]
    assert found.processing.output == Labels(output="probabilities", labels=("no", "yes"))


def test_numbers_by_name_make_up_one_tensor(folder: Path, look: Examine) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(*CANCER)
    found = pushed(model, CANCER[0], folder, look)
    columns = columns_of(found)
    assert list(columns) == list(CANCER[0].columns)
    assert not any(column.nullable for column in columns.values())
    assert found.processing is not None
    assert found.processing.input.tensor == "X"  # type: ignore[union-attr]
    assert found.processing.output == Labels(output="probabilities", labels=("0", "1"))


def test_what_has_neither_names_nor_classes_declares_nothing(folder: Path, look: Examine) -> None:
    assert pushed(LinearRegression().fit(*IRIS), IRIS[0], folder, look).processing is None


def test_texts_are_a_column(folder: Path, look: Examine) -> None:
    texts = ["a good film", "a bad film", "great fun", "awful bore"] * 3
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["pos", "neg"] * 6)
    found = pushed(model, texts, folder, look)
    assert [(name, column.datatype) for name, column in columns_of(found).items()] == [("text", "BYTES")]


def test_an_ordinal_encoder_names_its_categories(folder: Path, look: Examine) -> None:
    columns = ColumnTransformer([("o", OrdinalEncoder(), ["city"]), ("s", StandardScaler(), ["height"])])
    model = make_pipeline(columns, LogisticRegression()).fit(PEOPLE[["city", "height"]], BUYS)
    found = pushed(model, PEOPLE[["city", "height"]], folder, look)
    assert columns_of(found)["city"].categories == ("Bern", "Genf", "Zürich")


# ── artifacts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def engine_for(found: Examined, index: int, *folders: Path) -> Any:
    artifact = found.artifacts[index]
    folder = next(folder for folder in folders if (folder / artifact.entry).is_file())
    manifest = Manifest(
        format=found.format, engine=found.engine, entry=found.entry, artifacts=found.artifacts, signature=found.signature,
        files=(),
    )  # fmt: skip
    name = "onnxruntime" if artifact.kind == "onnx" else "sklearn"
    engine = create_engine(name)
    engine.load(EngineSpec(folder=folder, manifest=manifest, choice=EngineChoice(engine=name, artifact=artifact)))
    return engine


@pytest.mark.parametrize("how", ["live", "file", "pickle"])
def test_both_forms_give_the_samples_answers(how: str, folder: Path, output: Path, look: Examine) -> None:
    model = RandomForestClassifier(n_estimators=5, random_state=0).fit(*DIGITS)
    if how == "live":
        found = pushed(model, DIGITS[0], folder, look)
    elif how == "file":
        skops_io.dump(model, folder / "model.skops")
        np.save(folder / "rows.npy", DIGITS[0][:50])
        found = look(sample="rows.npy")
    else:
        import pickle

        from openmaas.formats.files import sha256_of

        (folder / "model.pkl").write_bytes(pickle.dumps(model))
        found = look(approved=frozenset({sha256_of(folder / "model.pkl")}))
    assert [artifact.kind for artifact in found.artifacts] == ["onnx", "pickle" if how == "pickle" else "skops"]
    assert found.artifacts[1].options["layout"] == "matrix"
    assert found.sample is not None
    path = next(place / found.sample for place in (output, folder) if (place / found.sample).is_file())
    inputs, expected = split_expected(read_sample(path))
    inputs = fit(inputs, found.signature.inputs)
    for index in (0, 1):
        answers = engine_for(found, index, folder, output).run(inputs)
        assert answers["probabilities"].dtype == np.float32  # as the version's one signature says
        np.testing.assert_allclose(answers["probabilities"], expected["probabilities"], rtol=1e-4, atol=1e-5)
        assert np.array_equal(answers["label"], expected["label"])


def test_a_form_that_does_not_take_the_inputs_is_left_out(folder: Path, look: Examine) -> None:
    """The skops file that came with the converted one is another estimator: it gives none of the sample's answers."""
    model = LogisticRegression(max_iter=500).fit(*IRIS)
    exported = export(model, IRIS[0], folder)
    skops_io.dump(LogisticRegression(max_iter=500).fit(IRIS[0], 2 - IRIS[1]), folder / "model.skops")
    found = look(sample=exported.sample, parity=exported.parity)
    assert [artifact.kind for artifact in found.artifacts] == ["onnx"]
    assert found.processing is None


def test_the_native_form_alone_keeps_a_sample_too(folder: Path, output: Path, look: Examine) -> None:
    model = HistGradientBoostingClassifier(max_iter=5).fit(*CANCER)
    skops_io.dump(model, folder / "model.skops")
    found = look()
    assert [artifact.kind for artifact in found.artifacts] == ["skops"]
    assert found.sample in found.added
    inputs, expected = split_expected(read_sample(output / str(found.sample)))
    answers = engine_for(found, 0, folder).run(inputs)
    assert np.array_equal(answers["probabilities"], expected["probabilities"])


def test_a_large_sample_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openmaas.core.types import Signature, TensorSpec
    from openmaas.formats import Task, kept

    monkeypatch.setattr(kept, "MAX_BYTES", 4000)
    signature = Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 100)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
    )
    inputs, expected = {"x": np.ones((50, 100), np.float32)}, {"y": np.ones(50, np.float32)}
    name, added = keep_sample(Task(folder=tmp_path, output=tmp_path), signature, inputs, expected)
    assert added == (name,)
    kept_inputs, kept_expected = split_expected(read_sample(tmp_path / name))
    assert (kept_inputs["x"].shape, kept_expected["y"].shape) == ((10, 100), (10,))
