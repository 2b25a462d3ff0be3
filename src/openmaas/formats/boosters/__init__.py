"""xgboost (JSON, UBJSON) and LightGBM (text): files and live boosters. Served as ONNX where that gives the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.manifest import NO_SAMPLE, Artifact
from openmaas.formats.base import Examined, Exported, Format, Task
from openmaas.formats.description import FILE_NAME, refuse_unused
from openmaas.formats.files import free_name

if TYPE_CHECKING:
    from openmaas.core.processing import Processing
    from openmaas.core.types import Signature
    from openmaas.engines.boosters.booster import Arrays, Booster
    from openmaas.formats.batching import Run
    from openmaas.formats.sklearn.conversion import Converted


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What openmaas.yaml may say of a booster: its classes where they are not 0, 1, 2 …, and the number that means a missing
    value besides NaN. Both are known to the library's scikit-learn classes and not to the file."""

    labels: tuple[str | int, ...] | None = None
    missing: float | None = None


class BoostersFormat(Format):
    name = "boosters"
    kinds = "xgboost and LightGBM models"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.engines.boosters.lightgbm_file import is_lightgbm
        from openmaas.engines.boosters.xgboost_file import is_xgboost

        return [file for file in files if is_xgboost(folder / file) or is_lightgbm(folder / file)]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.engines.boosters.booster import Booster, read_booster
        from openmaas.formats.boosters.rows import compared_rows, read_rows

        refuse_unused(task.description, self.name, "signature")
        options = _options(task.description.options)
        checked = read_booster(task.folder / entry)
        _check_labels(options, checked.answer, checked.outputs)
        booster = Booster(checked, labels=options.labels, missing=options.missing, threads=2)
        given, expected = read_rows(booster, task.folder / task.sample) if task.sample else (None, {})
        _hold(booster, given, expected)
        rows = compared_rows(booster, given)
        added = free_name(task.folder, "model.onnx")
        converted = _convert(booster, rows, task.output / added)
        native = Artifact(kind=checked.library, entry=entry, options=_told(options))
        return _examined(task, booster, converted, added, native)

    def export(self, model: object, sample: Any, folder: Path) -> Exported | None:
        from openmaas.formats.boosters.live import export_booster

        return export_booster(model, sample, folder)


def _options(given: dict[str, Any]) -> Options:
    try:
        return msgspec.convert(given, Options)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"{FILE_NAME}: options: {error}.", code="invalid_description", next_step=f"Correct {FILE_NAME} and push again."
        ) from None


def _told(options: Options) -> dict[str, Any]:
    """The options that are set, as the engine reads them."""
    plain = msgspec.json.decode(msgspec.json.encode(options))  # lists, as a manifest gives them back
    return {name: value for name, value in plain.items() if value is not None}


def _check_labels(options: Options, answer: str, outputs: int) -> None:
    classes = {"binary": 2, "decision": 2, "multiclass": outputs}.get(answer)
    if options.labels is None:
        return
    kinds = {type(label) for label in options.labels}
    if len(options.labels) != classes or len(set(options.labels)) != classes or len(kinds) != 1:
        raise InvalidInput(
            f"{FILE_NAME} names {len(options.labels)} labels; the model has {classes or 'no'} classes, each with one name "
            "of the same type.",
            code="invalid_description",
        )


def _hold(booster: Booster, given: Arrays | None, expected: Arrays) -> None:
    """The booster here must answer the sample as the pusher's did. Raises Refused where it does not."""
    from openmaas.formats.compare import compare

    if given is None or not expected:
        return
    answers = booster.answer(given)
    _, wrong = compare(len(next(iter(given.values()))), answers, expected)
    if wrong:
        raise Refused(
            f"The file does not give the answers that came with the sample: {wrong}.",
            code="parity_failed",
            next_step="Save the model again, and push it with a sample of its own.",
        )


def _convert(booster: Booster, rows: Any, path: Path) -> Converted:
    import importlib

    import numpy as np

    from openmaas.formats.boosters.onnx import to_onnx
    from openmaas.formats.sklearn.conversion import attempt

    library = importlib.import_module(booster.checked.library)
    name = f"{'LightGBM' if booster.checked.library == 'lightgbm' else 'xgboost'} {library.__version__}"
    features = len(booster.checked.features)
    attempts = iter([(rows, np.dtype(np.float32))])
    return attempt(name, lambda _: booster, lambda given, _: to_onnx(booster, features, given.outputs), attempts, path)


# ── what was found ───────────────────────────────────────────────────────────────────────────────────────────────────


class _Served(NamedTuple):
    artifacts: tuple[Artifact, ...]
    signature: Signature
    run: Run
    inputs: Arrays
    added: tuple[str, ...] = ()


def _serve(booster: Booster, converted: Converted, added: str, native: Artifact) -> _Served:
    from openmaas.core.types import Signature
    from openmaas.formats.compare import compare, rows
    from openmaas.formats.observed import correct_outputs, specs_of

    given = converted.rows
    if converted.session is None or converted.signature is None:
        signature = Signature(inputs=specs_of(given.inputs), outputs=specs_of(given.outputs))
        return _Served((native,), signature, booster.answer, given.inputs)
    answers = converted.session.run(rows(converted.inputs, 0, 1))
    signature = correct_outputs(converted.signature, answers, frozenset(), [])
    count = len(next(iter(given.inputs.values())))
    same = compare(count, booster.answer(converted.inputs), given.outputs)[1] is None
    artifacts = (Artifact(kind="onnx", entry=added), *((native,) if same else ()))
    return _Served(artifacts, signature, converted.session.run, converted.inputs, (added,))


def _examined(task: Task, booster: Booster, converted: Converted, added: str, native: Artifact) -> Examined:
    from openmaas.formats import batching
    from openmaas.formats.kept import keep_sample
    from openmaas.formats.sample import stretch

    served = _serve(booster, converted, added, native)
    origin, parity = converted.rows.origin, converted.parity
    verdict = batching.prove(served.run, served.signature, stretch(served.inputs, batching.BATCH), origin)
    batchable, why = batching.as_declared(task.description.batchable, verdict)
    # Not the pushed sample as it is: the rows with missing values must be in the one that engines are held against.
    sample, kept = keep_sample(
        msgspec.structs.replace(task, sample=None), served.signature, served.inputs, converted.rows.outputs
    )
    notes = [] if parity.passed else [f"{booster.checked.library} itself serves it: {parity.reason}"]
    if origin == "generated":
        notes.append(f"{NO_SAMPLE}: it was compared on rows around the trees' thresholds, missing values among them.")
    return Examined(
        format="boosters",
        engine="onnxruntime" if parity.passed else native.kind,
        entry=served.artifacts[0].entry,
        artifacts=served.artifacts,
        signature=served.signature,
        batchable=batchable,
        batching=why,
        processing=_processing(booster, served.signature),
        sample=sample,
        parity=parity,
        notes=tuple(notes),
        added=(*served.added, *kept),
    )


def _processing(booster: Booster, signature: Signature) -> Processing | None:
    from openmaas.core.processing import Column, Labels, Processing, TableInput

    checked = booster.checked
    table = None
    if checked.named or checked.by_column:
        kinds = {spec.name: spec.datatype for spec in signature.inputs}
        shared = signature.inputs[0].datatype
        columns = tuple(
            Column(
                name=feature.name,
                datatype=kinds.get(feature.name, shared) if checked.by_column else shared,
                categories=feature.categories,
                nullable=feature.categories is None,
            )
            for feature in checked.features
        )
        table = TableInput(columns=columns, tensor=None if checked.by_column else signature.inputs[0].name)
    classes = {"binary": 2, "multiclass": checked.outputs}.get(checked.answer)
    names = range(classes or 0) if booster.labels is None else booster.labels.tolist()
    labels = Labels(output="probabilities", labels=tuple(str(name) for name in names)) if classes else None
    return Processing(input=table, output=labels) if table or labels else None
