"""ONNX: a file, or a folder with external data. Read as data, then run in the child process to prove what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused, TooLarge
from openmaas.core.types import Signature, TensorSpec
from openmaas.formats.base import Examined, Format, Task

if TYPE_CHECKING:
    from openmaas.core.onnx_session import OnnxSession
    from openmaas.formats.batching import Batching

_LENGTHS = (16, 64, 224)
"""Lengths tried for a made-up dynamic axis, such as a sequence or an image's side."""
_SAMPLE_STEP = "Push it with a sample of real inputs (--sample FILE)."


class OnnxFormat(Format):
    name = "onnx"

    def find(self, folder: Path, files: Sequence[str]) -> list[str]:
        from openmaas.formats.graph import is_onnx

        return [file for file in files if is_onnx(folder / file)]

    def examine(self, task: Task, entry: str) -> Examined:
        from openmaas.formats import graph, zipmap

        path = task.folder / entry
        model = graph.read_model(path)
        graph.check_operators(model)
        external = graph.check_external_data(model, path, task.folder)
        added: tuple[str, ...] = ()
        notes: list[str] = []
        if zipmap.has_zipmap(model):
            entry, path = zipmap.write_without(model, task, external)
            added, notes = (entry,), [zipmap.NOTE]
        return _prove(
            task,
            model,
            path,
            Examined(format=self.name, engine="onnxruntime", entry=entry, signature=_EMPTY, added=added),
            notes,
        )


_EMPTY = Signature(inputs=(), outputs=())


class _Run(NamedTuple):
    """Inputs that the model has run with, their origin ("given" or "generated"), and its answers."""

    inputs: dict[str, Any]
    origin: str
    outputs: dict[str, Any]


def _prove(task: Task, model: Any, path: Path, found: Examined, notes: list[str]) -> Examined:
    import msgspec

    from openmaas.core.onnx_session import OnnxSession
    from openmaas.formats import graph
    from openmaas.formats.observed import correct_outputs, not_finite

    declared = graph.read_signature(model)
    unknown = graph.unknown_ranks(model)
    signature = _override(declared, unknown, task.description.signature)
    session = _load(OnnxSession, path)
    session.bind(signature)
    expected: dict[str, Any] = {}
    try:
        first, expected = _first_run(task, session, signature, graph.axis_names(model))
    except TooLarge as error:
        why = f"Not measured: {error.message} {_SAMPLE_STEP}"
        return msgspec.structs.replace(found, signature=signature, batching=why, notes=(*notes, why))
    signature = correct_outputs(signature, first.outputs, unknown, notes)
    verdict = _batching(session, signature, first, graph.axis_names(model))
    _check_expected(session, first, expected, verdict.batchable)
    if first.origin == "generated":
        notes.append("No sample was given: it was tried on generated input.")
    if nans := not_finite(first.outputs):
        notes.append(f"On the {first.origin} sample, output {nans} holds NaN or Infinity.")
    return msgspec.structs.replace(
        found,
        signature=signature,
        batchable=verdict.batchable and task.description.batchable is not False,
        batching=_batching_text(verdict, task.description.batchable),
        options=task.description.options,
        notes=tuple(notes),
    )


def _load(kind: type[OnnxSession], path: Path) -> OnnxSession:
    try:
        return kind(path, threads=2)
    except OpenMaaSError as error:
        raise Refused(error.message, code="model_not_runnable", next_step="Check that onnxruntime loads the file.") from None


def _override(declared: Signature, unknown: frozenset[str], override: Signature | None) -> Signature:
    """The signature of the file, made more precise by openmaas.yaml. Raises InvalidInput where they contradict each other."""
    if override is not None:
        outputs = {spec.name for spec in override.outputs}
        _check_override(declared.inputs, override.inputs, unknown, "input")
        _check_override(tuple(spec for spec in declared.outputs if spec.name in outputs), override.outputs, unknown, "output")
        return Signature(inputs=override.inputs, outputs=override.outputs)
    if shapeless := sorted(unknown & {spec.name for spec in declared.inputs}):
        raise InvalidInput(
            f"The file gives no shape for input {', '.join(map(repr, shapeless))}.",
            code="signature_needed",
            next_step="Write the signature into openmaas.yaml.",
        )
    return declared


def _check_override(declared: Sequence[TensorSpec], given: Sequence[TensorSpec], unknown: frozenset[str], noun: str) -> None:
    by_name = {spec.name: spec for spec in declared}
    if sorted(by_name) != sorted(spec.name for spec in given):
        raise InvalidInput(
            f"openmaas.yaml declares {noun}s {_names(given)}; the file has {_names(declared)}.", code="signature_mismatch"
        )
    for spec in given:
        real = by_name[spec.name]
        fits = spec.name in unknown or (
            len(spec.shape) == len(real.shape)
            and all(have in (-1, want) for want, have in zip(spec.shape, real.shape, strict=True))
        )
        if spec.datatype != real.datatype or not fits or any(axis < -1 for axis in spec.shape):
            raise InvalidInput(
                f"openmaas.yaml declares {noun} {spec.name!r} as {spec.datatype} {list(spec.shape)}; "
                f"the file has {real.datatype} {list(real.shape)}.",
                code="signature_mismatch",
            )


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in specs) or "none"


# ── running it ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _first_run(
    task: Task, session: OnnxSession, signature: Signature, axes: Mapping[str, tuple[str, ...]]
) -> tuple[_Run, dict[str, Any]]:
    """One run on the sample, and the source's answers if the sample brings them. Raises Refused when the model does not run."""
    from openmaas.formats.sample import fit, read_sample, split_expected

    if task.sample is None:
        return _first_generated(session, signature, axes), {}
    arrays, expected = split_expected(read_sample(task.folder / task.sample))
    inputs = fit(arrays, signature.inputs)
    try:
        return _Run(inputs, "given", session.run(_one_row(signature, inputs))), expected
    except OpenMaaSError as error:
        raise Refused(f"The model does not run on the sample: {error.message}", code="model_not_runnable") from None


def _first_generated(session: OnnxSession, signature: Signature, axes: Mapping[str, tuple[str, ...]]) -> _Run:
    from openmaas.core.made_up import make_up
    from openmaas.formats.batching import BATCH

    reason = ""
    free = any(-1 in spec.shape[1:] for spec in signature.inputs)
    for length in _LENGTHS if free else _LENGTHS[:1]:
        inputs = make_up(signature.inputs, BATCH, axes, length)
        try:
            return _Run(inputs, "generated", session.run(_one_row(signature, inputs)))
        except OpenMaaSError as error:
            reason = reason or error.message
    raise Refused(f"The model does not run on made-up input: {reason}", code="model_not_runnable", next_step=_SAMPLE_STEP)


def _one_row(signature: Signature, inputs: dict[str, Any]) -> dict[str, Any]:
    """The first row of each input whose axis 0 is free."""
    fixed = {spec.name for spec in signature.inputs if not spec.shape or spec.shape[0] >= 0}
    return {name: array if name in fixed else array[:1] for name, array in inputs.items()}


def _check_expected(session: OnnxSession, first: _Run, expected: Mapping[str, Any], batchable: bool) -> None:
    """Hold the model against the answers that its source gave. Raises Refused where they differ."""
    if not expected:
        return
    from openmaas.formats.batching import BATCH
    from openmaas.formats.compare import compare, rows, stack

    count = len(next(iter(first.inputs.values())))
    step = BATCH if batchable else 1
    answers = stack([session.run(rows(first.inputs, start, start + step)) for start in range(0, count, step)])
    _, wrong = compare(step, answers, dict(expected))
    if wrong:
        raise Refused(
            f"The ONNX model does not give the answers that its source gave for the sample: {wrong}.", code="parity_failed"
        )


def _batching(session: OnnxSession, signature: Signature, first: _Run, axes: Mapping[str, tuple[str, ...]]) -> Batching:
    """Proved on the sample; on made-up rows where the sample's are all the same, since those would hide a mixing of rows."""
    from openmaas.core.made_up import make_up
    from openmaas.formats import batching
    from openmaas.formats.sample import stretch

    if reason := batching.static_reason(signature):
        return batching.Batching(False, reason)
    seven, origin = stretch(first.inputs, batching.BATCH), first.origin
    if batching.all_same(seven):
        seven, origin = make_up(signature.inputs, batching.BATCH, axes), "generated"
    return batching.prove(session.run, signature, seven, origin)


def _batching_text(verdict: Batching, declared: bool | None) -> str:
    if declared and not verdict.batchable:
        raise InvalidInput(
            f"openmaas.yaml says batchable: true. {verdict.why}",
            code="not_batchable",
            next_step="Remove 'batchable' from openmaas.yaml: requests are then answered one by one.",
        )
    return "Declared as not batchable in openmaas.yaml." if declared is False else verdict.why
