"""scikit-learn: skops files, approved pickles, and live estimators. Served as ONNX where that gives the same answers."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.types import Signature
from openmaas.formats.base import Examined, Exported, Format, Task
from openmaas.formats.files import free_name, sha256_of

if TYPE_CHECKING:
    from openmaas.formats.conversion import Converted
    from openmaas.formats.layouts import Rows

_MAX_SCHEMA = 256 << 20


class SklearnFormat(Format):
    name = "sklearn"
    kinds = "fitted scikit-learn estimators"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.formats.pickles import find_pickle

        return [file for file in files if is_skops(folder / file) or find_pickle(folder / file)]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.core.estimator import Estimator, load_pickle, load_skops
        from openmaas.formats.conversion import convert
        from openmaas.formats.layouts import fitting_rows
        from openmaas.formats.sample import read_sample, split_expected

        path = task.folder / entry
        options: dict[str, Any] = {}
        if is_skops(path):
            model, notes = load_skops(path)
        else:
            options["pickle_sha256"] = sha256_of(path)
            _require_approved(options["pickle_sha256"], task)
            model, notes = load_pickle(path, options["pickle_sha256"])
        _require_estimator(model)
        given = split_expected(read_sample(task.folder / task.sample))[0] if task.sample else None
        candidates = fitting_rows(model, given)
        added = free_name(task.folder, "model.onnx")
        converted = convert(model, candidates, task.output / added)
        notes = (*notes, *_notes(candidates[0], converted))
        if converted.parity.passed:
            return _onnx(converted, candidates[0].origin, added, notes)
        return _native(Estimator(model, candidates[0].layout), candidates[0], converted, entry, options, notes)

    def export(self, model: object, sample: Any, folder: Path) -> Exported | None:
        if not _is_live_estimator(model):
            return None
        from openmaas.formats.live import export_estimator

        return export_estimator(model, sample, folder)


def is_skops(path: Path) -> bool:
    """Whether the file is a zip archive from its first byte on that holds a skops schema."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
        try:
            with zipfile.ZipFile(file) as archive:
                return archive.getinfo("schema.json").file_size <= _MAX_SCHEMA
        except (KeyError, zipfile.BadZipFile, OSError, ValueError):
            return False


def _is_live_estimator(model: object) -> bool:
    base = sys.modules.get("sklearn.base")
    return base is not None and isinstance(model, base.BaseEstimator) and not isinstance(model, type)


def _require_approved(digest: str, task: Task) -> None:
    if digest not in task.approved:
        raise Refused(f"The pickle {digest} is not approved.", code="pickle_refused", next_step=f"openmaas approve {digest}")


def _require_estimator(model: Any) -> None:
    from sklearn.base import BaseEstimator

    if not isinstance(model, BaseEstimator):
        raise InvalidInput(
            f"The file holds a {type(model).__module__}.{type(model).__qualname__}, not a scikit-learn estimator.",
            code="not_a_model",
        )


def _notes(rows: Rows, converted: Converted) -> list[str]:
    parity = converted.parity
    notes = []
    if rows.origin == "generated":
        notes.append("No sample was given: it was compared on generated input. Push with a sample for a stronger comparison.")
    if parity.passed and parity.reason:
        notes.append(f"It takes double precision inputs: {parity.reason}")
    if not parity.passed:
        notes.append(f"scikit-learn itself serves it: {parity.reason}")
    return notes


def _onnx(converted: Converted, origin: str, added: str, notes: tuple[str, ...]) -> Examined:
    from openmaas.formats import batching
    from openmaas.formats.observed import correct_outputs
    from openmaas.formats.sample import stretch

    assert converted.session is not None
    assert converted.signature is not None
    run = converted.session.run
    seven = stretch(converted.inputs, batching.BATCH)
    corrections: list[str] = []
    signature = correct_outputs(converted.signature, run(seven), frozenset(), corrections)
    verdict = batching.prove(run, signature, seven, origin)
    return Examined(
        format="sklearn",
        engine="onnxruntime",
        entry=added,
        signature=signature,
        batchable=verdict.batchable,
        batching=verdict.why,
        parity=converted.parity,
        notes=(*notes, *corrections),
        added=(added,),
    )


def _native(
    estimator: Any, rows: Rows, converted: Converted, entry: str, options: dict[str, Any], notes: tuple[str, ...]
) -> Examined:
    from openmaas.formats import batching
    from openmaas.formats.observed import specs_of
    from openmaas.formats.sample import stretch

    signature = Signature(inputs=specs_of(rows.inputs), outputs=specs_of(rows.outputs))
    verdict = batching.prove(estimator.answer, signature, stretch(rows.inputs, batching.BATCH), rows.origin)
    return Examined(
        format="sklearn",
        engine="sklearn",
        entry=entry,
        signature=signature,
        batchable=verdict.batchable,
        batching=verdict.why,
        parity=converted.parity,
        options=options | {"layout": rows.layout},
        notes=notes,
    )
