"""A booster that answers. The proof at push and the engine that serves load and run it by this same code."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import to_bytes, to_text
from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError, without_paths
from openmaas.engines.boosters.checked import Checked, Feature
from openmaas.engines.boosters.lightgbm_file import is_lightgbm, read_lightgbm
from openmaas.engines.boosters.xgboost_file import is_xgboost, read_xgboost

Arrays = dict[str, NDArray[Any]]
INPUT = "X"


def read_booster(path: Path) -> Checked:
    """The checked file of either library. Raises InvalidInput or Refused."""
    if is_xgboost(path):
        return read_xgboost(path)
    if is_lightgbm(path):
        return read_lightgbm(path)
    raise InvalidInput("The file is no model of xgboost or LightGBM.", code="not_a_model")


class Booster:
    """`answer` takes X [N, features] (or each column [N, 1] by its name, where the file knows the categories' values) and gives

    label and probabilities (classifiers), label (a bare decision), prediction (regression and ranking).
    labels: the classes, where they are not 0, 1, 2 … missing: the number that stands for a missing value besides NaN.
    """

    def __init__(
        self, checked: Checked, *, labels: Sequence[str | int] | None = None, missing: float | None = None, threads: int = 1
    ) -> None:
        self.checked = checked
        self.labels = None if labels is None else np.array(labels, object if isinstance(labels[0], str) else np.int64)
        self.missing = missing
        self.dtype = np.dtype(np.float32 if checked.library == "xgboost" else np.float64)
        self.threads = threads
        self.model = (_load_xgboost if checked.library == "xgboost" else _load_lightgbm)(checked, threads)

    def answer(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """One batch. Raises EngineFailed with what the library said, InvalidInput for a category that it does not know."""
        try:
            rows = self._rows(inputs)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scores = self._scores(rows)
        except OpenMaaSError:
            raise
        except Exception as error:
            raise EngineFailed(f"{self.checked.library} cannot run this input: {_reason(error)}") from None
        return self._shaped(scores)

    # rows

    def _rows(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        if self.checked.by_column:
            columns = [_codes(feature, inputs[feature.name]) for feature in self.checked.features]
            rows = np.concatenate(columns, axis=1).astype(self.dtype)
        else:
            (rows,) = inputs.values()
            rows = np.ascontiguousarray(rows if rows.dtype.kind == "f" else rows.astype(self.dtype))
        if rows.ndim != 2 or rows.shape[1] != len(self.checked.features):
            raise InvalidInput(f"The rows have shape {list(rows.shape)}; the model takes [-1, {len(self.checked.features)}].")
        return rows if self.missing is None else np.where(rows == self.missing, np.nan, rows).astype(rows.dtype)

    # answers

    def _scores(self, rows: NDArray[Any]) -> NDArray[Any]:
        """What the objective gives [N, outputs]."""
        checked = self.checked
        if checked.library == "lightgbm":
            answer = self.model.predict(rows, num_threads=self.threads)
        elif checked.linear:
            import xgboost

            answer = self.model.predict(xgboost.DMatrix(rows, nthread=self.threads), output_margin=checked.softmax)
        else:
            kind = "margin" if checked.softmax else "value"
            answer = self.model.inplace_predict(rows, predict_type=kind, validate_features=False)
        array = np.asarray(answer).reshape(len(rows), -1)
        return _softmax(array) if checked.softmax else array

    def _shaped(self, scores: NDArray[Any]) -> Arrays:
        match self.checked.answer:
            case "number":
                return {"prediction": scores}
            case "decision":
                return {"label": self._named(scores.ravel().astype(np.int64))}
            case "multilabel":
                return {"label": (scores > 0.5).astype(np.int64), "probabilities": scores}
            case "binary":
                scores = np.concatenate([1 - scores, scores], axis=1)
        return {"label": self._named(scores.argmax(axis=1)), "probabilities": scores}

    def _named(self, classes: NDArray[np.int64]) -> NDArray[Any]:
        if self.labels is None:
            return classes
        return to_bytes(self.labels[classes]) if self.labels.dtype == object else self.labels[classes]


def _softmax(margins: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(margins - margins.max(axis=1, keepdims=True))
    shares: NDArray[Any] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _codes(feature: Feature, column: NDArray[Any]) -> NDArray[Any]:
    """A column [N, 1] as numbers: the place of each category among the known, NaN for an empty text."""
    if feature.categories is None:
        return column.astype(np.float64)
    places: dict[Any, float] = {value: float(place) for place, value in enumerate(feature.categories)}
    text = column.dtype.kind == "O"
    values = (to_text(column) if text else column).ravel().tolist()
    codes = [places.get(value, np.nan) for value in values]
    unknown = next((v for v, code in zip(values, codes, strict=True) if np.isnan(code) and v != ""), None)
    if unknown is not None:
        known = ", ".join(map(repr, feature.categories[:8]))
        raise InvalidInput(
            f"Column {feature.name!r} holds {str(unknown)[:60]!r}; its categories are {known}"
            f"{' …' if len(feature.categories) > 8 else ''}.",
            code="unknown_category",
        )
    return np.array(codes).reshape(-1, 1)


# ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _load_xgboost(checked: Checked, threads: int) -> Any:
    xgboost = _library("xgboost")
    try:
        with warnings.catch_warnings(), xgboost.config_context(verbosity=0):
            warnings.simplefilter("ignore")
            model = xgboost.Booster({"nthread": threads}, model_file=bytearray(checked.content))
            return model if checked.iterations is None else model[: checked.iterations]
    except Exception as error:
        raise InvalidInput(f"xgboost cannot load the file: {_reason(error)}", code="load_failed") from None


def _load_lightgbm(checked: Checked, threads: int) -> Any:
    lightgbm = _library("lightgbm")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return lightgbm.Booster({"num_threads": threads, "verbose": -1}, model_str=checked.content.decode())
    except Exception as error:
        raise InvalidInput(f"LightGBM cannot load the file: {_reason(error)}", code="load_failed") from None


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise InvalidInput(
            f"This is a model of {name}, which is not installed here.",
            code="library_missing",
            next_step="pip install 'openmaas[boosters]' where the server runs.",
        ) from None


def _reason(error: object) -> str:
    """The library's own words: the first line, since xgboost appends a stack trace."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return without_paths(first.rpartition("] ")[2] or first)[:400].rstrip(". ") + "."
