"""Models and versions: list, show, fetch, remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.i18n import _, plural
from openmaas.cli.options import All, Json, Limit, ReferenceArgument, Yes, confirm, connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openmaas.cli.styled import Line
    from openmaas.core.resources import ModelSummary, Page, VersionInfo

_FILES = 20  # that `show` lists
_CARD_WIDTH = 100


def ls(
    model: Annotated[str | None, typer.Argument(help=_("List this model's versions instead."))] = None,
    prefix: Annotated[str, typer.Option("--prefix", "-p", help=_("Only names that begin so."))] = "",
    limit: Limit = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """List models, or the versions of one. With --json all of them, unless --limit says fewer."""
    from openmaas.cli.console import print_json
    from openmaas.cli.listings import DEFAULT_LIMIT, LARGEST_PAGE, first_rows

    client = connect()
    everything = everything or (as_json and limit is None)
    size = LARGEST_PAGE if everything else limit or DEFAULT_LIMIT
    if model is not None:
        versions = first_rows(client.versions(model, page_size=size), limit, everything)
        print_json(versions) if as_json else _print_versions(versions)
    else:
        models = first_rows(client.models(prefix=prefix, page_size=size), limit, everything)
        print_json(models) if as_json else _print_models(models, prefix)


def _print_models(models: Page[ModelSummary], prefix: str) -> None:
    from openmaas.cli.console import Table, name, nothing, write_table
    from openmaas.cli.listings import remark
    from openmaas.cli.units import ago, size

    if not models.items:
        nothing(
            _("No model begins with {prefix!r}.").format(prefix=prefix)
            if prefix
            else _("No models yet. Push one: openmaas push PATH --name NAME")
        )
        return
    made = Table(
        _("MODEL"), _("FORMAT"), _("LATEST"), _("VERSIONS"), _("SIZE"), _("ALIASES"), _("UPDATED"),
        right=(_("LATEST"), _("VERSIONS"), _("SIZE")),
    )  # fmt: skip
    for model in models.items:
        aliases = ", ".join(f"{alias} → {number}" for alias, number in sorted(model.aliases.items()))
        latest = "–" if model.latest is None else str(model.latest)
        made.add_row(
            name(model.name), model.format or "–", latest, str(model.versions), size(model.size), aliases, ago(model.updated_at)
        )
    write_table(made)
    remark(models)


def _print_versions(versions: Page[VersionInfo]) -> None:
    from openmaas.cli.console import Table, name, write_table
    from openmaas.cli.listings import remark
    from openmaas.cli.units import ago, size

    made = Table(
        _("VERSION"), _("FORMAT"), _("ENGINE"), _("SIZE"), _("DIGEST"), _("ALIASES"), _("PUSHED"), _("BY"), right=(_("SIZE"),)
    )
    for version in versions.items:
        made.add_row(
            name(f"{version.model}:{version.number}"), version.format, version.engine, size(version.size),
            version.digest[:12], ", ".join(version.aliases), ago(version.created_at), version.created_by,
        )  # fmt: skip
    write_table(made)
    remark(versions)


def show(reference: ReferenceArgument, as_json: Json = False) -> None:
    """Show a version: signature, files, parity of its conversion, metadata, card."""
    from openmaas.cli.console import print_json

    client = connect()
    version = client.show(reference)
    if as_json:
        print_json(version)
        return
    print_version(version)
    if version.manifest.get("generator"):
        from openmaas.cli.generators import print_variants

        print_variants(version, list(client.versions(version.model)))


def print_version(version: VersionInfo) -> None:
    """A version for people."""
    from openmaas.cli.console import Styled, write, write_fields
    from openmaas.cli.units import ago, clock, size

    write(Styled((f"{version.model}:{version.number}", "name"), *((f"  {alias}", "good") for alias in version.aliases)))
    rows: list[tuple[str, Line]] = [
        (_("digest"), version.digest),
        (_("format"), version.format if version.format == version.engine else f"{version.format} → {version.engine}"),
        (_("size"), size(version.size)),
        (_("pushed"), _("{ago} by {actor}, {clock}").format(
            ago=ago(version.created_at), actor=version.created_by, clock=clock(version.created_at)
        )),
        *_described(version.manifest),
        *_labelled(_("metadata"), [f"{key} = {value}" for key, value in sorted(version.metadata.items())]),
        *_labelled(_("parent"), [version.parent] if version.parent else []),
        *_labelled(_("recipe"), _made(version.recipe) if version.recipe else []),
        *_labelled(_("measured"), _beside(version.variant) if version.variant is not None else []),
    ]  # fmt: skip
    write_fields(rows)
    if version.measurement is not None or version.measuring is not None:
        from openmaas.cli.measurements import print_engines

        print_engines(version)
    if version.card:
        write()
        _write_card(version.card)


def _made(recipe: str) -> list[Line]:
    """The passes, and what they were given, one line each; all of it is in --json."""
    from openmaas.core.made import read_made

    made = read_made(recipe)
    lines: list[Line] = [made.label]
    for field, label in (("data", _("data")), ("evaluation", _("evaluation"))):
        given = made.details.get(field)
        if name := given.get("version") if isinstance(given, dict) else given:
            digest = f", {str(given['digest'])[:12]}" if isinstance(given, dict) and given.get("digest") else ""
            lines.append(f"{label} {str(name)[:80]}{digest}")
    seed = made.details.get("seed")
    if made.recipe is not None and isinstance(seed, int):
        lines.append(_("seed {seed}").format(seed=seed))
    return lines


def _beside(told: dict[str, Any]) -> list[Line]:
    """What the newest comparison with a version that it was made of said: a verdict, and the figures."""
    import msgspec

    from openmaas.cli.console import Styled
    from openmaas.core.evaluations import Entrant, Figures
    from openmaas.reports import words

    one = msgspec.convert(told, Entrant, strict=False)
    ours, theirs = one.figures, msgspec.convert(told["baseline_figures"], Figures, strict=False)
    lost = _("quality was not measured") if one.loss is None else _("{metric} lost: {loss}").format(
        loss=words.lost(told["metric"], one.loss), metric=told["metric"]
    )  # fmt: skip
    on = _(" on {dataset}").format(dataset=told["dataset"]) if told["dataset"] else ""
    figures = _("size {size}, p50 {latency}, throughput {rate} as good ({job})").format(
        size=words.times(theirs.size / max(ours.size, 1)),
        latency=words.times(theirs.speeds[0].p50 / max(ours.speeds[0].p50, 1e-12)),
        rate=words.times(ours.best.rate / max(theirs.best.rate, 1e-12)),
        job=told["job"],
    )
    if one.dominated:
        verdict: Line = Styled((_("dominated by {parent}: never recommended").format(parent=told["baseline"]), "bad"))
    else:
        verdict = _("beside {parent}").format(parent=told["baseline"])
    return [verdict, f"{lost}{on}", figures]


def _write_card(card: str) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.print(Markdown(card), width=min(console.width, _CARD_WIDTH))


def _described(manifest: dict[str, Any]) -> list[tuple[str, Line]]:
    """Signature, processing, batching, parity, files and notes of a manifest."""
    from openmaas.cli.processing import processing_lines

    if manifest.get("generator"):
        from openmaas.cli.generators import generator_rows

        head: list[tuple[str, Line]] = [*generator_rows(manifest["generator"])]
    else:
        head = [
            *_labelled(_("inputs"), [_tensor(spec) for spec in manifest["signature"]["inputs"]]),
            *_labelled(_("outputs"), [_tensor(spec) for spec in manifest["signature"]["outputs"]]),
            *_labelled(_("processing"), processing_lines(manifest.get("processing") or {})),
        ]
    return [
        *head,
        (_("batching"), manifest.get("batching") or (_("yes") if manifest.get("batchable") else _("no"))),
        *_labelled(_("parity"), parity_lines(manifest["parity"]) if manifest.get("parity") else []),
        *_labelled(_("files"), _files(manifest["files"])),
        *_labelled(_("notes"), list(manifest.get("notes", ()))),
    ]


def _labelled(label: str, lines: Sequence[Line]) -> list[tuple[str, Line]]:
    """The label stands before the first line only."""
    return [(label if index == 0 else "", line) for index, line in enumerate(lines)]


def _files(entries: list[dict[str, Any]]) -> list[str]:
    from openmaas.cli.units import size

    lines = [f"{entry['path']}  {size(entry['size'])}  {entry['sha256'][:12]}" for entry in entries[:_FILES]]
    return lines + ([_("and {n} more").format(n=len(entries) - _FILES)] if len(entries) > _FILES else [])


def _tensor(spec: dict[str, Any]) -> str:
    shape = ", ".join("?" if axis == -1 else str(axis) for axis in spec["shape"])
    return f"{spec['name']}  {spec['datatype']} [{shape}]"


def parity_lines(parity: dict[str, Any]) -> list[str]:
    """A conversion held against its source, one line for each batch size."""
    verdict = _("within tolerance") if parity["passed"] else _("outside tolerance")
    if parity.get("perplexity"):
        from openmaas.cli.generators import parity_rows

        return parity_rows(parity, verdict)
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
