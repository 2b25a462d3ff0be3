"""Runs a recipe: what can be refused is refused before the first step; then one step after the other, each one checked."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Final, cast

import msgspec

from openmaas.core.errors import Cancelled, InvalidInput, OpenMaaSError, Refused, without_paths
from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.packed import estimated_size
from openmaas.core.recipes import Compress, Convert, Merge, Pass, Quantize, Recipe, step_label
from openmaas.tasks.base import Job
from openmaas.tasks.examples import Examples
from openmaas.tasks.optimization.answering import Answering, check_piece, target_of
from openmaas.tasks.optimization.base import Answer, Arrays, Bench, Piece, Unpacked
from openmaas.tasks.optimization.passes import find_pass

_PREFERRED: Final = ("onnx", "openvino")
_PACKED_AT_ONCE: Final = 4 << 20
"""Bytes of a file that is packed in a second or two."""
_SOON: Final = 0.01  # seconds
_AGAIN: Final = 1.0  # seconds after which a step that went on all the same is told again that its time is over


class OutOfTime(Cancelled):
    """What a step has to stop for when the time of its search is over."""


class Runner:
    """Runs recipes on one version. What equal first steps made is kept, so that a longer recipe goes on from there.

    inputs: the sample's rows. answering: where teachers and pieces answer. deadline: on time.monotonic's clock, after which a
    step is ended by OutOfTime.
    """

    def __init__(
        self, job: Job, reference: str, manifest: Manifest, folder: Path, inputs: Arrays, training: Examples | None,
        answering: Answering,
    ) -> None:  # fmt: skip
        self._job = job
        self._reference = reference
        self._manifest = manifest
        self._folder = folder
        self._inputs = inputs
        self._training = training
        self._answering = answering
        self._expected: Arrays | None = None
        self._made: dict[str, Piece | OpenMaaSError] = {}
        self.deadline: float | None = None
        self.seconds: dict[str, float] = {}
        """That each step took, by its label."""

    def check(self, recipe: Recipe) -> Piece:
        """What the recipe begins with, where nothing is known that would make a step fail.

        Raises InvalidInput for kinds or data that do not fit, NotFound for a version that a step names, Refused.
        """
        piece = begin(self._reference, self._manifest, self._folder, recipe)
        if recipe.needs_data and self._training is None:
            number = next(number for number, step in enumerate(recipe.steps, 1) if step.needs_data)
            raise InvalidInput(
                f"{told(number, recipe)} trains or calibrates on data, and none is given.",
                code="no_data",
                next_step="Give a training set: --data DATASET.",
            )
        if recipe.needs_data == "labels" and self._training is not None and self._training.truth is None:
            number = next(number for number, step in enumerate(recipe.steps, 1) if step.needs_data == "labels")
            raise InvalidInput(
                f"{told(number, recipe)} learns from labels, and the training set has none for this model.",
                code="no_labels",
                next_step="Give a data set with labels, or distil with mix 1, which needs inputs only.",
            )
        for reference in recipe.versions:
            self._job.files(reference)
        return piece

    def run(self, recipe: Recipe) -> Piece:
        """The last piece. Raises what a step raises, with its number; Refused for one that left garbage."""
        piece = self.check(recipe)
        for number in range(1, len(recipe.steps) + 1):
            key = msgspec.json.encode(recipe_prefix(recipe, number)).decode()
            if key not in self._made:
                try:
                    self._made[key] = self._step(piece, number, recipe)
                except Cancelled:
                    raise
                except OpenMaaSError as error:
                    self._made[key] = error
            made = self._made[key]
            if isinstance(made, OpenMaaSError):
                raise made
            piece = made
        return piece

    def draft(self, recipe: Recipe) -> Piece:
        """As `run`, but a large file is not packed at the end of it: every answer is the same already, and how small it will be
        is estimated. `run` then does what is left."""
        *steps, last = recipe.steps
        if not steps or not isinstance(last, Compress):
            return self.run(recipe)
        piece = self.run(msgspec.structs.replace(recipe, steps=tuple(steps)))
        size = piece.path.stat().st_size
        if size <= _PACKED_AT_ONCE:
            return self.run(recipe)
        start = time.monotonic()
        estimated, read = estimated_size(piece.path.read_bytes())
        self.seconds[step_label(last)] = seconds = time.monotonic() - start
        return replace(piece, unpacked=Unpacked(min(size, estimated), seconds * size / read))

    def steps_left(self, recipe: Recipe) -> Sequence[Pass]:
        """Steps that would have to be run: those whose pieces are not kept."""
        keys = [msgspec.json.encode(recipe_prefix(recipe, number)).decode() for number in range(1, len(recipe.steps) + 1)]
        return [step for key, step in zip(keys, recipe.steps, strict=True) if key not in self._made]

    def expected(self) -> Arrays:
        """The version's own answers to the sample's rows."""
        if self._expected is None:
            self._expected = self._answering.version(self._reference)(self._inputs)
        return self._expected

    def _step(self, piece: Piece, number: int, recipe: Recipe) -> Piece:
        step = recipe.steps[number - 1]
        name = f"step {number} of {len(recipe.steps)}: {step_label(step)}"
        self._job.progress(name, number - 1, len(recipe.steps))
        folder = Path(tempfile.mkdtemp(prefix="step-", dir=self._job.scratch))
        bench = Bench(
            job=cast(Job, WithinStep(self._job, name, lambda: self.deadline)),
            training=self._training,
            seed=seed_of(recipe, number),
            folder=folder,
            teacher=self._teacher,
            source=self._job.files,
        )
        start = time.monotonic()
        try:
            with ended_at(self.deadline):
                made = find_pass(step).run(piece, step, bench)
            check_made(made)
            given = self._answering.once(target_of(made), made.folder, self._inputs)
            check_piece(made, given, {} if changes_signature(step) else self.expected())
        except Cancelled:
            raise
        except OpenMaaSError as error:
            raise _numbered(error, told(number, recipe)) from None
        except MemoryError:
            raise
        except Exception as error:  # a library's own
            said = without_paths(" ".join(str(error).split()))[:400]
            self._job.log(f"{name}: {type(error).__name__}: {said}")
            raise Refused(
                f"{told(number, recipe)} failed: {type(error).__name__}: {said}",
                code="pass_failed",
                next_step="Leave the step out, or give it other parameters.",
            ) from error
        self.seconds[step_label(step)] = time.monotonic() - start
        for note in made.notes[len(piece.notes) :]:
            self._job.log(f"{name}: {note}")
        return made

    def _teacher(self, reference: str) -> Answer:
        return self._answering.version(reference or self._reference)


class WithinStep:
    """The job as a step sees it: its progress is told with the step's name, and is where it ends when its time is over."""

    def __init__(self, job: Job, name: str, deadline: Callable[[], float | None]) -> None:
        self._job = job
        self._name = name
        self._deadline = deadline

    def progress(self, stage: str, done: float = 0.0, total: float = 0.0) -> None:
        deadline = self._deadline()
        if deadline is not None and time.monotonic() > deadline:
            raise _over()
        self._job.progress(f"{self._name}: {stage}", done, total)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)


@contextmanager
def ended_at(deadline: float | None) -> Iterator[None]:
    """Raise OutOfTime in the block when the time is over, wherever its Python code then is: libraries tell no progress.
    deadline: on time.monotonic's clock. Without effect outside of the main thread, where no signal arrives."""
    if deadline is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    over = False

    def end(_number: int, _frame: FrameType | None) -> None:
        nonlocal over
        over = True
        raise _over()

    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, end)
    left, again = signal.setitimer(signal.ITIMER_REAL, max(_SOON, deadline - start), _AGAIN)
    try:
        yield
    except Exception:
        if over:  # whatever a library made of it
            raise _over() from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(_SOON, left - (time.monotonic() - start)), again)
    if over:  # and a library took it for a failure of its own
        raise _over()


def _over() -> OutOfTime:
    return OutOfTime("The time of the search was over.", code="out_of_time")


# ── before the first step ────────────────────────────────────────────────────────────────────────────────────────────


def begin(reference: str, manifest: Manifest, folder: Path, recipe: Recipe) -> Piece:
    """The version's artifact that the first step works on. Raises InvalidInput for kinds that do not go together, and Refused
    for weights that are NaN or infinite."""
    artifacts = manifest.artifacts or (manifest.choice.artifact,)
    fitting = [artifact for artifact in _sorted(artifacts) if misfit_of_kinds(recipe, artifact.kind) is None]
    if not fitting:
        number, reason = misfit_of_kinds(recipe, _sorted(artifacts)[0].kind) or (1, "")
        raise InvalidInput(
            f"{told(number, recipe)} cannot be applied to {reference}: {reason}.",
            code="pass_not_applicable",
            next_step=f"openmaas convert {reference} --to onnx, and optimize the version that it makes."
            if all(artifact.kind != "onnx" for artifact in artifacts)
            else "Put the step before the one that leaves that kind.",
        )
    piece = Piece(artifact=fitting[0], folder=folder, manifest=manifest)
    require_finite_weights(reference, piece)
    return piece


def misfit_of_kinds(recipe: Recipe, kind: str) -> tuple[int, str] | None:
    """The first step that does not take what the one before leaves, and why; None where all do."""
    for number, step in enumerate(recipe.steps, 1):
        takes = find_pass(step).TAKES
        if kind not in takes:
            left = "what the version has" if number == 1 else f"what step {number - 1} leaves"
            return number, f"it works on {' or '.join(takes)}, and {left} is {kind}"
        kind = kind_after(step, kind)
    return None


def kind_after(step: Pass, kind: str) -> str:
    """The kind of artifact that a step leaves."""
    if isinstance(step, Convert):
        return step.to
    return "openvino" if isinstance(step, Quantize) and step.tool == "openvino" else kind


def require_finite_weights(reference: str, piece: Piece) -> None:
    """Raises Refused that names the tensor. ONNX only: other kinds are held by their answers."""
    if piece.artifact.kind != "onnx":
        return
    from openmaas.tasks.optimization.checks import require_finite
    from openmaas.tasks.optimization.graphs import read_graph

    try:
        require_finite(read_graph(piece.path))
    except Refused as error:
        raise _numbered(error, reference) from None


def _sorted(artifacts: Sequence[Artifact]) -> list[Artifact]:
    """Those that most passes take first."""
    return sorted(artifacts, key=lambda one: _PREFERRED.index(one.kind) if one.kind in _PREFERRED else len(_PREFERRED))


# ── a step ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_made(piece: Piece) -> None:
    """Raises Refused for a piece whose file is not there."""
    if not piece.path.is_file() or not piece.path.stat().st_size:
        raise Refused(f"It left no file {piece.artifact.entry!r}.", code="pass_failed")


def changes_signature(step: Pass) -> bool:
    return isinstance(step, Merge) and step.method == "chain"


def seed_of(recipe: Recipe, number: int) -> int:
    """Its own, else the recipe's and the step's number together."""
    own = recipe.steps[number - 1].seed
    return recipe.seed + number if own is None else own


def recipe_prefix(recipe: Recipe, number: int) -> Mapping[str, Any]:
    """The first steps as plain data, the same for all recipes that begin with them."""
    return msgspec.structs.replace(recipe, steps=recipe.steps[:number]).to_plain()


def told(number: int, recipe: Recipe) -> str:
    return f"Step {number} of {len(recipe.steps)} ({step_label(recipe.steps[number - 1])})"


def _numbered(error: OpenMaaSError, step: str) -> OpenMaaSError:
    """The same error, with what it is about before its message."""
    wire = error.to_wire()
    wire.error = f"{step}: {error.message}"
    return OpenMaaSError.from_wire(wire)
