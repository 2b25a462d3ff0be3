"""Recorded runs of a decoder: a GPU repeats one at a single command, where it would else wait for Python at each kernel."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmaas.core.log import get_logger
from openmaas.engines.transformers.pages import Pages

Run: TypeAlias = Callable[[Pages, Any, Any], Any]

_LEAST_PAGES = 4
_FARTHEST = 0.05  # of the largest logit: how far a recording may be from the run that it was made of


class Graphs:
    """CUDA graphs, one for each shape of a batch, recorded when it first comes. They share their memory.

    A model that waits for the GPU in between (as one does that sends tokens to experts one by one) cannot be recorded: all
    that is asked of it runs as it would without.
    """

    def __init__(self, run: Run, store: Pages) -> None:
        """run: gives logits, [rows, V], of the store, addresses and pages as `Pages`' functions make them."""
        import torch

        self._run = run
        self._store = store
        self._recorded: dict[tuple[int, int], tuple[Any, Any, Any]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()
        self._logits: dict[int, Any] = {}
        self._able = True

    @staticmethod
    def shape(rows: int, pages: int) -> tuple[int, int]:
        """Of the smallest recording that so many rows, and pages of the longest, fit into."""
        return 1 << (rows - 1).bit_length(), max(_LEAST_PAGES, 1 << (pages - 1).bit_length())

    def run(self, addresses: NDArray[np.int64], pages: NDArray[np.int64]) -> Any:
        """Logits, float32 [rows, V], of [3, rows] and [recorded rows, recorded pages]; they stay until the next call. None
        where the model cannot be recorded."""
        import torch

        if not self._able:
            return None
        rows = addresses.shape[1]
        shape = pages.shape[0], pages.shape[1]
        filled = np.zeros((3, shape[0]), dtype=np.int64)  # the rest reads the first token again, and writes to nobody's page
        filled[:, :rows] = addresses
        graph = self._recorded.get(shape)
        if graph is None:
            graph = self._record(shape, torch.from_numpy(filled), torch.from_numpy(pages))
            if graph is None:
                return None
        recorded, held_addresses, held_pages = graph
        held_addresses.copy_(torch.from_numpy(filled))
        held_pages.copy_(torch.from_numpy(pages))
        recorded.replay()
        return self._logits[shape[0]][:rows]

    def _record(self, shape: tuple[int, int], addresses: Any, pages: Any) -> tuple[Any, Any, Any] | None:
        import torch

        held = addresses.cuda(), pages.cuda()
        try:
            told = self._tried(*held)
            found = self._logits.setdefault(shape[0], torch.empty_like(told))
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                found.copy_(self._run(self._store, *held))
            graph.replay()
            apart, largest = float((found.nan_to_num() - told.nan_to_num()).abs().max()), float(told.nan_to_num().abs().max())
        except RuntimeError as error:
            self._give_up(str(error).partition("\n")[0])
            return None
        if not apart <= _FARTHEST * max(largest, 1.0):
            self._give_up(f"logits are up to {apart:.2g} apart")
            return None
        self._recorded[shape] = graph, *held
        return self._recorded[shape]

    def _tried(self, addresses: Any, pages: Any) -> Any:
        """Without a recording, on a stream of its own. RuntimeError where the model waits for the GPU."""
        import torch

        before = torch.cuda.get_sync_debug_mode()
        self._stream.wait_stream(torch.cuda.current_stream())
        _say_waiting("error")
        try:
            with torch.cuda.stream(self._stream):
                found = self._run(self._store, addresses, pages).float()
        finally:
            _say_waiting(before)
            torch.cuda.current_stream().wait_stream(self._stream)
        return found

    def _give_up(self, why: str) -> None:
        self._able = False
        self._recorded.clear()
        get_logger("engine").info("no_graphs", why=why)


def _say_waiting(how: str | int) -> None:
    """Whether it is an error to wait for the GPU."""
    import torch

    with warnings.catch_warnings(action="ignore"):  # that not everything is found; what is not fails when it is recorded
        torch.cuda.set_sync_debug_mode(how)
