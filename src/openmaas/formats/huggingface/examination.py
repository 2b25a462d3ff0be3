"""An encoder folder examined: loaded once by transformers, exported to ONNX, and both held against each other."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.core.manifest import NO_SAMPLE, Artifact, Comparison, Parity
from openmaas.core.processing import Embedding, Labels, Padding, Processing, Role, TextInput
from openmaas.core.types import Signature, TensorSpec
from openmaas.engines.huggingface.encoder import Encoder, EncoderOptions, Loaded, load_model
from openmaas.engines.onnxruntime.session import OnnxSession
from openmaas.formats import batching
from openmaas.formats.base import Examined, Task
from openmaas.formats.compare import ATOL, RTOL, rows, stack
from openmaas.formats.description import refuse_unused
from openmaas.formats.files import free_name
from openmaas.formats.huggingface.comparing import Arrays, Rows, Run, hold, prove_padding, rows_for
from openmaas.formats.huggingface.exporting import write_onnx
from openmaas.formats.huggingface.folder import Folder, read_folder
from openmaas.formats.huggingface.tokenizer import Tokenizer, prepare_tokenizer
from openmaas.formats.kept import keep_sample
from openmaas.formats.sample import stretch
from openmaas.processing.text import Texts

_DEFAULT_LENGTH = 512
_MAX_LENGTH = 8192
_ROLES: dict[str, Role] = {"input_ids": "ids", "attention_mask": "attention", "token_type_ids": "types"}
_SEQUENCES = {"features": ("last_hidden_state",), "token-classification": ("logits",)}
"""Outputs with a value for each token, by task."""
_EVEN_LENGTH = 32  # tokens of a row of the sample, where a model answers for each of them
_STEP = 16  # rows that the source answers at once


class _Source(NamedTuple):
    """The model as transformers runs it, how texts become its inputs (`even`: cut early), and what was noticed."""

    folder: Folder
    tokenizer: Tokenizer
    encoder: Encoder
    declared: TextInput
    texts: Texts
    even: Texts | None
    artifact: Artifact
    notes: tuple[str, ...]

    @property
    def sequences(self) -> tuple[str, ...]:
        return _SEQUENCES.get(self.folder.task, ())


class _Converted(NamedTuple):
    """parity has passed where there is a session; files: what was written, the entry first."""

    parity: Parity
    session: OnnxSession | None = None
    files: tuple[str, ...] = ()


def examine(task: Task, entry: str) -> Examined:
    """Raises InvalidInput or Refused where the folder cannot or must not be served."""
    refuse_unused(task.description, "huggingface", "signature", "options", "padding")
    source = _open(task, entry)
    inputs = tuple(TensorSpec(name=name, datatype="INT64", shape=(-1, -1)) for name in source.declared.tensors)
    compared = rows_for(task, source.texts, inputs, source.even)
    expected = _answers(source.encoder.answer, compared.sample)
    signature = Signature(inputs=inputs, outputs=_outputs(expected, source.sequences))
    converted = _convert(task, source, compared, signature)
    run: Run = converted.session.run if converted.session else source.encoder.answer
    verdict = batching.prove(run, signature, stretch(compared.sample, batching.BATCH), compared.origin)
    batchable, why = batching.as_declared(task.description.batchable, verdict)
    padding = prove_padding(run, source.texts, source.declared, source.tokenizer.pad, source.sequences)
    sample, added = keep_sample(task, signature, compared.sample, expected)
    tokenizer = (source.tokenizer.path,) if source.tokenizer.added else ()
    return msgspec.structs.replace(
        _examined(source, converted, signature),
        batchable=batchable,
        batching=why,
        padding=padding if isinstance(padding, Padding) else None,
        sample=sample,
        parity=converted.parity,
        notes=(*source.notes, *_notes(converted, padding)),
        added=(*converted.files, *tokenizer, *added),
    )


def _examined(source: _Source, converted: _Converted, signature: Signature) -> Examined:
    onnx = [Artifact(kind="onnx", entry=converted.files[0])] if converted.session else []
    artifacts = (*onnx, source.artifact)
    return Examined(
        format="huggingface",
        engine="onnxruntime" if onnx else "huggingface",
        entry=artifacts[0].entry,
        artifacts=artifacts,
        signature=signature,
        processing=Processing(input=source.declared, output=_declared_output(source)),
        options=artifacts[0].options,
    )


# ── the source ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _open(task: Task, entry: str) -> _Source:
    folder = read_folder(task.folder, entry)
    loaded = load_model(folder.path, folder.task)
    tokenizer = prepare_tokenizer(task, folder)
    notes = [*folder.notes, *_check_weights(folder, loaded)]
    limit = _limit(folder, tokenizer, loaded.model)
    _check_vocabulary(tokenizer, loaded.model)
    names = _input_names(loaded.model, tokenizer)
    declared = TextInput(
        tokenizer=tokenizer.path,
        tensors={name: _ROLES[name] for name in names},
        max_length=limit,
        pair=folder.task == "sequence-classification",
    )
    place = task.output if tokenizer.added else task.folder
    short = msgspec.structs.replace(declared, max_length=min(_EVEN_LENGTH, limit))
    even = Texts(short, place) if folder.task in _SEQUENCES else None
    options = EncoderOptions(
        task=folder.task,
        inputs=names,
        outputs=_output_names(folder, loaded, names),
        poolings=folder.poolings,
        normalize=folder.normalize,
    )
    artifact = Artifact(kind="huggingface", entry=entry, options=msgspec.to_builtins(options))
    return _Source(
        folder, tokenizer, Encoder(loaded.model, options), declared, Texts(declared, place), even, artifact, tuple(notes)
    )


def _is_pooler(name: str) -> bool:
    return "pooler" in name.split(".")


def _check_weights(folder: Folder, loaded: Loaded) -> list[str]:
    """What a person should know of them. Raises Refused where some are missing: they would be made up."""
    pooler_unused = folder.task in ("embedding", "features")
    missing = [name for name in loaded.missing if not (pooler_unused and _is_pooler(name))]
    if missing:
        raise Refused(
            f"{len(missing)} of the model's weights are not in its files: {', '.join(missing[:6])}.",
            code="weights_missing",
            next_step="Correct 'architectures' in config.json if the files are of another model, or save the trained one.",
        )
    notes = []
    if folder.task == "features" and loaded.missing:
        notes.append("The files hold no weights for a pooled output, so there is none.")
    if loaded.unused:
        notes.append(f"{len(loaded.unused)} weights of the files have no place in the model: {', '.join(loaded.unused[:4])}.")
    return notes


def _limit(folder: Folder, tokenizer: Tokenizer, model: Any) -> int:
    """Tokens of a row: what the files say, and never more than the model has positions for."""
    named = [length for length in (folder.max_length, tokenizer.limit) if length is not None]
    positions = _positions(model)
    limit = min([*named, *([positions] if positions is not None else [])], default=_DEFAULT_LENGTH)
    if limit < 4:
        raise Refused(f"The model takes rows of {limit} tokens; texts need four or more.", code="unsupported_model")
    return min(limit, _MAX_LENGTH)


def _positions(model: Any) -> int | None:
    """How many positions it has embeddings for, fewer by those before the first where padding has one of its own."""
    import torch

    tables = [
        part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Embedding) and name.endswith(("position_embeddings", "embed_positions"))
    ]
    declared = getattr(model.config, "max_position_embeddings", None)
    return min([*tables, *([declared] if isinstance(declared, int) and declared > 0 else [])], default=None)


def _check_vocabulary(tokenizer: Tokenizer, model: Any) -> None:
    rows_ = int(model.get_input_embeddings().num_embeddings)
    if tokenizer.highest >= rows_:
        raise Refused(
            f"The tokenizer gives ids up to {tokenizer.highest}; the model has embeddings for 0 to {rows_ - 1}.",
            code="vocabulary_mismatch",
            next_step="Push the tokenizer that the model was trained with.",
        )


def _input_names(model: Any, tokenizer: Tokenizer) -> tuple[str, ...]:
    takes = inspect.signature(model.forward).parameters
    kinds = getattr(model.config, "type_vocab_size", 0) or 0
    types = "token_type_ids" in takes and "token_type_ids" in tokenizer.inputs and kinds > 1
    return ("input_ids", "attention_mask", *(["token_type_ids"] if types else []))


def _output_names(folder: Folder, loaded: Loaded, inputs: tuple[str, ...]) -> tuple[str, ...]:
    if folder.task == "embedding":
        return ("embedding",)
    if folder.task != "features":
        return ("logits",)
    import torch

    with torch.inference_mode():
        answer = loaded.model(**{name: torch.ones((1, 2), dtype=torch.int64) for name in inputs}, return_dict=True)
    trained = answer.get("pooler_output") is not None and not any(map(_is_pooler, loaded.missing))
    return ("last_hidden_state", *(["pooled_output"] if trained else []))


def _declared_output(source: _Source) -> Labels | Embedding | None:
    task, config = source.folder.task, source.encoder.module.model.config
    if task == "embedding":
        return Embedding(output="embedding")
    if task == "features" or config.problem_type == "regression" or config.num_labels < 2:
        return None
    names = config.id2label
    labels = tuple(str(names[number]) for number in range(config.num_labels)) if len(names) == config.num_labels else ()
    many = config.problem_type == "multi_label_classification"
    return Labels(
        output="logits", labels=labels, activation="sigmoid" if many else "softmax", tokens=task == "token-classification"
    )


# ── the conversion ───────────────────────────────────────────────────────────────────────────────────────────────────


def _convert(task: Task, source: _Source, compared: Rows, signature: Signature) -> _Converted:
    import onnxruntime
    import transformers

    comparisons: tuple[Comparison, ...] = ()
    path = task.output / free_name(task.folder, "model.onnx")
    written: tuple[Path, ...] = ()
    session = None
    try:
        written = write_onnx(source.encoder, stretch(compared.sample, 3), source.declared.max_length, path)
        session = OnnxSession(path, threads=2)
        session.bind(signature)
        comparisons, reason = hold(source.encoder.answer, session.run, compared, source.sequences)
    except OpenMaaSError as error:
        reason = error.message
    parity = Parity(
        source=f"transformers {transformers.__version__}",
        target=f"onnxruntime {onnxruntime.__version__}",
        passed=reason is None,
        sample=compared.origin,
        rtol=RTOL,
        atol=ATOL,
        comparisons=comparisons,
        reason=reason,
    )
    if reason is None:
        return _Converted(parity, session, tuple(file.relative_to(task.output).as_posix() for file in written))
    for file in written:
        file.unlink()
    return _Converted(parity)


def _notes(converted: _Converted, padding: Padding | str) -> list[str]:
    notes = []
    if converted.parity.sample == "generated":
        notes.append(f"{NO_SAMPLE}: it was compared on sentences of several languages that are kept here.")
    if not converted.parity.passed:
        notes.append(f"transformers itself serves it: {converted.parity.reason}")
    if isinstance(padding, str):
        notes.append(
            "Requests of different lengths do not share a batch, and rows of one request that are padded answer otherwise than "
            f"alone: {padding.rstrip('.')}."
        )
    return notes


def _answers(run: Run, inputs: Arrays) -> Arrays:
    count = len(next(iter(inputs.values())))
    answers = stack([run(rows(inputs, start, start + _STEP)) for start in range(0, count, _STEP)])
    if broken := [name for name, array in answers.items() if not np.isfinite(array).all()]:
        raise InvalidInput(
            f"On real sentences the model answers with NaN or Infinity in {', '.join(map(repr, broken))}.",
            code="not_finite",
            next_step="Check the weights: a model saved in float16 may have overflowed.",
        )
    return answers


def _outputs(answers: Arrays, sequences: tuple[str, ...]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=name, datatype="FP32", shape=(-1, -1, *array.shape[2:]) if name in sequences else (-1, *array.shape[1:])
        )
        for name, array in answers.items()
    )
