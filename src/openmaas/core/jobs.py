"""Kinds of jobs and their arguments. A job measures when its figures would be disturbed by others: such jobs run alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, Literal, Self

import msgspec

from openmaas.core.errors import InvalidInput
from openmaas.core.recipes import Recipe, Target, Weights, read_recipe

MOST_COMPARED: Final = 16
"""Versions of one comparison."""

GENERATOR_TARGET: Final = "openvino-genai"
"""What text generators are converted to."""


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one kind of job. `version` is an exact reference, digits:3.

    Fields that hold references are named in `version_fields` and `dataset_fields` (a text, or a tuple of texts; empty ones name
    nothing): what they mean is settled when the job is submitted, so that an alias that moves does not change a waiting job.
    """

    kind: ClassVar[str]
    version_fields: ClassVar[tuple[str, ...]] = ("version",)
    dataset_fields: ClassVar[tuple[str, ...]] = ()
    version: str

    @property
    def measures(self) -> bool:
        return False

    def pinned(self, versions: Callable[[str], str], datasets: Callable[[str], str]) -> Self:
        """With exact references in place of those that were given."""
        changes: dict[str, Any] = {}
        for names, exact in ((self.version_fields, versions), (self.dataset_fields, datasets)):
            for name in names:
                given = getattr(self, name)
                changes[name] = (exact(given) if given else given) if isinstance(given, str) else tuple(map(exact, given))
        return msgspec.structs.replace(self, **changes)


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


class EvaluateArguments(Arguments, frozen=True, kw_only=True):
    """Answer a dataset with a version and hold the answers against the truth; its speed is measured with it.

    rows: at most so many, drawn by the seed; 0 is all. engine: label of the one that runs it, empty is the one that serves it.
    seconds: of timing.
    """

    kind: ClassVar[str] = "evaluate"
    dataset_fields: ClassVar[tuple[str, ...]] = ("data",)
    data: str
    rows: int = 0
    engine: str = ""
    seconds: float = 8.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds <= 86_400:
            raise ValueError("seconds must be from 0.1 to 86400")
        if not self.data:
            raise ValueError("data is empty; name a dataset")
        _check_drawing(self.rows, self.seed)

    @property
    def measures(self) -> bool:
        return True


class CompareArguments(Arguments, frozen=True, kw_only=True):
    """Measure versions beside `version`, their baseline, in one alternating run. others: of any models with equal inputs.

    data: what their quality is compared on; empty compares their answers to the baseline's sample only. rows: at most so many,
    drawn by the seed; 0 is all. metric: empty is the usual one. max_loss and target: of the recommendation, as in
    OptimizeArguments. seconds: of timing. engines: labels of those that run the versions, the baseline's first, empty for the
    one that serves; a version may be named again with another engine. Nothing is kept of a version with an engine given.
    """

    kind: ClassVar[str] = "compare"
    version_fields: ClassVar[tuple[str, ...]] = ("version", "others")
    dataset_fields: ClassVar[tuple[str, ...]] = ("data",)
    others: tuple[str, ...]
    data: str = ""
    rows: int = 0
    metric: str = ""
    max_loss: float = 0.01
    target: Literal["latency", "throughput", "size", "memory"] = "latency"
    seconds: float = 60.0
    engines: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.engines and len(self.engines) != len(self.others) + 1:
            raise ValueError(f"{len(self.engines)} engines are named for {len(self.others) + 1} versions")
        if not 1 <= len(self.others) <= MOST_COMPARED - 1:
            raise ValueError(f"{len(self.others)} others are named; compare with 1 to {MOST_COMPARED - 1}")
        if not 0 <= self.max_loss < 1 or not 1 <= self.seconds <= 86_400:
            raise ValueError("max_loss must be from 0 to 1, and seconds from 1 to 86400")
        _check_drawing(self.rows, self.seed)

    @property
    def measures(self) -> bool:
        return True


class OptimizeArguments(Arguments, frozen=True, kw_only=True):
    """Make a variant by a recipe, or search for the best (`auto`), measure it beside its parent and register it.

    recipe: plain data as core/recipes.py reads it. data: a training set, for passes that train or calibrate. evaluation: the
    set that quality is measured on; without it, agreement with the parent on `data` or the version's own sample.
    auto: tries the passes that fit. max_loss: of quality that a recommended variant may lose, as a share (0.01 is one point of
    accuracy); target: what is made best within it. metric: empty is the usual one. seconds: that a search may take; a variant
    of a recipe and its parent are timed for at most so many, and for 20 at most.
    """

    kind: ClassVar[str] = "optimize"
    version_fields: ClassVar[tuple[str, ...]] = ("version",)
    dataset_fields: ClassVar[tuple[str, ...]] = ("data", "evaluation")
    recipe: dict[str, Any] | None = None
    data: str = ""
    evaluation: str = ""
    auto: bool = False
    max_loss: float = 0.01
    target: Literal["latency", "throughput", "size", "memory"] = "latency"
    metric: str = ""
    seconds: float = 900.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.auto == (self.recipe is not None):
            raise ValueError("give either a recipe or auto")
        if not 0 <= self.max_loss < 1 or not 1 <= self.seconds <= 86_400:
            raise ValueError("max_loss must be from 0 to 1, and seconds from 1 to 86400")
        if not 0 <= self.seed < 2**31:
            raise ValueError("the seed must be from 0 to 2147483647, as in recipes")
        recipe = self.steps
        if recipe is not None and recipe.needs_data and not self.data:
            without = next(step.name for step in recipe.steps if step.needs_data)
            raise ValueError(f"the pass {without} trains or calibrates on data, and none is given; give --data")

    @property
    def steps(self) -> Recipe | None:
        """The recipe, checked. Raises InvalidInput."""
        return None if self.recipe is None else read_recipe(self.recipe)

    @property
    def measures(self) -> bool:
        return True

    def pinned(self, versions: Callable[[str], str], datasets: Callable[[str], str]) -> Self:
        """The versions that steps name too."""
        made = super().pinned(versions, datasets)
        recipe = made.steps
        if recipe is None:
            return made
        return msgspec.structs.replace(made, recipe=recipe.pinned(versions).to_plain())


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


def _check_drawing(rows: int, seed: int) -> None:
    if not 0 <= rows <= 2**53 or not 0 <= seed < 2**32:
        raise ValueError("rows must not be below 0, and the seed from 0 to 4294967295")


def recipe_of(to: str, weights: str = "", calibrated: str = "", **more: Any) -> str:
    """How a converted version was made, as it is kept with it. calibrated: the dataset that its weights were chosen on; more:
    what else is to be known of it."""
    made = {name: value for name, value in (("to", to), ("weights", weights), ("calibrated", calibrated)) if value}
    return msgspec.json.encode({"convert": made, **more}).decode()


def conversion_of(recipe: str | None) -> dict[str, str]:
    """What of `recipe_of` says how to make it again; empty for a version that was not made so."""
    try:
        return msgspec.json.decode(recipe or "{}", type=_Recipe).convert
    except msgspec.MsgspecError:  # somebody's own words
        return {}


def weights_of(recipe: str | None) -> str:
    """The weights that a generator was converted to; empty for a version that was not made so."""
    made = conversion_of(recipe)
    return made.get("weights", "") if made.get("to") == GENERATOR_TARGET else ""


class _Recipe(msgspec.Struct):
    convert: dict[str, str] = {}


KINDS: dict[str, type[Arguments]] = {
    kind.kind: kind
    for kind in (
        MeasureArguments, ConvertArguments, ParityArguments, EvaluateArguments, CompareArguments, OptimizeArguments,
        DummyArguments, DummyMeasureArguments,
    )
}  # fmt: skip


def check_arguments(kind: str, arguments: dict[str, Any]) -> Arguments:
    """The arguments of a kind. Raises InvalidInput that names the field, what was expected and what came."""
    if kind not in KINDS:
        raise InvalidInput(f"{kind[:40]!r} is not a kind of job; there are {', '.join(KINDS)}.", code="unknown_kind")
    try:
        asked = msgspec.convert(arguments, KINDS[kind])
        msgspec.msgpack.encode(asked)  # as the supervisor is told of it, together with all else that runs
    except (msgspec.ValidationError, OverflowError) as error:
        raise InvalidInput(f"The arguments of the job {kind}: {error}.", code="invalid_arguments") from None
    return asked
