"""Kinds of jobs and their arguments. A job measures when its figures would be disturbed by others: such jobs run alone."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

import msgspec

from openmaas.core.errors import InvalidInput

Target = Literal["onnx", "openvino", "torchscript", "torch-export", "tflite", "openvino-genai"]
Weights = Literal["", "auto", "bf16", "int8", "int4"]

GENERATOR_TARGET: Final = "openvino-genai"
"""What text generators are converted to."""


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one kind of job. `version` is an exact reference, digits:3."""

    kind: ClassVar[str]
    version: str

    @property
    def measures(self) -> bool:
        return False


class MeasureArguments(Arguments, frozen=True, kw_only=True):
    """Try the engines that can run a version on its sample; `openmaas show` tells the figures. seconds: at most."""

    kind: ClassVar[str] = "measure"
    seconds: float = 60.0

    @property
    def measures(self) -> bool:
        return True


class ConvertArguments(Arguments, frozen=True, kw_only=True):
    """Convert a version to another kind of artifact and register the result as a new version of the same model.

    weights: of a text generator (to openvino-genai), auto without: all that are possible are compared and timed, and the
    fastest is registered.
    """

    kind: ClassVar[str] = "convert"
    to: Target
    weights: Weights = ""

    def __post_init__(self) -> None:
        if self.weights and self.to != GENERATOR_TARGET:
            raise ValueError(f"weights are chosen in a conversion to {GENERATOR_TARGET} only, not to {self.to}")
        if not self.weights and self.to == GENERATOR_TARGET:
            msgspec.structs.force_setattr(self, "weights", "auto")

    @property
    def measures(self) -> bool:
        return self.weights == "auto"


class ParityArguments(Arguments, frozen=True, kw_only=True):
    """Compare a version with its source again: on its own sample, or on given engine inputs (OIP JSON tensors by name)."""

    kind: ClassVar[str] = "parity"
    data: dict[str, Any] | None = None


class DummyArguments(Arguments, frozen=True, kw_only=True):
    """The first-class fake, for tests of everything around jobs; tasks/dummy.py says what each of these does."""

    kind: ClassVar[str] = "dummy"
    version: str = ""
    note: str = ""
    seconds: float = 0.0
    fail: str = ""
    exit: int | None = None
    allocate: int = 0
    lines: int = 0
    stubborn: bool = False
    alone: bool = False
    push: str = ""


class DummyMeasureArguments(DummyArguments, frozen=True, kw_only=True):
    """The fake of a job that measures."""

    kind: ClassVar[str] = "dummy-measure"
    alone: bool = True

    @property
    def measures(self) -> bool:
        return True


def recipe_of(to: str, weights: str = "") -> str:
    """How a converted version was made, as it is kept with it."""
    made = {"to": to, "weights": weights} if weights else {"to": to}
    return msgspec.json.encode({"convert": made}).decode()


def weights_of(recipe: str | None) -> str:
    """The weights that a generator was converted to; empty for a version that was not made so."""
    try:
        made = msgspec.json.decode(recipe or "{}", type=_Recipe)
    except msgspec.MsgspecError:  # somebody's own words
        return ""
    return made.convert.get("weights", "") if made.convert.get("to") == GENERATOR_TARGET else ""


class _Recipe(msgspec.Struct):
    convert: dict[str, str] = {}


KINDS: dict[str, type[Arguments]] = {
    kind.kind: kind for kind in (MeasureArguments, ConvertArguments, ParityArguments, DummyArguments, DummyMeasureArguments)
}


def check_arguments(kind: str, arguments: dict[str, Any]) -> Arguments:
    """The arguments of a kind. Raises InvalidInput that names the field, what was expected and what came."""
    if kind not in KINDS:
        raise InvalidInput(f"{kind[:40]!r} is not a kind of job; there are {', '.join(KINDS)}.", code="unknown_kind")
    try:
        return msgspec.convert(arguments, KINDS[kind])
    except msgspec.ValidationError as error:
        raise InvalidInput(f"The arguments of a {kind} job: {error}.", code="invalid_arguments") from None
