"""A piece becomes what a push makes of it: packed, examined in the child that examines pushes, and ready to be measured."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import InvalidInput, Refused
from openmaas.core.evaluations import Entrant, Estimate, VersionComparison
from openmaas.core.manifest import EngineChoice, FileEntry, Manifest
from openmaas.core.recipes import Quantize, Recipe, step_label
from openmaas.formats import examine
from openmaas.formats.files import list_files, sha256_of
from openmaas.tasks.base import Job
from openmaas.tasks.optimization.answering import Answering, plain_choice, target_of
from openmaas.tasks.optimization.base import Arrays, Piece
from openmaas.tasks.packing import pack_beside
from openmaas.tasks.side_by_side import loaded_files

_MOST_FACTS: Final = 24 * 1024
"""Bytes of JSON: a recipe has 64 KiB with all that it holds."""

_MOST_NOTES: Final = 50
_DISTRIBUTIONS: Final = {
    "numpy": "numpy", "onnx": "onnx", "onnxruntime": "onnxruntime", "openvino": "openvino", "nncf": "nncf", "torch": "torch",
    "sklearn": "scikit-learn", "onnxscript": "onnxscript",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a recipe made, not registered yet.

    files: folder that a push takes; sample: in it. manifest: what the push makes of it. folder: with the files that the
    examination added too, where an engine loads from. seconds: that its steps took.
    """

    name: str
    recipe: Recipe
    piece: Piece
    manifest: Manifest
    files: Path
    folder: Path
    sample: Path
    notes: tuple[str, ...] = ()


def build(
    job: Job, name: str, recipe: Recipe, piece: Piece, parent: Path, inputs: Arrays, answering: Answering, folder: Path
) -> Variant:
    """Pack a piece and have it examined. parent: folder of the parent's files. inputs: of the sample. folder: a new one.

    Raises Refused or InvalidInput with what the examination would refuse at a push.
    """
    target = target_of(piece)
    expected = answering.once(target, piece.folder, inputs)
    try:
        return _build(job, name, recipe, piece, target, parent, inputs, expected, folder, padding=True)
    except (InvalidInput, Refused) as error:
        mixes = error.code == "parity_failed" and target.batchable and _mixes_rows(recipe)
        if not mixes and error.code != "padding_not_proved":
            raise
    if mixes:
        target = msgspec.structs.replace(target, batchable=False)  # and so without padding, which is for rows of one batch
        expected = answering.once(target, piece.folder, inputs)
        return _build(job, name, recipe, piece, target, parent, inputs, expected, folder, padding=False)
    told = "Requests of different lengths do not share a batch: an answer depends on what shares its batch."
    piece = replace(piece, notes=(*piece.notes, told))
    return _build(job, name, recipe, piece, target, parent, inputs, expected, folder, padding=False)


def _mixes_rows(recipe: Recipe) -> bool:
    """Whether a row's answer hangs on its batch by design: scales found at each call are of all rows of the call."""
    return any(isinstance(step, Quantize) and step.method == "dynamic" for step in recipe.steps)


def _build(
    job: Job, name: str, recipe: Recipe, piece: Piece, target: Manifest, parent: Path, inputs: Arrays, expected: Arrays,
    folder: Path, *, padding: bool,
) -> Variant:  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    files, added = folder / "files", folder / "added"
    _link(piece.folder, files, sorted(loaded_files(target, piece.folder, plain_choice(target))))
    added.mkdir()
    sample = pack_beside(target, files, source=parent, inputs=inputs, expected=expected, padding=padding)
    settings = job.settings
    try:
        examined = examine(
            files, sample=sample.name, output=added, timeout=settings.examine_timeout, memory=settings.examine_memory
        )
    except Refused as error:
        if error.code != "parity_failed":
            raise
        raise _answers_otherwise(error, recipe, plain_choice(target)) from None
    paths = list_files(files)
    entries = [_entry(files, path) for path in paths] + [_entry(added, path) for path in examined.added]
    manifest = examined.manifest(entries)
    if not manifest.engine:
        raise Refused(f"No engine here runs what {recipe.label} leaves.", code="engine_not_found")
    whole = files
    if examined.added:
        whole = folder / "whole"
        _link(files, whole, paths)
        _link(added, whole, examined.added)
    return Variant(
        name=name, recipe=recipe, piece=piece, manifest=manifest, files=files, folder=whole, sample=sample,
        notes=tuple(dict.fromkeys((*piece.notes, *_new_notes(piece.manifest, manifest)))),
    )  # fmt: skip


def _answers_otherwise(error: Refused, recipe: Recipe, choice: EngineChoice) -> Refused:
    """The examination's refusal, of an engine whose answers are not those that it gave to the same rows in other batches."""
    _, _, told = error.message.partition(": ")
    tools = [step for step in recipe.steps if isinstance(step, Quantize) and step.tool == choice.engine]
    return Refused(
        f"{choice.engine} answers {recipe.label} otherwise from one batch size to another: {told or error.message} That is "
        "against its own answers to the same rows in batches of up to 32.",
        code=error.code,
        next_step=f"Give {step_label(tools[0])} another tool, or exclude the layers that share their weights with others."
        if tools and choice.engine != "onnxruntime"
        else "Leave the last step out, or give it other parameters.",
    )


def _new_notes(before: Manifest, after: Manifest) -> tuple[str, ...]:
    """What is no longer so."""
    if before.batchable and not after.batchable:
        return (f"Requests do not share a batch any more. {after.batching}",)
    return ()


def _link(source: Path, target: Path, paths: Iterable[str]) -> None:
    """Files of a folder in another, linked where the file system can."""
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / path, target / path)
        except OSError:
            shutil.copyfile(source / path, target / path)


def _entry(folder: Path, path: str) -> FileEntry:
    return FileEntry(path=path, size=(folder / path).stat().st_size, sha256=sha256_of(folder / path))


# ── what is kept with it ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a variant was made of: exact references, and the datasets' digests. held_out: share of the training set that
    nothing was trained on, since variants were chosen by it."""

    version: str
    data: tuple[str, DatasetManifest] | None = None
    evaluation: tuple[str, DatasetManifest] | None = None
    held_out: float = 0.0


def recipe_text(variant: Variant, origin: Origin, loss: Estimate | None) -> str:
    """How the variant was made, as JSON for `recipe` of a push: enough to make it again."""
    made: dict[str, Any] = {
        "optimize": variant.recipe.to_plain(whole=True),
        "parent": origin.version,
        "seed": variant.recipe.seed,
        "data": _dataset(origin.data),
        "evaluation": _dataset(origin.evaluation),
        "held_out": origin.held_out or None,
        "libraries": libraries(),
        "facts": bounded_facts(variant.piece.facts),
        "notes": list(variant.notes[:_MOST_NOTES]),
        "loss": None if loss is None else msgspec.to_builtins(loss),
    }
    return msgspec.json.encode({key: value for key, value in made.items() if value not in (None, {}, [])}).decode()


def libraries() -> dict[str, str]:
    """Versions of the libraries that this process has used, and our own."""
    found = {"openmaas": importlib.metadata.version("openmaas")}
    for module, distribution in _DISTRIBUTIONS.items():
        if module in sys.modules:
            try:
                found[distribution] = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:  # installed under another name, as openvino's nightly is
                found[distribution] = str(getattr(sys.modules[module], "__version__", "unknown"))
    return found


def bounded_facts(facts: Mapping[str, Any], most: int = _MOST_FACTS) -> dict[str, Any]:
    """Facts as plain data, without the largest where all of them together are too large; `left_out` names these."""
    plain: dict[str, Any] = {}
    for name, value in facts.items():
        try:
            plain[name] = msgspec.to_builtins(value, str_keys=True)
            msgspec.json.encode(plain[name])
        except (TypeError, ValueError):
            plain[name] = str(value)[:200]
    left_out: list[str] = []
    while plain and len(msgspec.json.encode(plain)) > most:
        largest = max(plain, key=lambda name: len(msgspec.json.encode(plain[name])))
        left_out.append(largest)
        del plain[largest]
    return plain | ({"left_out": sorted(left_out)[:100]} if left_out else {})


def _dataset(one: tuple[str, DatasetManifest] | None) -> dict[str, str] | None:
    return None if one is None else {"version": one[0], "digest": one[1].digest}


def card_of(variant: Variant, origin: Origin, comparison: VersionComparison, made: Entrant) -> str:
    """What was done and what it cost, as Markdown."""
    parent = comparison.entrants[0]
    lines = [f"Made of {origin.version} by `{variant.recipe.label}`."]
    if origin.data:
        lines[0] += f" Training and calibration data: {origin.data[0]}."
    rows: list[tuple[str, ...]] = [("", origin.version, "this version")]
    if made.loss is not None and comparison.metric in parent.metrics and comparison.metric in made.metrics:
        where = f" on {comparison.dataset}" if comparison.dataset else ""
        before, after = parent.metrics[comparison.metric], made.metrics[comparison.metric]
        rows.append((f"{comparison.metric}{where}", f"{before.value:.4f}", f"{after.value:.4f}"))
    figures = (parent.figures, made.figures)
    rows += [
        ("size", *(f"{one.size:,} bytes" for one in figures)),
        ("peak memory", *(f"{one.memory / 2**20:,.0f} MiB" for one in figures)),
        ("p50 at batch 1", *(f"{one.speeds[0].p50 * 1e3:.3f} ms" for one in figures)),
        ("best rate", *(f"{one.best.rate:,.0f} rows/s at batch {one.best.batch}" for one in figures)),
        ("engine", *(f"{one.choice.label}, {one.choice.threads} threads" for one in figures)),
    ]
    table = ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", table[0], "|---|---:|---:|", *table[1:]]
    if told := loss_told(made, comparison):
        lines += ["", told]
    if made.dominated:
        lines += ["", f"It is better than {origin.version} in nothing and worse in something, and not recommended."]
    lines += ["", *(f"- {note}" for note in variant.notes[:_MOST_NOTES])] if variant.notes else []
    return "\n".join(lines) + "\n"


def loss_told(made: Entrant, comparison: VersionComparison) -> str:
    """What of quality was lost, in plain words; empty where it was not measured."""
    if made.loss is None:
        return ""
    value, high = made.loss.value, made.loss.high
    bound = "" if high is None else f" (with 95% confidence at most {high:+.2%})"
    told = f"Loss of {comparison.metric}: {value:+.2%}{bound}."
    if comparison.max_loss is not None and value > comparison.max_loss:
        told += f" That is more than the {comparison.max_loss:.2%} that were allowed."
    return told


@dataclass(frozen=True, kw_only=True)
class Registered:
    """created: False where the newest version had exactly these files."""

    reference: str
    digest: str
    created: bool


def register(job: Job, variant: Variant, origin: Origin, comparison: VersionComparison, made: Entrant) -> Registered:
    """Push it with its lineage and its card."""
    pushed = job.client.push(
        variant.files,
        name=origin.version.partition(":")[0],
        sample=variant.sample,
        card=card_of(variant, origin, comparison, made),
        parent=origin.version,
        recipe=recipe_text(variant, origin, made.loss),
    )
    found = Registered(
        reference=f"{pushed.version.model}:{pushed.version.number}", digest=pushed.version.digest, created=pushed.created
    )
    if found.digest != variant.manifest.digest:
        job.log(f"{found.reference} was examined otherwise by the server than here; its evaluation is not kept.")
    return found
