"""The seam that every engine fits: one format run by one library, in one process, for one version."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.generation import EngineLoad, GenerationRequest, Progress
from openmaas.core.manifest import Artifact, EngineChoice, Manifest

Tensor: TypeAlias = NDArray[np.generic]
Tensors: TypeAlias = dict[str, Tensor]
"""Arrays by input or output name. BYTES tensors are arrays of dtype object that hold `bytes`."""


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is given: the folder with the version's files (read-only, digests checked), which of them to load and how,
    and its share of threads. choice: None for the manifest's own."""

    folder: Path
    manifest: Manifest
    threads: int = 1
    choice: EngineChoice | None = None

    @property
    def chosen(self) -> EngineChoice:
        return self.choice or self.manifest.choice

    @property
    def entry(self) -> Path:
        """The file to load."""
        return self.folder / self.chosen.artifact.entry


class Engine(ABC):
    """Runs one version. Heavy libraries are imported in `load`, never at the top of an engine's file.

    name: of its entry point. kinds: of artifacts that it loads. library: the module without which it cannot.
    All methods but `load` may be called from a worker thread, one at a time.
    """

    name: ClassVar[str] = ""
    kinds: ClassVar[frozenset[str]] = frozenset()
    library: ClassVar[str] = ""

    @classmethod
    def choices(cls, artifact: Artifact, manifest: Manifest) -> tuple[EngineChoice, ...]:
        """The ways in which this engine could run an artifact on this machine, the plainest first; empty when it cannot.

        Loads nothing heavy. Whether each gives the right answers, and how fast, is for a measurement to say.
        """
        if artifact.kind not in cls.kinds or (cls.library and find_spec(cls.library) is None):
            return ()
        return (EngineChoice(engine=cls.name, artifact=artifact),)

    @abstractmethod
    def load(self, spec: EngineSpec) -> None:
        """Make ready to run. Raises EngineFailed with what the library said and what would help."""

    def warm(self) -> None:  # noqa: B027 - an engine need not
        """Run once on made-up input, so that the first caller does not pay for it. Nothing by default."""

    def run(self, inputs: Tensors) -> Tensors:
        """Answer one batch. Axis 0 of every array is the batch where the version is batchable. Blocks."""
        raise NotImplementedError

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """What the engine says of itself: library, version, device, threads."""

    def close(self) -> None:  # noqa: B027 - an engine need not
        """Give back what is not memory. Unloading is the end of the process."""


class GenerationEngine(Engine):
    """Runs a version that generates text. It schedules its requests itself, many at a time (continuous batching).

    All methods after `warm` are called from one thread, the replica's engine loop. honours: what of a request it can do besides
    temperature, top_p, top_k, seed and max_tokens: any of min_p, presence_penalty, frequency_penalty, repetition_penalty,
    logprobs (of the chosen tokens), top_logprobs (of others too), grammar. The replica refuses what is not among them.
    """

    honours: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def admit(self, request: GenerationRequest) -> None:
        """Take a request in while others run; it never blocks for long. Raises InvalidInput for what cannot be done (a grammar
        that does not compile), Unavailable where its cache can never hold the request."""

    @abstractmethod
    def cancel(self, request_id: int) -> None:
        """Stop a request and free what it holds, at the latest with the next step; unknown ids are ignored. It gives no more
        progress."""

    @abstractmethod
    def step(self) -> list[Progress]:
        """One iteration over what was admitted. Blocks while it computes; returns at once where nothing is left to do.

        What it raises ends all requests: the replica then fails each of them and exits."""

    @abstractmethod
    def load_now(self) -> EngineLoad:
        """What runs and waits inside the engine, cheap enough to be asked after each step."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether any request is not over: then `step` is called again."""
