"""What the push of a version that was made of another needs beside its artifact: sample, tokenizer, what no file tells."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from openmaas.core.manifest import Manifest
from openmaas.core.processing import TextInput
from openmaas.formats.description import FILE_NAME
from openmaas.formats.kept import write_sample

SAMPLE = "sample.npz"


def pack_beside(
    target: Manifest,
    output: Path,
    *,
    source: Path,
    inputs: Mapping[str, NDArray[Any]],
    expected: Mapping[str, NDArray[Any]],
    converted: bool = False,
    padding: bool = True,
) -> Path:
    """Write the sample with these answers, the tokenizer and openmaas.yaml into `output`, where the artifact is; the sample.

    target: its signature, options, processing and padding are the new version's. source: folder with the parent's files.
    converted: a comparison comes with the push, that the entry belongs to. padding: declare it, where the parent has it.
    """
    sample = output / SAMPLE
    write_sample(sample, inputs, expected)
    description: dict[str, Any] = {
        "converted": target.entry if converted else None,
        "entry": None if converted else target.entry,
        "signature": msgspec.to_builtins(target.signature),
        "options": target.options,
        "padding": msgspec.to_builtins(target.padding) if padding else None,
    }
    if target.processing is not None:
        description["processing"] = msgspec.to_builtins(target.processing)
        add_tokenizer(target, output, source)
    (output / FILE_NAME).write_bytes(msgspec.yaml.encode({key: value for key, value in description.items() if value}))
    return sample


def add_tokenizer(target: Manifest, output: Path, source: Path) -> None:
    """The tokenizer that its processing names, from the parent's folder, where it is not there yet."""
    declared = target.processing.input if target.processing is not None else None
    if isinstance(declared, TextInput) and not (output / declared.tokenizer).exists():
        (output / declared.tokenizer).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / declared.tokenizer, output / declared.tokenizer)
