"""Measure versions beside each other on this machine: what serving each of them takes, by the engine that would serve it.

load    each subject in a child process of its own; whoever cannot be loaded or run is left out, by name
scout   one call at each batch size, 1, 2, 4 … 64, as far as the time allows
time    in rounds, of which every other one goes backwards: each subject has its turn at batch 1, then at each other size, so
        that whatever disturbs the machine disturbs all alike. Half of the time belongs to batch 1, whose 99th percentile is of
        all calls

Rates are of the median call. The processor seconds are those that the kernel counted for all threads of the child.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from openmaas.core.errors import OpenMaaSError, Refused
from openmaas.core.evaluations import Figures, Speed
from openmaas.core.hardware import free_memory, usable_cores
from openmaas.core.lengths import real_lengths
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.formats.description import FILE_NAME
from openmaas.tasks.base import Job
from openmaas.tasks.candidate import Candidate, Failed
from openmaas.tasks.comparing import Arrays, require_rows, sample_of
from openmaas.tasks.measure import Field, first_row
from openmaas.tasks.passages import passages_of

BATCHES = (1, 2, 4, 8, 16, 32, 64)
STREAMS = (1, 8)
"""Of text generators, in place of batch sizes: rows are then tokens, and a call is one token of each stream."""
ROUNDS = 5
_LEAST_TURN = 0.005  # seconds; one run at least
_LEAST_DECODING = 0.2  # seconds of a turn of a text generator
_LONGEST_ORDER = 120.0  # seconds for one order, loading included
_PROMPT = 64  # tokens that each timed stream begins with
_WHOLE_FOLDER = frozenset({"huggingface", "causal", "openvino-genai", "saved-model"})
"""Kinds of artifacts of which every file in the folder of the entry is part."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A version, registered or not, and how it is run. threads of the choice: 0 is all cores.

    inputs: its own engine inputs where they differ from those of the others, as other tokenizers make them.
    """

    name: str
    manifest: Manifest
    folder: Path
    choice: EngineChoice
    inputs: Arrays | None = None


def measure_side_by_side(
    job: Job, subjects: Sequence[Subject], inputs: Arrays | None, *, seconds: float = 60.0, seed: int = 0
) -> list[Figures | Failed]:
    """Figures of each subject, in their order; Failed, with a state and a cause, of one that cannot be loaded or run.

    inputs: engine inputs by name, rows on axis 0, of which the seed draws those of each batch; without, each version's own
    sample. seconds: of timing, besides loading. The caller holds `job.alone()`. Raises Cancelled.
    """
    with ExitStack() as stack:
        course = _Course(job, subjects, inputs, seconds, seed, stack)
        return course.run()


def figures_of(job: Job, subject: Subject, inputs: Arrays | None, *, seconds: float = 10.0, seed: int = 0) -> Figures:
    """Figures of one version. Raises Refused where it cannot be loaded or run, and Cancelled."""
    (found,) = measure_side_by_side(job, [subject], inputs, seconds=seconds, seed=seed)
    if isinstance(found, Failed):
        raise Refused(
            f"{subject.name} cannot be measured by {subject.choice.label}: {found.cause}",
            code=found.state,
            next_step=f"See which engines run it: openmaas measure {subject.name}",
        )
    return found


def best_choice(
    job: Job,
    manifest: Manifest,
    folder: Path,
    inputs: Arrays | None = None,
    reference_answers: Arrays | None = None,
    *,
    seconds: float = 15.0,
) -> EngineChoice:
    """The fastest way to run a version that is not registered yet, by a short measurement as `openmaas measure` makes it.

    inputs: engine inputs, the first rows of which are used; without, the version's own sample. reference_answers: to these
    inputs, in full precision; without, what the version's own engine answers. Engines that answer otherwise are left out. The
    caller holds `job.alone()`. Raises Refused where nothing runs it, and Cancelled.
    """
    if manifest.generator is not None:
        return msgspec.structs.replace(manifest.choice, threads=manifest.choice.threads or usable_cores())
    given = None if inputs is None else _first(manifest, inputs, reference_answers or {})
    with ExitStack() as stack:
        measurement = Field(job, manifest, folder, seconds, stack, given).measure()
    right = next((one for one in measurement.tried if one.state == "not_timed"), None)
    best = measurement.best(usable_cores()) or right  # on a busy machine the time may be over before anything is timed
    if best is None:
        causes = " ".join(f"{one.choice.label}: {one.cause}" for one in measurement.tried)
        raise Refused(
            f"No engine here runs it as it should. {causes}" if causes else "No engine here runs it.",
            code="not_runnable",
            next_step="See `openmaas jobs logs` for what each engine said.",
        )
    return best.choice


def loaded_size(manifest: Manifest, folder: Path, choice: EngineChoice) -> int:
    """Bytes of the files that an engine loads by this choice."""
    return sum((folder / file).stat().st_size for file in loaded_files(manifest, folder, choice))


def loaded_files(manifest: Manifest, folder: Path, choice: EngineChoice) -> set[str]:
    """The entry and what belongs to it. Not the sample, the description, other artifacts, nor what processing reads outside of
    a model that is a folder."""
    entry = Path(choice.artifact.entry)
    files = {entry.as_posix()}
    if choice.artifact.kind in _WHOLE_FOLDER or (folder / entry).is_dir():
        home = entry if (folder / entry).is_dir() else entry.parent
        found = {file.relative_to(folder).as_posix() for file in (folder / home).rglob("*") if file.is_file()}
        others = {artifact.entry for artifact in manifest.artifacts} - files
        files = found - others - {manifest.sample or "", FILE_NAME}
    elif choice.artifact.kind == "openvino":
        files.add(entry.with_suffix(".bin").as_posix())
    elif choice.artifact.kind == "onnx":
        files |= _external_data(folder / entry, folder)
    return files


def _external_data(file: Path, folder: Path) -> set[str]:
    from openmaas.formats.onnx.graph import check_external_data, read_model

    return set(check_external_data(read_model(file), file.resolve(), folder.resolve()))


# ── one run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


Turn = Callable[[Candidate, int, int, float], tuple[Sequence[float], float]]
"""Batch size, number of the turn, seconds → seconds of each call, and the processor's of all of them."""


@dataclass
class _Runner:
    """A subject, and what is known of it."""

    subject: Subject
    candidate: Candidate
    turn: Turn
    sizes: list[int] = field(default_factory=list)
    times: dict[int, list[float]] = field(default_factory=dict)
    processor: dict[int, float] = field(default_factory=dict)
    failed: Failed | None = None

    def take(self, batch: int, number: int, seconds: float) -> None:
        times, processor = self.turn(self.candidate, batch, number, seconds)
        self.times.setdefault(batch, []).extend(times)
        self.processor[batch] = self.processor.get(batch, 0.0) + processor

    def figures(self) -> Figures:
        speeds = tuple(_speed(batch, self.times[batch]) for batch in self.sizes)
        best = max(speeds, key=lambda one: one.rate)
        return Figures(
            choice=self.candidate.choice,
            library=self.candidate.library,
            size=loaded_size(self.subject.manifest, self.subject.folder, self.subject.choice),
            memory=self.candidate.memory,
            load=self.candidate.load,
            speeds=speeds,
            cost=1000 * self.processor[best.batch] / (best.calls * best.batch),
        )


class _Course:
    def __init__(
        self, job: Job, subjects: Sequence[Subject], inputs: Arrays | None, seconds: float, seed: int, stack: ExitStack
    ) -> None:
        self._job = job
        self._seconds = seconds
        self._room = free_memory() * 4 // 5
        self._runners = [self._enter(subject, inputs, seed, stack) for subject in subjects]

    def _enter(self, subject: Subject, inputs: Arrays | None, seed: int, stack: ExitStack) -> _Runner:
        choice = msgspec.structs.replace(subject.choice, threads=subject.choice.threads or usable_cores())
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self._job.scratch)))
        candidate = Candidate(choice, subject.manifest, subject.folder, scratch, memory=self._room)
        stack.callback(candidate.close)
        if subject.manifest.generator is not None:
            return _Runner(subject, candidate, _stream_turns(subject.manifest, subject.folder))
        given = subject.inputs if subject.inputs is not None else inputs
        if given is None:
            given = sample_of(subject.manifest, subject.folder)[0]
        require_rows(given)
        return _Runner(subject, candidate, row_turns(subject.manifest, given, seed))

    def run(self) -> list[Figures | Failed]:
        for number, runner in enumerate(self._runners):
            self._job.progress(f"loading {runner.subject.name}", number, len(self._runners))
            with self._guarded(runner):
                self._scout(runner)
        self._time([runner for runner in self._runners if runner.failed is None])
        return [self._result(runner) for runner in self._runners]

    def _result(self, runner: _Runner) -> Figures | Failed:
        if runner.failed is None:
            try:
                figures = runner.figures()
            except (OSError, OpenMaaSError) as error:
                runner.failed = Failed("load_failed", f"Its files cannot be read: {error}")
            else:
                best = figures.best
                self._job.log(
                    f"{runner.subject.name} by {figures.choice.label} ({figures.choice.threads}): p50 "
                    f"{figures.speeds[0].p50 * 1e3:.3f} ms, {best.rate:.0f} {_rate(runner, best.batch)}"
                )
                return figures
        self._job.log(f"{runner.subject.name}: {runner.failed.state}: {runner.failed.cause}")
        return runner.failed

    @contextmanager
    def _guarded(self, runner: _Runner) -> Iterator[None]:
        """One that fails is left out; and one that does not fit beside the others is not kept loaded between its turns."""
        stays = runner.candidate.is_open
        try:
            yield
        except Failed as failed:
            runner.failed = failed
        waiting = sum(one.candidate.memory for one in self._runners if one.candidate.is_open)
        if runner.failed or (not stays and waiting > self._room // 2):
            runner.candidate.close()

    def _scout(self, runner: _Runner) -> None:
        """Which batch sizes can be called several times within this subject's share of the time."""
        generates = runner.subject.manifest.generator is not None
        sizes = STREAMS if generates else BATCHES if runner.subject.manifest.batchable else BATCHES[:1]
        share = self._seconds / len(self._runners) / 4
        longest = 0.0  # of a row
        runner.candidate.patience = _LONGEST_ORDER
        for batch in sizes:
            if batch > 1 and longest * batch * (ROUNDS + 2) > share:
                break
            times, _ = runner.turn(runner.candidate, batch, 0, 0.0)
            longest = max(times) / batch
            runner.sizes.append(batch)

    def _time(self, runners: list[_Runner]) -> None:
        start = time.monotonic()
        share = self._seconds / ROUNDS / max(1, len(runners)) / 2
        for number in range(ROUNDS):
            for batch in sorted({size for runner in runners for size in runner.sizes}):
                for runner in runners if number % 2 == 0 else runners[::-1]:
                    if batch not in runner.sizes or runner.failed is not None:
                        continue
                    done = min(time.monotonic() - start, self._seconds)
                    self._job.progress(f"timing {runner.subject.name} at batch {batch}", done, self._seconds)
                    seconds = share if batch == 1 else share / (len(runner.sizes) - 1)
                    with self._guarded(runner):
                        runner.take(batch, number, max(_LEAST_TURN, seconds))


def _rate(runner: _Runner, batch: int) -> str:
    if runner.subject.manifest.generator is None:
        return f"rows/s at batch {batch}"
    return f"tokens/s with {batch} {'stream' if batch == 1 else 'streams'}"


def _speed(batch: int, times: Sequence[float]) -> Speed:
    middle = statistics.median(times)
    return Speed(batch=batch, p50=middle, p99=float(np.quantile(times, 0.99)), rate=batch / max(middle, 1e-9), calls=len(times))


def row_turns(manifest: Manifest, inputs: Arrays, seed: int) -> Turn:
    """Each turn has rows of its own, in an order that the seed draws, the same for every subject."""
    count = len(next(iter(inputs.values())))
    order = np.random.default_rng(seed).permutation(count)

    def turn(candidate: Candidate, batch: int, number: int, seconds: float) -> tuple[Sequence[float], float]:
        if not manifest.batchable:
            return candidate.timed(first_row(inputs, manifest.signature.inputs), seconds)
        chosen = order[(number * BATCHES[-1] + np.arange(batch)) % count]
        return candidate.timed(_without_padding(manifest, {name: array[chosen] for name, array in inputs.items()}), seconds)

    return turn


def _without_padding(manifest: Manifest, inputs: Arrays) -> Arrays:
    """As long as the longest of these rows: a server pads no further."""
    if manifest.padding is None or not all(inputs[name].ndim > 1 for name in manifest.padding.pad if name in inputs):
        return inputs
    pad = {name: value for name, value in manifest.padding.pad.items() if name in inputs}
    if not pad:
        return inputs
    longest = int(real_lengths(inputs, pad).max())
    return {name: array[:, :longest] if name in pad else array for name, array in inputs.items()}


def _first(manifest: Manifest, inputs: Arrays, answers: Arrays) -> tuple[Arrays, Arrays]:
    """The rows that engines are compared on, without the padding that none of them needs unless answers are as long as it."""
    rows = {name: array[: BATCHES[-1]] for name, array in inputs.items()} if manifest.batchable else inputs
    if answers and manifest.padding is not None and manifest.padding.trim:
        return rows, answers
    return _without_padding(manifest, rows), answers


def _stream_turns(manifest: Manifest, folder: Path) -> Turn:
    """Streams that begin with prompts of one length, no two alike, so that none of them shares another's cache."""
    assert manifest.generator is not None
    context, ids = manifest.generator.context, passages_of(manifest, folder).ids
    tokens = [token for passage in ids for token in passage]
    length = max(1, min(_PROMPT, context // 4))

    def turn(candidate: Candidate, batch: int, number: int, seconds: float) -> tuple[Sequence[float], float]:
        starts = [(number * STREAMS[-1] + stream) * length for stream in range(batch)]
        prompts = [[tokens[(start + index) % len(tokens)] for index in range(length)] for start in starts]
        seconds = max(seconds, _LEAST_DECODING)
        rate, processor = candidate.decoded(prompts, context, seconds)
        return [batch / rate] * max(1, round(rate * seconds / batch)), processor

    return turn
