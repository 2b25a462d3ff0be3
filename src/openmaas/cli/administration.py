"""Garbage and approvals."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openmaas.cli.i18n import _, plural
from openmaas.cli.options import Json, Yes, confirm, connect
from openmaas.core.errors import InvalidInput

if TYPE_CHECKING:
    from openmaas.core.resources import GcReport


def gc(
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_("Only say what would be freed."))] = False,
    as_json: Json = False,
) -> None:
    """Free what nothing uses any more: files, unfinished uploads, jobs that ended long ago. Says what first, and asks."""
    from openmaas.cli.console import done, nothing, print_json, write

    client = connect()
    report = client.gc()
    if as_json:
        print_json(client.gc(apply=True) if yes and not dry_run else report)
        return
    if not report.blobs and not report.uploads and not report.jobs and not report.bytes:
        nothing(_("There is nothing to free."))
        return
    write(_("Would free {what}.").format(what=_what(report)))
    if dry_run or not confirm(_("Free them?"), yes):
        return
    done(_("Freed {what}.").format(what=_what(client.gc(apply=True))))


def _what(report: GcReport) -> str:
    """Files, uploads and jobs, those that there are, and their size."""
    from openmaas.cli.units import size

    parts = [
        plural("{n} file", "{n} files", report.blobs).format(n=report.blobs) if report.blobs else "",
        plural("{n} unfinished upload", "{n} unfinished uploads", report.uploads).format(n=report.uploads)
        if report.uploads
        else "",
        plural("{n} ended job", "{n} ended jobs", report.jobs).format(n=report.jobs) if report.jobs else "",
    ]
    return f"{', '.join(filter(None, parts)) or _('old logs')} ({size(report.bytes)})"


def approve(
    what: Annotated[str | None, typer.Argument(metavar="FILE|SHA256", help=_("A file that you trust, or a digest."))] = None,
    reason: Annotated[str, typer.Option("--reason", help=_("Why it may be loaded; kept with the approval."))] = "",
    as_json: Json = False,
) -> None:
    """Allow what runs code to be loaded: a pickle or joblib file, or a Python function by the digest that its push names.

    Without a file or digest, list what is approved.
    """
    from openmaas.cli.console import done, print_json

    client = connect()
    if what is None:
        _list(as_json)
        return
    approval = client.approve(_digest(what), reason=reason)
    if as_json:
        print_json(approval)
    else:
        done(_("{digest} is approved. Push the file again.").format(digest=approval.sha256))


def _digest(what: str) -> str:
    path = Path(what)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if len(what) == 64 and all(character in "0123456789abcdef" for character in what):
        return what
    raise InvalidInput(_("{what!r} is neither a file nor a SHA-256 digest.").format(what=what), code="no_such_file")


def _list(as_json: bool) -> None:
    from openmaas.cli.console import Table, name, nothing, print_json, write_table
    from openmaas.cli.units import ago

    approvals = connect().approvals()
    if as_json:
        print_json(approvals)
    elif not approvals:
        nothing(_("Nothing is approved."))
    else:
        made = Table(_("DIGEST"), _("REASON"), _("BY"), _("WHEN"))
        for approval in approvals:
            made.add_row(name(approval.sha256), approval.reason, approval.actor, ago(approval.at))
        write_table(made)
