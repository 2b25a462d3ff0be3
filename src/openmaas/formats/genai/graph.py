"""A generator's graph read as data: what it takes and gives, whether it keeps its sequences, and what its weights are."""

from __future__ import annotations

import math
from pathlib import Path

from openmaas.core.errors import InvalidInput, Refused
from openmaas.formats.genai.folder import GRAPH
from openmaas.formats.openvino.xml import Reader, check_graph

_TAKES = ("input_ids", "attention_mask", "beam_idx")
_LABELS = {
    "f32": "f32", "bf16": "bf16", "f16": "f16", "i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4", "nf4": "nf4",
}  # fmt: skip
_FOUR_BITS = ("i4", "u4", "nf4")
_FEW = 0.1
_MAX_AXES = 8
_NEXT = "Export it with optimum-intel: optimum-cli export openvino --task text-generation-with-past."


class Graph(Reader):
    """takes: names of the inputs. gives: names of the outputs. keeps: whether it has state of its own. counts: elements of the
    weights (the constants of two axes and more) by type."""

    def __init__(self) -> None:
        super().__init__()
        self.takes: set[str] = set()
        self.gives: set[str] = set()
        self.keeps = False
        self.counts: dict[str, int] = {}
        self._layer = ("", "")

    @property
    def parameters(self) -> int:
        return sum(self.counts.values())

    @property
    def precision(self) -> str:
        """int8, int4, f16 …: of most of the weights, but of the small ones where they are more than a few.

        What is said to have four bits has embeddings of eight, which may be most of a small model. Empty without weights.
        """
        small = [kind for kind in self.counts if kind in _FOUR_BITS and self.counts[kind] > _FEW * self.parameters]
        return _LABELS.get(max(small or self.counts, key=lambda kind: self.counts[kind], default=""), "")

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        super().begin(name, attributes)
        if name == "layer":
            self._layer = (attributes.get("type", ""), attributes.get("name", ""))
            self.keeps = self.keeps or self._layer[0] == "ReadValue"
            if self._layer[0] == "Result":
                self.gives.add(self._layer[1].removeprefix("Result_"))
        elif name == "port" and "names" in attributes:
            names = set(attributes["names"].split(","))
            if self._layer[0] == "Parameter":
                self.takes |= names
            else:
                self.gives |= names & {"logits"}
        elif name == "data" and self._layer[0] == "Const":
            self._count(attributes)

    def _count(self, attributes: dict[str, str]) -> None:
        """A constant of one axis is a norm or a bias, one whose last axis is 1 the scale of a group of packed weights."""
        axes = [axis.strip() for axis in attributes.get("shape", "").split(",")]
        kind = attributes.get("element_type", "")
        if kind not in _LABELS or not 2 <= len(axes) <= _MAX_AXES or axes[-1] == "1":
            return
        if all(axis.isascii() and axis.isdigit() and len(axis) < 19 for axis in axes):
            self.counts[kind] = self.counts.get(kind, 0) + math.prod(map(int, axes))


def read_graph(folder: Path, entry: str) -> Graph:
    """Raises Refused or InvalidInput where it is not a generator's graph, or its weights are not all there."""
    if Path(entry).name != GRAPH:
        raise InvalidInput(
            f"The graph of a generator is called {entry!r}; OpenVINO GenAI looks for {GRAPH!r}.",
            code="invalid_path",
            next_step=f"Rename it and its .bin to {GRAPH!r} and 'openvino_model.bin'.",
        )
    graph = Graph()
    if check_graph(folder, entry, graph) is None:
        raise InvalidInput(f"The graph {entry!r} has no weights.", code="damaged", next_step=_NEXT)
    if missing := [name for name in _TAKES if name not in graph.takes]:
        raise Refused(f"The graph takes no {missing[0]!r}, as generators do.", code="unsupported_model", next_step=_NEXT)
    if "logits" not in graph.gives:
        raise Refused("The graph gives no 'logits'.", code="unsupported_model", next_step=_NEXT)
    if not graph.keeps:
        raise Refused(
            "The graph keeps nothing of a sequence, so that each token would cost as much as the whole text before it.",
            code="unsupported_model",
            next_step=_NEXT,
        )
    return graph
