"""What passes work on and with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from numpy.typing import NDArray

from openmaas.core.manifest import Artifact, Manifest
from openmaas.core.recipes import Pass
from openmaas.tasks.base import Job
from openmaas.tasks.examples import Examples

Arrays = dict[str, NDArray[Any]]
Answer = Callable[[Arrays], Arrays]
"""Engine inputs → the engine's outputs, any number of rows."""

UNPACKED: Final = "Weights that are 0 make the file smaller only once it is packed: add the step compress."
"""A note of passes that leave zeros; `compress` takes it back."""


class Unpacked(NamedTuple):
    """Bytes that a file will have when it is packed, and seconds that packing it will take; both estimated."""

    size: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A model between two passes: one artifact, which is in `folder` with all files that it needs.

    Its inputs and outputs are those of `manifest`, the version's that is optimised: a pass changes neither their names, types
    nor shapes (merge's chain does, and then gives a manifest with another signature). notes: what a person should be told.
    facts: what a pass found out, kept with the variant (layers that stayed in float, the sparsity of each layer …). unpacked:
    what packing would make of it, where a search has left that for later.
    """

    artifact: Artifact
    folder: Path
    manifest: Manifest
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    unpacked: Unpacked | None = None

    @property
    def path(self) -> Path:
        """The file that an engine loads."""
        return self.folder / self.artifact.entry

    def changed(self, artifact: Artifact, folder: Path, *notes: str, **facts: Any) -> Piece:
        """The piece after a pass: other files, and what is to be said of them besides what was said before."""
        return replace(self, artifact=artifact, folder=folder, notes=(*self.notes, *notes), facts={**self.facts, **facts})


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a pass may use.

    training: the training set bound to this model; None where none was given (a pass whose parameters say `needs_data` is never
    run without). seed: of everything random in the pass. folder: an empty one for what it makes. teacher: engine answers of a
    version by its reference, empty for the version that is optimised. source: a version's manifest and files.
    """

    job: Job
    training: Examples | None
    seed: int
    folder: Path
    teacher: Callable[[str], Answer]
    source: Callable[[str], tuple[Manifest, Path]]

    def progress(self, stage: str, done: float = 0.0, total: float = 0.0) -> None:
        """Tell how far the pass is. Raises Cancelled."""
        self.job.progress(stage, done, total)

    def log(self, line: str) -> None:
        self.job.log(line)


class PassModule(Protocol):
    """A file of passes/."""

    TAKES: tuple[str, ...]

    @staticmethod
    def run(piece: Piece, parameters: Any, bench: Bench) -> Piece:
        """Raises Refused that names the layer or node that stands in the way and what to do, and Cancelled."""


def cannot(step: Pass, reason: str, next_step: str) -> Exception:
    """The error of a pass that does not apply. reason: a clause that names the layer or node."""
    from openmaas.core.errors import Refused

    return Refused(f"The pass {step.name} cannot be applied: {reason}.", code="pass_not_applicable", next_step=next_step)
