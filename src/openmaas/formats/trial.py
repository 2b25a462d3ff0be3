"""A loaded model run for the first time: on the sample that was given, or on made-up input."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from openmaas.core.errors import OpenMaaSError, Refused
from openmaas.core.made_up import Arrays, make_up
from openmaas.core.types import Signature
from openmaas.formats.batching import BATCH, Batching, all_same, prove, static_reason
from openmaas.formats.compare import compare, rows, stack
from openmaas.formats.sample import fit, read_sample, split_expected, stretch

SAMPLE_STEP = "Push it with a sample of real inputs (--sample FILE)."
_LENGTHS = (16, 64, 224)
"""Lengths tried for a made-up dynamic axis, such as a sequence or an image's side."""

Axes = Mapping[str, tuple[str, ...]]


class Runner(Protocol):
    """A loaded model: OnnxSession, OpenVinoModel …"""

    def run(self, inputs: Arrays) -> Arrays: ...


class Trial(NamedTuple):
    """Inputs that the model takes, their origin ("given" or "generated"), and its answers to the first row of them.

    expected: the answers that the model's source gave to all of the inputs, by output name, if the sample brings them.
    """

    inputs: Arrays
    origin: str
    outputs: Arrays
    expected: Arrays


def try_given(session: Runner, signature: Signature, sample: Path) -> Trial:
    """Run on a sample file. Raises InvalidInput where it does not fit the signature, Refused when the model does not run."""
    arrays, expected = split_expected(read_sample(sample))
    inputs = fit(arrays, signature.inputs)
    try:
        return Trial(inputs, "given", session.run(_one_row(signature, inputs)), expected)
    except OpenMaaSError as error:
        raise Refused(f"The model does not run on the sample: {error.message}", code="model_not_runnable") from None


def try_generated(session: Runner, signature: Signature, axes: Axes) -> Trial:
    """Run on made-up input. Raises Refused when the model does not run, TooLarge when the input would be giant."""
    reason = ""
    free = any(-1 in spec.shape[1:] for spec in signature.inputs)
    for length in _LENGTHS if free else _LENGTHS[:1]:
        inputs = make_up(signature.inputs, BATCH, axes, length)
        try:
            return Trial(inputs, "generated", session.run(_one_row(signature, inputs)), {})
        except OpenMaaSError as error:
            reason = reason or error.message
    raise Refused(f"The model does not run on made-up input: {reason}", code="model_not_runnable", next_step=SAMPLE_STEP)


def _one_row(signature: Signature, inputs: Arrays) -> Arrays:
    """The first row of each input whose axis 0 is free."""
    fixed = {spec.name for spec in signature.inputs if not spec.shape or spec.shape[0] >= 0}
    return {name: array if name in fixed else array[:1] for name, array in inputs.items()}


def prove_batching(session: Runner, signature: Signature, trial: Trial, axes: Axes) -> Batching:
    """Proved on the sample; on made-up rows where the sample's are all the same, since those would hide a mixing of rows."""
    if reason := static_reason(signature):
        return Batching(False, reason)
    seven, origin = stretch(trial.inputs, BATCH), trial.origin
    if all_same(seven):
        seven, origin = make_up(signature.inputs, BATCH, axes), "generated"
    return prove(session.run, signature, seven, origin)


def check_expected(session: Runner, signature: Signature, trial: Trial, batchable: bool) -> None:
    """Hold the model against the answers that its source gave. Raises Refused where they differ."""
    if not trial.expected:
        return
    step = BATCH if batchable else 1
    _, wrong = compare(step, _run_all(session, signature, trial.inputs, step), trial.expected)
    if wrong:
        raise Refused(
            f"The model does not give the answers that its source gave for the sample: {wrong}.", code="parity_failed"
        )


def answered(session: Runner, signature: Signature, trial: Trial, batchable: bool) -> tuple[Arrays, Arrays]:
    """The inputs to keep and the answers to them: all rows where they may share a batch, else those of one single call."""
    if not batchable:
        return _one_row(signature, trial.inputs), trial.outputs
    answers = _run_all(session, signature, trial.inputs, BATCH)
    return trial.inputs, {name: trial.expected.get(name, answer) for name, answer in answers.items()}


def _run_all(session: Runner, signature: Signature, inputs: Arrays, step: int) -> Arrays:
    """`step` rows in each call, and those inputs as they are whose axis 0 is fixed."""
    free = {spec.name for spec in signature.inputs if spec.shape and spec.shape[0] == -1}
    if not free:
        return session.run(inputs)
    count = max(len(inputs[name]) for name in free)
    fixed = {name: array for name, array in inputs.items() if name not in free}
    moving = {name: inputs[name] for name in free}
    return stack([session.run({**fixed, **rows(moving, start, start + step)}) for start in range(0, count, step)])
