"""Convert a generator: exported once, compressed, held against its source, timed where several are possible, and registered.

convert    in the environment optimum: the source's logits on some passages, one export, and of it each of the wanted weights
compare    each result's logits on the same passages (tasks/forced.py); outside the tolerance of its weights it drops out
time       auto only: those that are left take turns, one stream and eight, each in a process of its own; the fastest stays
register   a new version with the source as its parent; what has been made of a source before is found, not made again
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from openmaas.core.errors import Conflict, OpenMaaSError, Refused, Unavailable
from openmaas.core.hardware import computes_bf16, free_memory, processor
from openmaas.core.jobs import GENERATOR_TARGET, ConvertArguments, ParityArguments, conversion_of, recipe_of, weights_of
from openmaas.core.manifest import Artifact, EngineChoice, Manifest, Parity
from openmaas.core.measurement import Measurement, Tried, TriedState
from openmaas.engines import engine_choices
from openmaas.formats.causal.converters import ENTRY
from openmaas.formats.converters import Conversion, find_route
from openmaas.formats.description import FILE_NAME
from openmaas.tasks.base import Job
from openmaas.tasks.candidate import Candidate, Failed
from openmaas.tasks.forced import Held, hold, tolerance
from openmaas.tasks.passages import Ids, Passages, given_passages, passages_of

STREAMS = (1, 8)
_ROUNDS = 3
_TURN = 2.0  # seconds of one turn at one number of streams
_PATIENCE = 300.0  # seconds for one order: a large model takes long to load
_PROMPT = 64  # tokens that each timed stream begins with
_WEIGHTS = ("bf16", "int8", "int4")
CALIBRATED = "-calibrated"
"""Ends the name of weights that are chosen on data."""

_NO_BF16 = "This processor does not compute with bfloat16."
_SAMPLE = "sample.txt"
"""Beside the converted files: the text that the source was pushed with."""


class Source(NamedTuple):
    """A version, and what of it is converted."""

    reference: str
    manifest: Manifest
    folder: Path
    artifact: Artifact


class Calibration(NamedTuple):
    """What calibrated weights are chosen on: passages of a dataset, `origin` its exact reference."""

    ids: Sequence[Ids] = ()
    origin: str = ""


_NOT_CALIBRATED = Calibration()


def convert_generator(job: Job, arguments: ConvertArguments, manifest: Manifest, folder: Path) -> dict[str, Any]:
    """The job for a version that generates text: its result names the new version, its weights and what was compared.

    Raises Refused where nothing stays within the tolerance, InvalidInput where it cannot be converted, Unavailable where the
    environment cannot be made, and DeadlineExceeded.
    """
    source = source_of(arguments.version, manifest, folder, arguments.to)
    if (known := _known(job, source.reference, arguments.weights)) is not None:
        return known
    auto = arguments.weights == "auto"
    return Conversions(job, source, _WEIGHTS if auto else (arguments.weights,)).run(auto=auto)


def source_of(reference: str, manifest: Manifest, folder: Path, to: str = GENERATOR_TARGET) -> Source:
    """What is to be converted. Raises InvalidInput or Conflict where that is nothing, Unavailable without the engine."""
    artifact, chain = find_route(list(manifest.artifacts), to)
    if not chain:
        raise Conflict(f"{reference} is {to} already ({artifact.entry}).", code="already_converted")
    if find_spec("openvino_genai") is None:
        raise Unavailable(
            "openvino-genai is not installed where the server runs, so that the result could be neither compared nor served.",
            code="engine_not_found",
            next_step="pip install 'openmaas[generation]' there, or deploy with --weights source.",
        )
    return Source(reference, manifest, folder, artifact)


def known_version(job: Job, reference: str, weights: str, calibrated: str = "") -> Any | None:
    """The version that the source was converted to before, with these weights."""
    made = (one for one in job.client.versions(reference.partition(":")[0]) if one.parent == reference)
    wanted = conversion_of(recipe_of(GENERATOR_TARGET, weights, calibrated))
    return next((one for one in made if weights and conversion_of(one.recipe) == wanted), None)


def _known(job: Job, reference: str, weights: str) -> dict[str, Any] | None:
    """The result of before, where the source was converted to these weights, or measured on this processor."""
    if weights == "auto":
        found = job.client.show(reference).measurement
        best = msgspec.convert(found, Measurement, strict=False).best(processor().cores) if found else None
        weights = best.choice.precision if best is not None else ""
    same = known_version(job, reference, weights)
    if same is None:
        return None
    version = f"{same.model}:{same.number}"
    job.log(f"{version} was made of {reference} with {weights} weights before.")
    return {"version": version, "created": False, "weights": weights, "parity": same.manifest["parity"], "known": True}


class Converted:
    """One of the weights and what is known of it. name: int4-calibrated of int4 that were chosen on data."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.weights = name.removesuffix(CALIBRATED)
        self.folder = folder
        self.state: TriedState = "fit"
        self.cause = ""
        self.calibrated = name.endswith(CALIBRATED)
        self.held: Held | None = None
        self.candidate: Candidate | None = None
        self.rates: dict[int, list[float]] = {}

    def drop(self, state: TriedState, cause: str) -> None:
        self.state, self.cause = state, f"{cause[:1].upper()}{cause[1:]}"
        if self.candidate is not None:
            self.candidate.close()

    def tried(self, choice: EngineChoice) -> Tried:
        candidate = self.candidate
        return Tried(
            choice=msgspec.structs.replace(choice, precision=self.weights),
            state=self.state,
            cause=self.cause,
            comparisons=(self.held.comparison,) if self.held else (),
            rates={streams: statistics.median(rates) for streams, rates in self.rates.items()} if self.state == "fit" else {},
            memory=candidate.memory if candidate else 0,
            load=candidate.load if candidate else 0.0,
            library=candidate.library if candidate else "",
            perplexity=self.held.perplexity[1] if self.held else None,
            size=_size(self.folder),
        )


class Conversions:
    """All weights that one job makes of a source, and which of them are left. weights: bf16, int8, int4, int4-calibrated."""

    def __init__(self, job: Job, source: Source, weights: Sequence[str], calibration: Calibration = _NOT_CALIBRATED) -> None:
        self._job = job
        self._calibration = calibration
        self._source = source
        self._start = time.monotonic()
        self._output = job.scratch / "result"
        self._passages: Passages | None = None
        self.entrants = [Converted(one, self._output / one) for one in weights]

    def make(self) -> list[Converted]:
        """Convert, and compare with the source: those within the tolerance. Raises Refused where none is."""
        job, passages = self._job, self.passages
        self._leave_out_bf16()
        job.log(f"Compared on {passages.tokens} tokens of a text that is {passages.origin}.")
        if self._calibration.ids:
            tokens = sum(map(len, self._calibration.ids))
            job.log(f"Weights are chosen on {tokens} tokens of {self._calibration.origin} (AWQ and estimated scales).")
        _make(job, self._source, [one.name for one in self._fitting], passages, self._output, self._calibration)
        for one in self._fitting:
            job.progress(f"comparing {one.name} with the source")
            self._compare(one, passages)
        if not self._fitting:
            raise self._nothing()
        return self._fitting

    @property
    def passages(self) -> Passages:
        """What they are compared with the source on."""
        if self._passages is None:
            self._passages = passages_of(self._source.manifest, self._source.folder)
        return self._passages

    def run(self, *, auto: bool) -> dict[str, Any]:
        """The result of a conversion: of the one kind of weights that there is, or of the fastest."""
        job, one, passages = self._job, self.make()[0], self.passages
        choice = engine_of(self.target(one))
        if not auto:
            return self.register(one, choice)
        with job.alone():
            self._time(choice, passages)
        measurement = self._measured(choice, passages)
        best = measurement.best(processor().cores)
        if best is None:
            raise self._nothing()
        one = next(one for one in self._fitting if one.weights == best.choice.precision)
        known = _known(job, self._source.reference, one.weights)
        if known is not None:
            del known["known"]
        return (known or self.register(one, choice)) | {"measurement": measurement.to_json()}

    @property
    def _fitting(self) -> list[Converted]:
        return [one for one in self.entrants if one.state == "fit"]

    def _leave_out_bf16(self) -> None:
        first = self.entrants[0]
        if first.weights != "bf16" or computes_bf16():
            return
        if len(self.entrants) == 1:
            raise Refused(_NO_BF16, code="no_bf16", next_step="Choose int8 or int4 weights, or auto.")
        first.drop("not_compared", _NO_BF16)

    # compare

    def _compare(self, one: Converted, passages: Passages) -> None:
        model = one.folder / self.target(one).entry
        try:
            one.held = hold(model, self._output, passages.ids, one.weights, self._job.settings, processor().cores)
        except OpenMaaSError as error:
            one.drop("run_failed", error.message)
            return
        compared, (before, after) = one.held.comparison, one.held.perplexity
        self._job.log(
            f"{one.name}: least cosine {compared.cosine:.5f}, the same token {compared.top1:.1%}, perplexity {before:.2f} → "
            f"{after:.2f}, {_size(one.folder) / 2**20:.0f} MiB"
        )
        if one.held.reason:
            one.drop("outside_tolerance", one.held.reason)

    def _nothing(self) -> Refused:
        causes = " ".join(f"{one.name}: {one.cause}" for one in self.entrants)
        return Refused(
            f"Nothing that {self._source.reference} was converted to may serve in its place. {causes}",
            code="parity_failed",
            next_step="Deploy it with --weights source, or allow more by the settings that are named.",
        )

    def target(self, one: Converted) -> Manifest:
        """The result as an engine is told of it, before it is a version."""
        artifact = Artifact(kind=GENERATOR_TARGET, entry=ENTRY)
        assert self._source.manifest.generator is not None
        generator = msgspec.structs.replace(self._source.manifest.generator, weights=one.weights)
        return msgspec.structs.replace(
            self._source.manifest, format=artifact.kind, engine="", entry=artifact.entry, artifacts=(artifact,),
            generator=generator, options={}, sample=None, parity=None,
        )  # fmt: skip

    # time

    def _time(self, choice: EngineChoice, passages: Passages) -> None:
        room = free_memory() * 4 // 5
        with ExitStack() as stack:
            for one in self._fitting:
                scratch = self._job.scratch / f"candidate-{one.weights}"
                scratch.mkdir()
                one.candidate = Candidate(choice, self.target(one), one.folder, scratch, memory=room)
                one.candidate.patience = _PATIENCE
                stack.callback(one.candidate.close)
            for turn in range(_ROUNDS):
                for number, streams in enumerate(STREAMS):
                    done = turn * len(STREAMS) + number
                    self._job.progress(
                        f"timing {streams} {'stream' if streams == 1 else 'streams'}", done, _ROUNDS * len(STREAMS)
                    )
                    for one in self._fitting:
                        self._take_turn(one, streams, passages, room)

    def _take_turn(self, one: Converted, streams: int, passages: Passages, room: int) -> None:
        assert one.candidate is not None
        assert self._source.manifest.generator is not None
        context = self._source.manifest.generator.context
        try:
            rate = one.candidate.decode(_prompts(passages, streams, context), context, _TURN)
        except Failed as failed:
            one.drop(failed.state, failed.cause)
            return
        one.rates.setdefault(streams, []).append(rate)
        if sum(other.candidate.memory for other in self._fitting if other.candidate and other.candidate.is_open) > room // 2:
            one.candidate.close()  # they wait for their turns loaded while all of them take no more than half of the memory

    def _measured(self, choice: EngineChoice, passages: Passages) -> Measurement:
        for one in self._fitting:
            told = ", ".join(f"{statistics.median(rates):.1f} tokens/s at {streams}" for streams, rates in one.rates.items())
            self._job.log(f"{one.weights}: {told}")
        return Measurement(
            processor=processor(),
            sample=passages.origin,
            reference="the source's logits",
            tried=tuple(one.tried(choice) for one in self.entrants),
            seconds=round(time.monotonic() - self._start, 3),
            perplexity=next((one.held.perplexity[0] for one in self.entrants if one.held), None),
        )

    # register

    def register(self, one: Converted, choice: EngineChoice, card: str = "", **more: Any) -> dict[str, Any]:
        """The result of its registration. more: what is kept with its recipe besides."""
        parity = _parity(self._source.reference, f"{choice.label} {one.weights}", one, self.passages, self._job)
        self._job.progress(f"registering {one.name}")
        pushed = self._push(one, parity, card, more)
        return {
            "weights": one.weights,
            "parity": msgspec.to_builtins(parity),
            "version": f"{pushed.version.model}:{pushed.version.number}",
            "created": pushed.created,
            "digest": pushed.version.digest,
        }

    def _push(self, one: Converted, parity: Parity, card: str, more: dict[str, Any]) -> Any:
        described = {"converted": self.target(one).entry}  # what the comparison belongs to
        (one.folder / FILE_NAME).write_bytes(msgspec.yaml.encode(described))
        sample = None
        if self._source.manifest.sample is not None:
            sample = one.folder / _SAMPLE
            shutil.copyfile(self._source.folder / self._source.manifest.sample, sample)
        return self._job.client.push(
            one.folder,
            name=self._source.reference.partition(":")[0],
            sample=sample,
            parity=msgspec.to_builtins(parity),
            parent=self._source.reference,
            card=card or None,
            recipe=recipe_of(GENERATOR_TARGET, one.weights, self._calibration.origin if one.calibrated else "", **more),
        )


# ── once more against the source ─────────────────────────────────────────────────────────────────────────────────────


def compare_generator(job: Job, arguments: ParityArguments, manifest: Manifest, folder: Path) -> dict[str, Any]:
    """The parity job of a version that was converted. Raises Refused for one that was not: there is nothing to compare with."""
    info = job.client.show(arguments.version)
    if info.parent is None or manifest.choice.artifact.kind != GENERATOR_TARGET:
        raise Refused(
            f"{arguments.version} was not converted from another version, so that it could be compared with it.",
            code="no_reference",
            next_step="Compare a version that `openmaas convert --weights` made.",
        )
    theirs, files = job.files(info.parent)
    source = Source(info.parent, theirs, files, find_route(list(theirs.artifacts), GENERATOR_TARGET)[0])
    assert manifest.generator is not None
    given = arguments.data is not None
    passages = given_passages(arguments.data or {}, manifest.generator, folder) if given else passages_of(manifest, folder)
    one = Converted(weights_of(info.recipe) or manifest.generator.weights, folder)
    output = job.scratch / "result"
    _make(job, source, [], passages, output)
    job.progress("comparing with the source")
    one.held = hold(folder / manifest.entry, output, passages.ids, one.weights, job.settings, processor().cores)
    parity = _parity(info.parent, f"{manifest.engine} {one.weights}", one, passages, job)
    return {"version": arguments.version, "rows": passages.tokens, "parity": [msgspec.to_builtins(parity)]}


def _make(
    job: Job,
    source: Source,
    weights: Sequence[str],
    passages: Passages,
    output: Path,
    calibration: Calibration = _NOT_CALIBRATED,
) -> None:
    """Folders of the weights, and the source's logits, below `output`."""
    _, chain = find_route([source.artifact], GENERATOR_TARGET)
    output.mkdir(parents=True)
    for converter in chain:
        assert converter.environment is not None
        converter.convert(
            Conversion(
                folder=source.folder,
                artifact=source.artifact,
                manifest=source.manifest,
                sample={},
                output=output,
                python=job.environment(converter.environment),
                options={
                    "weights": list(weights),
                    "prompts": passages.ids,
                    "calibration": list(calibration.ids),
                    "timeout": job.settings.convert_timeout,
                },
                log=job.log,
                tell=job.progress,
            )
        )


def engine_of(target: Manifest) -> EngineChoice:
    choices = engine_choices(target)
    if not choices:
        raise Unavailable(
            f"No engine is installed that runs {target.format}.",
            code="engine_not_found",
            next_step="pip install 'openmaas[generation]' where the server runs.",
        )
    return msgspec.structs.replace(choices[0], threads=processor().cores)


def _parity(source: str, target: str, one: Converted, passages: Passages, job: Job) -> Parity:
    assert one.held is not None
    _, rise = tolerance(one.weights, job.settings)
    return Parity(
        source=source,
        target=target,
        passed=one.held.reason is None,
        sample=passages.origin,
        rtol=rise,
        atol=0.0,
        comparisons=(one.held.comparison,),
        reason=one.held.reason,
        perplexity=one.held.perplexity,
    )


def _prompts(passages: Passages, streams: int, context: int) -> list[list[int]]:
    """Of one length, and no two alike, so that none of them shares another's cache."""
    tokens = [token for ids in passages.ids for token in ids]
    length = max(1, min(_PROMPT, context // 4))
    return [[tokens[(number * length + index) % len(tokens)] for index in range(length)] for number in range(streams)]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0
