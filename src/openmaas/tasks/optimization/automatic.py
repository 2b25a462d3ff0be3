"""The search behind --auto on a real version. What is chosen is chosen on rows of the training set that nothing was trained on;
the evaluation set gives the figures that are reported, and the last word on the loss.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from openmaas.core.errors import OpenMaaSError
from openmaas.core.evaluations import Entrant, Estimate, Figures, VersionComparison
from openmaas.core.hardware import usable_cores
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.core.pareto import change, dominated, figure, told_loss
from openmaas.core.recipes import Pass, Quantize, Training
from openmaas.engines import engine_choices
from openmaas.tasks.candidate import Failed
from openmaas.tasks.evaluate import answers_of
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.answering import Answering, plain_choice, target_of
from openmaas.tasks.optimization.base import Piece
from openmaas.tasks.optimization.ground import Ground, Measured, measure, renamed, unlabelled
from openmaas.tasks.optimization.portfolio import Candidate, Traits, portfolio, traits_of
from openmaas.tasks.optimization.quality import HELD_OUT, Judge, split
from openmaas.tasks.optimization.results import result_of
from openmaas.tasks.optimization.runner import Runner, begin
from openmaas.tasks.optimization.search import Search, Trial
from openmaas.tasks.optimization.variants import Registered, Variant, build, register
from openmaas.tasks.packing import add_tokenizer
from openmaas.tasks.serving import serving_choice
from openmaas.tasks.side_by_side import Subject, figures_of, loaded_size, measure_side_by_side

MOST_REGISTERED: Final = 5
_FINALISTS: Final = 8
_FINAL: Final = 16.0  # seconds that measuring one finalist takes at least
_TRAINING: Final = 20.0  # times that a row costs in training what it costs the fastest batch, until it is known
_FIRST: Final = 3.0  # seconds that a pass without training takes, until it is known
_CHOOSING: Final = 10.0  # seconds in which a finalist's engine is found, at least
_TIMED: Final = 0.3  # of the time that is left for the finalists, in which they are timed beside each other
_LOOK: Final = 1.0  # seconds in which the parent's rate is found
_MOST_TRIED: Final = 200


def search(ground: Ground, answering: Answering) -> dict[str, Any]:
    """The job's result. Raises Refused or InvalidInput for a version that nothing can be made of."""
    job, arguments = ground.job, ground.arguments
    fitted, held = _data(ground)
    if ground.evaluation is None and fitted is not None:
        ground = replace(ground, rows=unlabelled(held, ground.manifest, ground.inputs))
    labels = fitted is not None and fitted.truth is not None
    traits = traits_of(ground.manifest, ground.folder, fitted.rows if fitted is not None else 0, labels)
    candidates = portfolio(traits, arguments.target, arguments.seed)
    if candidates:
        begin(arguments.version, ground.manifest, ground.folder, candidates[0].recipe)
    with job.alone():
        start = time.monotonic()
        bench = _Bench(ground, answering, fitted, held, traits)
        found = Search(bench, arguments.target, arguments.max_loss, arguments.seconds, tell=job.progress, start=start)
        found.run(candidates)
        left = start + arguments.seconds - time.monotonic()
        finalists = found.finalists(max(1, min(_FINALISTS, int(left / _FINAL))))
        variants = bench.variants(finalists)
        deadline = start + arguments.seconds
        left = deadline - time.monotonic()
        timing = max(2.0, min(60.0, left * _TIMED))
        choosing = max(_CHOOSING, min(20.0, (left - timing) / max(1, len(variants)) / 2))
        measured = measure(ground, variants, seconds=timing, choosing=choosing, deadline=deadline)
    for one in finalists:
        one.reason = one.reason or _why_not(ground, measured, bench.name(one))
    apart = fitted is not None and fitted is not held
    measured, made = _registered(ground, measured, variants, HELD_OUT if apart else 0.0)
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
        self._runner = Runner(job, arguments.version, ground.manifest, ground.folder, ground.inputs, fitted, answering)
        self._parent = serving_choice(job, arguments.version, ground.manifest)
        start = time.monotonic()
        outputs = answers_of(job, ground.manifest, ground.folder, self._parent, held)
        self._answering_seconds = time.monotonic() - start
        subject = Subject(name=arguments.version, manifest=ground.manifest, folder=ground.folder, choice=self._parent)
        self._row = 1 / figures_of(job, subject, held.inputs, seconds=_LOOK, seed=arguments.seed).best.rate
        metric = arguments.metric if held.task != "agreement" else ""
        self._judge = Judge(ground.manifest, held, outputs, metric, arguments.seed)
        self._examined = 0
        self._pieces: dict[int, tuple[Candidate, Piece]] = {}
        self._rates: dict[str, float] = {}
        """Seconds that a pass takes, by its name: of a row and epoch where it trains."""

    def make(self, candidate: Candidate, deadline: float) -> Piece:
        left = list(self._runner.steps_left(candidate.recipe))
        self._runner.deadline = deadline
        start = time.monotonic()
        try:
            piece = self._runner.run(candidate.recipe)
        finally:
            self._runner.deadline = None
        if len(left) == 1:
            self._learn(left[0], time.monotonic() - start)
        self._pieces[id(piece)] = (candidate, piece)
        return piece

    def loss(self, made: Piece) -> Estimate:
        target = target_of(made)
        add_tokenizer(target, made.folder, self._ground.folder)
        choice = msgspec.structs.replace(plain_choice(target), threads=usable_cores())
        return self._judge.loss(answers_of(self._ground.job, target, made.folder, choice, self._held))

    def size(self, made: Piece) -> int:
        target = target_of(made)
        return loaded_size(target, made.folder, plain_choice(target))

    def time(self, made: Sequence[Piece], seconds: float) -> list[Figures | str]:
        ground = self._ground
        subjects = [Subject(name="parent", manifest=ground.manifest, folder=ground.folder, choice=self._parent)]
        for piece in made:
            target = target_of(piece)
            label = self._pieces[id(piece)][0].label
            subjects.append(Subject(name=label, manifest=target, folder=piece.folder, choice=self._choice(target)))
        found = measure_side_by_side(
            ground.job, subjects, self._held.inputs, seconds=max(2.0, seconds - 1.5 * len(subjects)), seed=ground.arguments.seed
        )
        return [one.cause if isinstance(one, Failed) else one for one in found[1:]]

    def expected_seconds(self, candidate: Candidate) -> float:
        return sum(self._expected(step) for step in self._runner.steps_left(candidate.recipe)) + self._answering_seconds

    def variants(self, trials: Sequence[Trial]) -> list[Variant]:
        """Packed and examined; one that a push would refuse is out, and says why."""
        found: list[Variant] = []
        ground = self._ground
        for trial in trials:
            self._examined += 1
            folder = ground.job.scratch / f"finalist-{self._examined}"
            ground.job.progress(f"examining {trial.label}")
            try:
                made = build(
                    ground.job, self.name(trial), trial.candidate.recipe, trial.made, ground.folder, ground.inputs,
                    self._answering, folder,
                )  # fmt: skip
            except OpenMaaSError as error:
                trial.reason = error.message
                continue
            if made.manifest.digest == ground.manifest.digest:
                trial.reason = f"It is {ground.arguments.version} itself, to the byte."
                continue
            same = next((one for one in found if one.manifest.digest == made.manifest.digest), None)
            if same is not None:
                trial.reason = f"It is the same as {same.recipe.label}."
                continue
            found.append(made)
        return found

    def name(self, trial: Trial) -> str:
        """Before it is registered."""
        return f"variant {list(self._pieces).index(id(trial.made)) + 1}" if id(trial.made) in self._pieces else ""

    def _choice(self, target: Manifest) -> EngineChoice:
        """As the parent is served, where that is possible for it."""
        same = (one for one in engine_choices(target) if one.label == self._parent.label)
        return msgspec.structs.replace(next(same, plain_choice(target)), threads=self._parent.threads or usable_cores())

    def _learn(self, step: Pass, seconds: float) -> None:
        work = self._work(step)
        self._rates[step.name] = max(self._rates.get(step.name, 0.0), seconds / work)

    def _expected(self, step: Pass) -> float:
        work = self._work(step)
        trains = isinstance(step, Training) and step.epochs > 0
        first = self._row * _TRAINING if trains else _FIRST + self._traits.parameters / 5e6
        known = self._rates.get(step.name)
        if trains and known is None:  # one that trains otherwise tells something too
            others = [rate for name, rate in self._rates.items() if name in ("prune", "distil", "low-rank")]
            known = max(others, default=None)
        return work * (first if known is None else known)

    def _work(self, step: Pass) -> float:
        """Rows times epochs of one that trains; layers tried one by one for a search of the worst; else 1."""
        if isinstance(step, Training) and step.epochs:
            return float(step.epochs * max(1, self._rows))
        if isinstance(step, Quantize) and step.keep_worst:
            return float(1 + self._traits.convolutions + self._traits.linear)
        return 1.0


# ── what is registered ───────────────────────────────────────────────────────────────────────────────────────────────


def _registered(
    ground: Ground, measured: Measured, variants: Sequence[Variant], held_out: float
) -> tuple[Measured, dict[str, Registered]]:
    """References of what was registered, by the names before: what is on the front within the loss, and the recommended one."""
    job, arguments = ground.job, ground.arguments
    comparison = recommend_by_value(measured.comparison, arguments.max_loss)
    measured = replace(measured, comparison=comparison)
    made: dict[str, Registered] = {}
    for variant in variants:
        entrant = next((one for one in comparison.entrants if one.version == variant.name), None)
        if len(made) == MOST_REGISTERED and variant.name != comparison.recommended:
            continue
        if entrant is None or not _is_worth_it(entrant, comparison, arguments.max_loss):
            continue
        job.progress(f"registering {variant.recipe.label}")
        made[variant.name] = register(job, variant, ground.origin(held_out), comparison, entrant)
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


def recommend_by_value(comparison: VersionComparison, max_loss: float) -> VersionComparison:
    """Where no variant keeps within the loss by its upper bound, the best of those that do by the loss itself: few rows prove
    little, and what they leave open is said."""
    baseline = comparison.entrants[0]
    if comparison.recommended not in ("", baseline.version):
        return comparison
    within = [
        one
        for one in comparison.entrants[1:]
        if one.loss is not None
        and one.loss.value <= max_loss
        and not one.dominated
        and change(one, baseline, comparison.target) < 0
    ]
    if not within:
        return comparison
    best = min(within, key=lambda one: (figure(one, comparison.target), figure(one, "quality")))
    assert best.loss is not None
    times = figure(baseline, comparison.target) / figure(best, comparison.target)
    bound = best.loss.high if best.loss.high is not None else best.loss.value
    lost, most, open_ = (told_loss(value, comparison.metric) for value in (best.loss.value, max_loss, max(0.0, bound)))
    why = (
        f"{best.version}: its {comparison.target} is {times:.2f} times as good as {baseline.version}'s. It lost "
        f"{lost} of {comparison.metric}, which is within {most}; these rows do not rule out a loss of "
        f"{open_}, so that a gate may want more of them."
    )
    return msgspec.structs.replace(comparison, recommended=best.version, why=why)


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
