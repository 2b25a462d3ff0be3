"""A scikit-learn estimator that answers. The proof at push and the engine that serves load and run it by this same code."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import to_bytes, to_text
from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError, Refused, without_paths
from openmaas.engines.sklearn.trusted import TRUSTED_TYPES

Arrays = dict[str, NDArray[Any]]
Layout = Literal["matrix", "columns", "text"]
"""How the inputs make up X: one array [N, features]; a named column [N, 1] each; one array of texts [N, 1]."""


class Estimator:
    """`answer` takes arrays by name and gives what the estimator has:

    label (classifiers, clusterers, outlier detectors), probabilities, scores (outlier detectors), prediction (regressors),
    transformed (transformers). notes: what the library warned of when it was loaded.
    """

    def __init__(self, model: Any, layout: Layout = "matrix", notes: tuple[str, ...] = ()) -> None:
        self.model = model
        self.layout = layout
        self.notes = notes
        self._methods = _methods(model)

    def answer(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """One batch. Raises EngineFailed with what the library said, InvalidInput for BYTES that are not text."""
        try:
            rows = self._rows(inputs)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answers = {name: method(rows) for name, method in self._methods.items()}
        except OpenMaaSError:
            raise
        except Exception as error:
            raise EngineFailed(f"scikit-learn cannot run this input: {_reason(error)}") from None
        return dict(_tensors(answers))

    def _rows(self, inputs: Mapping[str, NDArray[Any]]) -> Any:
        if self.layout == "columns":
            return _data_frame(inputs)
        (array,) = inputs.values()
        if self.layout == "text":
            return to_text(array).ravel()
        return to_text(array) if array.dtype.kind == "O" else array


def _methods(model: Any) -> dict[str, Any]:
    """The methods that answer, by output name."""
    from sklearn import base

    found: dict[str, Any] = {}
    if hasattr(model, "predict"):
        found["prediction" if base.is_regressor(model) else "label"] = model.predict
        if hasattr(model, "predict_proba"):
            found["probabilities"] = model.predict_proba
        elif base.is_outlier_detector(model) and hasattr(model, "decision_function"):
            found["scores"] = model.decision_function
    elif hasattr(model, "transform"):
        found["transformed"] = model.transform
    if not found:
        raise InvalidInput(
            f"A {type(model).__name__} neither predicts nor transforms.",
            code="not_a_model",
            next_step="Push a fitted estimator.",
        )
    return found


def _tensors(answers: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, answer in answers.items():
        if isinstance(answer, list):  # one array for each of several targets
            yield from ((f"{name}_{index}", _tensor(name, part)) for index, part in enumerate(answer))
        else:
            yield name, _tensor(name, answer)


def _tensor(name: str, answer: Any) -> NDArray[Any]:
    array = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
    if name == "label" and array.dtype.kind in "biuf" and np.array_equal(array, np.floor(array)):
        return array.astype(np.int64)
    if array.dtype.kind in "OSU":
        return to_bytes(array)
    return array.reshape(-1, 1) if array.ndim == 1 and name != "label" else array


def _data_frame(inputs: Mapping[str, NDArray[Any]]) -> Any:
    try:
        import pandas  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise EngineFailed(
            "The model takes named columns, which need pandas.", code="library_missing", next_step="pip install pandas"
        ) from None
    return pandas.DataFrame(
        {name: (to_text(array) if array.dtype.kind == "O" else array).ravel() for name, array in inputs.items()}
    )


# ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def load_skops(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The object in a skops file, and the library's warnings.

    Raises Refused, naming them, for types that are not on our list; InvalidInput for a damaged file.
    """
    skops = _library("skops.io")
    try:
        unknown = sorted(set(skops.get_untrusted_types(file=path)) - set(TRUSTED_TYPES))
    except MemoryError:
        raise
    except Exception as error:
        raise InvalidInput(f"The skops file cannot be read: {_reason(error)}", code="damaged") from None
    if unknown:
        raise Refused(
            f"The skops file holds types that are not scikit-learn's own: {', '.join(name[:120] for name in unknown[:12])}.",
            code="untrusted_type",
            next_step="Push the live object from Python, where its classes are, or save the model as ONNX.",
        )
    model, notes = _load(lambda: skops.load(path, trusted=list(TRUSTED_TYPES)))
    check_trees(model)
    _refuse_file_readers(model)
    return model, notes


def load_pickle(path: Path, sha256: str) -> tuple[Any, tuple[str, ...]]:
    """The object in a pickle or joblib file. This runs the code that it holds: `sha256` is what an admin approved."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise Refused(f"The pickle is not the approved one: its SHA-256 is {digest}.", code="pickle_refused")
    joblib = _library("joblib")
    return _load(lambda: joblib.load(path))


def _load(load: Any) -> tuple[Any, tuple[str, ...]]:
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            model = load()
    except MemoryError:
        raise
    except Exception as error:
        raise InvalidInput(f"scikit-learn cannot load the file: {_reason(error)}", code="load_failed") from None
    for part in parts(model):
        if getattr(part, "n_jobs", None) is not None:
            part.n_jobs = 1  # a replica has its share of the cores, and starts no processes of its own
    return model, tuple(sorted({_reason(warning.message) for warning in seen}))


def _refuse_file_readers(model: Any) -> None:
    """A vectorizer may be told to take its texts for names of files: every caller could then read the server's."""
    for part in parts(model):
        if hasattr(part, "decode_error") and getattr(part, "input", "content") != "content":
            raise Refused(
                f"The {type(part).__name__} reads files that its input names (input={part.input!r}).",
                code="reads_files",
                next_step="Fit it with input='content', and send the texts themselves.",
            )


def _library(name: str) -> Any:
    import importlib

    try:
        importlib.import_module("sklearn")
        return importlib.import_module(name)
    except ImportError:
        raise InvalidInput(
            f"This is a scikit-learn model, and {name.partition('.')[0]} or scikit-learn is not installed here.",
            code="library_missing",
            next_step="pip install 'openmaas[sklearn]' where the server runs.",
        ) from None


def _reason(error: object) -> str:
    text = without_paths(" ".join(str(error).split())) or type(error).__name__
    return text[:600].rstrip(". ") + "."


# ── trees ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_trees(model: Any) -> None:
    """Refuse decision trees whose nodes point outside of themselves: scikit-learn follows them without looking."""
    for part in parts(model):
        kind = type(part).__name__
        if kind == "Tree" and type(part).__module__.startswith("sklearn."):
            _check_tree(part)
        elif kind == "TreePredictor":
            _check_nodes(part.nodes["left"], part.nodes["right"], part.nodes["is_leaf"] != 0)
        elif hasattr(part, "tree_") and hasattr(part.tree_, "n_features"):
            _require(part.tree_.n_features == part.n_features_in_)


def _check_tree(tree: Any) -> None:
    _require(tree.node_count <= tree.capacity)
    leaf = tree.children_left == -1
    _check_nodes(tree.children_left, tree.children_right, leaf)
    inner = tree.feature[~leaf]
    _require(bool(((inner >= 0) & (inner < tree.n_features)).all()))


def _check_nodes(left: NDArray[Any], right: NDArray[Any], leaf: NDArray[Any]) -> None:
    """Children come after their parent and exist, so that every path ends in a leaf."""
    count = len(left)
    _require(count > 0)
    for child in (left.astype(np.int64), right.astype(np.int64)):
        _require(bool((leaf | ((child > np.arange(count)) & (child < count))).all()))


def _require(sound: bool) -> None:
    if not sound:
        raise Refused("The file holds a decision tree whose nodes point outside of it.", code="damaged")


def parts(model: Any) -> Iterator[Any]:
    """Every object that the model is made of, once."""
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, str | bytes | int | float | type(None)):
            continue
        seen.add(id(part))
        yield part
        waiting += _children(part)


def _children(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return list(part.values())
    if isinstance(part, list | tuple | set):
        return list(part)
    if isinstance(part, np.ndarray):
        return part.ravel().tolist() if part.dtype.hasobject else []
    return list(getattr(part, "__dict__", {}).values())
