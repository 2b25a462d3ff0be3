"""Which weights a generator is served with: the files as they were pushed, or a variant that a job made of them.

GGUF, OpenVINO                     as they are, unless they are a variant whose source is there and other weights are asked for
source                             as they are
auto, with vLLM and an NVIDIA GPU  as they are
bf16, int8, int4                   the variant; where there is none, a job makes it, and its failure is the deployment's
auto                               the variant that a measurement on this processor recommends; where there is none, a job
                                   measures, and when it fails the files are served as they are
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from openmaas.control.decisions import Decision
from openmaas.control.job_rows import OPEN, job_id
from openmaas.control.resolution import AUTO, Resolution, force
from openmaas.control.revisions import Options, decode_cause
from openmaas.core.contracts import Cause
from openmaas.core.errors import Conflict, InvalidInput
from openmaas.core.hardware import Processor
from openmaas.core.jobs import GENERATOR_TARGET, ConvertArguments, weights_of
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.core.measurement import Measurement, Tried
from openmaas.core.names import parse_reference
from openmaas.store.tables import JobRow, ModelRow, VersionRow

CONVERTED: Final = "causal"
"""Artifacts of this kind can be converted."""
KIND: Final = ConvertArguments.kind
_GPU: Final = "vllm"


class Missing(NamedTuple):
    """A variant that is not there: weights, or auto where it is not known which."""

    source: VersionRow
    weights: str


class Weights:
    """measured: the newest measurement of a version on this processor. installed: whether the engine of variants is here."""

    def __init__(
        self,
        measured: Callable[[Session, VersionRow], Measurement | None],
        ways: Callable[[Manifest], Sequence[EngineChoice]],
        here: Callable[[], Processor],
        *,
        begins: bool,
        installed: Callable[[], bool] = lambda: find_spec("openvino_genai") is not None,
    ) -> None:
        self._measured = measured
        self._ways = ways
        self._here = here
        self._begins = begins
        self._installed = installed

    def missing(self, session: Session, version: VersionRow, options: Options) -> ConvertArguments | None:
        """The job that should be begun before a deployment, if one should.

        For auto not again after one that failed or was cancelled: people decide whether that is worth it. Raises what `choose`
        raises.
        """
        found = self._find(session, version, options)
        if isinstance(found, Decision):
            return None
        job = _newest_job(session, found)
        begun = job is not None and job.state in OPEN
        if begun or (options.weights == AUTO and not (self._begins and (job is None or job.state == "succeeded"))):
            return None
        return ConvertArguments(version=_reference(session, found.source), to=GENERATOR_TARGET, weights=found.weights)  # type: ignore[arg-type]

    def choose(self, session: Session, version: VersionRow, options: Options) -> Decision:
        """What serves. Raises InvalidInput for weights or an engine that the version cannot have, Conflict for one that nothing
        here runs."""
        found = self._find(session, version, options)
        if isinstance(found, Decision):
            return found
        job = _newest_job(session, found)
        if job is not None and job.state in OPEN:
            return Decision(version, job=job_id(job.number))
        cause = _cause(job, found.weights)
        instead = options.weights == AUTO and options.engine == AUTO  # else nothing but what was asked for may serve
        if not instead or (job is not None and not _manifest(found.source).engine):
            return Decision(version, cause=cause)
        why = cause.message if job is not None else "OPENMAAS_MEASURE is never, so that no weights were measured"
        return self._as_it_is(session, found.source, why if job is None else f"{why.rstrip('. ')}; {cause.next_step}")

    def converting(self, session: Session, version: VersionRow) -> str | None:
        """The id of a job that converts the version, or waits for its turn."""
        query = select(JobRow).where(JobRow.kind == KIND, JobRow.version_id == version.id, JobRow.state.in_(OPEN))
        job = session.scalar(query.order_by(JobRow.number.desc()).limit(1))
        return None if job is None else job_id(job.number)

    # finding

    def _find(self, session: Session, version: VersionRow, options: Options) -> Decision | Missing:
        manifest = _manifest(version)
        if manifest.choice.artifact.kind != CONVERTED:
            source = None if options.weights in (AUTO, weights_of(version.recipe)) else _source(session, version)
            if source is None:
                return self._fixed(session, version, manifest, options)
            version, manifest = source, _manifest(source)
        if options.engine not in (AUTO, GENERATOR_TARGET):
            return self._forced(version, manifest, options)
        if options.weights == "source":
            return self._as_it_is(session, version, "the files as they were pushed were asked for")
        if options.weights == AUTO and options.engine == AUTO and self._gpu(manifest) is not None:
            return self._as_it_is(session, version, "an NVIDIA GPU and vLLM are here")
        if not self._installed():
            return self._not_installed(session, version, options)
        return self._variant(session, version, options)

    def _variant(self, session: Session, version: VersionRow, options: Options) -> Decision | Missing:
        measurement = self._measured(session, version)
        best = measurement.best(self._here().cores) if measurement is not None else None
        auto = options.weights == AUTO
        weights = (best.choice.precision if best is not None else "") if auto else options.weights
        made = select(VersionRow).where(VersionRow.model_id == version.model_id, VersionRow.deleted_at.is_(None))
        made = made.where(VersionRow.parent == _reference(session, version))
        same = (row for row in session.scalars(made.order_by(VersionRow.number.desc())) if weights_of(row.recipe) == weights)
        row = next(same, None) if weights else None
        if row is None:
            return Missing(version, weights or AUTO)
        one = _tried(measurement, weights)
        figures = f": {_figures(one)}" if one is not None and one.rates else ""
        why = f"{weights} weights, measured{figures}" if auto else f"{weights} weights were asked for{figures}"
        won = f", the fastest of {_names(measurement)} on {self._here().model}" if auto and measurement is not None else ""
        return Decision(row, Resolution(choice=_manifest(row).choice, why=f"{why}{won}"))

    def _fixed(self, session: Session, version: VersionRow, manifest: Manifest, options: Options) -> Decision:
        """Weights that are as they are."""
        own = weights_of(version.recipe)
        if options.weights not in (AUTO, "source", own):
            held = manifest.generator.weights if manifest.generator is not None else ""
            raise InvalidInput(
                f"Weights {options.weights} cannot be made of {_reference(session, version)}: it has {held or 'given'} weights "
                f"already ({manifest.format}).",
                code="weights_fixed",
                next_step="Deploy it with --weights auto, or push the model as Hugging Face has it.",
            )
        if options.engine != AUTO:
            return self._forced(version, manifest, msgspec.structs.replace(options, weights=AUTO))
        why = f"{own} weights, converted from {version.parent}" if own else "the files as they were pushed"
        return self._as_it_is(session, version, why)

    def _forced(self, version: VersionRow, manifest: Manifest, options: Options) -> Decision:
        if options.weights not in (AUTO, "source"):
            raise InvalidInput(
                f"The engine {options.engine} serves the files as they were pushed, not {options.weights} weights.",
                code="invalid_option",
                next_step=f"Leave out --engine or --weights: {options.weights} weights are served by {GENERATOR_TARGET}.",
            )
        ways = self._ways(manifest)
        return Decision(version, force(options.engine, ways, None, options, self._here().cores))

    def _as_it_is(self, session: Session, version: VersionRow, why: str) -> Decision:
        """Raises Conflict where no engine here runs the files."""
        manifest = _manifest(version)
        choice = self._gpu(manifest) or manifest.choice
        if not choice.engine:
            raise Conflict(
                f"No engine here runs {_reference(session, version)} as it is (format {manifest.format}).",
                code="not_runnable",
                next_step="pip install 'openmaas[huggingface]' where the server runs, or choose --weights int8.",
            )
        return Decision(version, Resolution(choice=choice, why=why))

    def _gpu(self, manifest: Manifest) -> EngineChoice | None:
        return next((way for way in self._ways(manifest) if way.engine == _GPU), None)

    def _not_installed(self, session: Session, version: VersionRow, options: Options) -> Decision:
        if options.weights == AUTO and options.engine == AUTO:
            return self._as_it_is(session, version, "openvino-genai, which serves converted weights, is not installed")
        raise InvalidInput(
            f"openvino-genai is not installed where the server runs, so that {options.weights} weights cannot be served.",
            code="engine_not_found",
            next_step="pip install 'openmaas[generation]' there, or deploy with --weights source.",
        )


def _source(session: Session, version: VersionRow) -> VersionRow | None:
    """What a variant was converted from, while it is there."""
    if not weights_of(version.recipe) or version.parent is None:
        return None
    query = select(VersionRow).where(VersionRow.model_id == version.model_id, VersionRow.deleted_at.is_(None))
    return session.scalar(query.where(VersionRow.number == parse_reference(version.parent).number))


def _newest_job(session: Session, missing: Missing) -> JobRow | None:
    """The newest that makes the variant, or tried to."""
    query = select(JobRow).where(JobRow.kind == KIND, JobRow.version_id == missing.source.id)
    jobs = session.scalars(query.order_by(JobRow.number.desc()))
    return next((job for job in jobs if _arguments(job).weights == missing.weights), None)


def _arguments(job: JobRow) -> ConvertArguments:
    return msgspec.json.decode(job.arguments, type=ConvertArguments)


def _cause(job: JobRow | None, weights: str) -> Cause:
    """Why the variant is not there."""
    if job is None:
        return Cause(code="not_converted", message=f"It was never converted to {weights} weights.")
    name = job_id(job.number)
    what = f"Its conversion{'' if weights == AUTO else f' to {weights} weights'} ({name})"
    if job.state == "cancelled":
        return Cause(code="conversion_cancelled", message=f"{what} was cancelled.", next_step=f"openmaas jobs retry {name}")
    cause = decode_cause(job.cause)
    said = cause.message if cause is not None else "what it made is gone."
    code = cause.code if cause is not None else "not_converted"
    return Cause(code=code, message=f"{what} has failed: {said}", next_step=f"openmaas jobs show {name}")


def _tried(measurement: Measurement | None, weights: str) -> Tried | None:
    tried = measurement.tried if measurement is not None else ()
    return next((one for one in tried if one.choice.precision == weights), None)


def _figures(one: Tried) -> str:
    """As "48.1 tokens/s with one stream, 190.3 with 8"."""
    told = [f"{rate:,.1f}{'' if index else ' tokens/s'} with {'one stream' if streams == 1 else streams}"
            for index, (streams, rate) in enumerate(sorted(one.rates.items()))]  # fmt: skip
    return ", ".join(told)


def _names(measurement: Measurement) -> str:
    return ", ".join(one.choice.precision for one in measurement.tried if one.state == "fit")


def _reference(session: Session, version: VersionRow) -> str:
    return f"{session.get_one(ModelRow, version.model_id).name}:{version.number}"


def _manifest(version: VersionRow) -> Manifest:
    return msgspec.json.decode(version.manifest, type=Manifest)
