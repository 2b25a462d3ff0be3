"""Two generators on the same text: each is shown the text's own tokens, and says after each what it expects to come next.

cosine      of the logits after each token, their mean taken off, since it changes no probability; the least of all counts
top-1       share of the tokens after which both expect the same one
perplexity  of each on the text: how many tokens it hesitates between, on average; the lower the better
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import EngineFailed, without_paths
from openmaas.core.manifest import Comparison
from openmaas.core.settings import Settings, variable
from openmaas.core.signal_stack import drop_signal_stack
from openmaas.tasks.passages import Ids

OUTPUT = "logits"
_Row = NDArray[np.float32]


class Held(NamedTuple):
    """What was compared; perplexity: of the source and of the target. reason: why it may not serve, None where it may."""

    comparison: Comparison
    perplexity: tuple[float, float]
    reason: str | None


def hold(model: Path, source: Path, passages: Sequence[Ids], weights: str, settings: Settings, threads: int) -> Held:
    """The OpenVINO model against its source, whose logits lie in `source` as logits-N.npy. Raises EngineFailed."""
    figures = _Figures()
    for number, (ids, logits) in enumerate(zip(passages, answers(model, passages, threads), strict=True)):
        expected = np.load(source / f"logits-{number}.npy", mmap_mode="r", allow_pickle=False)
        figures.add(ids, expected, logits)
    return figures.judged(weights, settings)


def answers(model: Path, passages: Sequence[Ids], threads: int) -> Iterator[NDArray[np.float32]]:
    """FP32 logits [tokens, vocabulary] for each passage, of an OpenVINO model. It keeps a state, its cache, which is forgotten
    between two. Raises EngineFailed."""
    import openvino

    try:
        compiled = openvino.Core().compile_model(str(model), "CPU", {"INFERENCE_NUM_THREADS": threads})
    except Exception as error:
        said = without_paths(" ".join(str(error).split()))[:300]
        raise EngineFailed(f"OpenVINO cannot load it: {said}", code="load_failed") from None
    finally:
        drop_signal_stack()
    names = {name for one in compiled.inputs for name in one.get_names()}
    request = compiled.create_infer_request()
    for ids in passages:
        request.reset_state()
        inputs: dict[str, Any] = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "position_ids": np.arange(len(ids), dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        yield request.infer({name: array for name, array in inputs.items() if name in names})[OUTPUT][0]


class _Figures:
    """Taken row by row, since the logits of a large vocabulary are large."""

    def __init__(self) -> None:
        self._gap = self._relative = 0.0
        self._cosine = 1.0
        self._rows = self._same = 0
        self._losses: list[tuple[float, float]] = []

    def add(self, ids: Ids, expected: NDArray[np.float32], given: NDArray[np.float32]) -> None:
        if expected.shape != given.shape:
            shapes = f"{list(given.shape)}, its source with {list(expected.shape)}"
            raise EngineFailed(f"It answers {len(ids)} tokens with logits of the shape {shapes}.", code="wrong_shape")
        for position in range(len(ids)):
            self._row(np.asarray(expected[position], np.float64), np.asarray(given[position], np.float64))
            if position + 1 < len(ids):
                after = ids[position + 1]
                self._losses.append((_loss(expected[position], after), _loss(given[position], after)))

    def _row(self, expected: NDArray[np.float64], given: NDArray[np.float64]) -> None:
        for whose, row in (("It", given), ("Its source", expected)):
            if not np.isfinite(row).all():  # NaN is neither below a bound nor above it
                raise EngineFailed(f"{whose} answers with NaN or Infinity.", code="not_finite")
        gap = float(np.abs(expected - given).max())
        self._gap = max(self._gap, gap)
        self._relative = max(self._relative, gap / max(float(np.abs(expected).max()), 1e-9))
        one, other = expected - expected.mean(), given - given.mean()
        length = float(np.linalg.norm(one) * np.linalg.norm(other))
        self._cosine = min(self._cosine, float(one @ other) / length if length else 0.0)
        self._rows += 1
        self._same += int(expected.argmax() == given.argmax())

    def judged(self, weights: str, settings: Settings) -> Held:
        comparison = Comparison(
            batch=1,
            output=OUTPUT,
            max_abs_diff=self._gap,
            max_rel_diff=self._relative,
            cosine=self._cosine,
            top1=self._same / self._rows,
        )
        first, second = (math.exp(min(500.0, float(np.mean(losses)))) for losses in zip(*self._losses, strict=True))
        return Held(comparison, (first, second), _reason(weights, comparison, first, second, settings))


def tolerance(weights: str, settings: Settings) -> tuple[float, float]:
    """The least cosine, and the share by which the perplexity may rise. Weights of a kind that has no setting are bf16's."""
    kind = weights if weights in ("int8", "int4") else "bf16"
    return getattr(settings, f"{kind}_cosine"), getattr(settings, f"{kind}_perplexity")


def _reason(weights: str, comparison: Comparison, source: float, target: float, settings: Settings) -> str | None:
    least, rise = tolerance(weights, settings)
    kind = weights if weights in ("int8", "int4") else "bf16"
    if comparison.cosine is not None and comparison.cosine < least:
        return (
            f"the least cosine of its logits to the source's is {comparison.cosine:.4f}; {weights} weights must reach "
            f"{least:g} ({variable(f'{kind}_cosine')})."
        )
    if target > source * (1 + rise):
        return (
            f"its perplexity is {target:.2f}, {target / source - 1:.1%} above the source's {source:.2f}; {weights} weights may "
            f"raise it by {rise:.1%} ({variable(f'{kind}_perplexity')})."
        )
    return None


def _loss(logits: _Row, token: int) -> float:
    """Of one token, in nats."""
    wide = np.asarray(logits, np.float64)
    highest = wide.max()
    return float(highest + np.log(np.exp(wide - highest).sum()) - wide[token])
