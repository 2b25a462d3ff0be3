"""Measure which engine runs a version fastest here: `engine: auto` is a measurement, not a table.

candidates  every way in which an installed engine could run it, with one thread, all cores, and half of many; the version's own
            first. Each has a child process of its own, with a bound on its time and memory.
compare     each one's answers at batch 1, 8 and 32 with the reference: what the version's source answered to the sample, else
            what its own engine answers. Whoever is wrong, late or dead drops out with a named state.
time        the others take turns, batch size by batch size, in rounds, so that whatever disturbs the machine disturbs all
            alike; a rate is the median of all runs.

A version whose rows may not share a batch is compared and timed as it is called: with its sample's first row.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import InvalidInput
from openmaas.core.hardware import free_memory, processor
from openmaas.core.jobs import MeasureArguments
from openmaas.core.made_up import make_up
from openmaas.core.manifest import Comparison, EngineChoice, Manifest
from openmaas.core.measurement import Measurement, Tried, TriedState
from openmaas.core.types import TensorSpec
from openmaas.engines import engine_choices
from openmaas.formats.agreement import hold_against, misfit
from openmaas.formats.sample import stretch
from openmaas.tasks.base import Job
from openmaas.tasks.candidate import Candidate, Failed
from openmaas.tasks.comparing import Arrays, sample_of

BATCHES = (1, 8, 32)
_CALLS = 8
"""Calls at most with which a batch size is compared: 8 rows one by one, then 32 in eights, then 32 at once."""
_ROUNDS = 5
_TURN = 0.1  # seconds of one candidate at one batch size in one round; one run at least
_TIMING = 0.4
"""Share of the time that is kept for timing: no more candidates are compared when it begins."""
_LENGTHS = (16, 64, 224)  # tried for free axes of made-up input, as at push


def run(job: Job) -> dict[str, Any]:
    """The job. Raises InvalidInput for a version that nothing here can run, and for a sample that does not fit."""
    arguments = msgspec.convert(job.arguments, MeasureArguments)
    job.progress("fetching the version")
    manifest, folder = job.files(arguments.version)
    if manifest.generator is not None:
        raise InvalidInput(
            f"{arguments.version} generates text; its weights are measured when it is converted.",
            code="not_measurable",
            next_step=f"openmaas convert {arguments.version} --to openvino-genai --weights auto",
        )
    if not manifest.engine:
        raise InvalidInput(
            f"No engine here runs {arguments.version} as it is.",
            code="not_runnable",
            next_step=f"openmaas convert {arguments.version} --to onnx",
        )
    job.progress("waiting for this machine's turn to measure")
    with job.alone(), ExitStack() as stack:
        field = Field(job, manifest, folder, arguments.seconds, stack)
        return field.measure().to_json()


def thread_counts(cores: int) -> tuple[int, ...]:
    """What is tried, most first: all cores, half of them where they are many, one."""
    counts = {1, cores, cores // 2 if cores >= 4 else 1}
    return tuple(sorted(counts, reverse=True))


class _Entrant:
    """A candidate and what is known of it."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.state: TriedState = "fit"
        self.cause = ""
        self.comparisons: tuple[Comparison, ...] = ()
        self.times: dict[int, list[float]] = {}

    @property
    def name(self) -> str:
        choice = self.candidate.choice
        return f"{choice.label} with {choice.threads} {'thread' if choice.threads == 1 else 'threads'}"

    def drop(self, failed: Failed) -> None:
        self.state, self.cause = failed.state, failed.cause
        self.candidate.close()

    def tried(self) -> Tried:
        candidate = self.candidate
        rates = {batch: batch / statistics.median(times) for batch, times in self.times.items()} if self.state == "fit" else {}
        return Tried(
            choice=candidate.choice,
            state=self.state,
            cause=self.cause,
            comparisons=self.comparisons,
            rates=rates,
            memory=candidate.memory,
            load=candidate.load,
            library=candidate.library,
        )


class Field:
    """All entrants of one measurement, which is over `seconds` after it began.

    given: inputs and the answers that are right for them (may be empty: those of the version's own engine are), in place of
    the version's sample.
    """

    def __init__(
        self,
        job: Job,
        manifest: Manifest,
        folder: Path,
        seconds: float,
        stack: ExitStack,
        given: tuple[Arrays, Arrays] | None = None,
    ) -> None:
        self._job = job
        self._manifest = manifest
        self._folder = folder
        self._seconds = seconds
        self._stack = stack
        self._start = time.monotonic()
        self._room = free_memory() * 4 // 5  # that one candidate's data may take
        self._inputs, self._expected, self._origin = (*given, "given") if given else sample_of(manifest, folder)
        self._made_up = given is None and manifest.sample is None
        self._batches = BATCHES if manifest.batchable else BATCHES[:1]
        self._processor = processor()
        self._entrants: list[_Entrant] = []

    def measure(self) -> Measurement:
        self._compare(engine_choices(self._manifest))
        self._time([one for one in self._entrants if one.state == "fit"])
        for one in self._entrants:
            if one.state == "fit" and len(one.times) < len(self._batches):
                one.state, one.cause = "not_timed", self._over
        tried = tuple(one.tried() for one in self._entrants)
        for result in tried:
            self._job.log(_line(result))
        return Measurement(
            processor=self._processor,
            sample=self._origin,
            reference="the source's answers" if self._expected else self._manifest.choice.label,
            tried=tried,
            seconds=round(time.monotonic() - self._start, 3),
        )

    @property
    def _left(self) -> float:
        return self._seconds - (time.monotonic() - self._start)

    @property
    def _over(self) -> str:
        return f"The {self._seconds:g} s of the measurement were over."

    # compare

    def _compare(self, choices: Sequence[EngineChoice]) -> None:
        """With all threads first: a choice that is wrong with these is not tried with fewer."""
        counts = thread_counts(self._processor.cores)
        reference = {batch: self._known(batch) for batch in self._batches} if self._expected else None
        wrong: set[int] = set()
        for threads in counts:
            for index, choice in enumerate(choices):
                if index in wrong:
                    continue
                one = self._enter(msgspec.structs.replace(choice, threads=threads))
                self._job.progress(f"comparing {one.name}", len(self._entrants) - 1, len(choices) * len(counts))
                try:
                    reference = self._held(one, reference, own=index == 0)
                except Failed as failed:
                    one.drop(failed)
                    wrong.add(index)
                self._make_room(one)

    def _enter(self, choice: EngineChoice) -> _Entrant:
        scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir=self._job.scratch)))
        candidate = Candidate(choice, self._manifest, self._folder, scratch, memory=self._room)
        self._stack.callback(candidate.close)
        one = _Entrant(candidate)
        self._entrants.append(one)
        return one

    def _held(self, one: _Entrant, reference: dict[int, Arrays] | None, *, own: bool) -> dict[int, Arrays] | None:
        """Its answers held against the reference; where there is none, those of the version's own engine become it."""
        if not own and self._left < self._seconds * _TIMING:
            raise Failed("not_compared", self._over)
        if not own and reference is None:
            raise Failed("not_compared", "The version's own engine gave no answers to compare with.")
        if self._made_up and reference is None:
            self._find_length(one.candidate)
        given = {batch: self._answers(one.candidate, batch) for batch in self._batches}
        for batch in self._batches:
            comparison = self._judged(one.candidate.choice, batch, given[batch], (reference or given)[batch])
            one.comparisons = (*one.comparisons, comparison[0])
            if comparison[1]:
                raise Failed("outside_tolerance", f"{comparison[1][0].upper()}{comparison[1][1:]}.")
        return reference or given

    def _answers(self, candidate: Candidate, batch: int) -> Arrays:
        candidate.patience = self._patience
        if not self._manifest.batchable:
            return candidate.answer(self._single(), 0)
        return candidate.answer(stretch(self._inputs, _rows_at(batch)), batch)

    @property
    def _patience(self) -> float:
        """Seconds for one order: no single one may take all of the time, nor go on for long after its end."""
        return max(1.0, min(self._seconds / 3, self._left))

    def _single(self) -> Arrays:
        """One call of a version whose rows may not share a batch."""
        return first_row(self._inputs, self._manifest.signature.inputs)

    def _known(self, batch: int) -> Arrays:
        """What the source answered to the rows that are compared at a batch size."""
        if self._manifest.batchable:
            return stretch(self._expected, _rows_at(batch))
        several = any(len(array) != len(self._inputs[name]) for name, array in self._single().items() if array.ndim)
        return first_row(self._expected, self._manifest.signature.outputs) if several else self._expected

    def _find_length(self, candidate: Candidate) -> None:
        """Made-up input of the first length that the model takes."""
        refused: list[Failed] = []
        candidate.patience = self._patience
        for length in _LENGTHS:
            self._inputs = make_up(self._manifest.signature.inputs, BATCHES[-1], length=length)
            try:
                candidate.answer(self._single(), 0)
            except Failed as failed:
                if failed.state != "run_failed":
                    raise
                refused.append(failed)
            else:
                return
        raise refused[0]

    def _judged(self, choice: EngineChoice, batch: int, given: Arrays, expected: Arrays) -> tuple[Comparison, str | None]:
        """Raises Failed where the form of the answers is wrong, or where there is no number in them."""
        check_form(given, expected, self._manifest.signature.outputs)
        if reason := misfit(given, expected):
            raise Failed("not_finite", reason)
        processing = self._manifest.processing
        return hold_against(
            batch,
            given,
            expected,
            precision=choice.precision,
            least_cosine=self._job.settings.engine_cosine,
            declared=processing.output if processing else None,
        )

    def _make_room(self, newest: _Entrant) -> None:
        """Candidates wait for their turns loaded, as long as all of them together take no more than half of the memory."""
        waiting = sum(one.candidate.memory for one in self._entrants if one.candidate.is_open)
        if waiting > self._room // 2:
            newest.candidate.close()

    # time

    def _time(self, fit: list[_Entrant]) -> None:
        turns = _ROUNDS * len(self._batches)
        seconds = min(_TURN, max(_TURN / 10, self._left / max(1, turns * len(fit))))
        for turn in range(_ROUNDS):
            for number, batch in enumerate(self._batches):
                for one in fit if turn % 2 == 0 else fit[::-1]:
                    if one.state == "fit" and self._left > 0:
                        done = turn * len(self._batches) + number
                        self._job.progress(f"timing {one.name} at batch {batch}", done, turns)
                        self._take_turn(one, batch, seconds)

    def _take_turn(self, one: _Entrant, batch: int, seconds: float) -> None:
        stays = one.candidate.is_open
        inputs = stretch(self._inputs, batch) if self._manifest.batchable else self._single()
        one.candidate.patience = self._patience
        try:
            one.times.setdefault(batch, []).extend(one.candidate.clock(inputs, seconds))
        except Failed as failed:
            one.drop(failed)
        if not stays:
            one.candidate.close()


def check_form(given: Arrays, expected: Arrays, outputs: Sequence[TensorSpec]) -> None:
    """Raises Failed, wrong_type or wrong_shape, for answers that are not what the signature says or what was expected."""
    for spec in outputs:
        if spec.name not in given:
            raise Failed("wrong_shape", f"The output {spec.name!r} is missing.")
        answer, dtype = given[spec.name], numpy_dtype(spec.datatype)
        if answer.dtype != dtype:
            raise Failed("wrong_type", f"The output {spec.name!r} is {answer.dtype} instead of {dtype}.")
        declared = len(answer.shape) == len(spec.shape) and all(
            want in (-1, have) for want, have in zip(spec.shape, answer.shape, strict=True)
        )
        wanted = expected[spec.name].shape if spec.name in expected else answer.shape
        if not declared or answer.shape != wanted:
            told = list(wanted) if declared else list(spec.shape)
            raise Failed("wrong_shape", f"The output {spec.name!r} has the shape {list(answer.shape)} instead of {told}.")


def _rows_at(batch: int) -> int:
    """Rows that are compared at a batch size."""
    return min(batch * _CALLS, max(BATCHES))


def first_row(arrays: Arrays, specs: Sequence[TensorSpec]) -> Arrays:
    """Of those whose axis 0 is free."""
    free = {spec.name for spec in specs if spec.shape[:1] == (-1,)}
    return {name: array[:1] if name in free else array for name, array in arrays.items()}


def _line(one: Tried) -> str:
    name = f"{one.choice.label} ({one.choice.threads})"
    if one.state != "fit":
        return f"{name}: {one.state}: {one.cause}"
    return f"{name}: " + ", ".join(f"{rate:.0f} rows/s at batch {batch}" for batch, rate in one.rates.items())
