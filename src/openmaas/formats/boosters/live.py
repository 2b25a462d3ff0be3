"""A live xgboost or LightGBM model as its library's own file, and a sample with the answers of the object itself."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput
from openmaas.formats.base import Exported
from openmaas.formats.description import FILE_NAME

_SAMPLE = "sample.npz"


def export_booster(model: object, sample: Any, folder: Path) -> Exported | None:
    """Write it into `folder`; None for what is no booster. Raises InvalidInput for one that is not fitted.

    The server reads the file and compares: nothing but data is sent.
    """
    if (booster := _booster(model)) is None:
        return None
    file = _save(model, booster, folder)
    files = [file]
    options = _options(model)
    if options:
        _describe(options, file, folder)
        files.append(FILE_NAME)
    if sample is None:
        return Exported(files=tuple(files))
    _write_sample(model, booster, folder / file, sample, options, folder / _SAMPLE)
    return Exported(files=(*files, _SAMPLE), sample=_SAMPLE)


def _booster(model: object) -> Any:
    """The library's own Booster, None for what is none."""
    xgboost, lightgbm = sys.modules.get("xgboost"), sys.modules.get("lightgbm")
    if (xgboost and isinstance(model, xgboost.Booster)) or (lightgbm and isinstance(model, lightgbm.Booster)):
        return model
    if xgboost and isinstance(model, xgboost.XGBModel):
        return _fitted(model, model.get_booster)
    if lightgbm and isinstance(model, lightgbm.LGBMModel):
        return _fitted(model, lambda: model.booster_)
    return None


def _fitted(model: object, booster: Any) -> Any:
    from sklearn.exceptions import NotFittedError

    try:
        return booster()
    except NotFittedError as error:
        raise InvalidInput(
            f"The {type(model).__name__} is not fitted: {error}", code="not_fitted", next_step="Call fit before push."
        ) from None


def _save(model: Any, booster: Any, folder: Path) -> str:
    if _is_xgboost(booster):
        model.save_model(folder / "booster.json")  # the wrapper's own: it says how many rounds are used
        return "booster.json"
    booster.save_model(folder / "booster.txt")
    return "booster.txt"


def _is_xgboost(booster: Any) -> bool:
    return type(booster).__module__.partition(".")[0] == "xgboost"


def _options(model: Any) -> dict[str, Any]:
    """What the file does not hold: the classes, and a number that stands for a missing value."""
    options: dict[str, Any] = {}
    classes = getattr(model, "classes_", None)
    if isinstance(classes, np.ndarray) and classes.ndim == 1:
        plain = [int(name) if isinstance(name, bool) or name == _whole(name) else name for name in classes.tolist()]
        if plain != list(range(len(plain))):
            options["labels"] = [name if isinstance(name, int) else str(name) for name in plain]
    missing = getattr(model, "missing", None)
    if isinstance(missing, int | float) and not math.isnan(missing):
        options["missing"] = float(missing)
    return options


def _whole(name: Any) -> Any:
    return int(name) if isinstance(name, float) and name.is_integer() else None


def _describe(options: dict[str, Any], file: str, folder: Path) -> None:
    import json

    text = f"format: boosters\nentry: {file}\noptions: {json.dumps(options, ensure_ascii=False)}\n"
    (folder / FILE_NAME).write_text(text, "utf-8")


# ── sample ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _write_sample(model: Any, booster: Any, file: Path, sample: Any, options: dict[str, Any], target: Path) -> None:
    from openmaas.engines.boosters.booster import Booster, read_booster
    from openmaas.formats.boosters.rows import rows_of
    from openmaas.formats.kept import write_sample
    from openmaas.formats.sklearn.layouts import arrays_of

    here = Booster(read_booster(file), **options)
    inputs = rows_of(here, arrays_of(_without_category_types(sample)))
    write_sample(target, inputs, _answers(model, booster, sample))


def _without_category_types(sample: Any) -> Any:
    """A data frame whose pandas categories are plain values, a missing one an empty text."""
    if not hasattr(sample, "dtypes") or not hasattr(sample, "columns"):
        return sample
    columns = [name for name in sample.columns if sample[name].dtype.name == "category"]
    plain = {name: sample[name].astype(object).where(sample[name].notna(), "") for name in columns}
    return sample.assign(**plain)


def _answers(model: Any, booster: Any, sample: Any) -> dict[str, NDArray[Any]]:
    """What the object itself answers to the rows that are kept, in our words; nothing for a bare Booster, which has none."""
    from openmaas.formats.sklearn.layouts import picked

    if model is booster:
        return {}
    rows = picked(sample)
    if not hasattr(model, "predict_proba"):
        return {"prediction": np.asarray(model.predict(rows)).reshape(len(rows), -1)}
    labels = np.asarray(model.predict(rows))
    if labels.dtype.kind in "biuf":
        labels = labels.astype(np.int64)
    return {"label": labels, "probabilities": np.asarray(model.predict_proba(rows))}
