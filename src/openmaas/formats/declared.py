"""What openmaas.yaml and a labels.txt say of input and output processing, laid over what the format found out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from openmaas.core.errors import InvalidInput
from openmaas.core.processing import Labels, Output, Processing
from openmaas.core.types import Signature, TensorSpec
from openmaas.formats.base import Examined, Task
from openmaas.formats.description import FILE_NAME, Description

LABELS_FILE = "labels.txt"
_MAX_LABELS = 1 << 20  # bytes
_NEXT = f"Correct {FILE_NAME} and push again."


def with_processing(task: Task, examined: Examined, files: Collection[str]) -> Examined:
    """The same with its processing complete and checked. files: the pushed ones. Raises InvalidInput that names the field.

    What the format found out and does not fit is left away with a note: nobody said it.
    """
    said = _said(task.description, examined)
    if not examined.signature.inputs:  # nothing here can look into it: the conversion that follows checks it
        return msgspec.structs.replace(examined, processing=_over(said, examined.processing))
    known = {*files, *examined.added}
    notes: list[str] = []
    found = _checked(examined, known, notes)
    if said.output is None and (found is None or found.output is None):
        said = msgspec.structs.replace(said, output=_of_file(task.folder, examined, files, notes))
    whole = _over(said, found)
    if whole is not None:
        whole = _resolved(whole, examined.signature, known)
    return msgspec.structs.replace(examined, processing=whole, notes=(*examined.notes, *notes))


def _resolved(processing: Processing, signature: Signature, files: Collection[str]) -> Processing:
    from openmaas.processing import resolve

    return resolve(processing, signature, files)


def _checked(examined: Examined, files: Collection[str], notes: list[str]) -> Processing | None:
    if examined.processing is None:
        return None
    try:
        return _resolved(examined.processing, examined.signature, files)
    except InvalidInput as error:
        notes.append(f"What its files say of input and output is not used: {error.message}")
        return None


def _over(said: Processing, found: Processing | None) -> Processing | None:
    found = found or Processing()
    whole = Processing(input=said.input or found.input, output=said.output or found.output)
    return whole if whole.input or whole.output else None


def _said(description: Description, examined: Examined) -> Processing:
    said = description.processing or Processing()
    if not description.labels:
        return said
    names = tuple(map(str, description.labels))
    if said.output is not None:
        raise InvalidInput(
            f"{FILE_NAME} says both 'labels' and 'processing.output'.", code="invalid_description", next_step=_NEXT
        )
    found = examined.processing.output if examined.processing is not None else None
    output = msgspec.structs.replace(found, labels=names) if isinstance(found, Labels) else None
    output = output or labels_of(names, examined.signature)
    if output is None:
        raise InvalidInput(
            f"labels: there are {len(names)}, and no output of the model has that many scores: {_listed(examined.signature)}.",
            code="invalid_processing",
            next_step=f"Correct {FILE_NAME}, or say processing.output with the output and its labels.",
        )
    return msgspec.structs.replace(said, output=output)


def labels_of(names: Sequence[str], signature: Signature) -> Labels | None:
    """Which output these classes belong to, by its shape, and what its numbers are, by its name; None where none fits."""
    fitting = [spec for spec in signature.outputs if _fits(spec, len(names))]
    if len(fitting) > 1:
        fitting = [spec for spec in fitting if "prob" in spec.name.lower()]
    if len(fitting) != 1:
        return None
    (spec,) = fitting
    name = spec.name.lower()
    return Labels(
        output=spec.name,
        labels=tuple(names),
        activation="softmax" if "logit" in name else "none",
        probabilities="prob" in name or "softmax" in name,
        tokens=len(spec.shape) == 3,
    )


def _fits(spec: TensorSpec, count: int) -> bool:
    floating = spec.datatype in ("FP16", "FP32", "FP64", "BF16")
    return floating and len(spec.shape) in (2, 3) and spec.shape[-1] in (-1, count)


def _of_file(folder: Path, examined: Examined, files: Collection[str], notes: list[str]) -> Output | None:
    """Labels out of a labels.txt beside the model, one a line."""
    beside = str(PurePosixPath(examined.entry).with_name(LABELS_FILE)) if examined.entry else LABELS_FILE
    path = next((path for path in (beside, LABELS_FILE) if path in files), None)
    if path is None:
        return None
    names = _lines(folder / path)
    labels = labels_of(names, examined.signature) if len(set(names)) == len(names) > 1 else None
    if labels is None:
        notes.append(f"{path} is not used: its lines ({len(names)}) are no names of classes for {_listed(examined.signature)}.")
        return None
    kind = {"scores": f"its scores as they are (logits? say so in {FILE_NAME})"}.get(labels.gives, "probabilities")
    notes.append(f"{path} names the {len(names)} classes of output {labels.output!r}; answers give {kind}.")
    return labels


def _lines(path: Path) -> list[str]:
    if path.stat().st_size > _MAX_LABELS:
        return []
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return []
    return [line.strip() for line in lines if line.strip()]


def _listed(signature: Signature) -> str:
    return ", ".join(f"{spec.name!r} {spec.datatype} {list(spec.shape)}" for spec in signature.outputs) or "no outputs"
