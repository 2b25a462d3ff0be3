"""A dataset bound to a version: its rows as that version's engine takes them, and the truth in its classes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import InvalidInput
from openmaas.core.hardware import free_memory
from openmaas.core.manifest import Manifest
from openmaas.formats.datasets import Dataset, read_dataset
from openmaas.tasks.meanings import Meaning, meaning_of

Arrays = dict[str, NDArray[Any]]
Task = Literal["classification", "regression", "similarity", "agreement"]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """inputs: engine inputs by name, rows on axis 0 (texts tokenised and padded to the longest).

    truth: int64 class indices in the order of the version's scores, float64 numbers, or float64 similarities; None where the
    dataset has none for this model. Of similarities, rows 2i and 2i + 1 of the inputs are pair i, so that there are twice as
    many as truths. lengths: tokens of each row, empty where rows have no length. index: which rows of the dataset these are.
    digest: of the dataset's and of `index`, the same for equal rows. notes: what a person should be told of how it was bound.
    """

    inputs: Arrays
    truth: NDArray[Any] | None
    task: Task
    classes: tuple[str, ...] = ()
    lengths: NDArray[Any] | None = None
    index: NDArray[Any]
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of the engine inputs."""
        return len(next(iter(self.inputs.values())))


def bind(
    manifest: Manifest,
    folder: Path,
    dataset: DatasetManifest,
    dataset_folder: Path,
    *,
    rows: int = 0,
    seed: int = 0,
    truth: bool = True,
) -> Examples:
    """The dataset as a version takes it. The two folders hold the files of each.

    rows: at most so many, drawn by the seed and kept in their order; 0 is all. truth: False leaves the labels alone, where only
    inputs are wanted. Raises InvalidInput that names the column, what is wanted and what there is, for inputs that do not fit,
    rows without a label, and classes that the version does not have; TooLarge for more than memory holds.
    """
    from openmaas.tasks.inputs import engine_inputs

    if manifest.generator is not None:
        raise InvalidInput(
            "The version generates text: it takes no rows of a dataset.",
            code="unfit_dataset",
            next_step="Evaluate it on running text, whose perplexity is told.",
        )
    limit = free_memory() // 2
    chosen = _chosen(dataset.rows, rows, seed)
    whole = read_dataset(dataset, dataset_folder, rows=chosen if dataset.format == "images" else None, limit=limit)
    picked = whole if dataset.format == "images" else _picked(whole, chosen)
    meaning = meaning_of(manifest)
    notes: list[str] = []
    task = _task(meaning, picked, truth, notes)
    classes, values = _truth(meaning, task, picked, whole, notes)
    prepared = engine_inputs(manifest, folder, picked, pairs=picked.pair if task == "similarity" else None, limit=limit)
    twice = len(next(iter(prepared.inputs.values()))) == 2 * len(chosen)
    return Examples(
        inputs=prepared.inputs,
        truth=values,
        task=task,
        classes=classes,
        lengths=prepared.lengths,
        index=np.repeat(chosen, 2) if twice and task == "agreement" else chosen,
        digest=rows_digest(dataset.digest, chosen),
        notes=(*notes, *prepared.notes),
    )


def rows_digest(dataset: str, index: NDArray[Any]) -> str:
    """Of a dataset's digest and which of its rows: the same for the same rows in the same order."""
    return hashlib.sha256(dataset.encode() + np.asarray(index, "<i8").tobytes()).hexdigest()


def _chosen(count: int, rows: int, seed: int) -> NDArray[np.int64]:
    if not rows or rows >= count:
        return np.arange(count, dtype=np.int64)
    drawn = np.random.default_rng(seed).choice(count, rows, replace=False)
    return np.sort(drawn).astype(np.int64)


def _picked(whole: Dataset, index: NDArray[np.int64]) -> Dataset:
    if len(index) == whole.rows:
        return whole
    return Dataset(
        manifest=whole.manifest,
        columns={name: array[index] for name, array in whole.columns.items()},
        label=None if whole.label is None else whole.label[index],
        classes=whole.classes,
        index=index,
    )


# ── the truth ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _task(meaning: Meaning, data: Dataset, truth: bool, notes: list[str]) -> Task:
    """What can be measured of a model whose answers mean this, on this dataset."""
    if data.label is None or not truth:
        return "agreement"
    if meaning.kind == "classes" or (meaning.kind == "scores" and data.manifest.purpose == "classes"):
        return "classification"
    if meaning.kind == "number":
        if data.manifest.purpose == "classes" and len(data.manifest.counts) == 2:
            notes.append(
                "The label was held against the version's one number a row. If that is how likely a class is, declare both "
                "classes when the model is pushed: processing.output.labels in openmaas.yaml."
            )
        return "regression"
    if meaning.kind in ("vector", "scores") and data.pair is not None:
        return "similarity"
    notes.append(
        f"The label {data.manifest.label!r} is not what the version answers ({_TOLD[meaning.kind]}), so that it cannot be held "
        "against it."
    )
    return "agreement"


_TOLD = {"vector": "vectors", "scores": "several numbers a row", "other": "neither classes nor one number a row"}


def _truth(
    meaning: Meaning, task: Task, data: Dataset, whole: Dataset, notes: list[str]
) -> tuple[tuple[str, ...], NDArray[Any] | None]:
    """The classes, and the truth of each row."""
    if task == "agreement":
        return (meaning.names if meaning.kind == "classes" else ()), None
    assert data.label is not None
    missing = int((~data.labelled).sum())
    if missing:
        first = int(data.index[int(np.flatnonzero(~data.labelled)[0])])
        raise InvalidInput(
            f"{missing} of {data.rows} rows have no label in the column {data.manifest.label!r}; the first is row {first}.",
            code="missing_labels",
            next_step="Give each row its label, or push the dataset without those rows.",
        )
    if task == "classification":
        return _classes(meaning, data, whole, notes)
    return (), _numbers(data)


def _numbers(data: Dataset) -> NDArray[np.float64]:
    """The label as numbers: whole ones are taken for class indices when a dataset is pushed."""
    assert data.label is not None
    if data.manifest.purpose != "classes" or not data.classes:
        return data.label.astype(np.float64)
    try:
        values = np.array([float(name) for name in data.classes])
    except ValueError:
        raise InvalidInput(
            f"The label {data.manifest.label!r} is text ({_listed(data.classes)}); the version answers a number a row.",
            code="unfit_dataset",
            next_step="Give a dataset whose label is a number.",
        ) from None
    numbers: NDArray[np.float64] = values[data.label]
    return numbers


def _classes(meaning: Meaning, data: Dataset, whole: Dataset, notes: list[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    assert data.label is not None
    assert whole.label is not None
    if data.manifest.purpose != "classes":
        raise InvalidInput(
            f"The label {data.manifest.label!r} is a number that is no class; the version answers classes.",
            code="unfit_dataset",
            next_step="Give a dataset whose label is a class: text, or a whole number.",
        )
    present = [str(name) for name in range(int(whole.label.max()) + 1)]  # of whole numbers, that are indices or names
    theirs = data.classes or tuple(present)
    names = meaning.names or _unnamed(meaning, data, theirs, notes)
    by_index = not data.classes and not all(_is_whole(name) for name in names)
    places = {name: place for place, name in enumerate(names)}
    order = np.array([_place(places, names, theirs, number, by_index) for number in range(len(theirs))], np.int64)
    found: NDArray[np.int64] = order[data.label]
    if (found < 0).any():
        unknown = np.unique(data.label[found < 0]).tolist()
        raise InvalidInput(
            f"{int((found < 0).sum())} rows have classes that the version does not have: "
            f"{_listed([theirs[number] for number in unknown])}; it has {_listed(names)}.",
            code="unknown_class",
            next_step="Give the classes the names that the version has, or leave those rows out.",
        )
    return tuple(names), found


def _place(places: dict[str, int], names: Sequence[str], theirs: Sequence[str], number: int, by_index: bool) -> int:
    if by_index:
        return number if number < len(names) else -1
    return places.get(theirs[number], -1)


def _unnamed(meaning: Meaning, data: Dataset, theirs: tuple[str, ...], notes: list[str]) -> tuple[str, ...]:
    """Names of classes of a version that names none: those that it answers by itself, or the places of its scores."""
    if meaning.kind == "classes":  # its own output says which class, by name
        return theirs
    if not data.classes or not meaning.count:
        return tuple(str(place) for place in range(meaning.count)) if meaning.count else theirs
    if len(theirs) != meaning.count:
        raise InvalidInput(
            f"The version gives {meaning.count} scores and names no classes; the dataset has {len(theirs)}: {_listed(theirs)}.",
            code="unknown_class",
            next_step="Declare the classes when the model is pushed: processing.output.labels in openmaas.yaml.",
        )
    notes.append(f"The version names no classes; those of the dataset were taken in their order: {_listed(theirs)}.")
    return theirs


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdigit()


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
