"""scikit-learn: skops files, approved pickles, and live estimators. Served as ONNX where that gives the same answers."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.manifest import NO_SAMPLE, Artifact
from openmaas.core.types import Signature
from openmaas.formats.base import Examined, Exported, Format, Task
from openmaas.formats.description import refuse_unused
from openmaas.formats.files import free_name, sha256_of

if TYPE_CHECKING:
    from openmaas.engines.sklearn.estimator import Arrays
    from openmaas.formats.batching import Run
    from openmaas.formats.sklearn.conversion import Converted

_MAX_SCHEMA = 256 << 20


class SklearnFormat(Format):
    name = "sklearn"
    kinds = "fitted scikit-learn estimators"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.formats.pickles import find_pickle

        return [file for file in files if is_skops(folder / file) or find_pickle(folder / file)]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.formats.sample import read_sample, split_expected
        from openmaas.formats.sklearn.conversion import convert
        from openmaas.formats.sklearn.layouts import fitting_rows

        refuse_unused(task.description, self.name, "signature", "options")
        model, kind, options, notes = _load(task, entry)
        given = split_expected(read_sample(task.folder / task.sample))[0] if task.sample else None
        candidates = fitting_rows(model, given)
        added = free_name(task.folder, "model.onnx")
        converted = convert(model, candidates, task.output / added)
        native = Artifact(kind=kind, entry=entry, options={**options, "layout": converted.rows.layout})
        served = _as_onnx(model, converted, added, native) if converted.parity.passed else _as_itself(model, converted, native)
        return _examined(task, model, converted, served, notes)

    def complete(self, task: Task, examined: Examined) -> Examined:
        """With the pushed estimator itself beside the ONNX file, where it can be loaded here and gives the same answers."""
        entry = task.description.entry
        if entry is None or task.sample is None or not is_skops(task.folder / entry):
            return examined
        from openmaas.formats.sklearn.beside import with_estimator

        return with_estimator(task, examined, entry)

    def export(self, model: object, sample: Any, folder: Path) -> Exported | None:
        if not _is_live_estimator(model):
            return None
        from openmaas.formats.sklearn.live import export_estimator

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


def _load(task: Task, entry: str) -> tuple[Any, str, dict[str, Any], tuple[str, ...]]:
    """The estimator, its kind, what the engine must know to load it too, and notes. A pickle is loaded only when approved."""
    from openmaas.engines.sklearn.estimator import load_pickle, load_skops

    path = task.folder / entry
    kind, options = "skops", {}
    if is_skops(path):
        model, notes = load_skops(path)
    else:
        digest = sha256_of(path)
        kind, options = "pickle", {"pickle_sha256": digest}
        if digest not in task.approved:
            raise Refused(
                f"The pickle {digest} is not approved.", code="pickle_refused", next_step=f"openmaas approve {digest}"
            )
        model, notes = load_pickle(path, digest)
    _require_estimator(model)
    return model, kind, options, notes


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
        notes.append(f"{NO_SAMPLE}: it was compared on generated input. Push with a sample for a stronger comparison.")
    if parity.passed and parity.reason:
        notes.append(f"It takes double precision inputs: {parity.reason}")
    if not parity.passed:
        notes.append(f"scikit-learn itself serves it: {parity.reason}")
    return notes


class _Served(NamedTuple):
    """The artifacts, the serving one first; how to run it, the sample as it takes it, and the files added for it."""

    artifacts: tuple[Artifact, ...]
    signature: Signature
    run: Run
    inputs: Arrays
    notes: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def _as_onnx(model: Any, converted: Converted, added: str, native: Artifact) -> _Served:
    from openmaas.engines.sklearn.estimator import Estimator
    from openmaas.formats.compare import rows
    from openmaas.formats.observed import correct_outputs
    from openmaas.formats.sklearn.beside import answers_equally

    assert converted.session is not None
    assert converted.signature is not None
    notes: list[str] = []
    answers = converted.session.run(rows(converted.inputs, 0, 1))
    signature = correct_outputs(converted.signature, answers, frozenset(), notes)
    same = answers_equally(Estimator(model, converted.rows.layout), converted.inputs, converted.rows.outputs)
    artifacts = (Artifact(kind="onnx", entry=added), *((native,) if same else ()))
    return _Served(artifacts, signature, converted.session.run, converted.inputs, tuple(notes), (added,))


def _as_itself(model: Any, converted: Converted, native: Artifact) -> _Served:
    from openmaas.engines.sklearn.estimator import Estimator
    from openmaas.formats.observed import specs_of

    rows = converted.rows
    signature = Signature(inputs=specs_of(rows.inputs), outputs=specs_of(rows.outputs))
    return _Served((native,), signature, Estimator(model, rows.layout).answer, rows.inputs)


def _examined(task: Task, model: Any, converted: Converted, served: _Served, notes: tuple[str, ...]) -> Examined:
    """All that the manifest needs: batching proved, the columns and classes described, the sample kept."""
    from openmaas.engines.sklearn.estimator import Estimator
    from openmaas.formats import batching
    from openmaas.formats.kept import keep_sample
    from openmaas.formats.sample import stretch
    from openmaas.formats.tables import describe_table

    verdict = batching.prove(served.run, served.signature, stretch(served.inputs, batching.BATCH), converted.rows.origin)
    batchable, why = batching.as_declared(task.description.batchable, verdict)
    layout = converted.rows.layout
    source = Estimator(model, layout).answer
    processing, told = describe_table(model, layout, served.signature, served.inputs, source, served.run)
    sample, kept = keep_sample(task, served.signature, served.inputs, converted.rows.outputs)
    return Examined(
        format="sklearn",
        engine="onnxruntime" if converted.parity.passed else "sklearn",
        entry=served.artifacts[0].entry,
        artifacts=served.artifacts,
        signature=served.signature,
        batchable=batchable,
        batching=why,
        processing=processing,
        sample=sample,
        parity=converted.parity,
        notes=(*notes, *_notes(converted), *served.notes, *told),
        added=(*served.added, *kept),
    )
