"""The perplexity of a text generator: passages of a text dataset are shown to it, and it is asked how likely each token was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.datasets import DatasetManifest
from openmaas.core.datatypes import to_text
from openmaas.core.errors import EngineFailed, InvalidInput, Refused
from openmaas.core.evaluations import Evaluation, Figures
from openmaas.core.generation import Generator
from openmaas.core.hardware import free_memory, processor, usable_cores
from openmaas.core.jobs import EvaluateArguments
from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.metrics import MOST_ROWS, Answered, encode_outcomes, estimate
from openmaas.formats.datasets import read_dataset
from openmaas.tasks.base import Job
from openmaas.tasks.evaluate import libraries_of
from openmaas.tasks.passages import Ids
from openmaas.tasks.serving import serving_choice, serving_note
from openmaas.tasks.side_by_side import Subject, figures_of

_LENGTH: Final = 256  # tokens of a passage
_LEAST: Final = 8  # tokens that say anything about a passage
_DOCUMENTS: Final = 20  # of fewer, an interval over documents says nothing
_PIECE: Final = 1 << 16  # characters that are tokenised at once


class DatasetText(NamedTuple):
    """Passages of a dataset. ids: of their tokens. documents: the row of the dataset that each is of. total: how many passages
    the dataset has."""

    ids: list[Ids]
    documents: list[int]
    total: int
    notes: list[str]


def evaluate_text(
    job: Job, arguments: EvaluateArguments, manifest: Manifest, folder: Path, dataset: DatasetManifest, rows: Path
) -> Evaluation:
    """A row is a passage of up to 256 tokens, its figure the mean loss of its tokens after the first (nats), weighed by them.

    Tokens of a passage depend on each other, and so do passages of a document: intervals are over documents, or over passages
    where there are fewer than 20.

    Raises InvalidInput for a dataset without text, Refused for a kind of generator that does not tell how likely tokens are,
    EngineFailed.
    """
    assert manifest.generator is not None
    artifact = scored_by(manifest, arguments.version)
    choice = serving_choice(job, arguments.version, manifest, arguments.engine)
    job.progress("reading the dataset")
    text = passages_of_dataset(manifest.generator, folder, dataset, rows, arguments.rows, arguments.seed)
    notes = [note] if (note := serving_note(job, arguments.version, choice)) else []
    job.progress("waiting for this machine's turn to measure")
    with job.alone():
        losses = read_passages(job, artifact, manifest, folder, text.ids).losses
        subject = Subject(name=arguments.version, manifest=manifest, folder=folder, choice=choice)
        figures = figures_of(job, subject, None, seconds=arguments.seconds, seed=arguments.seed)
    return text_evaluation(
        manifest, text, losses, version=arguments.version, data=arguments.data, dataset=dataset, figures=figures,
        seed=arguments.seed, notes=notes,
    )  # fmt: skip


def text_evaluation(
    manifest: Manifest,
    text: DatasetText,
    losses: NDArray[np.float64],
    *,
    version: str,
    data: str,
    dataset: DatasetManifest,
    figures: Figures | None = None,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Of a text as `passages_of_dataset` gives it, and the losses of its passages by `read_passages`."""
    passages, documents = text.ids, np.array(text.documents)
    weights = np.array([len(ids) - 1 for ids in passages], np.float64)
    digest = hashlib.sha256(dataset.digest.encode() + msgspec.json.encode(passages)).hexdigest()
    count = len(set(text.documents))
    known = Answered("losses", weights, losses, digest, documents if count >= _DOCUMENTS else None)
    of = "one document" if count == 1 else f"{count} documents"
    over = "passages" if known.groups is None else "documents"
    return Evaluation(
        version=version,
        digest=manifest.digest,
        dataset=data,
        dataset_digest=dataset.digest,
        task="generation",
        metric="perplexity",
        rows=len(passages),
        total=text.total,
        metrics={"perplexity": estimate("perplexity", known, seed)},
        outcomes=encode_outcomes("losses", known.truth, known.answers, known.rows, known.groups),
        figures=figures,
        processor=processor(),
        libraries=libraries_of(figures),
        seed=seed,
        notes=(
            f"{int(weights.sum()) + len(passages)} tokens in {len(passages)} passages of {of}; intervals are over {over}.",
            *text.notes,
            *notes,
        ),
    )


def scored_by(manifest: Manifest, version: str) -> Artifact:
    """What of a version is asked. Raises Refused where nothing here tells how likely a token is."""
    known = {artifact.kind: artifact for artifact in (manifest.choice.artifact, *manifest.artifacts)}
    found = known.get("openvino-genai") or known.get("causal")
    if found is None:
        raise Refused(
            f"{version} is {manifest.format}, whose engine does not tell how likely each token of a given text is.",
            code="not_scored",
            next_step="Evaluate a version that is a folder of transformers, or was converted to openvino-genai.",
        )
    return found


def passages_of_dataset(
    generator: Generator, folder: Path, dataset: DatasetManifest, rows: Path, most: int, seed: int
) -> DatasetText:
    """At most `most` passages (0: all), drawn by the seed. Raises InvalidInput for a dataset without text."""
    from tokenizers import Tokenizer

    data = read_dataset(dataset, rows, limit=free_memory() // 2)
    texts = {name: array for name, array in data.columns.items() if array.dtype == object and array.ndim == 1}
    if dataset.format == "images" or not texts or (len(texts) > 1 and "text" not in texts):
        raise InvalidInput(
            f"The version generates text, and the dataset is no text to read: its columns are {', '.join(data.columns)}.",
            code="unfit_dataset",
            next_step="Give running text (.txt), or rows with a column 'text'.",
        )
    column = to_text(texts["text"] if "text" in texts else next(iter(texts.values()))).tolist()
    tokenizer = Tokenizer.from_file(str(folder / generator.tokenizer))
    length = min(_LENGTH, generator.context)
    found = [(ids, row) for row, text in enumerate(column) for ids in _cut(tokenizer, text, length)]
    kept = [(ids, row) for ids, row in found if len(ids) >= _LEAST]
    if not kept:
        raise InvalidInput(f"The text has no passage of {_LEAST} tokens or more.", code="invalid_dataset")
    notes = [f"{len(found) - len(kept)} passages of less than {_LEAST} tokens were left out."] if len(kept) < len(found) else []
    total = len(kept)
    most = min(most or total, MOST_ROWS)
    if most < total:
        notes.append(f"{most} of {total} passages were drawn.")
        drawn = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
        kept = [kept[place] for place in drawn.tolist()]
    return DatasetText([ids for ids, _ in kept], [row for _, row in kept], total, notes)


def _cut(tokenizer: Any, text: str, length: int) -> Iterator[Ids]:
    for start in range(0, len(text), _PIECE):
        ids = tokenizer.encode(text[start : start + _PIECE]).ids
        yield from (ids[at : at + length] for at in range(0, len(ids), length))


class Reading(NamedTuple):
    """losses: the mean of each passage, in nats. expected: the likeliest token after each token of all passages."""

    losses: NDArray[np.float64]
    expected: NDArray[np.int64]


def read_passages(job: Job, artifact: Artifact, manifest: Manifest, folder: Path, passages: Sequence[Ids]) -> Reading:
    """Raises EngineFailed for a model that does not load or answers with NaN."""
    from openmaas.tasks.forced import answers

    if artifact.kind == "causal":
        logits = _transformers(folder / artifact.entry, manifest, passages)
    else:
        logits = answers(folder / artifact.entry, passages, usable_cores())
    losses: list[float] = []
    expected: list[NDArray[np.int64]] = []
    for ids, rows in zip(passages, logits, strict=True):
        job.progress("answering", len(losses), len(passages))
        losses.append(mean_loss(ids, rows))
        expected.append(rows.argmax(axis=1).astype(np.int64))
    return Reading(np.array(losses), np.concatenate(expected))


def mean_loss(ids: Ids, logits: NDArray[Any]) -> float:
    """Of the tokens after the first, in nats. logits: [tokens, vocabulary], of what comes after each."""
    rows = np.asarray(logits[: len(ids) - 1], np.float64)
    if len(logits) != len(ids) or not np.isfinite(rows).all():
        raise EngineFailed("It answers with NaN or Infinity, or not to each token.", code="not_finite")
    highest = rows.max(axis=1, keepdims=True)
    totals = highest[:, 0] + np.log(np.exp(rows - highest).sum(axis=1))
    return float((totals - rows[np.arange(len(rows)), ids[1:]]).mean())


def _transformers(entry: Path, manifest: Manifest, passages: Sequence[Ids]) -> Iterator[NDArray[np.float32]]:
    import torch

    from openmaas.engines.transformers.model import load_model

    assert manifest.generator is not None
    torch.set_num_threads(usable_cores())
    dtype = "bfloat16" if manifest.generator.weights == "bf16" else "float32"
    model = load_model(entry.parent, dtype, "cuda" if torch.cuda.is_available() else "cpu").eval()
    for ids in passages:
        with torch.inference_mode():
            found = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
        yield found.float().cpu().numpy()
