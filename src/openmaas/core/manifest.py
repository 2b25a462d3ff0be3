"""What a version is: its files by digest, and everything that serving needs to know. Its own digest names the version.

A manifest never changes. Its canonical form is JSON with sorted keys, no spaces and no defaults left out, in UTF-8.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Any, Final, Literal

import msgspec

from openmaas.core.errors import InvalidInput
from openmaas.core.generation import Generator
from openmaas.core.processing import Padding, Processing
from openmaas.core.types import Signature

NO_SAMPLE: Final = "No sample was given"
"""Begins the note of a version whose sample was made up at push."""


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a version. `path` is relative, with '/' between its parts; `size` in bytes; `sha256` in lower-case hex."""

    path: str
    size: int
    sha256: str


class Artifact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One form of the model among its files that an engine can load: all of a version's artifacts give the same answers.

    kind: onnx, openvino, torchscript, torch-export, keras, tflite, saved-model, skops, pickle, xgboost, lightgbm, function,
    dummy … entry: the file that is loaded. options: what loading it needs besides (layout, an approved digest …).
    """

    kind: str
    entry: str
    options: dict[str, Any] = {}


class EngineChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a version: which engine loads which artifact, and how.

    precision: empty as the file has it; bf16, f16 or int8 where the engine computes with less. threads: 0 is its share.
    options: the engine's own, as {"compile": true}.
    """

    engine: str
    artifact: Artifact
    precision: str = ""
    threads: int = 0
    options: dict[str, Any] = {}

    @property
    def label(self) -> str:
        """As people write it after --engine: onnxruntime, openvino:bf16."""
        return ":".join(filter(None, (self.engine, self.precision, *sorted(map(str, self.options)))))


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """How far apart two engines' answers were at one batch size; `output` is the one that differed most.

    cosine: the least of any row, None where no output has rows of two numbers or more. top1: share of rows whose largest
    value is at the same place.
    """

    batch: int
    output: str
    max_abs_diff: float
    max_rel_diff: float
    labels_equal: bool = True
    cosine: float | None = None
    top1: float | None = None


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """A conversion held against its source. Outside the tolerance (`passed` false) the source's own engine serves.

    `sample` says what was compared on: "given" by the pusher, "generated" at random from the signature, or "built-in" text.
    perplexity: of the source and of the target on that text, where both generate text.
    """

    source: str
    target: str
    passed: bool
    sample: str
    rtol: float
    atol: float
    comparisons: tuple[Comparison, ...] = ()
    reason: str | None = None
    perplexity: tuple[float, float] | None = None

    @property
    def max_abs_diff(self) -> float:
        return max((c.max_abs_diff for c in self.comparisons), default=0.0)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The immutable description of a version.

    format: what the pushed files are (onnx, sklearn, dummy …). engine: what runs them unless a measurement found a faster one;
    empty where nothing here can, and it must be converted first. entry: the file that the engine loads.
    artifacts: every form that some engine can load, the one that `engine` loads first.
    batchable: requests may share a batch along axis 0; `batching` says how that is known, or why not.
    padding: rows of different lengths may share one when they are padded. processing: before and after the engine.
    sample: the .npz among the files with engine inputs by name, and `expected/NAME` with the source's answers to them.
    generator: of a version that generates text, None of any other.
    options: what the engine needs besides (labels, the dummy's behaviour …). notes: what a person should be told.
    """

    schema: int = 2
    format: str
    engine: str
    entry: str
    artifacts: tuple[Artifact, ...] = ()
    signature: Signature
    files: tuple[FileEntry, ...]
    batchable: bool = False
    batching: str = ""
    padding: Padding | None = None
    processing: Processing | None = None
    generator: Generator | None = None
    sample: str | None = None
    parity: Parity | None = None
    options: dict[str, Any] = {}
    notes: tuple[str, ...] = ()

    @property
    def sample_origin(self) -> Literal["given", "generated"]:
        """Whether the pusher gave the sample, or it was made up at push. What is converted has its source's."""
        made_up = self.sample is None or any(note.startswith(NO_SAMPLE) for note in self.notes)
        return "generated" if made_up or (self.parity is not None and self.parity.sample == "generated") else "given"

    @property
    def choice(self) -> EngineChoice:
        """How the version runs where nothing was measured: as it was proved when it was pushed."""
        artifact = next((artifact for artifact in self.artifacts if artifact.entry == self.entry), None)
        return EngineChoice(
            engine=self.engine, artifact=artifact or Artifact(kind=self.format, entry=self.entry, options=self.options)
        )

    def canonical(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, in hex."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def check_path(path: str) -> str:
    """A file's path inside a version: relative, without `..`, backslashes, control characters or empty parts."""
    parts = PurePosixPath(path).parts
    bad = (
        not path
        or len(path) > 512
        or len(parts) > 32
        or path.startswith("/")
        or "\\" in path
        or ":" in path.partition("/")[0]
        or any(ord(character) < 32 or ord(character) == 127 for character in path)
        or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in path.split("/"))
    )
    if bad:
        raise InvalidInput(
            f"{path[:120]!r} is not a file path inside a model: relative, '/' between parts, no '..'.", code="invalid_path"
        )
    return path
