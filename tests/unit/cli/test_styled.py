from __future__ import annotations

import io

import pytest

from openmaas.cli.console import Table, in_colour, write
from openmaas.cli.styled import Styled, cells


def _plain(table: Table, width: int | None = None) -> list[str]:
    return [line.plain for line in table.lines(width)]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    table = Table("NAME", "SIZE", right=["SIZE"])
    table.add_row("digits", "9 B")
    table.add_row(Styled(("a", "name")), "120 kB")
    assert _plain(table) == ["NAME       SIZE", "digits      9 B", "a        120 kB"]


def test_a_row_may_end_early() -> None:
    table = Table("A", "B", "C")
    table.add_row("1", "2")
    assert _plain(table)[1] == "1   2"


@pytest.mark.parametrize("width", [20, 30, 40])
def test_a_table_is_cut_to_the_terminal(width: int) -> None:
    table = Table("NAME", "REMARK")
    table.add_row("n" * 30, Styled(("r" * 10, "bad"), "s" * 20))
    lines = _plain(table, width)
    assert max(cells(line) for line in lines) == width
    assert "…" in lines[1]


def test_wide_characters_take_two_columns() -> None:
    assert cells("模型") == 4
    assert cells("é●") == 2
    table = Table("名", "B")
    table.add_row("模型", "x")
    assert _plain(table)[1] == "模型   x"
    assert Styled("模型模型").padded(4).plain == "模… "


def test_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    stream = io.StringIO()
    write(Styled(("ready", "good"), " now"), stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    write(Styled(("ready", "good"), " now"), stream)
    assert stream.getvalue() == "ready now\n\x1b[32mready\x1b[0m now\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert not in_colour(stream)


def test_an_escape_in_what_is_shown_does_nothing() -> None:
    stream = io.StringIO()
    write("a\x1b[2Jb", stream)
    assert stream.getvalue() == "a␛[2Jb\n"


@pytest.mark.parametrize("control", ["\x1b[2J", "\x9b2J", "\x9d0;t\x9c", "a\rb", "\x08", "\x7f", "\0"])
def test_no_control_character_reaches_the_terminal(control: str) -> None:
    shown = Styled(f"one{control}two\n\t", (control, "bad")).render(colour=False)
    assert shown.isprintable() or shown.replace("\n", "").replace("\t", "").isprintable()
    assert "one" in shown and "two\n\t" in shown


def test_a_row_is_one_line_and_reads_from_left_to_right() -> None:
    table = Table("CLASS", "ROWS")
    table.add_row("a\nb\u202e\u2066c\t", Styled(("1\n", "good")))
    lines = [line.render(False) for line in table.lines()]
    assert len(lines) == 2
    assert lines[1].split() == ["a", "bc", "1"]
