"""Text generators are optimised by converting their weights: each kind is made of one export, and measured beside the parent.

prepare    data that do not fit are refused, and so is another pass than the conversion
make       tasks/generators.py; what strays too far from the source by the server's own tolerance drops out
measure    parent and variants in one alternating run; how likely each finds the same text, and how each goes on from its parts
register   what the recipe made; of a search, what is worth it within the loss
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final

import msgspec

from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.evaluations import STANDARD_SEED, Entrant, Evaluation, Figures, VersionComparison
from openmaas.core.hardware import computes_bf16
from openmaas.core.jobs import GENERATOR_TARGET, OptimizeArguments
from openmaas.core.manifest import Manifest
from openmaas.core.metrics import require_metric
from openmaas.core.pareto import told_loss
from openmaas.core.recipes import Convert
from openmaas.tasks.base import Job
from openmaas.tasks.candidate import Failed
from openmaas.tasks.comparison import Contender, compare_contenders
from openmaas.tasks.generators import CALIBRATED, Calibration, Conversions, Converted, engine_of, known_version, source_of
from openmaas.tasks.optimization.ground import Measured, renamed
from openmaas.tasks.optimization.recommending import recommend_by_value
from openmaas.tasks.optimization.results import result_of
from openmaas.tasks.optimization.variants import Registered, loss_told
from openmaas.tasks.passages import passages_of
from openmaas.tasks.perplexity import DatasetText, Reading, passages_of_dataset, read_passages, scored_by, text_evaluation
from openmaas.tasks.serving import serving_choice
from openmaas.tasks.side_by_side import STREAMS, Subject, measure_side_by_side
from openmaas.tasks.writing import Beginning, beginnings_of, written_by

_CALIBRATING: Final = 128  # passages that weights are chosen on, as many as NNCF takes by itself
_MOST_PASSAGES: Final = 10_000
_TIMING: Final = 20.0  # seconds of a recipe's measurement
_LONGEST_TIMING: Final = 60.0  # of a search's


@dataclass(kw_only=True)
class _Variant:
    """name: of the weights, and the reference once it is registered. entrant: None of one that was made before."""

    label: str
    subject: Subject
    entrant: Converted | None = None
    known: Registered | None = None


@dataclass(frozen=True, kw_only=True)
class _Text:
    """What is read. dataset: None of the version's own text."""

    text: DatasetText
    beginnings: list[Beginning]
    dataset: tuple[str, DatasetManifest] | None


def optimize_generator(job: Job, arguments: OptimizeArguments, manifest: Manifest, folder: Path) -> dict[str, Any]:
    """The job's result, as results.py has it. Raises InvalidInput and Refused before anything is made where recipe or data do
    not fit, and Refused where nothing stays within the tolerance."""
    start = time.monotonic()
    wanted = _wanted(arguments)
    source = source_of(arguments.version, manifest, folder)
    text = _text(job, arguments, manifest, folder)
    calibration = _calibration(job, arguments, manifest, folder) if any(map(_is_calibrated, wanted)) else Calibration()
    known = [_known(job, arguments, name) for name in wanted]
    conversions = Conversions(job, source, [name for name, one in zip(wanted, known, strict=True) if one is None], calibration)
    variants = [one for one in known if one is not None]
    if conversions.entrants:
        variants += _made(conversions, nothing_else=not variants)
    with job.alone():
        left = arguments.seconds - (time.monotonic() - start)
        seconds = min(_TIMING, arguments.seconds) if not _searches(arguments) else max(5.0, min(_LONGEST_TIMING, left / 2))
        measured = _measure(job, arguments, manifest, folder, variants, text, seconds)
        measured = replace(measured, comparison=recommend_by_value(measured.comparison, arguments.max_loss))
        registered = _register(job, arguments, conversions, variants, measured)  # still alone: as a search does
    measured = renamed(_with_digests(measured, registered), registered)
    return _result(arguments, conversions, variants, measured, registered)


# ── before anything is made ──────────────────────────────────────────────────────────────────────────────────────────


def _wanted(arguments: OptimizeArguments) -> list[str]:
    """Names of weights: of the recipe's one step, or all that a search tries."""
    recipe = arguments.steps
    if recipe is None or _searches(arguments):
        kinds = ["bf16"] if computes_bf16() else []
        return [*kinds, "int8", "int4", *([f"int4{CALIBRATED}"] if arguments.data else [])]
    step = recipe.steps[0]
    if len(recipe.steps) > 1 or not isinstance(step, Convert) or step.to != GENERATOR_TARGET:
        raise InvalidInput(
            f"{arguments.version} generates text: no pass but the conversion of its weights is made for such a model.",
            code="pass_not_applicable",
            next_step=f"Give the one step 'convert: {{to: {GENERATOR_TARGET}, weights: int8}}', or --auto.",
        )
    return [f"{step.weights}{CALIBRATED if step.calibrated else ''}"]


def _searches(arguments: OptimizeArguments) -> bool:
    """Whether the best of several is wanted: --auto, or a recipe whose weights are auto."""
    recipe = arguments.steps
    if recipe is None:
        return True
    step, *others = recipe.steps
    return not others and isinstance(step, Convert) and step.to == GENERATOR_TARGET and step.weights in ("", "auto")


def _told(name: str) -> str:
    """As core/made.py tells it of a version."""
    return f"convert {GENERATOR_TARGET} {name.replace('-', ' ')}"


def _is_calibrated(name: str) -> bool:
    return name.endswith(CALIBRATED)


def _text(job: Job, arguments: OptimizeArguments, manifest: Manifest, folder: Path) -> _Text:
    generator = manifest.generator
    assert generator is not None
    require_metric(arguments.metric, "generation" if arguments.evaluation else "agreement", ("agreement",))
    scored_by(manifest, arguments.version)
    dataset = None
    if arguments.evaluation:
        job.progress("reading the evaluation set")
        found, files = job.dataset(arguments.evaluation)
        if arguments.data and job.dataset(arguments.data)[0].digest == found.digest:
            raise InvalidInput(
                f"{arguments.data} is the training set and the evaluation set: what was chosen on it shows nothing of quality.",
                code="same_data",
                next_step="Give another set to --eval.",
            )
        dataset = (arguments.evaluation, found)
        text = passages_of_dataset(generator, folder, found, files, _MOST_PASSAGES, STANDARD_SEED)
    else:
        ids = passages_of(manifest, folder).ids
        text = DatasetText(ids, list(range(len(ids))), len(ids), [])
    return _Text(text=text, beginnings=beginnings_of(text.ids, generator, folder), dataset=dataset)


def _calibration(job: Job, arguments: OptimizeArguments, manifest: Manifest, folder: Path) -> Calibration:
    assert manifest.generator is not None
    dataset, rows = job.dataset(arguments.data)
    seed = arguments.seed if arguments.steps is None else arguments.steps.seed
    text = passages_of_dataset(manifest.generator, folder, dataset, rows, _CALIBRATING, seed)
    for note in text.notes:
        job.log(note)
    return Calibration(text.ids, arguments.data)


# ── making and measuring ─────────────────────────────────────────────────────────────────────────────────────────────


def _known(job: Job, arguments: OptimizeArguments, name: str) -> _Variant | None:
    """One that was made before: its files are measured."""
    data = arguments.data if _is_calibrated(name) else ""
    found = known_version(job, arguments.version, name.removesuffix(CALIBRATED), data)
    if found is None:
        return None
    reference = f"{found.model}:{found.number}"
    job.log(f"{reference} was made of {arguments.version} with {name} weights before.")
    manifest, folder = job.files(reference)
    subject = Subject(name=reference, manifest=manifest, folder=folder, choice=serving_choice(job, reference, manifest))
    return _Variant(label=name, subject=subject, known=Registered(reference=reference, digest=found.digest, created=False))


def _made(conversions: Conversions, *, nothing_else: bool) -> list[_Variant]:
    try:
        fitting = conversions.make()
    except Refused:
        if nothing_else:
            raise
        return []
    found = []
    for one in fitting:
        target = conversions.target(one)
        subject = Subject(name=f"with {one.name} weights", manifest=target, folder=one.folder, choice=engine_of(target))
        found.append(_Variant(label=one.name, subject=subject, entrant=one))
    return found


def _measure(
    job: Job,
    arguments: OptimizeArguments,
    manifest: Manifest,
    folder: Path,
    variants: Sequence[_Variant],
    text: _Text,
    seconds: float,
) -> Measured:
    start = time.monotonic()
    parent = Subject(
        name=arguments.version, manifest=manifest, folder=folder, choice=serving_choice(job, arguments.version, manifest)
    )
    subjects = [parent, *(one.subject for one in variants)]
    labels = ["", *(one.label for one in variants)]
    found = measure_side_by_side(job, subjects, None, seconds=seconds, seed=arguments.seed)
    left_out: dict[str, str] = {}
    contenders: list[Contender] = []
    for subject, label, figures in zip(subjects, labels, found, strict=True):
        if isinstance(figures, Failed):
            if subject is parent:
                raise Refused(f"{subject.name} cannot be measured: {figures.cause}", code=figures.state)
            left_out[subject.name] = figures.cause
            continue
        artifact = scored_by(subject.manifest, subject.name)
        reading = read_passages(job, artifact, subject.manifest, subject.folder, text.text.ids)
        contenders.append(
            Contender(
                version=subject.name,
                figures=figures,
                evaluation=_evaluation(subject, figures, reading, text),
                label=_told(label) if label else "",
                registered=":" in subject.name,
                expected=reading.expected,
                beginnings=text.beginnings,
                written=written_by(job, subject, text.beginnings),
            )
        )
    if len(contenders) == 1:
        causes = " ".join(f"{name}: {cause}" for name, cause in left_out.items())
        raise Refused(f"Nothing that was made of {arguments.version} can be served. {causes}", code="not_servable")
    comparison = compare_contenders(
        contenders,
        dataset=text.dataset[0] if text.dataset else "",
        metric=arguments.metric,
        target=arguments.target,
        max_loss=arguments.max_loss,
        seed=STANDARD_SEED,
        seconds=time.monotonic() - start,
        notes=[f"{name} was left out: {cause}" for name, cause in left_out.items()],
    )
    evaluations = tuple(one.evaluation for one in contenders if one.evaluation is not None)
    return Measured(comparison=comparison, evaluations=evaluations, left_out=left_out)


def _evaluation(subject: Subject, figures: Figures, reading: Reading, text: _Text) -> Evaluation | None:
    if text.dataset is None:
        return None
    name, dataset = text.dataset
    return text_evaluation(
        subject.manifest, text.text, reading.losses, version=subject.name, data=name, dataset=dataset, figures=figures,
        seed=STANDARD_SEED,
    )  # fmt: skip


# ── what is registered ───────────────────────────────────────────────────────────────────────────────────────────────


def _register(
    job: Job, arguments: OptimizeArguments, conversions: Conversions, variants: Sequence[_Variant], measured: Measured
) -> dict[str, Registered]:
    """What there is now, by the names of the measurement."""
    comparison = measured.comparison
    found: dict[str, Registered] = {}
    for variant in variants:
        made = next((one for one in comparison.entrants if one.version == variant.subject.name), None)
        if made is None:
            continue
        if variant.known is not None:
            found[made.version] = variant.known
        elif variant.entrant is not None and (not _searches(arguments) or _is_worth_it(made, comparison, arguments.max_loss)):
            told = conversions.register(
                variant.entrant,
                made.figures.choice,
                _card(arguments, comparison, made, variant.label),
                seed=arguments.seed if arguments.steps is None else arguments.steps.seed,
                libraries=_libraries(made),
                loss=None if made.loss is None else msgspec.to_builtins(made.loss),
            )
            found[made.version] = Registered(reference=told["version"], digest=told["digest"], created=told["created"])
    return found


def _with_digests(measured: Measured, registered: dict[str, Registered]) -> Measured:
    """An evaluation of what was only then pushed names what the push made of the same files."""
    evaluations = tuple(
        msgspec.structs.replace(one, digest=registered[one.version].digest) if one.version in registered else one
        for one in measured.evaluations
    )
    return replace(measured, evaluations=evaluations)


def _is_worth_it(made: Entrant, comparison: VersionComparison, max_loss: float) -> bool:
    if made.dominated or made.loss is None or made.loss.value > max_loss:
        return False
    return made.on_front or made.version == comparison.recommended


def _libraries(made: Entrant) -> dict[str, str]:
    """Our own, and the engine's that it was measured by; those that made it are pinned (tasks/environments/optimum.txt)."""
    name, _, number = made.figures.library.rpartition(" ")
    return {"openmaas": version_of("openmaas"), **({name: number} if name else {})}


def _card(arguments: OptimizeArguments, comparison: VersionComparison, made: Entrant, label: str) -> str:
    """What was done and what it cost, as Markdown."""
    parent = comparison.entrants[0]
    told = f"Made of {arguments.version}: {label} weights, for {GENERATOR_TARGET}."
    if _is_calibrated(label):
        told += f" They were chosen on {arguments.data}."
    rows: list[tuple[str, ...]] = [("", arguments.version, "this version")]
    if comparison.metric in parent.metrics and comparison.metric in made.metrics:
        where = f" on {comparison.dataset}" if comparison.dataset else ""
        both = (one.metrics[comparison.metric].value for one in (parent, made))
        rows.append((f"{comparison.metric}{where}", *(f"{value:.4g}" for value in both)))
    figures = (parent.figures, made.figures)
    rows += [
        ("size", *(f"{one.size:,} bytes" for one in figures)),
        ("peak memory", *(f"{one.memory / 2**20:,.0f} MiB" for one in figures)),
        *(_rates(streams, figures) for streams in STREAMS if all(_rates(streams, figures)[1:])),
        ("engine", *(f"{one.choice.label}, {one.choice.threads} threads" for one in figures)),
    ]  # fmt: skip
    table = ["| " + " | ".join(row) + " |" for row in rows]
    alike = made.agreement
    same = "" if alike is None or alike.top1 is None else f"Of {alike.rows:,} tokens, {alike.top1:.1%} are the same."
    lines = [told, "", table[0], "|---|---:|---:|", *table[1:], "", *filter(None, (loss_told(made, comparison), same))]
    return "\n".join(lines) + "\n"


def _rates(streams: int, figures: Sequence[Figures]) -> tuple[str, ...]:
    """A row of the card; a figure is empty where so many streams were not measured."""
    rates = (next((f"{speed.rate:,.0f} tokens/s" for speed in one.speeds if speed.batch == streams), "") for one in figures)
    return (f"{streams} {'stream' if streams == 1 else 'streams'}", *rates)


def _result(
    arguments: OptimizeArguments,
    conversions: Conversions,
    variants: Sequence[_Variant],
    measured: Measured,
    registered: dict[str, Registered],
) -> dict[str, Any]:
    comparison = measured.comparison
    versions = [one.reference for one in registered.values()]
    created = any(one.created for one in registered.values())
    if not _searches(arguments):
        made = comparison.entrants[1]
        notes = [loss_told(made, comparison)] if made.loss is not None else []
        return result_of(versions[0], created, versions, measured, notes=notes)
    recommended = comparison.recommended if comparison.recommended in versions else ""
    return result_of(
        recommended, created, versions, measured, tried=_tried(arguments, conversions, variants, comparison, registered)
    )


def _tried(
    arguments: OptimizeArguments,
    conversions: Conversions,
    variants: Sequence[_Variant],
    comparison: VersionComparison,
    registered: dict[str, Registered],
) -> list[dict[str, Any]]:
    """Every kind of weights, and what came of it."""
    entrants = {one.label: one for one in comparison.entrants[1:]}
    found = []
    for label in dict.fromkeys([*(one.label for one in variants), *(one.name for one in conversions.entrants)]):
        made = entrants.get(_told(label))
        reason = next((one.cause for one in conversions.entrants if one.name == label), "")
        if made is not None and made.loss is not None and made.loss.value > arguments.max_loss:
            lost, most = (told_loss(value, comparison.metric) for value in (made.loss.value, arguments.max_loss))
            reason = f"It loses {lost} of {comparison.metric}, more than {most}."
        name = next((one.subject.name for one in variants if one.label == label), "")
        found.append(
            {
                "label": _told(label),
                "version": registered[name].reference if name in registered else "",
                "loss": None if made is None or made.loss is None else msgspec.to_builtins(made.loss),
                "size": None if made is None else made.figures.size,
                "reason": reason,
            }
        )
    return found
