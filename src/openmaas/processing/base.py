"""The seam between a request and the engine: raw inputs become the engine's tensors, its outputs become what callers read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from openmaas.core.types import Signature, TensorSpec

Tensors: TypeAlias = dict[str, NDArray[np.generic]]


class Prepared(msgspec.Struct):
    """The engine's inputs, all with rows on axis 0. lengths: of each row along the sequence axis, before any padding.

    notes: what the caller must be told of single rows, as {"row": 3, "truncated": true, "tokens": 900, "limit": 512}.
    offsets: for each token of each row, where it begins and ends in the text, in characters; (0, 0) for special tokens.
    """

    inputs: Tensors
    lengths: tuple[int, ...] = ()
    notes: tuple[dict[str, Any], ...] = ()
    offsets: tuple[tuple[tuple[int, int], ...], ...] = ()


class Before(ABC):
    """Raw inputs → the engine's. Called from several threads at once.

    quick: bytes of raw input up to which `prepare` takes no longer than an event loop can spare (well below a millisecond).
    """

    quick: ClassVar[int] = 16 * 1024

    spec: TensorSpec | None
    """The public input that stands for the engine's, None where rows by column name do."""

    @abstractmethod
    def prepare(self, rows: Any) -> Prepared:
        """rows: a BYTES array [N] or [N, 1] of texts or images, [N, 2] of pairs of texts. For tables a mapping of column names
        to lists of values, a msgspec.Raw with JSON (a list of records or of rows by position, or one of them), or Fields.

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

    @abstractmethod
    def rows(
        self,
        finished: Tensors,
        options: Mapping[str, Any],
        offsets: Sequence[Sequence[tuple[int, int]]] = (),
        texts: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """One object a row for people, made of what `finish` gave.

        offsets: as in Prepared; texts: the rows that they point into.
        """
