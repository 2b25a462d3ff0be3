"""Push a model to the registry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.i18n import _, plural
from openmaas.cli.jobs import Wait, follow_job
from openmaas.cli.options import Json, connect
from openmaas.core.errors import InvalidInput

if TYPE_CHECKING:
    from openmaas.client import Progress
    from openmaas.core.resources import PushResult

_SHOWN = 8


def push(
    path: Annotated[Path, typer.Argument(help=_("A model file, or a folder that holds one."))],
    name: Annotated[str | None, typer.Option("--name", help=_("The model's name; the file's own without."))] = None,
    sample: Annotated[
        Path | None,
        typer.Option("--sample", help=_("Sample inputs (.npy, .npz, .json, .csv) that a conversion is compared on.")),
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", "-m", metavar="KEY=VALUE", help=_("Free metadata; may be repeated."))
    ] = None,
    card: Annotated[Path | None, typer.Option("--card", help=_("A Markdown file that describes the model."))] = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Push a model: register its files as a new, immutable version."""
    from openmaas.cli.console import print_json

    client = connect()
    with push_progress(quiet=as_json) as report:
        result = client.push(
            path,
            name=name,
            sample=sample,
            metadata=_pairs(metadata or []),
            card=None if card is None else _text(card),
            progress=report,
        )
    if wait:
        for job in result.jobs:
            follow_job(client, job, quiet=as_json)
        reference = f"{result.version.model}:{result.version.number}"
        result = replace(result, version=client.show(reference))
    if as_json:
        print_json(result)
    else:
        _print(result, ended=wait)


def _pairs(texts: list[str]) -> dict[str, Any]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(_("{text!r} is not KEY=VALUE.").format(text=text))
        pairs[key] = value
    return pairs


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(_("{path!r} cannot be read as text: {error}.").format(path=str(path), error=error)) from None


def _print(result: PushResult, ended: bool) -> None:
    from openmaas.cli.console import Styled, done, hint, write
    from openmaas.cli.models import print_version
    from openmaas.cli.units import size

    version = result.version
    reference = f"{version.model}:{version.number}"
    if result.created:
        done(_("{reference} is registered ({size} stored).").format(reference=reference, size=size(result.stored_bytes)))
    else:
        done(_("{reference} has exactly these files already; nothing was added.").format(reference=reference))
    print_version(version)
    _print_left_out(result.left_out)
    if result.jobs and not ended:
        told = _("The engines that can run it are being measured by {jobs}; a deployment waits for that.")
        write(Styled((told.format(jobs=", ".join(result.jobs)), "faint")))
        hint(f"openmaas jobs show {result.jobs[0]} --wait")
    hint(f"openmaas deploy {reference}")


def _print_left_out(names: Sequence[str]) -> None:
    from openmaas.cli.console import Styled, write

    if names:
        shown = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
        told = plural(
            "{count} file was not sent, since the model does without it: {files}",
            "{count} files were not sent, since the model does without them: {files}",
            len(names),
        )
        write(Styled((told.format(count=len(names), files=shown), "faint")))


@contextmanager
def push_progress(quiet: bool) -> Iterator[Any]:
    """A bar that follows a push, on standard error, at a terminal only."""
    from openmaas.cli.console import live_console

    console = None if quiet else live_console()
    if console is None:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, SpinnerColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    words = {
        "exporting": _("Exporting and comparing"), "hashing": _("Reading"), "sending": _("Sending"),
        "examining": _("Examining on the server"),
    }  # fmt: skip
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(words["hashing"], total=None)

        def report(progress: Progress) -> None:
            total = progress.total or None
            bar.update(task, description=words[progress.stage], completed=progress.done, total=total)

        yield report
