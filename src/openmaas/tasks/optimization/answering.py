"""Versions and pieces that answer, each in a process of its own: whatever an engine does, the job goes on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np

from openmaas.core.errors import Refused, Unavailable
from openmaas.core.hardware import free_memory, processor
from openmaas.core.manifest import EngineChoice, Manifest
from openmaas.engines import engine_choices
from openmaas.formats.agreement import misfit
from openmaas.tasks.base import Job
from openmaas.tasks.candidate import Candidate, Failed
from openmaas.tasks.measure import check_form
from openmaas.tasks.optimization.base import Answer, Arrays, Piece

_STEP = 32
_MESSAGE = 256  # rows that are sent at once
_PATIENCE = 600.0


class Answering:
    """Opens what answers; all of it is closed with this."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._stack = ExitStack()
        self._opened = 0
        self._known: dict[str, Answer] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def version(self, reference: str) -> Answer:
        """Of a registered version, by its own engine; opened once. Raises NotFound."""
        if reference not in self._known:
            self._known[reference] = self.open(*self._job.files(reference), name=reference)
        return self._known[reference]

    def open(self, manifest: Manifest, folder: Path, *, choice: EngineChoice | None = None, name: str = "") -> Answer:
        """Engine inputs → answers, any number of rows. Raises Refused with what the engine said, when it is asked."""
        candidate = self._candidate(manifest, folder, choice or plain_choice(manifest))
        self._stack.callback(candidate.close)
        return lambda inputs: _told(candidate, manifest, inputs, name)

    def once(self, manifest: Manifest, folder: Path, inputs: Arrays, *, choice: EngineChoice | None = None) -> Arrays:
        """These answers, and the process is gone again. Raises Refused."""
        candidate = self._candidate(manifest, folder, choice or plain_choice(manifest))
        try:
            return _told(candidate, manifest, inputs, "")
        finally:
            candidate.close()

    def _candidate(self, manifest: Manifest, folder: Path, choice: EngineChoice) -> Candidate:
        scratch = self._job.scratch / f"answering-{self._opened}"
        scratch.mkdir()
        self._opened += 1
        threads = choice.threads or processor().cores
        choice = msgspec.structs.replace(choice, threads=threads)
        candidate = Candidate(choice, manifest, folder, scratch, memory=free_memory() * 4 // 5)
        candidate.patience = _PATIENCE
        return candidate


def plain_choice(manifest: Manifest) -> EngineChoice:
    """The first installed engine that runs it in the file's own precision. Raises Unavailable."""
    for choice in engine_choices(manifest):
        if not choice.precision:
            return choice
    kind = manifest.choice.artifact.kind
    raise Unavailable(
        f"No engine is installed that runs {kind}.",
        code="engine_not_found",
        next_step="Install the engine where the server runs.",
    )


def target_of(piece: Piece) -> Manifest:
    """The piece as an engine is told of it, before it is a version."""
    artifact = piece.artifact
    return msgspec.structs.replace(
        piece.manifest, format=artifact.kind, engine="", entry=artifact.entry, artifacts=(artifact,), options=artifact.options,
        parity=None,
    )  # fmt: skip


def check_piece(piece: Piece, given: Arrays, reference: Mapping[str, Any]) -> None:
    """Answers as the signature says, finite where the reference (the parent's answers to the same rows) is. Raises Refused."""
    try:
        check_form(given, {}, piece.manifest.signature.outputs)
    except Failed as failed:
        raise Refused(
            failed.cause, code="pass_broke_signature", next_step="Leave the step out, or give it other parameters."
        ) from None
    known = {name: array for name, array in reference.items() if name in given and given[name].shape == array.shape}
    if wrong := misfit(given, known) if known else _not_finite(given):
        raise Refused(wrong, code="not_finite", next_step="Leave the step out, or give it other parameters.")


def _not_finite(given: Arrays) -> str | None:
    for name, array in given.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"Output {name!r} holds NaN or Infinity."
    return None


def _told(candidate: Candidate, manifest: Manifest, inputs: Arrays, name: str) -> Arrays:
    try:
        return _answers(candidate, manifest, inputs)
    except Failed as failed:
        about = f"{name} does not answer" if name else "It does not answer"
        raise Refused(f"{about} by {candidate.choice.label}: {failed.cause}", code="no_answers") from None


def _answers(candidate: Candidate, manifest: Manifest, inputs: Arrays) -> Arrays:
    if any(spec.shape[:1] != (-1,) for spec in manifest.signature.inputs):
        return candidate.answer(inputs, 0)
    step = _STEP if manifest.batchable else 1
    count = len(next(iter(inputs.values())))
    parts = [
        candidate.answer({name: array[start : start + _MESSAGE] for name, array in inputs.items()}, step)
        for start in range(0, count, _MESSAGE)
    ]
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
