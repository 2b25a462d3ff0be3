"""The result of an optimisation, as the job reports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from openmaas.tasks.optimization.ground import Measured

_MOST_BYTES: Final = 900 * 1024
"""Of a result as JSON: a report of a job has 1 MiB."""


def result_of(
    version: str,
    created: bool,
    versions: Sequence[str],
    measured: Measured,
    *,
    tried: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Plain data. version: what the recipe made, or what a search recommends, empty where nothing is better than the parent.
    versions: all that were registered. comparison and evaluations: as core/evaluations.py has them. tried: of a search, each
    recipe with what came of it. notes: what a person should be told."""
    alone = len(measured.comparison.entrants) < 2
    return {
        "version": version,
        "created": created,
        "versions": list(versions),
        "comparison": None if alone else msgspec.to_builtins(measured.comparison, str_keys=True),
        "evaluations": [msgspec.to_builtins(one, str_keys=True) for one in measured.evaluations],
        "tried": list(tried),
        "notes": list(notes),
    }


def bounded(result: dict[str, Any]) -> dict[str, Any]:
    """The result without what it can do without, as far as it is too large, and with a note that says what: rows that changed,
    the confusion of classes, figures of single classes, and at last the outcomes of single rows, without which gates have to
    evaluate again."""
    comparison, evaluations = result.get("comparison") or {}, result.get("evaluations", ())
    entrants = comparison.get("entrants", ())
    left_out: list[str] = []
    for told, parts, name, empty in (
        ("rows that changed", entrants, "changed", []),
        ("confusions", evaluations, "confusion", None),
        ("changes of single classes", entrants, "classes", []),
        ("figures of single classes", evaluations, "classes", []),
        ("answers to single rows", evaluations, "outcomes", None),
    ):
        for part in parts:
            if len(msgspec.json.encode(result)) <= _MOST_BYTES:
                break
            if part.get(name):
                part[name] = empty
                left_out.append(told)
    if left_out and comparison:
        note = f"Too much to keep, and left out of some versions: {', '.join(dict.fromkeys(left_out))}."
        comparison["notes"] = [*comparison.get("notes", ()), note]
    return result
