"""What happens to a request before the engine and to its answer after it, as core/processing.py declares it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmaas.core.errors import EngineFailed, OpenMaaSError
from openmaas.core.manifest import Manifest
from openmaas.core.processing import Column, Embedding, ImageInput, Input, Labels, Output, Processing, TableInput, TextInput
from openmaas.core.types import Signature
from openmaas.processing.base import After, Before, Prepared, Tensors
from openmaas.processing.checks import resolve

__all__ = ["After", "Before", "Prepared", "Processor", "Tensors", "open_processing", "resolve"]


class Processor:
    """Both sides of one version's engine.

    signature: the engine's own. public: as callers see it, with the raw input in place of the engine's and what is made of its
    outputs in place of them. input: the declaration that `before` keeps, None where only tensors go in.
    """

    def __init__(self, signature: Signature, input_: Input | None, before: Before | None, after: After | None) -> None:
        self.signature = signature
        self.input = input_
        self.before = before
        self.after = after
        spec = before.spec if before is not None else None
        self.public = Signature(
            inputs=signature.inputs if spec is None else (spec,),
            outputs=signature.outputs if after is None else after.specs(signature),
        )

    def prepare(self, rows: Any) -> Prepared:
        """Raw rows, as Before.prepare takes them, as the engine's inputs."""
        if self.before is None:
            raise OpenMaaSError("This version takes its engine's tensors only.")
        return self.before.prepare(rows)

    def finish(self, outputs: Tensors, inputs: Mapping[str, NDArray[np.generic]], options: Mapping[str, Any]) -> Tensors:
        """The public outputs. Raises EngineFailed where they cannot be made of the engine's."""
        return outputs if self.after is None else self.after.finish(outputs, inputs, options)


def open_processing(manifest: Manifest, folder: Path) -> Processor:
    """What the manifest declares, ready to work; `folder` holds the version's files.

    Raises EngineFailed: library_missing with the extra to install, or what is wrong with a file.
    """
    declared = manifest.processing or Processing()
    given = declared.input or _columns(manifest.signature)
    before = _before(given, declared, manifest.signature, folder)
    return Processor(manifest.signature, given, before, _after(declared.output, declared.input, manifest.signature))


def _columns(signature: Signature) -> TableInput | None:
    """A model whose inputs are all one value a row is a table, whether or not anybody said so."""
    single = all(len(spec.shape) == 1 or (len(spec.shape) == 2 and spec.shape[1] == 1) for spec in signature.inputs)
    if len(signature.inputs) < 2 or not single or any(spec.datatype == "BF16" for spec in signature.inputs):
        return None
    return TableInput(columns=tuple(Column(name=spec.name, datatype=spec.datatype) for spec in signature.inputs))


def _before(given: Input | None, declared: Processing, signature: Signature, folder: Path) -> Before | None:
    # Each imports what it needs: a text model does not load Pillow.
    if isinstance(given, TextInput):
        from openmaas.processing.text import Texts

        tokens = isinstance(declared.output, Labels) and declared.output.tokens
        return Texts(given, folder, offsets=tokens)
    if isinstance(given, ImageInput):
        from openmaas.processing.image import Images

        try:
            return Images(given, next(spec for spec in signature.inputs if spec.name == given.tensor))
        except ImportError:
            raise EngineFailed(
                "The model reads images, and Pillow is not installed here.",
                code="library_missing",
                next_step="pip install 'openmaas[image]' where the server runs.",
            ) from None
    if isinstance(given, TableInput):
        from openmaas.processing.table import Tables

        return Tables(given, signature)
    return None


def _after(declared: Output | None, given: Input | None, signature: Signature) -> After | None:
    if declared is None:
        return None
    from openmaas.processing.outputs import ClassLabels, Embeddings

    if isinstance(declared, Embedding):
        return Embeddings(declared, _attention(given))
    own = declared.output != "label" and any(spec.name == "label" for spec in signature.outputs)
    return ClassLabels(declared, own)


def _attention(given: Input | None) -> str | None:
    """The engine input that tells tokens from padding."""
    roles = given.tensors if isinstance(given, TextInput) else {}
    return next((name for name, role in roles.items() if role == "attention"), None)
