"""A live scikit-learn estimator as files: skops, ONNX where that gives the same answers, and a sample with the answers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from openmaas.core.errors import InvalidInput
from openmaas.engines.sklearn.trusted import TRUSTED_TYPES
from openmaas.formats.base import Exported
from openmaas.formats.description import FILE_NAME
from openmaas.formats.kept import write_sample
from openmaas.formats.sklearn.conversion import convert
from openmaas.formats.sklearn.layouts import arrays_of, fitting_rows

_SKOPS, _ONNX, _SAMPLE = "model.skops", "model.onnx", "sample.npz"


def export_estimator(model: Any, sample: Any, folder: Path) -> Exported:
    """Write a fitted estimator into `folder`. Raises InvalidInput for one that is not fitted, or that no server could run."""
    _require_fitted(model)
    candidates = fitting_rows(model, arrays_of(sample) if sample is not None else None)
    converted = convert(model, candidates, folder / _ONNX)
    saved, reason = _save(model, folder / _SKOPS)
    files = [_SKOPS] if saved else []
    if converted.parity.passed:
        write_sample(folder / _SAMPLE, converted.inputs, converted.rows.outputs)
        entry = f"entry: {_SKOPS}\n" if saved and not reason else ""
        (folder / FILE_NAME).write_text(f"format: sklearn\nconverted: {_ONNX}\n{entry}", "utf-8")
        files += [_ONNX, FILE_NAME]
    elif saved and not reason:
        write_sample(folder / _SAMPLE, candidates[0].inputs, candidates[0].outputs)
    else:
        raise InvalidInput(
            f"ONNX cannot give the estimator's answers ({converted.parity.reason}), and a server cannot load it: {reason}.",
            code="not_exportable",
            next_step="Build it from scikit-learn's own classes, or export ONNX yourself and push the file.",
        )
    return Exported(files=(*files, _SAMPLE), sample=_SAMPLE, parity=converted.parity)


def _require_fitted(model: Any) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except (NotFittedError, TypeError) as error:
        raise InvalidInput(
            f"The {type(model).__name__} is not fitted: {error}", code="not_fitted", next_step="Call fit before push."
        ) from None


def _save(model: Any, path: Path) -> tuple[bool, str]:
    """Whether skops could write it, and why a server could not load it (empty when it could)."""
    import skops.io

    try:
        skops.io.dump(model, path)
        make_canonical(path)
        foreign = sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED_TYPES))
    except Exception as error:
        path.unlink(missing_ok=True)
        return False, f"skops cannot save it ({' '.join(str(error).split())[:200]})"
    return True, f"it holds classes that are not scikit-learn's own ({', '.join(foreign[:8])})" if foreign else ""


def make_canonical(path: Path) -> None:
    """Rewrite a skops file so that the same estimator is always the same bytes: skops names its parts by memory addresses."""
    with zipfile.ZipFile(path) as archive:
        schema = json.loads(archive.read("schema.json"))
        names: dict[Any, Any] = {}
        _renumber(schema, names)
        members = {"schema.json": json.dumps(schema).encode()}
        members |= {names.get(name, name): archive.read(name) for name in archive.namelist() if name != "schema.json"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name), members[name])


def _renumber(state: Any, names: dict[Any, Any]) -> None:
    """Replace ids and file names by numbers in the order of their appearance."""
    if isinstance(state, list):
        for item in state:
            _renumber(item, names)
    elif isinstance(state, dict):
        if "__loader__" in state:
            if isinstance(state.get("__id__"), int):
                state["__id__"] = names.setdefault(state["__id__"], len(names) + 1)
            if isinstance(state.get("file"), str):
                state["file"] = names.setdefault(state["file"], f"{len(names) + 1}{Path(state['file']).suffix}")
        for item in state.values():
            _renumber(item, names)
