"""The seam between a request and the engine: raw inputs become the engine's tensors, its outputs become what callers read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.types import Signature, TensorSpec

Tensors: TypeAlias = dict[str, NDArray[np.generic]]


class Prepared(msgspec.Struct):
    """The engine's inputs, all with rows on axis 0. lengths: of each row along the sequence axis, before any padding.

    notes: what the caller must be told of single rows, as {"row": 3, "truncated": true, "tokens": 900, "limit": 512}.
    """

    inputs: Tensors
    lengths: tuple[int, ...] = ()
    notes: tuple[dict[str, Any], ...] = ()


class Before(ABC):
    """Raw inputs → the engine's. Called from several threads at once."""

    spec: TensorSpec | None
    """The public input that stands for the engine's, None where rows by column name do."""

    @abstractmethod
    def prepare(self, rows: Any) -> Prepared:
        """rows: a BYTES array [N] or [N, 1] of texts or images; for tables a mapping of column names to lists of values.

        Raises InvalidInput that names the row or column, what was expected and what came.
        """


class After(ABC):
    """The engine's outputs → what callers read. Pure functions on arrays; called from several threads at once."""

    @abstractmethod
    def specs(self, signature: Signature) -> tuple[TensorSpec, ...]:
        """The outputs as callers see them, made of the engine's signature."""

    @abstractmethod
    def finish(self, outputs: Tensors, inputs: Mapping[str, NDArray[np.generic]], options: Mapping[str, Any]) -> Tensors:
        """outputs and inputs: the engine's. options: the caller's own, as {"top": 5}; unknown names were refused before."""
