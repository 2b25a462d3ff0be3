"""Ask a deployment: about a file, standard input, or texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import DeploymentArgument, Json, connect

_SHOWN = 6  # elements of a row that a table still shows
_BAR = 20  # columns of a bar that stands for 1


def predict(
    deployment: DeploymentArgument,
    source: Annotated[
        str | None,
        typer.Option(
            "--input", "-i", metavar="FILE", help=_("An image, JSON, CSV or text; '-' is standard input, as without it.")
        ),
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", "-t", help=_("A text; may be given several times."))] = None,
    top: Annotated[int | None, typer.Option("--top", min=1, help=_("How many classes to name."))] = None,
    version: Annotated[str | None, typer.Option("--version", help=_("A version that the deployment serves."))] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0.001, help=_("Seconds for the request."))] = None,
    as_json: Json = False,
) -> None:
    """Ask a deployment for its answer.

    The input is an image (PNG, JPEG, WebP …), a text, a CSV table with a line of column names, or JSON: a row, a list of rows,
    a record or records by column, {"instances": …}, or {"inputs": …} as in the Open Inference Protocol.
    """
    from openmaas.cli.console import print_json
    from openmaas.cli.rows import read_body, texts_body

    if text and source is not None:
        raise typer.BadParameter(_("Give either --text or --input."))
    body = texts_body(text) if text else read_body(source or "-")
    client = connect()
    answer = client.predict_raw(deployment, *body, top=top, version=version, timeout=timeout)
    if as_json:
        print_json(answer)
    else:
        _print(answer)


def _print(answer: dict[str, Any]) -> None:
    from openmaas.cli.console import write_table

    rows = answer["predictions"]
    if any("top" in row for row in rows):
        write_table(_ranked(rows))
    elif any("tokens" in row for row in rows):
        write_table(_tokens(rows))
    else:
        write_table(_plain(rows))
    for note in answer["notes"]:
        _print_note(note)


def _plain(rows: Sequence[dict[str, Any]]) -> Any:
    """A line a row, a column a key."""
    from openmaas.cli.console import Table

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table("", *names, right=[name for name in names if name in ("probability", "score")])
    for index, row in enumerate(rows):
        table.add_row(str(index), *(_cell(row.get(name), name) for name in names))
    return table


def _ranked(rows: Sequence[dict[str, Any]]) -> Any:
    """A line a class, the most probable first."""
    from openmaas.cli.console import Styled, Table

    value = "probability" if "probability" in rows[0] else "score"
    table = Table("", "label", value, "", right=[value])
    for index, row in enumerate(rows):
        for rank, entry in enumerate(row["top"]):
            first = rank == 0
            bar = "█" * round(entry[value] * _BAR) if value == "probability" else ""
            label = Styled((entry["label"], "name" if first else ""))
            table.add_row(
                str(index) if first else "", label, _cell(entry[value], value), Styled((bar, "good" if first else "faint"))
            )
    return table


def _tokens(rows: Sequence[dict[str, Any]]) -> Any:
    """A line a span, or a token where there are no spans."""
    from openmaas.cli.console import Table

    entries = [(index, entry) for index, row in enumerate(rows) for entry in row.get("spans", row["tokens"])]
    names = list(dict.fromkeys(name for _, entry in entries for name in entry))
    table = Table("", *names, right=[name for name in names if name in ("probability", "score", "start", "end")])
    for index, entry in entries:
        table.add_row(str(index), *(_cell(entry.get(name), name) for name in names))
    return table


def _print_note(note: dict[str, Any]) -> None:
    from openmaas.cli.console import Styled, write

    said = ", ".join(
        name if value is True else f"{name} {value}" for name, value in note.items() if name != "row" and value is not False
    )
    where = _("row {row}").format(row=note["row"]) if "row" in note else _("all rows")
    write(Styled((_("note") + "  ", "busy"), f"{where}: {said}"))


def _cell(value: Any, name: str = "") -> str:
    if not isinstance(value, list):
        return _short(value, name)
    shown = "  ".join(_cell(item) for item in value[:_SHOWN])
    return f"{shown} … {len(value)}" if len(value) > _SHOWN else shown


def _short(value: Any, name: str) -> str:
    if value is None:
        return ""
    if name == "probability":
        return f"{value:.1%}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
