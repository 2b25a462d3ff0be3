"""Coloured text and tables for a terminal.

rich does this too, and better; its import and one listing took 60 ms of the 200 that `openmaas ls` may take. It is used where
something moves: progress, live views, help pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from unicodedata import east_asian_width

_ANSI = {"head": "2", "name": "1;36", "good": "32", "busy": "33", "bad": "31", "faint": "2"}
_GAP = 3  # columns between two columns of a table
_NARROWEST = 6  # that a column is cut to
_HIDDEN = {number: "␛" if number == 27 else None for number in (*range(32), *range(127, 160)) if chr(number) not in "\n\t"}
_HIDDEN |= dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))  # what turns the direction of the text around
_ONE_LINE = str.maketrans("\n\t", "  ")


def harmless(text: str) -> str:
    """Without control characters and turns of direction: shown or left out, never obeyed by a terminal."""
    return text.translate(_HIDDEN)


class Styled:
    """Text in pieces, each with a style or none: Styled("digits ", ("ready", "good"))."""

    def __init__(self, *pieces: str | tuple[str, str]) -> None:
        self.pieces = [(piece, "") if isinstance(piece, str) else piece for piece in pieces]

    @property
    def plain(self) -> str:
        return "".join(text for text, _ in self.pieces)

    def render(self, colour: bool) -> str:
        """The text; an escape that it holds itself is shown, not obeyed."""
        return "".join(_coloured(harmless(text), style if colour else "") for text, style in self.pieces)

    def padded(self, width: int, right: bool = False) -> Styled:
        """Exactly `width` cells: filled with spaces, or cut with an ellipsis."""
        missing = width - cells(self.plain)
        if missing < 0:
            return self._cut(width)
        return Styled(" " * missing, *self.pieces) if right else Styled(*self.pieces, " " * missing)

    def _cut(self, width: int) -> Styled:
        kept: list[str | tuple[str, str]] = []
        left = width - 1
        for text, style in self.pieces:
            part = ""
            while left > 0 and len(part) < len(text) and cells(text[len(part)]) <= left:
                part += text[len(part)]
                left -= cells(part[-1])
            kept.append((part, style))
            if len(part) < len(text):
                break
        return Styled(*kept, "…", " " * left)


Line = str | Styled


def _one_line(cell: Line) -> Styled:
    """A row of a table is one line whatever its cells say."""
    pieces = cell.pieces if isinstance(cell, Styled) else [(cell, "")]
    return Styled(*((text.translate(_ONE_LINE), style) for text, style in pieces))


def _coloured(text: str, style: str) -> str:
    return f"\x1b[{_ANSI[style]}m{text}\x1b[0m" if style and text else text


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return len(text) if text.isascii() else sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


class Table:
    """Rows under a line of column names, without rules. Columns named in `right` are aligned there."""

    def __init__(self, *columns: str, right: Iterable[str] = ()) -> None:
        self._columns = columns
        self._right = frozenset(right)
        self._rows: list[list[Styled]] = []

    def add_row(self, *row: Line) -> None:
        self._rows.append([_one_line(cell) for cell in row])

    def lines(self, width: int | None = None) -> list[Styled]:
        """The table at most `width` columns wide, or as wide as it is."""
        head = [Styled((name, "head")) for name in self._columns]
        widths = self._widths([head, *self._rows], width)
        return [self._line(row, widths) for row in (head, *self._rows)]

    def _widths(self, rows: Sequence[Sequence[Styled]], limit: int | None) -> list[int]:
        widths = [max(cells(cell.plain) for cell in column) for column in zip_longest(*rows, fillvalue=Styled())]
        while limit is not None and sum(widths) + _GAP * (len(widths) - 1) > limit and max(widths) > _NARROWEST:
            widths[widths.index(max(widths))] -= 1
        return widths

    def _line(self, row: Sequence[Styled], widths: Sequence[int]) -> Styled:
        pieces: list[str | tuple[str, str]] = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=False)):
            right = index < len(self._columns) and self._columns[index] in self._right
            last = index == len(row) - 1
            pieces += [" " * _GAP] if index else []
            pieces += cell.pieces if last and not right and cells(cell.plain) <= width else cell.padded(width, right).pieces
        return Styled(*pieces)
