"""Hold a version against its source once more: every engine that can run it, on its own sample or on given inputs.

Who is right, the first that there is:

    the answers of the source that were stored at push (only for the version's own sample)
    the source itself among the version's artifacts: one that its serving engine does not load
    the version that it was converted from
    the version's own engine, for the other engines
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from openmaas.core.datatypes import numpy_dtype, to_bytes
from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.core.jobs import ParityArguments
from openmaas.core.manifest import EngineChoice, Manifest, Parity
from openmaas.engines import engine_choices
from openmaas.formats.compare import ATOL, RTOL
from openmaas.formats.sample import fit
from openmaas.tasks.base import Job
from openmaas.tasks.comparing import Arrays, answers, hold, opened, require_rows, sample_of
from openmaas.tasks.generators import compare_generator


class _Truth(NamedTuple):
    """What everything else is held against: in words, the answers, and which engine of the version they came from, if one."""

    name: str
    answers: Arrays
    choice: EngineChoice | None = None


def run(job: Job) -> dict[str, Any]:
    """The job: its result has one Parity for each engine that was compared, the version's own first."""
    arguments = msgspec.convert(job.arguments, ParityArguments)
    job.progress("fetching the version")
    manifest, folder = job.files(arguments.version)
    if manifest.generator is not None:
        return compare_generator(job, arguments, manifest, folder)
    inputs, expected, origin = sample_of(manifest, folder)
    if arguments.data is not None:
        inputs, expected, origin = fit(_tensors(arguments.data), manifest.signature.inputs), {}, "given"
    require_rows(inputs)
    choices = engine_choices(manifest)
    truth = _Truth("the answers stored at push", expected) if expected else _truth(job, manifest, folder, choices, inputs)
    others = [choice for choice in choices if choice != truth.choice]
    if not others:
        raise Refused(
            f"{arguments.version} has nothing that it could be compared with: one engine, no parent, no stored answers.",
            code="no_reference",
            next_step="Push it with a sample that holds the source's answers (arrays named expected/OUTPUT).",
        )
    found = []
    for number, choice in enumerate(others):
        job.progress(f"comparing {choice.label}", number, len(others))
        found.append(_held(manifest, folder, choice, truth, inputs, origin, job.settings.engine_cosine))
    return {"version": arguments.version, "rows": len(next(iter(inputs.values()))), "parity": msgspec.to_builtins(found)}


def _truth(job: Job, manifest: Manifest, folder: Path, choices: list[EngineChoice], inputs: Arrays) -> _Truth:
    for choice in choices:
        if choice.artifact.entry != manifest.entry and not choice.precision:
            return _Truth(choice.label, answers(opened(manifest, folder, choice, 1), inputs, 1), choice)
    parent = job.client.show(job.arguments["version"]).parent
    if parent is not None:
        theirs, files = job.files(parent)
        if theirs.engine:
            run_ = opened(theirs, files, theirs.choice, 1)
            return _Truth(f"{parent} ({theirs.choice.label})", answers(run_, inputs, 1))
    return _Truth(manifest.choice.label, answers(opened(manifest, folder, manifest.choice, 1), inputs, 1), manifest.choice)


def _held(
    manifest: Manifest, folder: Path, choice: EngineChoice, truth: _Truth, inputs: Arrays, origin: str, cosine: float
) -> Parity:
    comparisons: Any = ()
    try:
        run_ = opened(manifest, folder, choice, threads=1)
        comparisons, reason = hold(run_, inputs, truth.answers, manifest, choice.precision, cosine)
    except OpenMaaSError as error:
        reason = error.message
    return Parity(
        source=truth.name,
        target=choice.label,
        passed=reason is None,
        sample=origin,
        rtol=RTOL,
        atol=ATOL,
        comparisons=comparisons,
        reason=reason,
    )


# ── given inputs ─────────────────────────────────────────────────────────────────────────────────────────────────────


class _Given(msgspec.Struct, forbid_unknown_fields=True):
    datatype: str
    shape: list[int]
    data: list[Any]


def _tensors(data: Mapping[str, Any]) -> Arrays:
    """Arrays of what the request brought: a datatype, a shape and flat values for each name."""
    if not data:
        raise InvalidInput("The data names no input.", code="invalid_data", next_step="Give every input of the model.")
    return {name: _tensor(name, value) for name, value in data.items()}


def _tensor(name: str, value: Any) -> Any:
    try:
        given = msgspec.convert(value, _Given)
        dtype = np.dtype(object) if given.datatype == "BYTES" else numpy_dtype(given.datatype)
        array = np.array(given.data, dtype).reshape(given.shape)
    except (msgspec.ValidationError, ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"The data for input {name[:80]!r}: {error}.", code="invalid_data") from None
    return to_bytes(array) if array.dtype.kind == "O" else array
