from __future__ import annotations

import pytest
import typer

from openmaas.cli.units import ago, milliseconds, parse_size, size, span


@pytest.mark.parametrize(
    ("text", "number"), [("2GiB", 2**31), ("512 MiB", 2**29), ("1.5kB", 1500), ("1k", 1000), ("1Ki", 1024), ("7", 7), ("3B", 3)]
)
def test_sizes_are_read(text: str, number: int) -> None:
    assert parse_size(text) == number


@pytest.mark.parametrize("text", ["", "GiB", "2 XB", "-1", "1iB2", "2i", "1e3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (48_211, "48.2 kB"),
        (138_211, "138 kB"),
        (999_600, "1.0 MB"),
        (5e13, "50.0 TB"),
    ],
)
def test_sizes_are_written(number: float, text: str) -> None:
    assert size(number) == text


def test_times_are_written() -> None:
    assert [ago(0, now) for now in (1, 60, 600, 7200)] == ["just now", "60 s ago", "10 min ago", "2 h ago"]
    assert [span(seconds) for seconds in (86400 * 2, 86400 * 40)] == ["2 days", "40 days"]
    assert [milliseconds(seconds) for seconds in (None, 0.00042, 0.0123, 1.25)] == ["–", "0.42 ms", "12 ms", "1.2 s"]
