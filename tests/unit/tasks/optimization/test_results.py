"""What is left of a result that would be too large."""

from __future__ import annotations

from typing import Any

import msgspec

from openmaas.tasks.optimization.results import bounded


def _result(versions: int, classes: int, previews: int = 0, outcomes: int = 0) -> dict[str, Any]:
    names = [{"name": f"class {number} " + "x" * 40, "rows": 9, "before": 0.5, "after": 0.25} for number in range(classes)]
    return {
        "comparison": {
            "entrants": [
                {"version": f"m:{one}", "changed": [{"preview": "p" * previews}] * 20, "classes": list(names)}
                for one in range(versions)
            ],
            "notes": ["One."],
        },
        "evaluations": [
            {"version": f"m:{one}", "confusion": [[1]], "classes": list(names), "outcomes": {"answers": "o" * outcomes}}
            for one in range(versions)
        ],
    }


def test_what_fits_stays_as_it_is() -> None:
    small = _result(16, 10, previews=100)
    assert bounded(small) == _result(16, 10, previews=100)


def test_versions_of_a_thousand_classes_fit_and_keep_the_answers_to_rows() -> None:
    found = bounded(_result(16, 1000, previews=1000, outcomes=20_000))
    assert len(msgspec.json.encode(found)) < 1 << 20
    assert all(one["outcomes"] for one in found["evaluations"])
    assert any(one["classes"] for one in found["evaluations"]), "as many as there is room for"
    note = found["comparison"]["notes"][-1]
    assert "rows that changed" in note and "single classes" in note and "answers" not in note


def test_at_last_answers_to_rows_go() -> None:
    found = bounded(_result(16, 0, outcomes=200_000))
    assert len(msgspec.json.encode(found)) < 1 << 20
    assert "answers to single rows" in found["comparison"]["notes"][-1]
