"""Distillation: a student learns from a teacher's answers, and from labels where there are any.

Classes: mix · T² · KL(teacher ‖ student), both at temperature T, and (1 - mix) · cross-entropy with the labels (Hinton,
Vinyals, Dean 2015, arXiv 1503.02531). Numbers: the squared errors to the teacher and to the truth by the same shares. Vectors:
1 - cosine to the teacher's, pooled as the version declares. Importing this imports torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from openmaas.core.errors import Refused
from openmaas.core.manifest import Manifest
from openmaas.core.processing import Embedding, Labels, TextInput
from openmaas.core.recipes import Distil, Prune
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.base import Arrays, Bench, Piece, cannot
from openmaas.tasks.optimization.graphs import onnx_of, read_graph, write_graph
from openmaas.tasks.optimization.teaching import scores_of
from openmaas.tasks.optimization.trainable import Trainable, lift
from openmaas.tasks.optimization.trainable.scores import find_numbers, find_scores
from openmaas.tasks.optimization.training import Loss, Rows, cross_entropy, divergence, squared_error, train

_POSITIONS = 0.02  # standard deviation of fresh tables that are added


def distil(piece: Piece, parameters: Distil, bench: Bench) -> Piece:
    """The student, trained. Raises Refused where teacher, student and training set do not go together, before any training."""
    examples = bench.training
    assert examples is not None
    if parameters.mix < 1 and examples.truth is None:
        raise cannot(parameters, "the training set has no labels for this model", "Give mix 1: the teacher alone.")
    whole = _weights(lift(read_graph(piece.path), examples.inputs))
    student = _student(piece, parameters, bench)
    trainable = lift(read_graph(student.path), examples.inputs)
    if parameters.fresh:
        renew(trainable, bench.seed)
    bench.progress("asking the teacher")
    loss, told = _loss(trainable, piece.manifest, examples, parameters, bench)
    history = train(
        trainable, examples, loss=loss, epochs=parameters.epochs, learning_rate=parameters.learning_rate,
        batch=parameters.batch, seed=bench.seed, progress=bench.progress, stage="training the student",
    )  # fmt: skip
    facts: dict[str, Any] = {
        "teacher": parameters.teacher or str(bench.job.arguments.get("version", "")),
        "student": parameters.student or f"{parameters.shrink:g} of the channels",
        "temperature": parameters.temperature,
        "mix": parameters.mix,
        "parameters": {"before": whole, "after": _weights(trainable)},
        **told,
        "training": history.to_facts(),
    }
    bench.log(f"student: {whole} → {facts['parameters']['after']} weights, best of epochs {history.best}")
    artifact = write_graph(trainable.to_onnx(), bench.folder, piece.artifact.options)
    return piece.changed(artifact, bench.folder, distil=facts)


def _weights(trainable: Trainable) -> int:
    return sum(one.numel() for one in trainable.parameters())


# ── the student ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _student(piece: Piece, parameters: Distil, bench: Bench) -> Piece:
    if parameters.student:
        manifest, folder = bench.source(parameters.student)
        artifact = onnx_of(manifest)
        if artifact is None:
            raise cannot(
                parameters,
                f"{parameters.student} has no ONNX form",
                f"Convert it: openmaas convert {parameters.student} --to onnx.",
            )
        _require_signature(piece.manifest, manifest, parameters)
        return Piece(artifact=artifact, folder=folder, manifest=manifest)
    if parameters.shrink == 1:
        return piece
    from openmaas.tasks.optimization.passes.prune.channels import prune_channels

    folder = bench.folder / "shrunken"
    folder.mkdir()
    shrinking = Prune(method="channels", amount=1 - parameters.shrink)
    try:
        return prune_channels(piece, shrinking, replace(bench, folder=folder))
    except Refused as error:
        raise cannot(
            parameters,
            f"a copy with {parameters.shrink:g} of the channels cannot be made: {error.message.rstrip('.')}",
            "Give a student: a version whose architecture is trained.",
        ) from None


def _require_signature(ours: Manifest, theirs: Manifest, parameters: Distil) -> None:
    sides = {
        "inputs": (ours.signature.inputs, theirs.signature.inputs),
        "outputs": (ours.signature.outputs, theirs.signature.outputs),
    }
    for kind, (mine, other) in sides.items():
        if mine != other:
            told = [", ".join(f"{one.name!r} {one.datatype} {list(one.shape)}" for one in group) for group in (mine, other)]
            raise cannot(
                parameters,
                f"the {kind} of {parameters.student} are {told[1]}, and the version's {told[0]}",
                "Export the student with the same names, types and shapes.",
            )


def renew(trainable: Trainable, seed: int) -> None:
    """New weights, drawn as each kind of layer's own are in torch; running statistics forgotten.

    Constants that a node adds become 0 (tables: drawn near it), scales of normalisations 1; other constants that are multiplied
    with stay, since they may be no weights but a scale of the inputs.
    """
    operators = {node.name: node.op_type for node in trainable.model.graph.node}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in trainable.layers.values():
            if isinstance(module, nn.Module) and hasattr(module, "reset_parameters"):
                module.reset_parameters()
        for binding in trainable.bindings:
            part, _, name = binding.parameter.partition(".")
            if part != "free":
                continue
            tensor, operator = trainable.free[name], operators[binding.node]
            if operator == "Add" and tensor.numel() > tensor.shape[-1]:
                tensor.normal_(0, _POSITIONS)
            elif operator == "Add" or (operator.endswith("Normalization") and binding.position == 2):
                tensor.zero_()
            elif operator.endswith("Normalization"):
                tensor.fill_(1)
            elif operator == "PRelu":
                tensor.fill_(0.25)


# ── the loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _loss(
    trainable: Trainable, manifest: Manifest, examples: Examples, parameters: Distil, bench: Bench
) -> tuple[Loss, dict[str, Any]]:
    """What the student is held to, and what is known of the teacher."""
    declared = manifest.processing.output if manifest.processing else None
    of_classes = isinstance(declared, Labels) and not declared.tokens and examples.task == "agreement"
    if examples.task == "classification" or of_classes:
        return _of_classes(trainable, manifest, examples, parameters, bench)
    if examples.task == "regression":
        return _of_numbers(trainable, manifest, examples, parameters, bench)
    if parameters.mix < 1:
        raise cannot(
            parameters,
            "similarities of pairs are not what a student is trained to answer",
            "Give mix 1: the teacher's vectors alone.",
        )
    answers = bench.teacher(parameters.teacher)(examples.inputs)
    if isinstance(declared, Embedding):
        return _of_vectors(trainable, manifest, declared, answers, examples, parameters), {}
    losses = [squared_error(name, _taught(answers, name, parameters)) for name in trainable.outputs]
    return lambda model, inputs, rows: torch.stack([loss(model, inputs, rows) for loss in losses]).sum(), {}


def _of_classes(
    trainable: Trainable, manifest: Manifest, examples: Examples, parameters: Distil, bench: Bench
) -> tuple[Loss, dict[str, Any]]:
    scores = find_scores(trainable, manifest.processing, len(examples.classes))
    by_labels = None if examples.truth is None else cross_entropy(scores, examples.truth)
    if not parameters.mix:
        assert by_labels is not None
        return by_labels, {}
    teacher = bench.source(parameters.teacher)[0] if parameters.teacher else manifest
    taught = scores_of(bench.teacher(parameters.teacher)(examples.inputs), teacher, examples, parameters)
    by_teacher = divergence(scores, torch.as_tensor(taught), parameters.temperature)
    told = {}
    if examples.truth is not None:
        told["teacher_accuracy"] = round(float((taught.argmax(1) == examples.truth).mean()), 4)
    return _mixed(by_teacher, by_labels, parameters.mix), told


def _of_numbers(
    trainable: Trainable, manifest: Manifest, examples: Examples, parameters: Distil, bench: Bench
) -> tuple[Loss, dict[str, Any]]:
    output = find_numbers(trainable, manifest.processing)
    by_truth = None if examples.truth is None else squared_error(output, examples.truth)
    if not parameters.mix:
        assert by_truth is not None
        return by_truth, {}
    answers = bench.teacher(parameters.teacher)(examples.inputs)
    numbers = {name: array for name, array in answers.items() if array.dtype.kind == "f"}
    taught = _taught(answers, output if output in numbers or len(numbers) != 1 else next(iter(numbers)), parameters)
    return _mixed(squared_error(output, taught), by_truth, parameters.mix), {}


def _taught(answers: Arrays, output: str, parameters: Distil) -> Any:
    name = parameters.teacher or "the version itself"
    if output not in answers:
        told = ", ".join(map(repr, answers))
        raise cannot(parameters, f"{name} has no output {output!r}; it has {told}", "Choose a teacher with the same outputs.")
    if not np.isfinite(answers[output]).all():
        raise cannot(parameters, f"{name} answers the training set with NaN or Infinity", "Choose another teacher.")
    return answers[output]


def _mixed(by_teacher: Loss, by_truth: Loss | None, mix: float) -> Loss:
    if by_truth is None or mix == 1:
        return by_teacher

    def loss(model: Trainable, inputs: dict[str, Tensor], rows: Rows) -> Tensor:
        return mix * by_teacher(model, inputs, rows) + (1 - mix) * by_truth(model, inputs, rows)

    return loss


def _of_vectors(
    trainable: Trainable, manifest: Manifest, declared: Embedding, answers: Arrays, examples: Examples, parameters: Distil
) -> Loss:
    output = find_numbers(trainable, manifest.processing)
    taken = manifest.processing.input if manifest.processing else None
    roles = taken.tensors if isinstance(taken, TextInput) else {}
    masked = next((name for name, role in roles.items() if role == "attention"), "")
    wanted = torch.as_tensor(_taught(answers, output, parameters).astype(np.float32))
    mask = torch.as_tensor(examples.inputs[masked]) if masked else None
    pooled = _pooled(wanted, mask, declared.pooling)

    def loss(model: Trainable, inputs: dict[str, Tensor], rows: Rows) -> Tensor:
        own = _pooled(model(**inputs)[output], inputs.get(masked), declared.pooling)
        theirs = pooled[torch.as_tensor(rows)]
        if own.shape != theirs.shape:
            raise cannot(
                parameters,
                f"the teacher's vectors have {theirs.shape[-1]} numbers and the student's {own.shape[-1]}",
                "Give a student with vectors of the same length.",
            )
        return (1 - functional.cosine_similarity(own, theirs, dim=-1)).mean()

    return loss


def _pooled(values: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """[rows, numbers] of [rows, tokens, numbers], as the version declares; of padding nothing."""
    if pooling == "none" or values.ndim < 3:
        return values
    if pooling == "cls":
        return values[:, 0]
    kept = torch.ones(values.shape[:2]) if mask is None else mask[:, : values.shape[1]]
    kept = kept.to(values.dtype)[..., None]
    if pooling == "max":
        return values.masked_fill(kept == 0, float("-inf")).amax(1)
    return (values * kept).sum(1) / kept.sum(1).clamp(min=1)
