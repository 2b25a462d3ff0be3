"""Models and versions: list, show, fetch, remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.i18n import _, plural
from openmaas.cli.options import All, Json, Limit, ReferenceArgument, Yes, confirm, connect

if TYPE_CHECKING:
    from openmaas.client import Client
    from openmaas.core.resources import ModelSummary, VersionInfo


def ls(
    model: Annotated[str | None, typer.Argument(help=_("List this model's versions instead."))] = None,
    prefix: Annotated[str, typer.Option("--prefix", "-p", help=_("Only names that begin so."))] = "",
    limit: Limit = 50,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """List models, or the versions of one. With --json all of them."""
    client = connect()
    if model is not None:
        _list_versions(client, model, limit, everything, as_json)
        return
    from openmaas.cli.console import print_json
    from openmaas.cli.listings import rows

    pages = client.models(prefix=prefix, page_size=None if everything or as_json else limit)
    models, total = rows(pages, limit, everything or as_json)
    if as_json:
        print_json(models)
    else:
        _print_models(models, total, prefix)


def _print_models(models: list[ModelSummary], total: int, prefix: str) -> None:
    from openmaas.cli.console import name, nothing, out, table
    from openmaas.cli.listings import remark
    from openmaas.cli.units import ago, size

    if not models:
        nothing(
            _("No model begins with {prefix!r}.").format(prefix=prefix)
            if prefix
            else _("No models yet. Push one: openmaas push PATH --name NAME")
        )
        return
    made = table(
        _("MODEL"), _("FORMAT"), _("LATEST"), _("VERSIONS"), _("SIZE"), _("ALIASES"), _("UPDATED"),
        right=(_("LATEST"), _("VERSIONS"), _("SIZE")),
    )  # fmt: skip
    for model in models:
        aliases = ", ".join(f"{alias} → {number}" for alias, number in sorted(model.aliases.items()))
        latest = "–" if model.latest is None else str(model.latest)
        made.add_row(
            name(model.name), model.format or "–", latest, str(model.versions), size(model.size), aliases, ago(model.updated_at)
        )
    out().print(made)
    remark(len(models), total)


def _list_versions(client: Client, model: str, limit: int, everything: bool, as_json: bool) -> None:
    from openmaas.cli.console import name, out, print_json, table
    from openmaas.cli.listings import remark, rows
    from openmaas.cli.units import ago, size

    versions, total = rows(client.versions(model, page_size=limit), limit, everything or as_json)
    if as_json:
        print_json(versions)
        return
    made = table(
        _("VERSION"), _("FORMAT"), _("ENGINE"), _("SIZE"), _("DIGEST"), _("ALIASES"), _("PUSHED"), _("BY"), right=(_("SIZE"),)
    )
    for version in versions:
        made.add_row(
            name(f"{version.model}:{version.number}"), version.format, version.engine, size(version.size),
            version.digest[:12], ", ".join(version.aliases), ago(version.created_at), version.created_by,
        )  # fmt: skip
    out().print(made)
    remark(len(versions), total)


def show(reference: ReferenceArgument, as_json: Json = False) -> None:
    """Show a version: signature, files, parity of its conversion, metadata, card."""
    from openmaas.cli.console import print_json

    version = connect().show(reference)
    if as_json:
        print_json(version)
    else:
        print_version(version)


def print_version(version: VersionInfo) -> None:
    """A version for people."""
    from rich.text import Text

    from openmaas.cli.console import fields, out
    from openmaas.cli.units import ago, clock, size

    console = out()
    title = Text(f"{version.model}:{version.number}", style="name")
    if version.aliases:
        title.append("  " + ", ".join(version.aliases), style="good")
    console.print(title)
    rows: list[tuple[str, Any]] = [
        (_("digest"), version.digest),
        (_("format"), version.format if version.format == version.engine else f"{version.format} → {version.engine}"),
        (_("size"), size(version.size)),
        (_("pushed"), _("{ago} by {actor}, {clock}").format(
            ago=ago(version.created_at), actor=version.created_by, clock=clock(version.created_at)
        )),
        *((_("parent"), version.parent) for _parent in (1,) if version.parent),
        *((_("recipe"), version.recipe) for _recipe in (1,) if version.recipe),
        *_described(version.manifest),
        *((key, str(value)) for key, value in sorted(version.metadata.items())),
    ]  # fmt: skip
    console.print(fields(rows))
    if version.card:
        from rich.markdown import Markdown

        console.print()
        console.print(Markdown(version.card))


def _described(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Signature, batching, parity, files and notes of a manifest."""
    from openmaas.cli.units import size

    rows = [(_("input"), _tensor(spec)) for spec in manifest["signature"]["inputs"]]
    rows += [(_("output"), _tensor(spec)) for spec in manifest["signature"]["outputs"]]
    batching = manifest.get("batching") or (_("yes") if manifest.get("batchable") else _("no"))
    rows.append((_("batching"), batching))
    if manifest.get("parity"):
        rows += [(_("parity"), line) for line in parity_lines(manifest["parity"])]
    rows += [(_("file"), f"{entry['path']}  {size(entry['size'])}  {entry['sha256'][:12]}") for entry in manifest["files"][:20]]
    if len(manifest["files"]) > 20:
        rows.append(("", _("and {n} more").format(n=len(manifest["files"]) - 20)))
    return rows + [(_("note"), note) for note in manifest.get("notes", ())]


def _tensor(spec: dict[str, Any]) -> str:
    shape = ", ".join("?" if axis == -1 else str(axis) for axis in spec["shape"])
    return f"{spec['name']}  {spec['datatype']} [{shape}]"


def parity_lines(parity: dict[str, Any]) -> list[str]:
    """A conversion held against its source, one line for each batch size."""
    verdict = _("within tolerance") if parity["passed"] else _("outside tolerance")
    if not parity["comparisons"] and parity.get("reason"):
        return [f"{parity['source']} → {parity['target']}: {parity['reason']}"]
    head = _("{source} → {target}: {verdict} (rtol {rtol:g}, atol {atol:g}; sample {sample})").format(verdict=verdict, **{
        key: parity[key] for key in ("source", "target", "rtol", "atol", "sample")
    })  # fmt: skip
    lines = [head, *(_comparison(item) for item in parity["comparisons"])]
    return [*lines, parity["reason"]] if parity.get("reason") else lines


def _comparison(item: dict[str, Any]) -> str:
    labels = "" if item["labels_equal"] else _(", labels differ")
    return _("batch {batch}: largest difference {diff:.2g} in {output}{labels}").format(
        batch=item["batch"], diff=item["max_abs_diff"], output=item["output"], labels=labels
    )


def rm(reference: ReferenceArgument, yes: Yes = False) -> None:
    """Remove a version (digits:3) or a whole model (digits) from the registry."""
    from openmaas.cli.console import done
    from openmaas.core.names import parse_reference

    client, target = connect(), parse_reference(reference)
    if target.number is None and target.alias is None:
        count = client.model(target.model).versions
        question = plural("Remove {model} with its {n} version?", "Remove {model} with all its {n} versions?", count)
        if not confirm(question.format(model=target.model, n=count), yes):
            raise typer.Exit(1)
        client.delete_model(target.model)
    else:
        version = client.show(reference)
        reference = f"{version.model}:{version.number}"
        if not confirm(_("Remove {reference}?").format(reference=reference), yes):
            raise typer.Exit(1)
        client.delete_version(reference)
    done(_("{reference} is removed. Its files go with the next `openmaas gc`.").format(reference=reference))


def pull(
    reference: ReferenceArgument,
    folder: Annotated[Path, typer.Argument(help=_("Where the files go; made if missing."))],
) -> None:
    """Download the files of a version, each checked against its digest."""
    from openmaas.cli.console import done

    target = connect().download(reference, folder)
    done(_("{reference} lies in {folder}.").format(reference=reference, folder=target))
