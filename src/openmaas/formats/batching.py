"""May requests share a batch? Not by what a file declares, but by what its answers are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput, OpenMaaSError
from openmaas.core.types import Signature
from openmaas.formats.compare import compare, rows, stack
from openmaas.formats.description import FILE_NAME

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
BATCH = 7


class Batching(NamedTuple):
    """The verdict and how it was reached."""

    batchable: bool
    why: str


def static_reason(signature: Signature) -> str | None:
    """Why the declared shapes rule batches out, or None when axis 0 is free everywhere."""
    if not signature.inputs:
        return "The model takes no input."
    for side, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            if not spec.shape:
                return f"The {side} {spec.name!r} has no axes."
            if spec.shape[0] != -1:
                return f"Axis 0 of the {side} {spec.name!r} is fixed at {spec.shape[0]}."
    return None


def all_same(inputs: Arrays) -> bool:
    """Whether every row equals the first: such rows cannot show that a model mixes them."""
    return all(bool((array == array[:1]).all()) for array in inputs.values())


def prove(run: Run, signature: Signature, seven: Arrays, sample: str) -> Batching:
    """Run BATCH rows at once, two by two and one by one. `sample` says where the rows came from: "given" or "generated"."""
    if reason := static_reason(signature):
        return Batching(False, reason)
    if all_same(seven):
        return Batching(False, "Not proved: all rows of the sample are the same. Push with a sample of different rows.")
    try:
        whole = run(seven)
        singles = [run(rows(seven, index, index + 1)) for index in range(BATCH)]
        pairs = [run(rows(seven, index, min(index + 2, BATCH))) for index in range(0, BATCH, 2)]
    except OpenMaaSError as error:
        return Batching(False, f"It does not run at every batch size: {error.message}")
    return _verdict(whole, singles, pairs, sample)


def _verdict(whole: Arrays, singles: list[Arrays], pairs: list[Arrays], sample: str) -> Batching:
    if reason := _row_mismatch(whole, BATCH) or _row_mismatch(singles[0], 1):
        return Batching(False, reason)
    largest = 0.0
    for size, parts in ((1, singles), (2, pairs)):
        if any(part[name].shape[1:] != whole[name].shape[1:] for part in parts for name in whole):
            return Batching(False, f"Answers have another shape at batch {size} than at batch {BATCH}.")
        comparison, wrong = compare(size, stack(parts), whole)
        if wrong:
            return Batching(
                False,
                f"A row's answer depends on its batch: output {wrong.partition('output ')[2]} (batch {size} against {BATCH}).",
            )
        largest = max(largest, comparison.max_abs_diff)
    return Batching(
        True, f"{BATCH} rows of the {sample} sample at once, two by two and one by one: largest difference {largest:.3g}."
    )


def as_declared(wish: bool | None, verdict: Batching) -> Batching:
    """The verdict, unless openmaas.yaml declines batches. Raises InvalidInput where it claims what is not so."""
    if wish is False:
        return Batching(False, f"Declared as not batchable in {FILE_NAME}.")
    if wish and not verdict.batchable:
        raise InvalidInput(
            f"{FILE_NAME} says batchable: true. {verdict.why}",
            code="not_batchable",
            next_step=f"Remove 'batchable' from {FILE_NAME}: requests are then answered one by one.",
        )
    return verdict


def _row_mismatch(answers: Arrays, count: int) -> str | None:
    for name, array in answers.items():
        if not array.ndim or len(array) != count:
            return f"The output {name!r} has shape {list(array.shape)} for {count} rows."
    return None
