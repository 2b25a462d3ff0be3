"""scikit-learn: skops files, approved pickles, and live estimators. Served as ONNX where that gives the same answers."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.types import Signature
from openmaas.formats.base import Examined, Exported, Format, Task
from openmaas.formats.description import refuse_unused
from openmaas.formats.files import free_name, sha256_of

if TYPE_CHECKING:
    from openmaas.engines.estimator import Arrays
    from openmaas.formats.batching import Run
    from openmaas.formats.conversion import Converted

_MAX_SCHEMA = 256 << 20


class SklearnFormat(Format):
    name = "sklearn"
    kinds = "fitted scikit-learn estimators"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.formats.pickles import find_pickle

        return [file for file in files if is_skops(folder / file) or find_pickle(folder / file)]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.formats import batching
        from openmaas.formats.conversion import convert
        from openmaas.formats.layouts import fitting_rows
        from openmaas.formats.sample import read_sample, split_expected, stretch

        refuse_unused(task.description, self.name, "signature", "options")
        model, options, notes = _load(task, entry)
        given = split_expected(read_sample(task.folder / task.sample))[0] if task.sample else None
        candidates = fitting_rows(model, given)
        added = free_name(task.folder, "model.onnx")
        converted = convert(model, candidates, task.output / added)
        found, run, inputs = (
            _as_onnx(converted, added) if converted.parity.passed else _as_itself(model, converted, entry, options)
        )
        verdict = batching.prove(run, found.signature, stretch(inputs, batching.BATCH), converted.rows.origin)
        batchable, why = batching.as_declared(task.description.batchable, verdict)
        notes = (*notes, *_notes(converted), *found.notes)
        return msgspec.structs.replace(found, batchable=batchable, batching=why, parity=converted.parity, notes=notes)

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


def _load(task: Task, entry: str) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """The estimator, what the engine must know to load it too, and notes. A pickle is only loaded when it is approved."""
    from openmaas.engines.estimator import load_pickle, load_skops

    path = task.folder / entry
    options: dict[str, Any] = {}
    if is_skops(path):
        model, notes = load_skops(path)
    else:
        digest = options["pickle_sha256"] = sha256_of(path)
        if digest not in task.approved:
            raise Refused(
                f"The pickle {digest} is not approved.", code="pickle_refused", next_step=f"openmaas approve {digest}"
            )
        model, notes = load_pickle(path, digest)
    _require_estimator(model)
    return model, options, notes


def _require_estimator(model: Any) -> None:
    from sklearn.base import BaseEstimator

    if not isinstance(model, BaseEstimator):
        raise InvalidInput(
            f"The file holds a {type(model).__module__}.{type(model).__qualname__}, not a scikit-learn estimator.",
            code="not_a_model",
        )


def _notes(converted: Converted) -> list[str]:
    parity = converted.parity
    notes = []
    if parity.sample == "generated":
        notes.append("No sample was given: it was compared on generated input. Push with a sample for a stronger comparison.")
    if parity.passed and parity.reason:
        notes.append(f"It takes double precision inputs: {parity.reason}")
    if not parity.passed:
        notes.append(f"scikit-learn itself serves it: {parity.reason}")
    return notes


def _as_onnx(converted: Converted, added: str) -> tuple[Examined, Run, Arrays]:
    """What serves, how to run it, and the sample as it takes it."""
    from openmaas.formats.compare import rows
    from openmaas.formats.observed import correct_outputs

    assert converted.session is not None
    assert converted.signature is not None
    notes: list[str] = []
    answers = converted.session.run(rows(converted.inputs, 0, 1))
    signature = correct_outputs(converted.signature, answers, frozenset(), notes)
    found = Examined(
        format="sklearn", engine="onnxruntime", entry=added, signature=signature, notes=tuple(notes), added=(added,)
    )
    return found, converted.session.run, converted.inputs


def _as_itself(model: Any, converted: Converted, entry: str, options: dict[str, Any]) -> tuple[Examined, Run, Arrays]:
    from openmaas.engines.estimator import Estimator
    from openmaas.formats.observed import specs_of

    rows = converted.rows
    signature = Signature(inputs=specs_of(rows.inputs), outputs=specs_of(rows.outputs))
    options = options | {"layout": rows.layout}
    found = Examined(format="sklearn", engine="sklearn", entry=entry, signature=signature, options=options)
    return found, Estimator(model, rows.layout).answer, rows.inputs
