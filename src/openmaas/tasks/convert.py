"""Convert a version to another kind of artifact: converted, held against its source, and only then registered as a new version.

route      the shortest chain of converters from what the version has to what is wanted
convert    each link in an environment of its own where it names one
compare    the result's answers with the source's, on the version's own sample, at several batch sizes
register   files, sample, processing and the comparison, with the source as the parent; outside the tolerance nothing is
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from openmaas.core.errors import Conflict, OpenMaaSError, Refused
from openmaas.core.jobs import ConvertArguments, recipe_of
from openmaas.core.manifest import Artifact, Comparison, EngineChoice, Manifest, Parity
from openmaas.engines import engine_choices
from openmaas.formats.compare import ATOL, RTOL
from openmaas.formats.converters import Conversion, Converter, find_route
from openmaas.tasks.base import Job
from openmaas.tasks.comparing import Arrays, Run, answers, hold, opened, require_rows, sample_of
from openmaas.tasks.generators import convert_generator
from openmaas.tasks.packing import pack_beside

_SOURCE_ANSWERS = "expected.npz"
"""Written by a converter whose source no engine here can run: the source's own answers to the sample."""


class _Source(NamedTuple):
    """A version that is converted: what it is, where its files are, and what it answers to its sample."""

    reference: str
    manifest: Manifest
    folder: Path
    inputs: Arrays
    expected: Arrays
    origin: str


def run(job: Job) -> dict[str, Any]:
    """The job: its result names the new version and what was compared. Raises Refused when the answers are too far apart."""
    arguments = msgspec.convert(job.arguments, ConvertArguments)
    job.progress("fetching the version")
    manifest, folder = job.files(arguments.version)
    if manifest.generator is not None:
        return convert_generator(job, arguments, manifest, folder)
    artifact, chain = find_route(list(manifest.artifacts) or [manifest.choice.artifact], arguments.to)
    if not chain:
        raise Conflict(
            f"{arguments.version} has {arguments.to} among its files already ({artifact.entry}).", code="already_converted"
        )
    source = _Source(arguments.version, manifest, folder, *sample_of(manifest, folder))
    require_rows(source.inputs)
    output = job.scratch / "result"
    made, reported = _convert(job, source, artifact, chain, output)
    target = msgspec.structs.replace(
        manifest, engine="", entry=made.entry, artifacts=(made,), format=made.kind, options=made.options
    )
    job.progress("comparing with the source")
    parity, expected = _compare(job, source, artifact, target, output, reported)
    if not parity.passed:
        raise Refused(
            f"Converted to {arguments.to}, {arguments.version} does not give its source's answers: {parity.reason}",
            code="parity_failed",
            next_step="The source version stays as it is; see `openmaas jobs logs` for what the converter said.",
        )
    sample = pack_beside(target, output, source=source.folder, inputs=source.inputs, expected=expected, converted=True)
    job.progress("registering")
    result = job.client.push(
        output,
        name=arguments.version.partition(":")[0],
        sample=sample,
        parity=msgspec.to_builtins(parity),
        parent=arguments.version,
        recipe=recipe_of(arguments.to),
    )
    return {
        "version": f"{result.version.model}:{result.version.number}",
        "created": result.created,
        "parity": msgspec.to_builtins(parity),
    }


# ── converting ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _convert(
    job: Job, source: _Source, artifact: Artifact, chain: Sequence[Converter], output: Path
) -> tuple[Artifact, Arrays]:
    """The artifact in `output`, and the source's own answers where a converter brought them."""
    folder, reported = source.folder, Arrays()
    for number, converter in enumerate(chain, 1):
        python = job.environment(converter.environment) if converter.environment else Path(sys.executable)
        job.progress(f"converting {converter.source} to {converter.target}", number - 1, len(chain))
        place = output if converter is chain[-1] else job.scratch / f"step-{number}"
        place.mkdir(parents=True)
        conversion = Conversion(
            folder=folder, artifact=artifact, manifest=source.manifest, sample=source.inputs, output=place, python=python,
            log=job.log,
        )  # fmt: skip
        artifact = converter.convert(conversion)
        reported = reported or _take_answers(place / _SOURCE_ANSWERS)
        folder = place
    return artifact, reported


def _take_answers(path: Path) -> Arrays:
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    path.unlink()
    return found


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _compare(
    job: Job, source: _Source, artifact: Artifact, target: Manifest, folder: Path, reported: Arrays
) -> tuple[Parity, Arrays]:
    """The comparison, and the source's answers to the whole sample."""
    reference, name = _reference(job, source, artifact, reported)
    choice = _first_choice(target)
    expected = reference if isinstance(reference, Mapping) else answers(reference, source.inputs, 1)
    comparisons: tuple[Comparison, ...] = ()
    try:
        run = opened(target, folder, choice, threads=1)
        comparisons, reason = hold(run, source.inputs, expected, source.manifest, "", job.settings.engine_cosine)
    except OpenMaaSError as error:
        reason = error.message
    for one in comparisons:
        job.log(f"batch {one.batch}: largest difference {one.max_abs_diff:.3g} in {one.output}")
    parity = Parity(
        source=name,
        target=choice.label,
        passed=reason is None,
        sample=source.origin,
        rtol=RTOL,
        atol=ATOL,
        comparisons=comparisons,
        reason=reason,
    )
    return parity, dict(expected)


def _reference(job: Job, source: _Source, artifact: Artifact, reported: Arrays) -> tuple[Run | Arrays, str]:
    """The source's answers: as the converter reported them, as its engine gives them, or as they were stored at push."""
    if reported:
        return reported, artifact.kind
    for choice in engine_choices(source.manifest):
        if choice.artifact.entry == artifact.entry and not choice.precision:
            job.log(f"The source runs by {choice.label}.")
            return opened(source.manifest, source.folder, choice, threads=1), choice.label
    if source.expected:
        return source.expected, "the answers stored at push"
    raise Refused(
        f"No engine here runs the source's {artifact.kind}, so that the result could not be compared with it.",
        code="no_reference",
        next_step=f"Install the engine of {artifact.kind} where the server runs.",
    )


def _first_choice(target: Manifest) -> EngineChoice:
    choices = [choice for choice in engine_choices(target) if not choice.precision]
    if choices:
        return choices[0]
    raise Refused(
        f"No engine is installed that runs {target.artifacts[0].kind}, so that it could not be compared.",
        code="engine_not_found",
        next_step="Install the engine where the server runs.",
    )
