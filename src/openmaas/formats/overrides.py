"""The signature that a file declares, made more precise by openmaas.yaml and never contradicted by it."""

from __future__ import annotations

from collections.abc import Sequence

from openmaas.core.errors import InvalidInput
from openmaas.core.types import Signature, TensorSpec


def override(declared: Signature, unknown: frozenset[str], given: Signature | None) -> Signature:
    """The signature to serve: as declared, or as given where that fits. It may leave outputs out.

    unknown: names whose shape the file does not give at all. Raises InvalidInput where the two contradict each other, or
    where neither gives an input's shape.
    """
    if given is not None:
        outputs = {spec.name for spec in given.outputs}
        _check_all(declared.inputs, given.inputs, unknown, "input")
        _check_all([spec for spec in declared.outputs if spec.name in outputs], given.outputs, unknown, "output")
        return Signature(inputs=given.inputs, outputs=given.outputs)
    if shapeless := sorted(unknown & {spec.name for spec in declared.inputs}):
        raise InvalidInput(
            f"The file gives no shape for input {', '.join(map(repr, shapeless))}.",
            code="signature_needed",
            next_step="Write the signature into openmaas.yaml.",
        )
    return declared


def _check_all(declared: Sequence[TensorSpec], given: Sequence[TensorSpec], unknown: frozenset[str], noun: str) -> None:
    by_name = {spec.name: spec for spec in declared}
    if sorted(by_name) != sorted(spec.name for spec in given):
        raise InvalidInput(
            f"openmaas.yaml declares {noun}s {_names(given)}; the file has {_names(declared)}.", code="signature_mismatch"
        )
    for spec in given:
        _check(by_name[spec.name], spec, spec.name in unknown, noun)


def _check(real: TensorSpec, given: TensorSpec, free: bool, noun: str) -> None:
    fits = free or (
        len(given.shape) == len(real.shape)
        and all(have in (-1, want) for want, have in zip(given.shape, real.shape, strict=True))
    )
    if given.datatype != real.datatype or not fits or any(axis < -1 for axis in given.shape):
        raise InvalidInput(
            f"openmaas.yaml declares {noun} {given.name!r} as {given.datatype} {list(given.shape)}; "
            f"the file has {real.datatype} {list(real.shape)}.",
            code="signature_mismatch",
        )


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in specs) or "none"
