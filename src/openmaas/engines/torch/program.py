"""A PyTorch program in memory that answers. The proof at push and the engine that serves load and run it by this same code."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import EngineFailed, OpenMaaSError, Refused
from openmaas.core.types import Signature
from openmaas.engines.torch.exported import load_exported
from openmaas.engines.torch.script import load_script, reason
from openmaas.engines.torch.values import Arrays, name_outputs, spec_of, to_array, to_tensor

# Inductor would start a pool of processes, which a replica's share of the machine has no room for.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


class TorchProgram(ABC):
    """`run` takes and gives arrays by name, as a signature has them. Not for two threads at once.

    module: what is called. inputs: the names that it takes, in their order.
    """

    module: Any
    inputs: tuple[str, ...]

    def __init__(self) -> None:
        self.call: Callable[..., Any] = self.module
        self.precision = ""
        self._outputs: dict[str, Any] = {}

    def bind(self, signature: Signature) -> None:
        """Run with this signature from now on: its outputs alone, in its types."""
        self._outputs = {spec.name: numpy_dtype(spec.datatype) for spec in signature.outputs}

    def compile(self) -> None:
        """Let torch.compile make native code of it at its first runs, once for all batch sizes and lengths."""
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.call = torch.compile(self.module, dynamic=True)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """One batch. Raises EngineFailed with what the library said."""
        try:
            answers = self.answer({name: to_tensor(array) for name, array in inputs.items()})
            arrays = {name: to_array(tensor) for name, tensor in answers.items() if not self._outputs or name in self._outputs}
        except OpenMaaSError:
            raise
        except Exception as error:
            raise EngineFailed(f"torch cannot run this input: {reason(error)}") from None
        return {name: array.astype(self._outputs.get(name, array.dtype), copy=False) for name, array in arrays.items()}

    def answer(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The module's tensors by name."""
        import torch

        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.precision == "bf16":
                stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
            return name_outputs(self._apply(tensors), self.inputs)

    @abstractmethod
    def _apply(self, tensors: Mapping[str, Any]) -> Any:
        """Call the module with tensors by name."""


class ScriptProgram(TorchProgram):
    """TorchScript. `required` are the inputs without a default."""

    def __init__(self, path: Path) -> None:
        self.module = load_script(path)
        arguments = self.module.forward.schema.arguments[1:]
        self.inputs = tuple(argument.name for argument in arguments)
        self.required = tuple(argument.name for argument in arguments if not argument.has_default_value())
        super().__init__()

    def _apply(self, tensors: Mapping[str, Any]) -> Any:
        return self.call(**tensors)


class ExportedProgram(TorchProgram):
    """A .pt2. `exported` is torch's own object; the signature is what it says of itself."""

    def __init__(self, path: Path) -> None:
        self.exported = load_exported(path)
        try:
            self.module = self.exported.module(check_guards=False)
            self._leaves = tuple(self.exported.graph_signature.user_inputs)
        except Exception as error:
            raise EngineFailed(f"torch cannot load the exported program: {reason(error)}", code="load_failed") from None
        self.inputs = tuple(leaf for leaf in self._leaves if isinstance(leaf, str))
        super().__init__()

    @property
    def signature(self) -> Signature:
        """Names, types and shapes, -1 for a dynamic axis. Raises Refused for inputs or outputs that are no tensors."""
        import torch

        nodes = {node.name: node.meta.get("val") for node in self.exported.graph.nodes}
        inputs = {name: nodes[name] for name in self.inputs}
        if other := [name for name, value in inputs.items() if not isinstance(value, torch.Tensor)]:
            raise Refused(
                f"The program takes {other[0]!r}, which is no tensor.",
                code="unsupported_type",
                next_step="Export it with tensors alone as inputs.",
            )
        return Signature(
            inputs=tuple(spec_of(name, value) for name, value in inputs.items()),
            outputs=tuple(spec_of(name, value) for name, value in self.answer_nodes().items()),
        )

    def answer_nodes(self) -> dict[str, Any]:
        """What the graph says of each output by our names, in the graph's own order: fake tensors."""
        nodes = {node.name: node.meta.get("val") for node in self.exported.graph.nodes}
        leaves = [nodes.get(name) for name in self.exported.graph_signature.user_outputs]
        return name_outputs(_unflatten(leaves, self.exported.call_spec.out_spec), self.inputs)

    def _apply(self, tensors: Mapping[str, Any]) -> Any:
        values = [tensors[leaf] if isinstance(leaf, str) else leaf for leaf in self._leaves]
        arguments, named = _unflatten(values, self.exported.call_spec.in_spec)
        return self.call(*arguments, **named)


def _unflatten(leaves: list[Any], spec: Any) -> Any:
    from torch.utils import _pytree

    return _pytree.tree_unflatten(leaves, spec)


def load_program(path: Path, kind: str) -> TorchProgram:
    """The program in a file of kind torchscript or torch-export. Raises Refused where it is unsafe, EngineFailed."""
    return ScriptProgram(path) if kind == "torchscript" else ExportedProgram(path)
