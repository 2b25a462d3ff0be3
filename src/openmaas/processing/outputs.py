"""The engine's outputs → classes with their probabilities, or one vector a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import EngineFailed
from openmaas.core.processing import Embedding, Labels
from openmaas.core.types import DataType, Signature, TensorSpec
from openmaas.processing.base import After, Tensors

Array = NDArray[Any]
_OUTSIDE: Final = "O"
"""The label of tokens that belong to nothing, in the usual schemes of token classification."""


class ClassLabels(After):
    """`label` is the most probable class of each row [N] or token [N, L]; beside it all probabilities (or scores) [.., C].

    own: the engine gives an output `label` itself. It stays: a classifier may decide otherwise than by the largest probability.
    """

    def __init__(self, declared: Labels, own: bool = False) -> None:
        self._declared = declared
        self._own = own
        self._names = np.array([name.encode() for name in declared.labels], dtype=object)
        self._places = {name: place for place, name in enumerate(declared.labels)}
        self._value = "probability" if declared.gives == "probabilities" else "score"

    def specs(self, signature: Signature) -> tuple[TensorSpec, ...]:
        specs = {spec.name: spec for spec in signature.outputs}
        spec = specs[self._declared.output]
        classes = len(self._names) or spec.shape[-1]
        axes = spec.shape[:2] if self._declared.tokens else spec.shape[:1]
        # What has less than double precision is computed and given as FP32.
        kind: DataType = "FP64" if spec.datatype == "FP64" else "FP32"
        return (
            specs["label"] if self._own else TensorSpec(name="label", datatype="BYTES", shape=axes),
            TensorSpec(name=self._declared.gives, datatype=kind, shape=(*axes, classes)),
        )

    def finish(self, outputs: Tensors, inputs: Mapping[str, Array], options: Mapping[str, Any]) -> Tensors:
        """Raises EngineFailed where scores are no numbers, or not as many as there are labels."""
        scores = outputs[self._declared.output]
        scores = scores.astype(np.float64 if scores.dtype == np.float64 else np.float32, copy=False)
        scores = self._in_columns(self._activated(scores))
        if np.isnan(scores).any():
            raise EngineFailed(
                f"Output {self._declared.output!r} holds NaN: no class can be named.",
                code="not_finite",
                next_step="Look into the input and the model.",
            )
        label = outputs["label"] if self._own else self._named(scores.argmax(axis=-1))
        return {"label": label, self._declared.gives: scores}

    def _in_columns(self, scores: Array) -> Array:
        """[.., C]; a single value of two classes is that of the second."""
        axes = 3 if self._declared.tokens else 2
        scores = scores[..., None] if scores.ndim == axes - 1 else scores
        scores = scores.reshape(*scores.shape[: axes - 1], -1)
        classes = len(self._names)
        if classes == 2 and scores.shape[-1] == 1:
            no = 1 - scores if self._declared.gives == "probabilities" else -scores
            return np.concatenate([no, scores], axis=-1)
        if classes and scores.shape[-1] != classes:
            raise EngineFailed(
                f"Output {self._declared.output!r} has {scores.shape[-1]} scores a row; {classes} labels were declared.",
                code="labels_mismatch",
            )
        return scores

    def _activated(self, scores: Array) -> Array:
        if self._declared.activation == "softmax":
            return softmax(scores)
        if self._declared.activation == "sigmoid":
            return sigmoid(scores)
        return scores

    def _named(self, classes: Array) -> Array:
        """BYTES; without names the class's number as text."""
        if len(self._names):
            named: Array = self._names[classes]
            return named
        numbers = np.empty(classes.size, dtype=object)
        numbers[:] = [b"%d" % number for number in classes.ravel().tolist()]
        return numbers.reshape(classes.shape)

    def rows(
        self,
        finished: Tensors,
        options: Mapping[str, Any],
        offsets: Sequence[Sequence[tuple[int, int]]] = (),
        texts: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """{"label", "probability"} a row, and with `top` above one {"top": [the same, …]} in it.

        Where each token has its own: {"tokens": [the same with start, end and text, …], "spans": […]}.
        """
        scores = finished[self._declared.gives]
        if not np.isfinite(scores).all():
            raise EngineFailed(f"Output {self._declared.output!r} holds Infinity, which JSON cannot carry.", code="not_finite")
        top = int(options.get("top") or self._declared.top)
        if self._declared.tokens:
            if not offsets:
                return [{"tokens": self._described(row, top)} for row in scores]
            return [self._tokens(row, places, text, top) for row, places, text in zip(scores, offsets, texts, strict=True)]
        described = self._described(scores, top)
        return self._decided(described, finished["label"], scores) if self._own else described

    def _described(self, scores: Array, top: int) -> list[dict[str, Any]]:
        """scores [N, C] → an object a row."""
        if top == 1:
            places = scores.argmax(axis=-1).tolist()
            return [self._entry(place, row) for place, row in zip(places, scores.tolist(), strict=True)]
        # Of equal scores the class that comes first, as argmax has it.
        order = np.argsort(-scores, axis=-1, kind="stable")[:, :top].tolist()
        ranked = [[self._entry(place, row) for place in first] for first, row in zip(order, scores.tolist(), strict=True)]
        return [entries[0] | {"top": entries} for entries in ranked]

    def _entry(self, place: int, scores: Sequence[float]) -> dict[str, Any]:
        labels = self._declared.labels
        return {"label": labels[place] if labels else str(place), self._value: scores[place]}

    def _decided(self, described: list[dict[str, Any]], labels: Array, scores: Array) -> list[dict[str, Any]]:
        """The rows with the label that the engine itself gave, and the probability of that one."""
        for row, label in enumerate(labels.reshape(-1).tolist()):
            name = label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)
            if name != described[row]["label"]:
                place = self._places.get(name)
                described[row] |= {"label": name, self._value: None if place is None else float(scores[row, place])}
        return described

    def _tokens(self, scores: Array, places: Sequence[tuple[int, int]], text: str, top: int) -> dict[str, Any]:
        real = [(index, start, end) for index, (start, end) in enumerate(places[: len(scores)]) if end > start]
        if not real:
            return {"tokens": [], "spans": []}
        described = self._described(scores[[index for index, _, _ in real]], top)
        tokens = [
            token | {"start": start, "end": end, "text": text[start:end]}
            for token, (_, start, end) in zip(described, real, strict=True)
        ]
        return {"tokens": tokens, "spans": spans(tokens, text, self._value)}


def spans(tokens: Sequence[Mapping[str, Any]], text: str, value: str) -> list[dict[str, Any]]:
    """Neighbouring tokens of one kind as one span; B- begins another, O is none. `value` of a span is its least token's."""
    found: list[dict[str, Any]] = []
    previous = _OUTSIDE
    for token in tokens:
        label = token["label"]
        kind = label[2:] if label[:2] in ("B-", "I-") else label
        if label != _OUTSIDE:
            if found and kind == previous and not label.startswith("B-"):
                last = found[-1]
                last |= {"end": token["end"], "text": text[last["start"] : token["end"]], value: min(last[value], token[value])}
            else:
                found.append({"label": kind, value: token[value]} | {name: token[name] for name in ("start", "end", "text")})
        previous = kind if label != _OUTSIDE else _OUTSIDE
    return found


def softmax(scores: Array) -> Array:
    """Over the last axis, without overflow. A row whose largest score is infinite has no answer: NaN."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        summed: Array = powers / powers.sum(axis=-1, keepdims=True)
    return summed


def sigmoid(scores: Array) -> Array:
    """Without overflow for large scores of either sign."""
    small = np.exp(-np.abs(scores))
    values: Array = np.where(scores >= 0, 1 / (1 + small), small / (1 + small))
    return values


class Embeddings(After):
    """`embedding` [N, D]. attention: the engine input that is 0 where a token is padding; without one all tokens count."""

    def __init__(self, declared: Embedding, attention: str | None = None) -> None:
        self._declared = declared
        self._attention = attention

    def specs(self, signature: Signature) -> tuple[TensorSpec, ...]:
        spec = next(spec for spec in signature.outputs if spec.name == self._declared.output)
        kind: DataType = "FP64" if spec.datatype == "FP64" else "FP32"
        return (TensorSpec(name="embedding", datatype=kind, shape=(spec.shape[0], spec.shape[-1])),)

    def finish(self, outputs: Tensors, inputs: Mapping[str, Array], options: Mapping[str, Any]) -> Tensors:
        values = outputs[self._declared.output]
        values = values.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)
        if self._declared.pooling != "none":
            values = self._pooled(values, inputs)
        if self._declared.normalize:
            values = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
        return {"embedding": values}

    def _pooled(self, values: Array, inputs: Mapping[str, Array]) -> Array:
        """values [N, L, D] → [N, D]."""
        if self._declared.pooling == "cls":
            return np.asarray(values[:, 0])
        mask = inputs.get(self._attention) if self._attention is not None else None
        if mask is None:
            return np.asarray(values.mean(axis=1) if self._declared.pooling == "mean" else values.max(axis=1))
        length = min(values.shape[1], mask.shape[1])  # either may still carry the padding of the batch that it was in
        values, kept = values[:, :length], mask[:, :length, None] != 0
        if self._declared.pooling == "max":
            return np.asarray(np.where(kept, values, -np.inf).max(axis=1))
        counts = np.maximum(kept.sum(axis=1), 1).astype(values.dtype)
        pooled: Array = np.where(kept, values, values.dtype.type(0)).sum(axis=1) / counts
        return pooled

    def rows(
        self,
        finished: Tensors,
        options: Mapping[str, Any],
        offsets: Sequence[Sequence[tuple[int, int]]] = (),
        texts: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """{"embedding": […]} a row. Raises EngineFailed for NaN and infinity, which JSON cannot carry."""
        values = finished["embedding"]
        if not np.isfinite(values).all():
            raise EngineFailed(
                "The embedding holds NaN or Infinity, which JSON cannot carry.",
                code="not_finite",
                next_step="Look into the input and the model.",
            )
        return [{"embedding": row} for row in values.tolist()]
