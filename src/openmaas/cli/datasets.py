"""Datasets: what versions are evaluated, calibrated and trained on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.i18n import _, plural
from openmaas.cli.options import All, Json, Limit, Reason, Yes, confirm, connect

if TYPE_CHECKING:
    from openmaas.cli.styled import Line
    from openmaas.core.resources import DatasetInfo, DatasetSummary, Page

DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help=_("A dataset: digits-test (its newest version) or digits-test:2."))
]

_COLUMNS = 16  # that `show` lists
_CLASSES = 12
_FILES = 8
_LEAST = 9  # cells of a terminal that a column of the table needs

data = typer.Typer(help=_("Push datasets, and look at those that there are."), no_args_is_help=True)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """One of the group's, with its description from the catalogue."""
    return data.command(help=_(inspect.cleandoc(function.__doc__ or "")))(function)


@_command
def push(
    path: Annotated[
        Path,
        typer.Argument(help=_("npz, Parquet, CSV, JSON lines, running text, or a folder of images (sub-folders are classes).")),
    ],
    name: Annotated[str | None, typer.Option("--name", help=_("The dataset's name; the file's own without."))] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", help=_("The column that is predicted; without it one called label, target, class or y.")),
    ] = None,
    as_json: Json = False,
) -> None:
    """Push a dataset: register its files as a new, immutable version."""
    from openmaas.cli.console import Styled, done, hint, print_json, write
    from openmaas.cli.pushes import push_progress
    from openmaas.cli.units import size

    client = connect()
    with push_progress(quiet=as_json) as report:
        result = client.push_dataset(path, name=name, label=label, progress=report)
    if as_json:
        print_json(result)
        return
    reference = result.dataset.reference
    if result.created:
        done(_("{reference} is registered ({size} stored).").format(reference=reference, size=size(result.stored_bytes)))
    else:
        done(_("{reference} is exactly this already; nothing was added.").format(reference=reference))
    _print(result.dataset)
    if result.left_out:
        told = plural(
            "{count} hidden file was not sent: {files}", "{count} hidden files were not sent: {files}", len(result.left_out)
        )
        write(Styled((told.format(count=len(result.left_out), files=_some(result.left_out, _FILES)), "faint")))
    hint(
        f"openmaas evaluate MODEL --data {reference}"
        if result.dataset.purpose != "inputs"
        else f"openmaas data show {reference}"
    )


@_command
def ls(
    dataset: Annotated[str | None, typer.Argument(help=_("List this dataset's versions instead."))] = None,
    limit: Limit = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """List datasets, or the versions of one. With --json all of them, unless --limit says fewer."""
    from openmaas.cli.console import print_json
    from openmaas.cli.listings import DEFAULT_LIMIT, LARGEST_PAGE, first_rows

    client = connect()
    everything = everything or (as_json and limit is None)
    page_size = LARGEST_PAGE if everything else limit or DEFAULT_LIMIT
    if dataset is not None:
        versions = first_rows(client.dataset_versions(dataset, page_size=page_size), limit, everything)
        print_json(versions) if as_json else _print_versions(versions)
    else:
        datasets = first_rows(client.datasets(page_size=page_size), limit, everything)
        print_json(datasets) if as_json else _print_datasets(datasets)


@_command
def show(dataset: DatasetArgument, as_json: Json = False) -> None:
    """Show a dataset: columns, label, classes, and its first rows."""
    from openmaas.cli.console import print_json

    info = connect().dataset(dataset)
    if as_json:
        print_json(info)
        return
    _print(info)
    _print_rows(info.manifest)


@_command
def pull(
    dataset: DatasetArgument, folder: Annotated[Path, typer.Argument(help=_("Where the files go; made if missing."))]
) -> None:
    """Download the files of a dataset, each checked against its digest."""
    from openmaas.cli.console import done

    target = connect().download_dataset(dataset, folder)
    done(_("{reference} lies in {folder}.").format(reference=dataset, folder=target))


@_command
def rm(
    dataset: DatasetArgument,
    force: Annotated[
        bool, typer.Option("--force", help=_("Although versions were made with it or evaluated on it; who did it is kept."))
    ] = False,
    reason: Reason = "",
    yes: Yes = False,
) -> None:
    """Remove a version (digits-test:2) or a whole dataset (digits-test)."""
    from openmaas.cli.console import done
    from openmaas.core.names import parse_reference

    client = connect()
    if parse_reference(dataset).number is None:
        count = client.dataset_versions(dataset, page_size=1).page().total
        question = plural("Remove {name} with its {n} version?", "Remove {name} with all its {n} versions?", count)
    else:
        count = 1
        client.dataset(dataset)
        question = _("Remove {name}?")
    if not confirm(question.format(name=dataset, n=count), yes):
        raise typer.Exit(1)
    client.delete_dataset(dataset, force=force, reason=reason)
    done(_("{reference} is removed. Its files go with the next `openmaas gc`.").format(reference=dataset))


# ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _print_datasets(datasets: Page[DatasetSummary]) -> None:
    from openmaas.cli.console import Table, name, nothing, write_table
    from openmaas.cli.listings import remark
    from openmaas.cli.units import ago, size

    if not datasets.items:
        nothing(_("No datasets yet. Push one: openmaas data push PATH --name NAME"))
        return
    made = Table(
        _("DATASET"), _("FORMAT"), _("FOR"), _("ROWS"), _("SIZE"), _("LATEST"), _("VERSIONS"), _("UPDATED"),
        right=(_("ROWS"), _("SIZE"), _("LATEST"), _("VERSIONS")),
    )  # fmt: skip
    for row in datasets.items:
        made.add_row(
            name(row.name), row.format, _purpose(row.purpose), f"{row.rows:,}", size(row.size), str(row.latest),
            str(row.versions), ago(row.updated_at),
        )  # fmt: skip
    write_table(made)
    remark(datasets)


def _print_versions(versions: Page[DatasetInfo]) -> None:
    from openmaas.cli.console import Table, name, write_table
    from openmaas.cli.listings import remark
    from openmaas.cli.units import ago, size

    made = Table(
        _("VERSION"),
        _("FORMAT"),
        _("FOR"),
        _("ROWS"),
        _("SIZE"),
        _("DIGEST"),
        _("PUSHED"),
        _("BY"),
        right=(_("ROWS"), _("SIZE")),
    )
    for version in versions.items:
        made.add_row(
            name(version.reference), version.format, _purpose(version.purpose), f"{version.rows:,}", size(version.size),
            version.digest[:12], ago(version.created_at), version.created_by,
        )  # fmt: skip
    write_table(made)
    remark(versions)


def _print(info: DatasetInfo) -> None:
    from openmaas.cli.console import Styled, write, write_fields
    from openmaas.cli.units import ago, clock, size

    manifest = info.manifest
    write(Styled((info.reference, "name")))
    rows: list[tuple[str, Line]] = [
        (_("digest"), info.digest),
        (_("format"), info.format),
        (_("for"), _purpose(info.purpose)),
        (_("rows"), f"{info.rows:,}"),
        (_("size"), size(info.size)),
        (_("pushed"), _("{ago} by {actor}, {clock}").format(
            ago=ago(info.created_at), actor=info.created_by, clock=clock(info.created_at)
        )),
        *_lines(_("columns"), _columns(manifest)),
        *_lines(_("label"), _label(manifest)),
        *_lines(_("classes"), _classes(manifest)),
        *_lines(_("files"), _files(manifest["files"])),
        *_lines(_("notes"), list(manifest["notes"])),
    ]  # fmt: skip
    write_fields(rows)


def _print_rows(manifest: dict[str, Any]) -> None:
    """The first rows as a table, or each as a list of names and values where a table would be too wide."""
    import sys

    from openmaas.cli.console import Table, terminal_width, write, write_table

    names = [column["name"] for column in manifest["columns"]][: len(next(iter(manifest["preview"]), ()))]
    if not names:
        return
    table = Table(*names)
    for row in manifest["preview"]:
        table.add_row(*row)
    write()
    width = terminal_width(sys.stdout)
    if width is None or len(names) * _LEAST <= width:
        write_table(table)
        return
    narrow = Table(_("COLUMN"), _("FIRST ROWS"))
    for place, column in enumerate(names):
        narrow.add_row(column, "   ".join(row[place] for row in manifest["preview"]))
    write_table(narrow)


def _purpose(purpose: str) -> str:
    words = {
        "classes": _("classification"), "values": _("regression"), "similarity": _("similarity"), "text": _("running text"),
        "inputs": _("inputs only"),
    }  # fmt: skip
    return words.get(purpose, purpose)


def _lines(label: str, lines: Iterable[str]) -> list[tuple[str, Line]]:
    """The label stands before the first line only."""
    return [(label if index == 0 else "", line) for index, line in enumerate(lines)]


def _columns(manifest: dict[str, Any]) -> list[str]:
    inputs = [column for column in manifest["columns"] if column["name"] != manifest["label"]]
    lines = [
        f"{column['name']}  {column['datatype']}" + (f" [{', '.join(map(str, column['shape']))}]" if column["shape"] else "")
        for column in inputs[:_COLUMNS]
    ]
    return lines + ([_("and {n} more").format(n=len(inputs) - _COLUMNS)] if len(inputs) > _COLUMNS else [])


def _label(manifest: dict[str, Any]) -> list[str]:
    if not manifest["label"]:
        return []
    column = next(column for column in manifest["columns"] if column["name"] == manifest["label"])
    missing = plural("{n} row has none", "{n} rows have none", manifest["missing"]).format(n=manifest["missing"])
    return [f"{column['name']}  {column['datatype']}" + (f"  ({missing})" if manifest["missing"] else "")]


def _classes(manifest: dict[str, Any]) -> list[str]:
    """How many rows are of each."""
    counts = manifest["counts"]
    names = manifest["classes"] or [str(index) for index in range(len(counts))]
    if not names:
        return []
    known = [f"{name} × {count:,}" for name, count in zip(names, counts, strict=False) if count] or list(names)
    told = plural("{n} class: {classes}", "{n} classes: {classes}", len(known))
    return [told.format(n=len(known), classes=_some(known, _CLASSES))]


def _files(entries: Sequence[dict[str, Any]]) -> list[str]:
    from openmaas.cli.units import size

    lines = [f"{entry['path']}  {size(entry['size'])}  {entry['sha256'][:12]}" for entry in entries[:_FILES]]
    return lines + ([_("and {n} more").format(n=len(entries) - _FILES)] if len(entries) > _FILES else [])


def _some(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")
