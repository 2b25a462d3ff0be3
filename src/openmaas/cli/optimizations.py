"""Make a version smaller or faster: by a recipe, or by a search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.comparisons import Target, check_report
from openmaas.cli.i18n import _, plural
from openmaas.cli.options import Json, connect
from openmaas.cli.units import parse_share

if TYPE_CHECKING:
    from openmaas.core.evaluations import VersionComparison

_SHOWN = 12
"""Recipes that a search tried and dropped, of which the reason is told."""


def _print_passes(wanted: bool) -> None:
    if wanted:
        print_passes()
        raise typer.Exit


def optimize(
    reference: Annotated[str, typer.Argument(metavar="MODEL", help=_("A version: digits, digits:3 or digits@champion."))],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help=_("The steps, as YAML; --passes lists what there is."))
    ] = None,
    auto: Annotated[bool, typer.Option("--auto", help=_("Search for the best within --max-loss."))] = False,
    data: Annotated[str, typer.Option("--data", metavar="DATASET", help=_("What passes train and calibrate on."))] = "",
    evaluation: Annotated[
        str, typer.Option("--eval", metavar="DATASET", help=_("What quality is measured on; without it, agreement."))
    ] = "",
    max_loss: Annotated[
        float,
        typer.Option(
            "--max-loss", metavar="SHARE", parser=parse_share, help=_("Of quality that may be lost: 1% or 0.01 is one point.")
        ),
    ] = "1%",  # type: ignore[assignment]  # as it is parsed
    target: Annotated[Target, typer.Option("--target", help=_("What is made best within it."))] = Target.latency,
    metric: Annotated[str, typer.Option("--metric", metavar="NAME", help=_("The usual one of the dataset without."))] = "",
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=1, max=86400, help=_("That a search may take; of a recipe, at most so many of timing.")),
    ] = 900.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help=_("Of a search; a recipe has its own."))] = 0,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help=_("Write the comparison as a page with plots."))
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help=_("Return as soon as the job is submitted."))] = False,
    as_json: Json = False,
    passes: Annotated[
        bool, typer.Option("--passes", is_eager=True, callback=_print_passes, help=_("List the passes and their parameters."))
    ] = False,
) -> None:
    """Make smaller or faster versions by a recipe, or search for them; each is measured beside its parent."""
    from openmaas.cli.console import done, hint, print_json
    from openmaas.cli.jobs import follow_job

    if (recipe is None) == (not auto):
        raise typer.BadParameter(_("Give either --recipe FILE or --auto."))
    if report is not None and no_wait:
        raise typer.BadParameter(_("A report is written at the end; leave --no-wait out."))
    if report is not None:
        check_report(report)
    client = connect()
    job = client.optimize(
        reference, recipe=recipe, data=data, evaluation=evaluation, auto=auto, max_loss=max_loss,
        target=target.value, metric=metric, seconds=seconds, seed=seed,
    )  # fmt: skip
    if no_wait:
        if as_json:
            print_json(job)
            return
        done(_("{job} is submitted.").format(job=job.id))
        hint(f"openmaas jobs show {job.id} --wait")
        return
    job = follow_job(client, job.id, quiet=as_json)
    if report is not None and job.result is not None and job.result.get("comparison"):
        _write_report(job.result, job.id, report)
    if as_json:
        print_json(job)
    elif job.result is not None:
        print_result(job.result, job.subject or reference, report)


def print_result(result: dict[str, Any], parent: str, report: Path | None = None) -> None:
    """What was registered, what it costs beside its parent, and what to do with it."""
    from openmaas.cli.console import done, hint, write

    versions, made = result["versions"], result["version"]
    if not versions:
        write(_("Nothing was registered: no variant of {parent} is worth it.").format(parent=parent))
    elif result["created"]:
        done(_("{versions} made of {parent}").format(versions=", ".join(versions), parent=parent))
    else:
        done(_("{version} has exactly these files already; nothing was added.").format(version=", ".join(versions)))
    if result.get("comparison"):
        _print_comparison(result)
    _print_tried(result.get("tried", []))
    for note in result["notes"]:
        write(f"  {note}")
    if report is not None:
        done(_("{file} has the plots.").format(file=report))
    if made:
        model, _colon, number = made.partition(":")
        comparison = result.get("comparison") or {}
        if comparison.get("dataset") and result.get("evaluations"):
            hint(f"openmaas gate set {model} champion --data {comparison['dataset']} --max-loss 1%")
        if comparison.get("recommended", made) != made:  # it is there as it was asked for, and nobody is told to serve it
            hint(f"openmaas show {made}")
            return
        hint(f"openmaas alias {model} champion {number}")
        hint(f"openmaas deploy {made}{_engine(comparison, made)}")


def _engine(comparison: dict[str, Any], version: str) -> str:
    """The option that names the engine that it was measured by, where that computes with less than the file has."""
    for one in comparison.get("entrants", ()):
        choice = one["figures"]["choice"]
        if one["version"] == version and choice.get("precision"):
            return f" --engine {choice['engine']}:{choice['precision']}"
    return ""


def _comparison(result: dict[str, Any]) -> VersionComparison:
    import msgspec

    from openmaas.core.evaluations import VersionComparison

    return msgspec.convert(result["comparison"], VersionComparison, strict=False)


def _print_comparison(result: dict[str, Any]) -> None:
    from openmaas.cli.comparisons import print_comparison

    print_comparison(_comparison(result))


def _write_report(result: dict[str, Any], job: str, path: Path) -> None:
    from openmaas.cli.comparisons import write_report

    write_report(_comparison(result), path, job=job)


def _print_tried(tried: list[dict[str, Any]]) -> None:
    """What a search tried and did not register, and why."""
    from openmaas.cli.console import Styled, Table, write, write_table
    from openmaas.cli.units import size

    dropped = [one for one in tried if not one["version"]]
    if not tried:
        return
    head = plural("{n} recipe was tried", "{n} recipes were tried", len(tried)).format(n=len(tried))
    write(Styled("\n", (head, "head")))
    numbers = (_("LOSS WHILE SEARCHING"), _("SIZE"))
    table = Table(_("RECIPE"), *numbers, _("WHY NOT"), right=numbers)
    for one in sorted(dropped, key=lambda one: one["loss"] is None)[:_SHOWN]:
        lost = "–" if one["loss"] is None else f"{one['loss']['value']:+.2%}"
        reason = one["reason"] or _("another one is better")
        table.add_row(one["label"], lost, size(one["size"]) if one["size"] else "–", reason)
    write_table(table)
    if len(dropped) > _SHOWN:
        write(Styled((_("… and {n} more; --json has them all").format(n=len(dropped) - _SHOWN), "faint")))


def print_passes() -> None:
    """All passes: what each does, and its parameters with their defaults."""
    import inspect

    import msgspec

    from openmaas.cli.console import Styled, write
    from openmaas.core.recipes import PASSES, Pass, Training

    for name, kind in PASSES.items():
        first, *more = inspect.cleandoc(kind.__doc__ or "").splitlines()
        write(Styled((name, "name"), f"  {first}"))
        for line in more:
            write(f"  {line}" if line else "")
        common = {field.name for base in (Pass, Training) for field in msgspec.structs.fields(base)}
        own = [field for field in msgspec.structs.fields(kind) if field.name not in common]
        shared = [field for field in msgspec.structs.fields(kind) if field.name in common]
        for field in (*own, *shared):
            write(Styled(f"    {field.name}: ", (_told(field), "faint")))
        write()


def _told(field: Any) -> str:
    """A field's default, and what else it may be."""
    import msgspec
    from msgspec.inspect import LiteralType, type_info

    kind = type_info(field.type)
    choices = " | ".join(map(str, kind.values)) if isinstance(kind, LiteralType) else ""
    if field.default is msgspec.NODEFAULT:
        return _("{choices} (must be given)").format(choices=choices)
    default = _plain(field.default)
    return f"{default}  ({choices})" if choices else default


def _plain(value: Any) -> str:
    if value is None or value in ((), ""):
        return _("none")
    return str(value)
