"""Ask a deployment, from a file or standard input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import DeploymentArgument, Json, connect

if TYPE_CHECKING:
    from openmaas.client.tensors import Tensor

_SHOWN = 8  # elements of a row that a table still shows


def predict(
    deployment: DeploymentArgument,
    source: Annotated[
        str,
        typer.Option("--input", "-i", metavar="FILE", help=_("JSON or CSV with one row or several; '-' is standard input.")),
    ] = "-",
    version: Annotated[str | None, typer.Option("--version", help=_("A version that the deployment serves."))] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0.001, help=_("Seconds for the request."))] = None,
    as_json: Json = False,
) -> None:
    """Ask a deployment for its answer.

    The input is a row, a list of rows, {"instances": …}, {"inputs": …} as in the Open Inference Protocol, or a CSV table
    with a line of column names.
    """
    from openmaas.cli.console import print_json
    from openmaas.cli.rows import read_rows

    client = connect()
    data = read_rows(source, lambda: client.signature(deployment, version=version))
    outputs = client.predict(deployment, data, version=version, timeout=timeout)
    if as_json:
        print_json({name: _plain(array) for name, array in outputs.items()})
    else:
        _print(outputs)


def _plain(array: Tensor) -> Any:
    """Nested lists; BYTES as text."""
    values = array.astype("float64").tolist() if array.dtype.name == "bfloat16" else array.tolist()
    return _decoded(values)


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _print(outputs: dict[str, Tensor]) -> None:
    from openmaas.cli.console import Table, write_table

    columns = {name: _plain(array) if array.ndim else [_plain(array)] for name, array in outputs.items()}
    made = Table("", *columns)
    for index in range(max((len(column) for column in columns.values()), default=0)):
        cells = [_cell(column[index]) if index < len(column) else "" for column in columns.values()]
        made.add_row(str(index), *cells)
    write_table(made)


def _cell(value: Any) -> str:
    if not isinstance(value, list):
        return _short(value)
    shown = "  ".join(_cell(item) for item in value[:_SHOWN])
    return f"{shown} … {len(value)}" if len(value) > _SHOWN else shown


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
