"""Training of lifted models: deterministic by its seed, with the best epoch kept, and always an end.

Importing this imports torch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from openmaas.core.errors import Refused
from openmaas.core.processing import Labels, Processing
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.trainable import Trainable
from openmaas.tasks.optimization.trainable.scores import Scores, find_numbers, find_scores

Rows = NDArray[np.int64]
Loss = Callable[[Trainable, dict[str, Tensor], Rows], Tensor]
"""Mean loss of some rows: the model, their inputs by name, and which rows of the examples they are."""
Progress = Callable[[str, float, float], None]

_VALIDATED: Final = 10
"""One row in so many is held out and tells which epoch was best."""
_FEWEST: Final = 20
_EVALUATED: Final = 256
_FEW_WEIGHTS: Final = 1_000_000
_SMALL_ROW: Final = 4096  # numbers
_DECAY: Final = 1e-4


@dataclass(frozen=True, kw_only=True)
class Proximal:
    """L1 regularisation of these parameters, as a proximal step after each step of the optimiser.

    strength: of the L1 term. Each weight w becomes sign(w)·max(|w| - η·strength, 0), where η is the step that Adam took for it,
    learning rate / (√v + ε) (Yun, Lozano, Yang 2021: Adaptive proximal gradient methods for structured neural networks). None
    moves by more than the learning rate, as Adam itself moves none: where there is no gradient yet, as at the beginning of
    training on a model's own answers, η has no bound.
    """

    strength: float
    parameters: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class History:
    """Mean loss of each epoch on the rows that were trained on and on those held out (empty where there were too few).

    held_out begins with the loss before the first epoch, so that it has one more. best: the epoch whose weights were kept, 0
    for those before the first.
    """

    training: tuple[float, ...]
    held_out: tuple[float, ...]
    best: int
    rows: int

    def to_facts(self) -> dict[str, Any]:
        return {
            "epochs": len(self.training),
            "best_epoch": self.best,
            "rows": self.rows,
            "training_loss": [round(loss, 6) for loss in self.training],
            "held_out_loss": [round(loss, 6) for loss in self.held_out],
        }


def train(
    trainable: Trainable,
    examples: Examples,
    *,
    loss: Loss,
    epochs: int,
    learning_rate: float,
    batch: int,
    seed: int,
    progress: Progress,
    stage: str = "training",
    masks: Mapping[str, Tensor] | None = None,
    proximal: Proximal | None = None,
    keep_best: bool = True,
) -> History:
    """AdamW (Loshchilov, Hutter 2019) with a learning rate that falls to 0 as a half cosine. The module ends in eval mode.

    Small models are trained by one thread: threads that share steps of a millisecond wait for each other more than they
    compute, beside other work many times as long.

    masks: of parameters by name, True for weights that may be other than 0. keep_best: the weights of the epoch with the least
    loss on held-out rows are kept, those before training among them; else those of the last.
    Raises Refused when the loss is not a finite number, and what `progress` raises.
    """
    with _threads(trainable, examples):
        return _train(
            trainable, examples, loss, epochs, learning_rate, batch, seed, progress, stage, masks or {}, proximal, keep_best
        )


def _train(
    trainable: Trainable, examples: Examples, loss: Loss, epochs: int, learning_rate: float, batch: int, seed: int,
    progress: Progress, stage: str, masks: Mapping[str, Tensor], proximal: Proximal | None, keep_best: bool,
) -> History:  # fmt: skip
    training, held_out = split(examples, seed)
    inputs = {name: torch.as_tensor(examples.inputs[name]) for name in trainable.inputs}
    parameters = {name: one for name, one in trainable.named_parameters() if one.requires_grad}
    if not parameters:
        raise Refused("The model has no weights that could be trained.", code="pass_not_applicable")
    optimizer = torch.optim.AdamW(parameters.values(), lr=learning_rate, weight_decay=_DECAY)
    random = np.random.default_rng(seed)
    batches = _batches(training, batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    _apply(masks, parameters)
    losses: list[float] = []
    checked = [_mean_loss(trainable, inputs, held_out, loss)] if len(held_out) else []
    best, kept = 0, copy.deepcopy(trainable.state_dict())
    for epoch in range(1, epochs + 1):
        trainable.train()
        total = 0.0
        for number, rows in enumerate(_batches(random.permutation(training), batch)):
            progress(f"{stage}, epoch {epoch} of {epochs}", (epoch - 1) * len(batches) + number, epochs * len(batches))
            optimizer.zero_grad()
            value = loss(trainable, _chosen(inputs, rows), rows)
            told = float(value.detach())
            _require_finite(told, f"in epoch {epoch}", learning_rate)
            value.backward()
            optimizer.step()
            if proximal is not None:
                _shrink(proximal, parameters, optimizer)
            schedule.step()
            _apply(masks, parameters)
            total += told * len(rows)
        losses.append(total / len(training))
        if checked:
            checked.append(_mean_loss(trainable, inputs, held_out, loss))
            _require_finite(checked[-1], f"on the rows held out, after epoch {epoch}", learning_rate)
        # A loss that was not finite before training is worse than any that is.
        if not checked or not keep_best or checked[-1] < checked[best] or not math.isfinite(checked[best]):
            best = epoch
            kept = copy.deepcopy(trainable.state_dict()) if checked and keep_best else kept
    if checked and keep_best:
        trainable.load_state_dict(kept)
    trainable.eval()
    return History(training=tuple(losses), held_out=tuple(checked), best=best, rows=len(training))


@contextmanager
def _threads(trainable: Trainable, examples: Examples) -> Iterator[None]:
    weights = sum(one.numel() for one in trainable.parameters())
    row = max(array[:1].size for array in examples.inputs.values())
    before = torch.get_num_threads()
    if weights <= _FEW_WEIGHTS and row <= _SMALL_ROW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def split(examples: Examples, seed: int) -> tuple[Rows, Rows]:
    """Rows to train on, and rows held out: one in ten, of each class alike; none of fewer than twenty."""
    order = np.random.default_rng(seed).permutation(examples.rows).astype(np.int64)
    if len(order) < _FEWEST:
        return order, order[:0]
    if examples.task == "classification" and examples.truth is not None:
        order = order[np.argsort(examples.truth[order], kind="stable")]
    chosen = np.zeros(len(order), bool)
    chosen[_VALIDATED // 2 :: _VALIDATED] = True
    return order[~chosen], order[chosen]


def default_loss(trainable: Trainable, examples: Examples, processing: Processing | None) -> tuple[Loss, str]:
    """What training is held to, and its name for people.

    Class labels: cross-entropy. Numbers: mean squared error. Where there is no truth, or it is of pairs: the model's own
    answers as they are now, so that fine-tuning needs no labels.
    """
    if examples.truth is None or examples.task in ("similarity", "agreement"):
        return _own_answers(trainable, examples, processing), "its own earlier answers"
    if examples.task == "classification":
        return cross_entropy(find_scores(trainable, processing, len(examples.classes)), examples.truth), "labels"
    return squared_error(find_numbers(trainable, processing), examples.truth), "numbers"


def cross_entropy(scores: Scores, truth: NDArray[Any]) -> Loss:
    """truth: class indices [N]."""
    labels = torch.as_tensor(truth.astype(np.int64))
    return lambda model, inputs, rows: functional.cross_entropy(scores.of(model, inputs), labels[torch.as_tensor(rows)])


def squared_error(output: str, truth: NDArray[Any]) -> Loss:
    """Relative to the variance of truth [N] or [N, D], so that 1 is the error of the mean."""
    numbers = torch.as_tensor(truth.astype(np.float32))
    spread = max(float(numbers.var(0, correction=0).mean()), 1e-12)

    def loss(model: Trainable, inputs: dict[str, Tensor], rows: Rows) -> Tensor:
        wanted = numbers[torch.as_tensor(rows)]
        answer = model(**inputs)[output]
        if answer.numel() != wanted.numel():
            raise Refused(
                f"Output {output!r} has {answer.numel() // len(rows)} numbers for each row and the truth {wanted[0].numel()}.",
                code="pass_not_applicable",
                next_step="Give a dataset with as many target columns as the model has numbers.",
            )
        return (answer.reshape(wanted.shape) - wanted).square().mean() / spread

    return loss


def divergence(scores: Scores, teacher: Tensor, temperature: float = 1.0) -> Loss:
    """Kullback-Leibler divergence from a teacher's scores [N, C], both sides at a temperature, times its square (Hinton,
    Vinyals, Dean 2015)."""
    wanted = torch.softmax(teacher / temperature, 1)

    def loss(model: Trainable, inputs: dict[str, Tensor], rows: Rows) -> Tensor:
        own = torch.log_softmax(scores.of(model, inputs) / temperature, 1)
        return functional.kl_div(own, wanted[torch.as_tensor(rows)], reduction="batchmean") * temperature**2

    return loss


def answers(trainable: Trainable, examples: Examples, values: Sequence[str]) -> dict[str, Tensor]:
    """Values of all rows as the model gives them now."""
    inputs = {name: torch.as_tensor(examples.inputs[name]) for name in trainable.inputs}
    trainable.eval()
    parts: dict[str, list[Tensor]] = {name: [] for name in values}
    with torch.no_grad():
        for rows in _batches(np.arange(examples.rows), _EVALUATED):
            for name, value in trainable.values(_chosen(inputs, rows), values).items():
                parts[name].append(value)
    return {name: torch.cat(found) for name, found in parts.items()}


def _own_answers(trainable: Trainable, examples: Examples, processing: Processing | None) -> Loss:
    declared = processing.output if processing else None
    if isinstance(declared, Labels) and not declared.tokens:
        scores = find_scores(trainable, processing)
        return divergence(scores, scores.read(answers(trainable, examples, [scores.value])[scores.value]))
    found = answers(trainable, examples, trainable.outputs)
    losses = [_matching(name, values) for name, values in found.items()]
    return lambda model, inputs, rows: torch.stack([loss(model, inputs, rows) for loss in losses]).sum()


def _matching(output: str, wanted: Tensor) -> Loss:
    spread = max(float(wanted.var(0, correction=0).mean()), 1e-12)

    def loss(model: Trainable, inputs: dict[str, Tensor], rows: Rows) -> Tensor:
        return (model(**inputs)[output] - wanted[torch.as_tensor(rows)]).square().mean() / spread

    return loss


def _batches(rows: Rows, size: int) -> list[Rows]:
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        # Batch normalisation has no variance of one row.
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def _chosen(inputs: Mapping[str, Tensor], rows: Rows) -> dict[str, Tensor]:
    index = torch.as_tensor(rows)
    return {name: tensor[index] for name, tensor in inputs.items()}


def _mean_loss(trainable: Trainable, inputs: Mapping[str, Tensor], rows: Rows, loss: Loss) -> float:
    trainable.eval()
    total = 0.0
    with torch.no_grad():
        for part in _batches(rows, _EVALUATED):
            total += float(loss(trainable, _chosen(inputs, part), part)) * len(part)
    return total / len(rows)


def _apply(masks: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(mask)


def _shrink(proximal: Proximal, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    group = optimizer.param_groups[0]
    with torch.no_grad():
        for name in proximal.parameters:
            weight, state = parameters[name], optimizer.state[parameters[name]]
            if not state:
                continue
            corrected = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
            threshold = group["lr"] * proximal.strength / (corrected.sqrt() + group["eps"])
            weight.copy_(weight.sign() * (weight.abs() - threshold.clamp(max=group["lr"])).clamp(min=0))


def _require_finite(loss: float, where: str, learning_rate: float) -> None:
    if not math.isfinite(loss):
        raise Refused(
            f"The loss became {loss} {where}, with learning_rate {learning_rate:g}.",
            code="training_diverged",
            next_step=f"Give a lower learning_rate, as {learning_rate / 10:g}, or look for outliers in the training set.",
        )
