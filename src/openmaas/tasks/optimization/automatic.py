"""The search behind --auto on a real version. What is tried, dropped, and put in order is so by rows of the training set that
nothing was trained on. The evaluation set gives the figures that are reported, and accepts or rejects the finalists in that
order, the best for the target first, until one keeps within the loss: so it is looked at as often as the report says
(recommending.py).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from openmaas.core.errors import Cancelled, OpenMaaSError, Refused
from openmaas.core.evaluations import Entrant, Estimate, Figures, VersionComparison
from openmaas.core.hardware import free_memory, usable_cores
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.core.pareto import dominated
from openmaas.core.recipes import Compress, Pass, Quantize, Training, step_label
from openmaas.engines import engine_choices
from openmaas.tasks.base import Job
from openmaas.tasks.candidate import Candidate as Runnable
from openmaas.tasks.candidate import Failed
from openmaas.tasks.evaluate import answers_of
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.answering import Answering, plain_choice, target_of
from openmaas.tasks.optimization.base import Piece
from openmaas.tasks.optimization.ground import Ground, Measured, chosen_engine, measure, renamed, tolerant, unlabelled
from openmaas.tasks.optimization.looking import look, quickest
from openmaas.tasks.optimization.portfolio import Candidate, Traits, distilled_epochs, portfolio, traits_of
from openmaas.tasks.optimization.quality import HELD_OUT, Judge, split
from openmaas.tasks.optimization.recommending import recommend_in_order
from openmaas.tasks.optimization.results import result_of
from openmaas.tasks.optimization.runner import OutOfTime, Runner, begin
from openmaas.tasks.optimization.search import Search, Trial, cost_of
from openmaas.tasks.optimization.variants import Registered, Variant, build, register
from openmaas.tasks.optimization.watching import TooSlow, Watched
from openmaas.tasks.packing import add_tokenizer
from openmaas.tasks.serving import answer, serving_choice
from openmaas.tasks.side_by_side import Subject, loaded_size, measure_side_by_side

MOST_REGISTERED: Final = 5
_TRAINING: Final = 6.0  # times that a row costs in training what it costs in a batch of answers, until it is known
_FIRST: Final = 1.0  # seconds that a pass without training takes besides loading what it made and asking it, until it is known
_PARAMETERS: Final = 1e7  # that it changes in a second
_ESTIMATED: Final = 2.0  # seconds in which a packed file's size is estimated
_AGAIN: Final = 0.2  # share of the time, that training a finalist once more may be reckoned with
_PACKED: Final = 6e6  # bytes of the parent, for which a second of packing is reckoned with: its weights will have fewer bits
_ENGINES: Final = 2.4  # that a variant is timed by before the finals, and what else that takes
_MOST_CHOOSING: Final = 20.0
_CHOOSING: Final = 10.0  # seconds in which a finalist's engine is found, where there is time to do so thoroughly
_TIMING: Final = (3.0, 20.0)  # seconds in which the finalists are timed beside each other, at least and at most
_MOST_TRIED: Final = 200

# What follows the search takes about so many times what the parent took to be loaded and to answer once.
_EXAMINED: Final = 7.0  # a finalist: packed, examined in a child, its engine looked for
_ENTERED: Final = 2.0  # a finalist: its answers, and loading it to be timed
_REGISTERED: Final = 2.0
_COMPARED: Final = 4.0  # the parent's part, and the intervals


def search(ground: Ground, answering: Answering, spent: float = 0.0) -> dict[str, Any]:
    """The job's result. spent: seconds of those that it may take that are over already.

    Raises Refused or InvalidInput for a version that nothing can be made of.
    """
    job, arguments = ground.job, ground.arguments
    began = time.monotonic() - spent
    fitted, held = _data(ground)
    if ground.evaluation is None and fitted is not None:
        ground = replace(ground, rows=unlabelled(held, ground.manifest, ground.inputs))
    labels = fitted is not None and fitted.truth is not None
    traits = traits_of(ground.manifest, ground.folder, fitted.rows if fitted is not None else 0, labels)
    candidates = portfolio(traits, arguments.target, arguments.seed)
    if candidates:
        begin(arguments.version, ground.manifest, ground.folder, candidates[0].recipe)
    waited = time.monotonic()
    with job.alone():
        start = began + time.monotonic() - waited
        deadline = start + arguments.seconds
        bench = _Bench(ground, answering, fitted, held, traits)
        found = Search(bench, arguments.target, arguments.max_loss, arguments.seconds, tell=job.progress, start=start)
        found.run(candidates)
        finalists = found.finalists(found.proved)
        ordered = sorted(finalists, key=found.cost)
        if ground.evaluation is not None:
            bench.train_again(finalists, deadline)
        order = [bench.name(one) for one in ordered]
        variants = bench.variants(finalists, deadline)
        least, most = _TIMING
        timing = max(least, min(most, deadline - time.monotonic() - bench.entering_seconds(len(variants))))
        measured = measure(ground, variants, seconds=timing, choosing=_CHOOSING, choices=bench.choices)
        apart = fitted is not None and fitted is not held
        comparison = recommend_in_order(measured.comparison, order, arguments.max_loss, apart=apart)
        measured = replace(measured, comparison=comparison)
        for one in finalists:
            one.reason = one.reason or _why_not(ground, measured, bench.name(one))
        # Still alone: each version is measured once it is registered, which must wait until the others have been examined.
        measured, made = _registered(
            ground, measured, variants, lambda name: HELD_OUT if apart and name not in bench.whole else 0.0
        )
    names = {name: one.reference for name, one in made.items()}
    measured = _with_tried(measured, found.trials, bench, names, apart)
    comparison = measured.comparison
    recommended = comparison.recommended if comparison.recommended in names.values() else ""
    job.log(comparison.why)
    tried = [_told(one, names.get(bench.name(one), "")) for one in found.trials[:_MOST_TRIED]]
    created = any(one.created for one in made.values())
    return result_of(recommended, created, list(names.values()), measured, tried=tried)


def _data(ground: Ground) -> tuple[Examples | None, Examples]:
    """What is trained on, and what is chosen by: without a training set, the rows that variants are held against."""
    if ground.training is None:
        return None, ground.rows
    return split(ground.training, ground.arguments.seed)


class _Bench:
    """search.Workbench."""

    def __init__(self, ground: Ground, answering: Answering, fitted: Examples | None, held: Examples, traits: Traits) -> None:
        self._ground = ground
        self._answering = answering
        self._held = held
        self._traits = traits
        self._rows = fitted.rows if fitted is not None else 0
        job, arguments = ground.job, ground.arguments
        self._watched = Watched(job)
        watched = cast(Job, self._watched)
        self._runner = Runner(watched, arguments.version, ground.manifest, ground.folder, ground.inputs, fitted, answering)
        self._again = Runner(
            watched, arguments.version, ground.manifest, ground.folder, ground.inputs, ground.training, answering
        )
        self._parent = serving_choice(job, arguments.version, ground.manifest)
        start = time.monotonic()
        outputs = answers_of(job, ground.manifest, ground.folder, self._parent, held)
        self._answering_seconds = time.monotonic() - start
        plain = msgspec.structs.replace(plain_choice(ground.manifest), threads=usable_cores())
        with self._opened(ground.manifest, ground.folder, plain) as candidate:
            self._row = look(candidate, ground.manifest, held.inputs, "throughput")
            self._cost = look(candidate, ground.manifest, held.inputs, arguments.target)
        if arguments.target == "size":
            self._cost = float(loaded_size(ground.manifest, ground.folder, self._parent))
        metric = arguments.metric if held.task != "agreement" else ""
        self._judge = Judge(ground.manifest, held, outputs, metric, arguments.seed)
        self._examined = 0
        self._examining_seconds = _EXAMINED * self._answering_seconds
        self._pieces: dict[int, tuple[Candidate, Piece]] = {}
        guessed = loaded_size(ground.manifest, ground.folder, self._parent) / _PACKED if arguments.target == "size" else 0.0
        self._training_again = self._reserved_for_training() if ground.evaluation is not None else 0.0
        self._packing = [guessed]
        """Seconds that packing a finalist takes: a guess, then what each draft would take."""
        self._rates: dict[str, float] = {}
        """Seconds that a pass takes, by its name: of a row and epoch where it trains."""
        self.whole: set[str] = set()
        """Names of those that were trained again on all rows."""
        self.choices: dict[str, EngineChoice] = {}
        """How finalists are run, by their names."""

    def make(self, candidate: Candidate, deadline: float) -> Piece:
        left = list(self._runner.steps_left(candidate.recipe))
        self._runner.deadline = self._watched.deadline = deadline
        try:
            piece = self._runner.draft(candidate.recipe)
        except TooSlow as slow:
            self._learn(left[0], slow.seconds)
            raise
        finally:
            self._runner.deadline = self._watched.deadline = None
            for step in left:
                if step_label(step) in self._runner.seconds:
                    self._learn(step, self._runner.seconds.pop(step_label(step)))
        self._pieces[id(piece)] = (candidate, piece)
        if piece.unpacked is not None:
            self._packing.append(piece.unpacked.seconds)
        return piece

    def judge(self, made: Piece) -> tuple[Estimate, float]:
        target = target_of(made)
        add_tokenizer(target, made.folder, self._ground.folder)
        choice = msgspec.structs.replace(plain_choice(target), threads=usable_cores())
        with self._opened(target, made.folder, choice) as candidate:
            outputs = answer(candidate, target, made.folder, self._held)
            cost = look(candidate, target, self._held.inputs, self._ground.arguments.target)
        return self._judge.loss(outputs), cost

    def size(self, made: Piece) -> int:
        if made.unpacked is not None:
            return made.unpacked.size
        target = target_of(made)
        return loaded_size(target, made.folder, plain_choice(target))

    def timeable(self, seconds: float) -> int:
        return int((seconds - _TIMING[0]) / (_ENGINES * self._answering_seconds)) - 1

    def time(self, made: Sequence[Piece], seconds: float) -> list[Figures | str]:
        """By a piece's plain engine and by the one that serves the parent, of which the better counts."""
        ground = self._ground
        subjects = [Subject(name="parent", manifest=ground.manifest, folder=ground.folder, choice=self._parent)]
        for piece in made:
            target = target_of(piece)
            label = self._pieces[id(piece)][0].label
            subjects += [
                Subject(name=label, manifest=target, folder=piece.folder, choice=choice) for choice in self._choices(target)
            ]
        seconds = max(_TIMING[0], seconds - self._answering_seconds * len(subjects))
        figures = measure_side_by_side(ground.job, subjects, self._held.inputs, seconds=seconds, seed=ground.arguments.seed)
        parent, *others = zip(subjects, figures, strict=True)
        if not isinstance(parent[1], Failed):
            self._cost = cost_of(parent[1], ground.arguments.target)
        return [self._better([found for subject, found in others if subject.folder == piece.folder]) for piece in made]

    def _better(self, found: Sequence[Figures | Failed]) -> Figures | str:
        ran = [one for one in found if not isinstance(one, Failed)]
        if ran:
            return min(ran, key=lambda one: cost_of(one, self._ground.arguments.target))
        return next(one.cause for one in found if isinstance(one, Failed))

    def parent(self) -> float:
        return self._cost

    def expected_seconds(self, candidate: Candidate) -> float:
        return sum(self._expected(step) for step in self._runner.steps_left(candidate.recipe)) + self._answering_seconds

    def proving_seconds(self, finalists: int) -> float:
        each = self._examining_seconds + statistics.median(self._packing)
        return finalists * each + self.entering_seconds(finalists) + _TIMING[0] + 1.5 * finalists + self._training_again

    def _reserved_for_training(self) -> float:
        """That one copy will take that is distilled once more, unless it is much of all the time."""
        whole = self._ground.training
        if whole is None or not self._rows or "torch" not in self._traits.tools or self._traits.trees:
            return 0.0
        expected = self._row * _TRAINING * whole.rows * distilled_epochs(self._rows)
        return expected if expected <= _AGAIN * self._ground.arguments.seconds else 0.0

    def entering_seconds(self, finalists: int) -> float:
        """Of measuring and registering so many, besides timing them."""
        registered = min(finalists, MOST_REGISTERED)
        return self._answering_seconds * (_COMPARED + finalists * _ENTERED + registered * _REGISTERED)

    def train_again(self, trials: Sequence[Trial], deadline: float) -> None:
        """What was trained, once more with the rows that it was chosen by too, the first first, as far as there is time: so its
        recipe makes it again. Where that fails, it stays as it is."""
        ground, whole = self._ground, self._ground.training
        for trial in trials:
            recipe = trial.candidate.recipe
            if whole is None or not any(isinstance(step, Training) and step.epochs for step in recipe.steps):
                continue
            more = whole.rows / max(1, self._rows)
            until = deadline - self.proving_seconds(len(trials)) + self._training_again
            if time.monotonic() + more * sum(self._expected(step) for step in self._again.steps_left(recipe)) > until:
                continue
            ground.job.progress(f"training with all rows: {trial.label}")
            self._again.deadline = self._watched.deadline = until
            try:
                piece = self._again.draft(recipe)
            except OutOfTime:
                continue
            except Cancelled:
                raise
            except OpenMaaSError as error:
                ground.job.log(f"{trial.label} stays as it is: {error.message}")
                continue
            finally:
                self._again.deadline = self._watched.deadline = None
            trial.made, trial.size = piece, self.size(piece)
            self._pieces[id(piece)] = (trial.candidate, piece)
            self.whole.add(self.name(trial))
        self._training_again = 0.0

    def variants(self, trials: Sequence[Trial], deadline: float) -> list[Variant]:
        """Packed, examined, and their engines found, as many of the first as there is time for; one that a push would refuse is
        out, and says why. deadline: on time.monotonic's clock, for all that follows too."""
        found: list[Variant] = []
        began = time.monotonic()
        for number, trial in enumerate(trials):
            if number:
                self._examining_seconds = (time.monotonic() - began) / number
                self._packing = [0.0]  # which is a part of that
            if found and time.monotonic() + self.proving_seconds(len(found) + 1) > deadline + self._examining_seconds * len(
                found
            ):
                trial.reason = "No time was left to examine it."
                continue
            try:
                self._runner.deadline = self._again.deadline = deadline if found else None
                found += self._examined_of(trial, found, len(trials) - number, deadline)
            except OutOfTime as error:
                trial.reason = error.message
            except Cancelled:
                raise
            except OpenMaaSError as error:
                trial.reason = error.message
        return found

    def _examined_of(self, trial: Trial, others: Sequence[Variant], left: int, deadline: float) -> list[Variant]:
        """The trial as a variant; nothing, with its reason, for what is there already."""
        ground = self._ground
        self._examined += 1
        folder = ground.job.scratch / f"finalist-{self._examined}"
        start = time.monotonic()
        piece = trial.made
        if piece.unpacked is not None:
            runner = self._again if self.name(trial) in self.whole else self._runner
            piece = runner.run(trial.candidate.recipe)
            trial.size = self.size(piece)
        ground.job.progress(f"examining {trial.label}")
        made = build(
            ground.job, self.name(trial), trial.candidate.recipe, piece, ground.folder, ground.inputs, self._answering, folder
        )
        if made.manifest.digest == ground.manifest.digest:
            trial.reason = f"It is {ground.arguments.version} itself, to the byte."
            return []
        same = next((one for one in others if one.manifest.digest == made.manifest.digest), None)
        if same is not None:
            trial.reason = f"It is the same as {same.recipe.label}."
            return []
        building = time.monotonic() - start
        spare = deadline - time.monotonic() - self.entering_seconds(len(others) + left) - _TIMING[0] - building * (left - 1)
        self._choose(made, spare / left)
        return [made]

    def _choose(self, made: Variant, seconds: float) -> None:
        """Thoroughly where there is time for it, else by a short look at the likely engines."""
        ground = self._ground
        if seconds >= _CHOOSING:
            self.choices[made.name] = chosen_engine(ground, made, min(seconds, _MOST_CHOOSING), self._held.inputs)
            return
        threads = self._parent.threads or usable_cores()
        labels = [self._parent.label]
        try:
            self.choices[made.name] = quickest(
                tolerant(ground), made.manifest, made.folder, self._held.inputs, ground.arguments.target, labels, threads
            )
        except Failed as failed:
            raise Refused(f"It does not run: {failed.cause}", code=failed.state) from None

    def name(self, trial: Trial) -> str:
        """Before it is registered."""
        return f"variant {list(self._pieces).index(id(trial.made)) + 1}" if id(trial.made) in self._pieces else ""

    def _choices(self, target: Manifest) -> list[EngineChoice]:
        """The plain one, and the parent's, where that runs it too."""
        plain, threads = plain_choice(target), self._parent.threads or usable_cores()
        same = [one for one in engine_choices(target) if one.label == self._parent.label and one.label != plain.label]
        return [msgspec.structs.replace(one, threads=threads) for one in (plain, *same[:1])]

    @contextmanager
    def _opened(self, manifest: Manifest, folder: Path, choice: EngineChoice) -> Iterator[Runnable]:
        """Raises Refused for an engine that fails."""
        scratch = self._ground.job.scratch / f"judged-{len(list(self._ground.job.scratch.iterdir()))}"
        scratch.mkdir()
        candidate = Runnable(choice, manifest, folder, scratch, memory=free_memory() * 4 // 5)
        with closing(candidate):
            try:
                yield candidate
            except Failed as failed:
                raise Refused(f"It does not run: {failed.cause}", code=failed.state) from None

    def _learn(self, step: Pass, seconds: float) -> None:
        work = self._work(step)
        rate, kind = seconds / work, _kind(step)
        self._rates[kind] = (self._rates.get(kind, rate) + rate) / 2

    def _expected(self, step: Pass) -> float:
        work = self._work(step)
        trains = isinstance(step, Training) and step.epochs > 0
        first = self._row * _TRAINING if trains else self._untrained_seconds(step)
        known = self._rates.get(_kind(step))
        if trains and known is None:  # one that trains otherwise tells something too
            others = [rate for name, rate in self._rates.items() if name in ("prune", "distil", "low-rank")]
            known = max(others, default=None)
        return work * (first if known is None else known)

    def _untrained_seconds(self, step: Pass) -> float:
        """Until it is known. Of packing, a large file's size is only estimated."""
        if isinstance(step, Compress):
            return _ESTIMATED
        return _FIRST + self._answering_seconds + self._traits.parameters / _PARAMETERS

    def _work(self, step: Pass) -> float:
        """Rows times epochs of one that trains; layers tried one by one for a search of the worst; else 1."""
        if isinstance(step, Training) and step.epochs:
            return float(step.epochs * max(1, self._rows))
        if isinstance(step, Quantize) and step.keep_worst:
            return float(1 + self._traits.convolutions + self._traits.linear)
        return 1.0


def _kind(step: Pass) -> str:
    """Steps of one kind take about as long as each other."""
    return f"{step.name} {step.method} {step.tool}" if isinstance(step, Quantize) else step.name


# ── what is registered ───────────────────────────────────────────────────────────────────────────────────────────────


def _registered(
    ground: Ground, measured: Measured, variants: Sequence[Variant], held_out: Callable[[str], float]
) -> tuple[Measured, dict[str, Registered]]:
    """References of what was registered, by the names before: what is on the front within the loss, and the recommended one.
    held_out: share of the training set that nothing of a variant was trained on, by its name."""
    job, arguments = ground.job, ground.arguments
    comparison = measured.comparison
    made: dict[str, Registered] = {}
    for variant in variants:
        entrant = next((one for one in comparison.entrants if one.version == variant.name), None)
        if len(made) == MOST_REGISTERED and variant.name != comparison.recommended:
            continue
        if entrant is None or not _is_worth_it(entrant, comparison, arguments.max_loss):
            continue
        job.progress(f"registering {variant.recipe.label}")
        made[variant.name] = register(job, variant, ground.origin(held_out(variant.name)), comparison, entrant)
    return renamed(measured, made), made


def _why_not(ground: Ground, measured: Measured, name: str) -> str:
    """What the measurement has against a finalist; empty for nothing."""
    entrant = next((one for one in measured.comparison.entrants if one.version == name), None)
    if entrant is None or entrant.loss is None:
        return measured.left_out.get(name, "")
    most = ground.arguments.max_loss
    if entrant.loss.value > most:
        return f"It loses {entrant.loss.value:.2%} on {ground.dataset or 'the sample'}, more than {most:.2%}."
    return "It is better than its parent in nothing and worse in something." if entrant.dominated else ""


def _is_worth_it(entrant: Entrant, comparison: VersionComparison, max_loss: float) -> bool:
    if entrant.dominated or entrant.loss is None or entrant.loss.value > max_loss:
        return False
    return entrant.on_front or entrant.version == comparison.recommended


def _with_tried(measured: Measured, trials: Sequence[Trial], bench: _Bench, names: dict[str, str], apart: bool) -> Measured:
    """With those that were timed in the search's own run and came no further. apart: rows were held out to choose by."""
    comparison = measured.comparison
    there = {one.version for one in comparison.entrants}
    baseline = comparison.entrants[0]
    more = []
    for trial in trials:
        name = bench.name(trial)
        if trial.figures is None or name in there or name in names:
            continue
        entrant = Entrant(version=name, label=trial.label, figures=trial.figures, loss=trial.loss, registered=False)
        more.append(msgspec.structs.replace(entrant, dominated=dominated(entrant, baseline)))
    notes = []
    if not apart and trials:
        notes.append(
            f"Variants were chosen by {comparison.dataset or 'the sample'}, on which their loss is told too, so that the best "
            "may lose more than it seems: a training set of its own (--data) to choose by tells better."
        )
    if bench.whole:
        notes.append(
            f"{len(bench.whole)} finalists were trained once more with all rows of the training set after they were chosen: "
            "what was tried tells of them as they were before."
        )
    if more:
        rows = "rows of the training set that nothing was trained on" if apart else "the rows that variants were chosen by"
        notes.append(
            f"{len(more)} variants that came no further were timed in a run of their own beside the parent, and their loss is "
            f"that on {rows}."
        )
    comparison = msgspec.structs.replace(comparison, entrants=(*comparison.entrants, *more), notes=(*comparison.notes, *notes))
    return replace(measured, comparison=comparison)


def _told(trial: Trial, version: str) -> dict[str, Any]:
    """A trial for the result: what was tried, and what came of it."""
    return {
        "recipe": trial.candidate.recipe.to_plain(),
        "label": trial.label,
        "version": version,
        "reason": trial.reason,
        "loss": None if trial.loss is None else msgspec.to_builtins(trial.loss),
        "size": trial.size,
        "seconds": round(trial.seconds, 3),
    }
