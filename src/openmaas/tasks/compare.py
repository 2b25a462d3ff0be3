"""Compare versions: measured beside each other, answers held against the first one's, each by the engine that serves it.

With a dataset, quality is told with paired intervals, and the classes and rows whose answers changed. Without, the versions
answer the baseline's own sample, and how far they agree is told.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import Cancelled, InvalidInput, OpenMaaSError, Refused
from openmaas.core.evaluations import Evaluation, Figures
from openmaas.core.jobs import CompareArguments
from openmaas.core.made import read_made
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.core.metrics import require_metric
from openmaas.formats.sample import fit
from openmaas.tasks.base import Job
from openmaas.tasks.candidate import Failed
from openmaas.tasks.comparing import Arrays, require_rows, sample_of
from openmaas.tasks.comparison import Contender, Previews, compare_contenders
from openmaas.tasks.evaluate import answers_of, evaluation_of
from openmaas.tasks.examples import Examples, bind, rows_digest
from openmaas.tasks.optimization.results import bounded
from openmaas.tasks.passages import cut, text_of
from openmaas.tasks.perplexity import DatasetText, passages_of_dataset, read_passages, scored_by, text_evaluation
from openmaas.tasks.previews import previews_of
from openmaas.tasks.serving import serving_choice, serving_note
from openmaas.tasks.side_by_side import Subject, measure_side_by_side
from openmaas.tasks.writing import Beginning, beginnings_of, written_by

MOST_ROWS: Final = 10_000
"""Of an evaluation: outcomes of several versions have to fit into one result."""


@dataclass(kw_only=True)
class _Version:
    """One that is compared. name: its reference, and the engine where another entrant has the same. forced: its engine was
    given. cause: why it had to be left out."""

    reference: str
    name: str
    forced: bool
    manifest: Manifest
    folder: Path
    choice: EngineChoice
    label: str
    examples: Examples | None = None
    outputs: Arrays = field(default_factory=dict)
    evaluation: Evaluation | None = None
    text: DatasetText | None = None
    expected: NDArray[np.int64] | None = None
    written: tuple[str, ...] = ()
    cause: str = ""

    @property
    def generates(self) -> bool:
        return self.manifest.generator is not None


def run(job: Job) -> dict[str, Any]:
    """The job: {"comparison": …, "evaluations": […]}, less than 1 MiB as JSON.

    A version that cannot be run is left out, and a note says why. Raises InvalidInput before anything is run where the versions
    or the dataset do not fit; Refused where the baseline cannot be run, or none of the others.
    """
    arguments = msgspec.convert(job.arguments, CompareArguments)
    start = time.monotonic()
    versions = _fetched(job, arguments)
    dataset: tuple[DatasetManifest, Path] | None = None
    if arguments.data:
        job.progress("reading the dataset")
        dataset = job.dataset(arguments.data)
    notes = _prepare(arguments, versions, dataset)
    beginnings: list[Beginning] = []
    job.progress("waiting for this machine's turn to measure")
    with job.alone():
        for number, one in enumerate(versions):
            _answer(job, one, number == 0)
        able = [one for one in versions if not one.cause]
        subjects = [_subject(one) for one in able]
        found = measure_side_by_side(job, subjects, None, seconds=arguments.seconds, seed=arguments.seed)
        if versions[0].generates:
            beginnings = _read(job, arguments, able, dataset)
    job.progress("resampling")
    contenders = []
    for one, figures in zip(able, found, strict=True):
        if isinstance(figures, Failed):
            one.cause = figures.cause
        else:
            contenders.append(_contender(arguments, one, dataset, figures, beginnings))
    _require_some(versions)
    notes += [note for one in able if not one.forced and (note := serving_note(job, one.reference, one.choice))]
    notes += [f"{one.name} was left out: {one.cause}" for one in versions if one.cause]
    baseline = versions[0]
    comparison = compare_contenders(
        contenders,
        dataset=arguments.data,
        metric=arguments.metric,
        index=baseline.examples.index if baseline.examples is not None else None,
        previews=_previews(baseline, dataset),
        target=arguments.target,
        max_loss=arguments.max_loss,
        seed=arguments.seed,
        seconds=time.monotonic() - start,
        notes=notes,
    )
    job.log(comparison.why)
    return bounded(
        {
            "comparison": msgspec.to_builtins(comparison, str_keys=True),
            "evaluations": [
                msgspec.to_builtins(one.evaluation, str_keys=True)
                for one in able
                if one.evaluation is not None and not one.forced and not one.cause
            ],
        }
    )


# ── before anything is run ───────────────────────────────────────────────────────────────────────────────────────────


def _fetched(job: Job, arguments: CompareArguments) -> list[_Version]:
    references = (arguments.version, *arguments.others)
    asked = list(dict.fromkeys(zip(references, arguments.engines or [""] * len(references), strict=True)))
    if len(asked) < 2:
        raise InvalidInput(
            f"{arguments.version} is compared with itself alone.",
            code="nothing_to_compare",
            next_step="Name another version.",
        )
    versions: list[_Version] = []
    for number, (reference, engine) in enumerate(asked):
        job.progress(f"fetching {reference}", number, len(asked))
        manifest, folder = job.files(reference)
        choice = serving_choice(job, reference, manifest, engine)
        again = any(one.reference == reference for one in versions)
        versions.append(
            _Version(
                reference=reference,
                name=f"{reference} by {choice.label}" if again else reference,
                forced=bool(engine),
                manifest=manifest,
                folder=folder,
                choice=choice,
                label=read_made(job.client.show(reference).recipe).label,
            )
        )
    baseline = versions[0]
    for one in versions[1:]:
        if one.generates != baseline.generates:
            text, other = (one, baseline) if one.generates else (baseline, one)
            raise InvalidInput(
                f"{text.reference} generates text, and {other.reference} does not: nothing of them can be compared.",
                code="not_comparable",
            )
    return versions


def _prepare(
    arguments: CompareArguments, versions: Sequence[_Version], dataset: tuple[DatasetManifest, Path] | None
) -> list[str]:
    """Bind the rows to each version; what a person should be told of it."""
    baseline = versions[0]
    if baseline.generates:
        require_metric(arguments.metric, "generation" if dataset else "")
        return _take_text(arguments, versions, dataset)
    if dataset is None:
        require_metric(arguments.metric, "")
        _take_sample(versions)
        return []
    most = min(arguments.rows or dataset[0].rows, MOST_ROWS)
    for one in versions:
        try:
            one.examples = bind(one.manifest, one.folder, *dataset, rows=most, seed=arguments.seed)
        except InvalidInput as error:
            raise InvalidInput(
                f"{arguments.data} does not fit {one.reference}: {error.message}", code=error.code, next_step=error.next_step
            ) from None
    assert baseline.examples is not None
    for one in versions[1:]:
        _require_equal(baseline, one)
    require_metric(arguments.metric, baseline.examples.task)
    notes = list(baseline.examples.notes)
    if not arguments.rows and dataset[0].rows > most:
        notes.append(f"{most} of {dataset[0].rows} rows were drawn: at most so many are compared.")
    return notes


def _take_text(
    arguments: CompareArguments, versions: Sequence[_Version], dataset: tuple[DatasetManifest, Path] | None
) -> list[str]:
    """Passages of the dataset, or of the baseline's own text; what a person should be told. Raises InvalidInput for versions
    that have other tokens, and Refused for one that does not tell how likely they are; without a dataset these are timed only.
    """
    baseline = versions[0]
    try:
        first = baseline.text = _text(arguments, baseline, baseline, dataset)
        for one in versions:
            scored_by(one.manifest, one.reference)
            one.text = _text(arguments, baseline, one, dataset)
            if one.text.ids != first.ids:
                raise InvalidInput(
                    f"{one.reference} cuts the text into other tokens than {baseline.reference}: figures of single tokens, as "
                    "perplexity is one, cannot be compared.",
                    code="not_comparable",
                    next_step="Compare versions with the same tokenizer.",
                )
    except (InvalidInput, Refused) as error:
        if dataset is not None:
            raise
        for one in versions:
            one.text = None
        return [f"Speeds alone are compared: {error.message}"]
    return [] if dataset else [f"No dataset was given: the text is the one that {baseline.reference} is checked with."]


def _text(
    arguments: CompareArguments, source: _Version, reader: _Version, dataset: tuple[DatasetManifest, Path] | None
) -> DatasetText:
    """In the tokens of the reader. source: the version whose own text it is, without a dataset."""
    assert reader.manifest.generator is not None
    if dataset is None:
        ids = cut([text_of(source.manifest, source.folder)], reader.manifest.generator, reader.folder, "").ids
        return DatasetText(ids, list(range(len(ids))), len(ids), [])
    rows = min(arguments.rows or MOST_ROWS, MOST_ROWS)
    return passages_of_dataset(reader.manifest.generator, reader.folder, *dataset, rows, arguments.seed)


def _require_equal(baseline: _Version, one: _Version) -> None:
    ours, theirs = one.examples, baseline.examples
    assert ours is not None
    assert theirs is not None
    if ours.task != theirs.task:
        raise InvalidInput(
            f"On this dataset, what can be told of {baseline.reference} is {theirs.task}, and of {one.reference} {ours.task}.",
            code="not_comparable",
            next_step="Compare versions that answer the same question.",
        )
    if ours.classes != theirs.classes:
        raise InvalidInput(
            f"{baseline.reference} knows the classes {_listed(theirs.classes)}, and {one.reference} {_listed(ours.classes)}.",
            code="not_comparable",
            next_step="Give both the same classes in the same order: processing.output.labels in openmaas.yaml.",
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:40]) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _take_sample(versions: Sequence[_Version]) -> None:
    baseline = versions[0]
    inputs, _, _ = sample_of(baseline.manifest, baseline.folder)
    require_rows(inputs)
    index = np.arange(len(next(iter(inputs.values()))), dtype=np.int64)
    for one in versions:
        try:
            taken = fit(dict(inputs), one.manifest.signature.inputs)
        except InvalidInput as error:
            raise InvalidInput(
                f"{one.reference} does not take the sample of {baseline.reference}: {error.message}",
                code="not_comparable",
                next_step="Compare versions with equal inputs, or give --data.",
            ) from None
        digest = rows_digest(baseline.manifest.digest, index)
        one.examples = Examples(inputs=taken, truth=None, task="agreement", index=index, digest=digest)


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _answer(job: Job, one: _Version, is_baseline: bool) -> None:
    if one.examples is None:
        return
    job.progress(f"answering with {one.name}")
    try:
        one.outputs = answers_of(job, one.manifest, one.folder, one.choice, one.examples)
    except Cancelled:
        raise
    except OpenMaaSError as error:
        if is_baseline:
            raise
        one.cause = error.message


def _subject(one: _Version) -> Subject:
    return Subject(
        name=one.name,
        manifest=one.manifest,
        folder=one.folder,
        choice=one.choice,
        inputs=None if one.examples is None else one.examples.inputs,
    )


def _contender(
    arguments: CompareArguments,
    one: _Version,
    dataset: tuple[DatasetManifest, Path] | None,
    figures: Figures,
    beginnings: Sequence[Beginning],
) -> Contender:
    if dataset is not None and one.examples is not None and one.examples.truth is not None:
        one.evaluation = evaluation_of(
            one.manifest, one.examples, one.outputs, version=one.reference, dataset=arguments.data,
            dataset_digest=dataset[0].digest, figures=figures, total=dataset[0].rows, seed=arguments.seed,
        )  # fmt: skip
    elif one.evaluation is not None:
        one.evaluation = msgspec.structs.replace(one.evaluation, figures=figures)
    return Contender(
        version=one.name,
        figures=figures,
        outputs=one.outputs,
        declared=one.manifest.processing.output if one.manifest.processing is not None else None,
        evaluation=one.evaluation,
        label=one.label,
        registered=one.name == one.reference,
        expected=one.expected,
        beginnings=beginnings,
        written=one.written,
    )


def _require_some(versions: Sequence[_Version]) -> None:
    baseline, others = versions[0], versions[1:]
    if baseline.cause:
        raise Refused(
            f"The baseline {baseline.reference} cannot be measured: {baseline.cause}",
            code="not_measurable",
            next_step=f"openmaas measure {baseline.reference}",
        )
    if all(one.cause for one in others):
        causes = " ".join(f"{one.name}: {one.cause}" for one in others)
        raise Refused(f"None of the others could be measured. {causes}", code="not_measurable")


def _read(
    job: Job, arguments: CompareArguments, versions: Sequence[_Version], dataset: tuple[DatasetManifest, Path] | None
) -> list[Beginning]:
    """What each version expects in the same passages, and how it goes on from some of them, which are returned."""
    baseline = versions[0]
    if baseline.text is None:
        return []
    assert baseline.manifest.generator is not None
    beginnings = beginnings_of(baseline.text.ids, baseline.manifest.generator, baseline.folder)
    for one in versions:
        assert one.text is not None
        reading = read_passages(job, scored_by(one.manifest, one.reference), one.manifest, one.folder, one.text.ids)
        one.expected = reading.expected
        one.written = written_by(job, _subject(one), beginnings)
        if dataset is not None:
            one.evaluation = text_evaluation(
                one.manifest, one.text, reading.losses, version=one.reference, data=arguments.data, dataset=dataset[0],
                seed=arguments.seed,
            )  # fmt: skip
    return beginnings


def _previews(baseline: _Version, dataset: tuple[DatasetManifest, Path] | None) -> Previews | None:
    """Of rows of the dataset, by their positions among those that were answered."""
    if dataset is None or baseline.examples is None:
        return None
    index, (spec, *_) = baseline.examples.index, baseline.manifest.signature.inputs
    shape = spec.shape[1:] if all(side > 0 for side in spec.shape[1:]) else ()
    return lambda positions: previews_of(*dataset, [int(index[position]) for position in positions], shape)
