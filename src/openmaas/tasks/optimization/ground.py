"""What an optimisation stands on: the version, its data, bound to it before any long work, and how variants are measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy as np

from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import Cancelled, InvalidInput, OpenMaaSError, Refused
from openmaas.core.evaluations import STANDARD_SEED, Evaluation, Figures, VersionComparison
from openmaas.core.hardware import usable_cores
from openmaas.core.jobs import OptimizeArguments
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.core.metrics import require_metric
from openmaas.tasks.base import Job
from openmaas.tasks.candidate import Failed
from openmaas.tasks.comparing import Arrays, require_rows, sample_of
from openmaas.tasks.comparison import Contender, Previews, compare_contenders
from openmaas.tasks.evaluate import answers_of, evaluation_of
from openmaas.tasks.examples import Examples, bind, rows_digest
from openmaas.tasks.optimization.variants import Origin, Registered, Variant
from openmaas.tasks.previews import previews_of
from openmaas.tasks.serving import serving_choice
from openmaas.tasks.side_by_side import Subject, best_choice, measure_side_by_side

MOST_ROWS: Final = 10_000
"""Rows of an evaluation: outcomes of several versions have to fit into one result."""

_MOST_AGREED: Final = 1000  # rows of a training set on which answers are compared, where there is no evaluation set
AGREEMENTS: Final = ("agreement", "cosine", "r2")
"""What is told of answers where there is no truth; which of them, the answers say."""

_TIMED_ROWS: Final = 64


@dataclass(frozen=True, kw_only=True)
class Ground:
    """inputs: the sample's rows. training and evaluation: None where none was given. rows: what variants are held against their
    parent on: the evaluation set, else the training set without its labels, else the sample."""

    job: Job
    arguments: OptimizeArguments
    manifest: Manifest
    folder: Path
    inputs: Arrays
    data: tuple[str, DatasetManifest] | None
    evaluation: tuple[str, DatasetManifest] | None
    training: Examples | None
    rows: Examples
    files: Path | None = None
    """Of the dataset that `rows` are of."""

    @property
    def dataset(self) -> str:
        """The exact reference of the set that `rows` are of; empty for the sample."""
        one = self.evaluation or self.data
        return one[0] if one else ""

    def origin(self, held_out: float = 0.0) -> Origin:
        return Origin(version=self.arguments.version, data=self.data, evaluation=self.evaluation, held_out=held_out)


def lay(job: Job, arguments: OptimizeArguments, manifest: Manifest, folder: Path) -> Ground:
    """Fetch and bind all that the job works on. Raises InvalidInput for data that do not fit the version."""
    inputs, _, _ = sample_of(manifest, folder)
    require_rows(inputs)
    training = data = evaluation = rows = files = None
    if arguments.data:
        job.progress("reading the training set")
        found, files = job.dataset(arguments.data)
        data = (arguments.data, found)
        training = bind(manifest, folder, found, files)
        _require_finite(training, arguments)
    if arguments.evaluation:
        job.progress("reading the evaluation set")
        found, files = job.dataset(arguments.evaluation)
        evaluation = (arguments.evaluation, found)
        _require_another(data, evaluation)
        rows = bind(manifest, folder, found, files, rows=MOST_ROWS, seed=arguments.seed)
        if not rows.rows:
            raise InvalidInput(f"{arguments.evaluation} has no rows.", code="no_rows")
    rows = rows or unlabelled(training, manifest, inputs)
    require_metric(arguments.metric, rows.task, AGREEMENTS)
    return Ground(
        job=job, arguments=arguments, manifest=manifest, folder=folder, inputs=inputs, data=data, evaluation=evaluation,
        training=training, rows=rows, files=files,
    )  # fmt: skip


def _require_finite(training: Examples, arguments: OptimizeArguments) -> None:
    """What a recipe trains or calibrates on. A search has recipes that need no data, for models that know missing values."""
    recipe = arguments.steps
    if recipe is None or not recipe.needs_data:
        return
    for name, array in training.inputs.items():
        if array.dtype.kind == "f" and not (finite := np.isfinite(array).reshape(len(array), -1).all(1)).all():
            first = int(np.flatnonzero(~finite)[0])
            raise InvalidInput(
                f"{int((~finite).sum())} of {len(array)} rows of {arguments.data} have NaN or Infinity in {name!r}; the first "
                f"is row {int(training.index[first])}. Nothing is trained or calibrated on these.",
                code="data_not_finite",
                next_step="Push the dataset without those rows, or with numbers in their place.",
            )


def _require_another(data: tuple[str, DatasetManifest] | None, evaluation: tuple[str, DatasetManifest]) -> None:
    """The same rows in both would make every variant look as good as it was trained to be."""
    if data is not None and data[1].digest == evaluation[1].digest:
        both = data[0] if data[0] == evaluation[0] else f"{data[0]}, which is {evaluation[0]} by another name,"
        raise InvalidInput(
            f"{both} is the training set and the evaluation set: what was trained on shows nothing of quality.",
            code="same_data",
            next_step="Give another set to --eval.",
        )


def unlabelled(training: Examples | None, manifest: Manifest, inputs: Arrays) -> Examples:
    """Rows on which answers alone are compared: of these examples, else the sample."""
    if training is None:
        count = len(next(iter(inputs.values())))
        index = np.arange(count, dtype=np.int64)
        return Examples(inputs=inputs, truth=None, task="agreement", index=index, digest=rows_digest(manifest.digest, index))
    most = min(_MOST_AGREED, training.rows)
    return replace(
        training,
        inputs={name: array[:most] for name, array in training.inputs.items()},
        truth=None,
        task="agreement",
        lengths=None if training.lengths is None else training.lengths[:most],
        index=training.index[:most],
        digest=rows_digest(training.digest, np.arange(most)),
    )


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A comparison of the parent with variants in their order, and the evaluations of those with a truth. left_out: why a
    variant could not be measured, by its name."""

    comparison: VersionComparison
    evaluations: tuple[Evaluation, ...]
    left_out: dict[str, str]


def measure(
    ground: Ground,
    variants: Sequence[Variant],
    *,
    seconds: float,
    choosing: float,
    choices: Mapping[str, EngineChoice] | None = None,
) -> Measured:
    """The parent and variants in one alternating run, each by the engine that would serve it.

    seconds: of timing; choosing: of finding each variant's engine. choices: of those that are found already, by their names.
    The caller holds `job.alone()`. Raises Refused where the parent itself cannot be measured.
    """
    job, arguments = ground.job, ground.arguments
    start = time.monotonic()
    left_out: dict[str, str] = {}
    parent = serving_choice(job, arguments.version, ground.manifest)
    entered: list[tuple[Variant | None, EngineChoice, Arrays]] = []
    job.progress(f"answering with {arguments.version}")
    entered.append((None, parent, answers_of(job, ground.manifest, ground.folder, parent, ground.rows)))
    for number, variant in enumerate(variants):
        job.progress(f"answering with {variant.name}", number, len(variants))
        try:
            choice = (choices or {}).get(variant.name) or chosen_engine(ground, variant, choosing, ground.rows.inputs)
            entered.append((variant, choice, answers_of(job, variant.manifest, variant.folder, choice, ground.rows)))
        except Cancelled:
            raise
        except OpenMaaSError as error:
            left_out[variant.name] = error.message
    subjects = [_subject(ground, variant, choice) for variant, choice, _ in entered]
    found = measure_side_by_side(job, subjects, ground.rows.inputs, seconds=seconds, seed=arguments.seed)
    contenders: list[Contender] = []
    for (made, _, outputs), figures in zip(entered, found, strict=True):
        if not isinstance(figures, Failed):
            contenders.append(_contender(ground, made, outputs, figures))
        elif made is None:
            raise Refused(f"{arguments.version} cannot be measured: {figures.cause}", code=figures.state)
        else:
            left_out[made.name] = figures.cause
    comparison = compare_contenders(
        contenders,
        dataset=ground.dataset,
        metric=arguments.metric if ground.rows.task != "agreement" else "",
        index=ground.rows.index,
        previews=_previews(ground),
        target=arguments.target,
        max_loss=arguments.max_loss,
        seed=arguments.seed,
        seconds=time.monotonic() - start,
        notes=ground.rows.notes,
    )
    return Measured(
        comparison=comparison,
        evaluations=tuple(one.evaluation for one in contenders if one.evaluation is not None),
        left_out=left_out,
    )


class _Tolerant:
    """A job on a server that allows engines of another cosine."""

    def __init__(self, job: Job, cosine: float) -> None:
        self._job = job
        self.settings = msgspec.structs.replace(job.settings, engine_cosine=cosine)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)


def tolerant(ground: Ground) -> Job:
    """In a search, an engine of reduced precision may be as far from a variant's own answers as the variant may lose: the loss
    is measured with it. Deploying it so is a choice to be made: --engine."""
    job, arguments = ground.job, ground.arguments
    if not arguments.auto:
        return job
    return cast(Job, _Tolerant(job, min(job.settings.engine_cosine, 1 - arguments.max_loss)))


def chosen_engine(ground: Ground, variant: Variant, seconds: float, inputs: Arrays) -> EngineChoice:
    """The fastest that there was time to find, else the version's own, by which it was examined. inputs: rows to try it on."""
    job = tolerant(ground)
    job.progress(f"finding the engine of {variant.name}")
    try:
        return best_choice(job, variant.manifest, variant.folder, _few(inputs), seconds=seconds)
    except Refused as error:
        job.log(f"{variant.name} is measured by its own engine: {error.message}")
        return msgspec.structs.replace(variant.manifest.choice, threads=usable_cores())


def _previews(ground: Ground) -> Previews | None:
    dataset = ground.evaluation or ground.data
    if dataset is None or ground.files is None:
        return None
    index, (spec, *_), files = ground.rows.index, ground.manifest.signature.inputs, ground.files
    shape = spec.shape[1:] if all(side > 0 for side in spec.shape[1:]) else ()
    return lambda positions: previews_of(dataset[1], files, [int(index[position]) for position in positions], shape)


def _few(inputs: Arrays) -> Arrays:
    return {name: array[:_TIMED_ROWS] for name, array in inputs.items()}


def _subject(ground: Ground, variant: Variant | None, choice: EngineChoice) -> Subject:
    if variant is None:
        return Subject(name=ground.arguments.version, manifest=ground.manifest, folder=ground.folder, choice=choice)
    return Subject(name=variant.name, manifest=variant.manifest, folder=variant.folder, choice=choice)


def _contender(ground: Ground, variant: Variant | None, outputs: Arrays, figures: Figures) -> Contender:
    name = variant.name if variant else ground.arguments.version
    manifest = variant.manifest if variant else ground.manifest
    evaluation = None
    if ground.evaluation is not None and ground.rows.truth is not None:
        evaluation = evaluation_of(
            manifest, ground.rows, outputs, version=name, dataset=ground.evaluation[0],
            dataset_digest=ground.evaluation[1].digest, figures=figures, total=ground.evaluation[1].rows,
            seed=STANDARD_SEED,
        )  # fmt: skip
    return Contender(
        version=name,
        figures=figures,
        outputs=outputs,
        declared=manifest.processing.output if manifest.processing is not None else None,
        evaluation=evaluation,
        label=variant.recipe.label if variant else "",
        registered=variant is None,
    )


def renamed(measured: Measured, registered: Mapping[str, Registered]) -> Measured:
    """With the references of versions in place of the names that variants had before they were registered.

    Evaluations of others are left out, and of those that the server made other versions of than what was measured.
    """
    comparison = measured.comparison
    names = {name: one.reference for name, one in registered.items()}
    entrants = tuple(
        msgspec.structs.replace(one, version=names[one.version], registered=True) if one.version in names else one
        for one in comparison.entrants
    )
    why = comparison.why
    for name, reference in sorted(names.items(), key=lambda pair: -len(pair[0])):
        why = why.replace(name, reference)
    comparison = msgspec.structs.replace(
        comparison, entrants=entrants, recommended=names.get(comparison.recommended, comparison.recommended), why=why
    )
    baseline, *others = measured.evaluations or (None,)
    kept = [
        msgspec.structs.replace(one, version=registered[one.version].reference)
        for one in others
        if one is not None and one.version in registered and registered[one.version].digest == one.digest
    ]
    return replace(measured, comparison=comparison, evaluations=(baseline, *kept) if baseline is not None else ())
