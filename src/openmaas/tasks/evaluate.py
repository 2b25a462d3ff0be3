"""Evaluate a version on a dataset: its answers held against the truth, with intervals, and what serving it takes.

The engine is the one that serves the version (tasks/serving.py), in a process of its own. Text generators are evaluated by
their perplexity (tasks/perplexity.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.evaluations import Estimate, Evaluation, Figures
from openmaas.core.hardware import free_memory, processor
from openmaas.core.jobs import EvaluateArguments
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.core.metrics import BY_TASK, MOST_ROWS, Answered, class_figures, confusion, encode_outcomes, estimate
from openmaas.tasks.base import Job
from openmaas.tasks.candidate import Candidate
from openmaas.tasks.examples import Examples, bind
from openmaas.tasks.meanings import Arrays, class_names, meaning_of, predicted
from openmaas.tasks.serving import answer, serving_choice, serving_note
from openmaas.tasks.side_by_side import Subject, figures_of

OTHER = "(another class)"
"""Stands in a confusion matrix for answers that are none of the classes."""

_MOST_CONFUSED = 100  # classes of a confusion matrix
_MOST_CLASSES = 1000  # that are told one by one
_LEAST = 1e-15  # probability, so that a single row does not make the mean infinite


def run(job: Job) -> dict[str, Any]:
    """The job: {"evaluation": …}.

    Raises InvalidInput where dataset and version do not fit, before anything is run; EngineFailed, and Refused for answers that
    are no numbers.
    """
    arguments = msgspec.convert(job.arguments, EvaluateArguments)
    start = time.monotonic()
    job.progress("fetching the version and the dataset")
    manifest, folder = job.files(arguments.version)
    dataset, rows = job.dataset(arguments.data)
    if manifest.generator is not None:
        from openmaas.tasks.perplexity import evaluate_text

        made = evaluate_text(job, arguments, manifest, folder, dataset, rows)
    else:
        choice = serving_choice(job, arguments.version, manifest, arguments.engine)
        job.progress("reading the dataset")
        most = min(arguments.rows or dataset.rows, MOST_ROWS)
        examples = bind(manifest, folder, dataset, rows, rows=most, seed=arguments.seed)
        require_truth(examples, arguments.version, arguments.data)
        notes = (
            [f"{most} of {dataset.rows} rows were drawn: at most so many are evaluated."] if _is_cut(arguments, dataset) else []
        )
        notes += [note] if (note := serving_note(job, arguments.version, choice)) else []
        job.progress("waiting for this machine's turn to measure")
        with job.alone():
            outputs = answers_of(job, manifest, folder, choice, examples)
            subject = Subject(name=arguments.version, manifest=manifest, folder=folder, choice=choice)
            figures = figures_of(job, subject, examples.inputs, seconds=arguments.seconds, seed=arguments.seed)
        job.progress("resampling")
        made = evaluation_of(
            manifest, examples, outputs, version=arguments.version, dataset=arguments.data, dataset_digest=dataset.digest,
            figures=figures, total=dataset.rows, seed=arguments.seed, notes=notes,
        )  # fmt: skip
    made = msgspec.structs.replace(made, seconds=round(time.monotonic() - start, 3))
    told = made.metrics[made.metric]
    job.log(f"{made.version} on {made.dataset}: {made.metric} {told.value:.4f} on {made.rows} rows")
    return {"evaluation": msgspec.to_builtins(made)}


def _is_cut(arguments: EvaluateArguments, dataset: DatasetManifest) -> bool:
    return min(arguments.rows or dataset.rows, dataset.rows) > MOST_ROWS


def require_truth(examples: Examples, version: str, data: str) -> None:
    """Raises InvalidInput for rows that have no truth for this version."""
    if examples.truth is None:
        reason = next((f" {note}" for note in examples.notes if note.startswith("The label")), " It has no label.")
        raise InvalidInput(
            f"{data} has no truth that the answers of {version} could be held against.{reason}",
            code="no_truth",
            next_step=f"Versions that answer alike are told by openmaas compare {version} OTHER --data {data}",
        )


def answers_of(job: Job, manifest: Manifest, folder: Path, choice: EngineChoice, examples: Examples) -> Arrays:
    """The public outputs of all rows by one engine, in a process that is gone afterwards. Raises as serving.answer."""
    scratch = job.scratch / f"answers-{len(list(job.scratch.iterdir()))}"
    scratch.mkdir()
    candidate = Candidate(choice, manifest, folder, scratch, memory=free_memory() * 4 // 5)
    try:
        return answer(
            candidate, manifest, folder, examples, progress=lambda done, total: job.progress("answering", done, total)
        )
    finally:
        candidate.close()


def evaluation_of(
    manifest: Manifest,
    examples: Examples,
    outputs: Arrays,
    *,
    version: str,
    dataset: str,
    dataset_digest: str,
    figures: Figures | None = None,
    total: int = 0,
    seed: int = 0,
    seconds: float = 0.0,
    notes: Sequence[str] = (),
) -> Evaluation:
    """What the answers to examples with a truth are worth. outputs: as serving.answer gives them. total: rows that there are.

    Raises Refused where the usual metric is not defined on these rows.
    """
    assert examples.truth is not None
    task, classes = examples.task, examples.classes
    given = predicted(manifest, outputs, classes, task)
    if len(given) != len(examples.truth):
        raise Refused(f"There are {len(given)} answers to {len(examples.truth)} rows.", code="wrong_shape")
    meaning = meaning_of(manifest)
    if task == "classification" and meaning.kind == "classes" and bool((given == len(classes)).all()):
        raise InvalidInput(
            f"{version} answers with none of the classes {_listed(classes)}: its first answer is "
            f"{class_names(outputs[meaning.output])[0][:40]!r}.",
            code="unknown_class",
            next_step="Declare the classes when the model is pushed (processing.output.labels in openmaas.yaml), or give the "
            "dataset's the names that the version answers with.",
        )
    known = Answered("classes" if task == "classification" else "values", examples.truth, given, examples.digest)
    told = [*notes, *examples.notes]
    metrics = _metrics(task, known, seed, told)
    parts: dict[str, Any] = {}
    if task == "classification":
        metrics |= _log_loss(known, outputs, len(classes), seed)
        parts = _by_class(known, classes, told)
    return Evaluation(
        version=version,
        digest=manifest.digest,
        dataset=dataset,
        dataset_digest=dataset_digest,
        task=task,
        metric=BY_TASK[task][0],
        rows=len(known),
        total=total,
        metrics=metrics,
        outcomes=encode_outcomes(known.kind, known.truth, known.answers, known.rows) if len(known) <= MOST_ROWS else None,
        figures=figures,
        processor=processor(),
        libraries=libraries_of(figures),
        seed=seed,
        seconds=seconds,
        notes=tuple(told),
        **parts,
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:40]) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def libraries_of(figures: Figures | None) -> dict[str, str]:
    name, _, version = (figures.library if figures is not None else "").rpartition(" ")
    return {name: version} if name else {}


def _metrics(task: str, known: Answered, seed: int, notes: list[str]) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for number, metric in enumerate(BY_TASK[task]):
        try:
            found[metric] = estimate(metric, known, seed)
        except Refused as refused:
            if number == 0 or refused.code != "undefined_metric":
                raise
            notes.append(refused.message)
    return found


def _log_loss(known: Answered, outputs: Arrays, classes: int, seed: int) -> dict[str, Estimate]:
    """Where there is a probability of each class."""
    shares = outputs.get("probabilities")
    if shares is None or shares.shape != (len(known), classes):
        return {}
    wide = np.asarray(shares, np.float64)
    losses = -np.log(np.clip(wide[np.arange(len(known)), known.truth], _LEAST, 1.0))
    return {"log_loss": estimate("log_loss", Answered("losses", np.ones(len(known)), losses, known.rows), seed)}


def _by_class(known: Answered, classes: tuple[str, ...], notes: list[str]) -> dict[str, Any]:
    elsewhere = int((known.answers == len(classes)).sum())
    names = (*classes, OTHER) if elsewhere else classes
    if elsewhere:
        notes.append(f"{elsewhere} rows are answered with a class that the dataset does not have.")
    if len(classes) > _MOST_CLASSES:
        notes.append(f"Figures of single classes are told of at most {_MOST_CLASSES}; there are {len(classes)}.")
        return {}
    table = confusion(known.truth, known.answers, len(names)).tolist() if len(names) <= _MOST_CONFUSED else None
    return {
        "classes": class_figures(known.truth, known.answers, names),
        "confusion": None if table is None else tuple(tuple(row) for row in table),
    }
