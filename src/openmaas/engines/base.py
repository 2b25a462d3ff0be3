"""The seam that every engine fits: one format run by one library, in one process, for one version."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.manifest import Manifest

Tensor: TypeAlias = NDArray[np.generic]
Tensors: TypeAlias = dict[str, Tensor]
"""Arrays by input or output name. BYTES tensors are arrays of dtype object that hold `bytes`."""


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is given: the folder with the version's files (read-only, digests checked) and its share of threads."""

    folder: Path
    manifest: Manifest
    threads: int = 1


class Engine(ABC):
    """Runs one version. Heavy libraries are imported in `load`, never at the top of an engine's file.

    All methods but `load` may be called from a worker thread, one at a time.
    """

    @abstractmethod
    def load(self, spec: EngineSpec) -> None:
        """Make ready to run. Raises EngineFailed with what the library said and what would help."""

    def warm(self) -> None:  # noqa: B027 - an engine need not
        """Run once on made-up input, so that the first caller does not pay for it. Nothing by default."""

    def run(self, inputs: Tensors) -> Tensors:
        """Answer one batch. Axis 0 of every array is the batch where the version is batchable. Blocks."""
        raise NotImplementedError

    def generate(self, inputs: Tensors) -> Iterator[bytes]:
        """Answer one request piece by piece. Blocks between pieces; closing the iterator stops the work."""
        raise NotImplementedError

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """What the engine says of itself: library, version, device, threads."""

    def close(self) -> None:  # noqa: B027 - an engine need not
        """Give back what is not memory. Unloading is the end of the process."""
