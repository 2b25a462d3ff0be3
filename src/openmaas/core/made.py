"""How a version was made, as it is kept with it: passes or a conversion as JSON, or somebody's own words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from openmaas.core.errors import OpenMaaSError
from openmaas.core.recipes import Recipe, read_recipe

_LONGEST: Final = 200  # characters of a label


@dataclass(frozen=True)
class Made:
    """label: one short line. recipe: the passes, where it was made by some. details: all that is kept, empty for own words."""

    label: str = ""
    recipe: Recipe | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def datasets(self) -> dict[str, str]:
        """Exact references of the datasets that it was made with, by what they were for: data, evaluation or calibrated."""
        converted = self.details.get("convert")
        told = {name: self.details.get(name) for name in ("data", "evaluation")}
        told["calibrated"] = converted.get("calibrated") if isinstance(converted, dict) else None
        named = {role: one.get("version") if isinstance(one, dict) else one for role, one in told.items()}
        return {role: one for role, one in named.items() if one and isinstance(one, str)}


def read_made(text: str | None) -> Made:
    """Of a version's `recipe`, whoever wrote it."""
    try:
        details = msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return Made(_short(text or ""))
    made = details.get("convert")
    if "optimize" in details:
        try:
            recipe = read_recipe(details["optimize"])
        except OpenMaaSError:  # of another release
            return Made("optimize", None, details)
        return Made(_short(recipe.label), recipe, details)
    if isinstance(made, dict):
        return Made(
            _short(" ".join(["convert", *(str(made[key]) for key in ("to", "weights") if made.get(key)), *_calibrated(made)])),
            None,
            details,
        )
    return Made(_short(text or ""), None, details)


def _calibrated(made: dict[str, Any]) -> list[str]:
    return ["calibrated"] if made.get("calibrated") else []


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
