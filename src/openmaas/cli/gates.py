"""Gates: when an alias or a deployment may move, and what was decided."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import All, Json, Limit, ReferenceArgument, connect
from openmaas.cli.units import parse_figure, parse_seconds, parse_share, parse_size

if TYPE_CHECKING:
    from openmaas.cli.styled import Line
    from openmaas.core.resources import GateDecision, GateInfo, GateVerdict

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=_("A model's name."))]
AliasArgument = Annotated[str | None, typer.Argument(metavar="ALIAS", help=_("The alias that the gate binds."))]
DeploymentOption = Annotated[
    str | None,
    typer.Option("--deployment", metavar="NAME", help=_("The deployment that the gate binds, not an alias.")),
]

gate = typer.Typer(
    help=_("Let an alias or a deployment move only to versions whose newest evaluation holds the rules."), no_args_is_help=True
)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """One of the group's, with its description from the catalogue."""
    name = function.__name__.rstrip("_")
    return gate.command(name, help=_(inspect.cleandoc(function.__doc__ or "")))(function)


@_command
def set_(
    model: ModelArgument,
    alias: AliasArgument = None,
    deployment: DeploymentOption = None,
    metric: Annotated[str, typer.Option("--metric", metavar="NAME", help=_("accuracy, f1, rmse and so on."))] = "",
    max_loss: Annotated[
        float | None,
        typer.Option(
            "--max-loss",
            metavar="SHARE",
            parser=parse_share,
            help=_("What the metric may lose against the baseline, such as 0.5%: the upper 95% bound counts."),
        ),
    ] = None,
    minimum: Annotated[
        float | None,
        typer.Option(
            "--min",
            metavar="FIGURE",
            parser=parse_figure,
            help=_("What the metric must be, such as 97%: its lower 95% bound counts; of errors, the most, and the upper."),
        ),
    ] = None,
    max_p99: Annotated[
        float | None,
        typer.Option("--max-p99", metavar="TIME", parser=parse_seconds, help=_("Of a call at batch 1, such as 20ms.")),
    ] = None,
    max_size: Annotated[
        int | None,
        typer.Option("--max-size", metavar="SIZE", parser=parse_size, help=_("Of what the engine loads, such as 100KB.")),
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", metavar="SECONDS", help=_("Processor seconds for 1,000 rows."))
    ] = None,
    data: Annotated[
        str, typer.Option("--data", metavar="DATASET", help=_("What counts; that of the model's newest evaluation without."))
    ] = "",
    baseline: Annotated[
        str,
        typer.Option("--baseline", metavar="VERSION", help=_("What losses are against; where the alias stands without.")),
    ] = "",
    as_json: Json = False,
) -> None:
    """Set a gate, in place of the one that is there: its dataset, baseline and metric stay where none are given.

    openmaas gate set digits champion --metric accuracy --max-loss 0.5% --max-p99 20ms

    openmaas gate set digits --deployment digits --min 97%
    """
    from openmaas.cli.console import Styled, done, print_json, write

    info = connect().set_gate(
        model,
        alias,
        deployment=deployment,
        data=data,
        baseline=baseline,
        metric=metric,
        max_loss=max_loss,
        minimum=minimum,
        max_p99=max_p99,
        max_size=max_size,
        max_cost=max_cost,
    )
    if as_json:
        print_json(info)
        return
    done(_("The gate of {target} is set.").format(target=_target(info)))
    _write_gate(info)
    for note in info.notes:
        write(Styled((note, "faint")))


@_command
def ls(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=_("Only this model's."))] = None, as_json: Json = False
) -> None:
    """List the gates."""
    from openmaas.cli.console import Table, name, nothing, print_json, write_table
    from openmaas.cli.units import ago

    found = connect().gates(model)
    if as_json:
        print_json(found)
        return
    if not found:
        nothing(
            _("There are no gates. Set one: openmaas gate set {model} champion --max-loss 0.5%").format(model=model or "MODEL")
        )
        return
    made = Table(_("GATE"), _("RULES"), _("DATASET"), _("BASELINE"), _("BY"), _("WHEN"))
    for one in found:
        rules = ", ".join(_rules(one.rules))
        made.add_row(name(_target(one)), rules, one.rules["dataset"], one.rules["baseline"] or "–", one.actor, ago(one.at))
    write_table(made)


@_command
def show(model: ModelArgument, alias: AliasArgument = None, deployment: DeploymentOption = None, as_json: Json = False) -> None:
    """Show a gate."""
    from openmaas.cli.console import Styled, print_json, write

    info = connect().gate(model, alias, deployment=deployment)
    if as_json:
        print_json(info)
        return
    write(Styled((_target(info), "name")))
    _write_gate(info)


@_command
def rm(model: ModelArgument, alias: AliasArgument = None, deployment: DeploymentOption = None, as_json: Json = False) -> None:
    """Take a gate away; what it decided stays in the history."""
    from openmaas.cli.console import done, print_json

    info = connect().remove_gate(model, alias, deployment=deployment)
    if as_json:
        print_json(info)
    else:
        done(_("{target} has no gate any more.").format(target=_target(info)))


@_command
def check(
    reference: ReferenceArgument,
    alias: AliasArgument = None,
    deployment: DeploymentOption = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help=_("That would serve it; the one that serves it, or would, without."))
    ] = "",
    as_json: Json = False,
) -> None:
    """Hold a version against a gate without moving anything. It fails where the gate would refuse."""
    from openmaas.cli.console import print_json

    verdict = connect().check_gate(reference, alias, deployment=deployment, engine=engine)
    print_json(verdict) if as_json else print_verdict(verdict)
    if not verdict.passed:
        raise typer.Exit(1)


@_command
def history(model: ModelArgument, limit: Limit = None, everything: All = False, as_json: Json = False) -> None:
    """Show what the model's gates decided, newest first: with --json also the evidence of each rule."""
    from openmaas.cli.console import Table, name, nothing, print_json, write_table
    from openmaas.cli.listings import first_rows, remark
    from openmaas.cli.units import ago

    found = first_rows(connect().gate_decisions(model), limit, everything or (as_json and limit is None))
    if as_json:
        print_json(found)
        return
    if not found.items:
        nothing(_("No gate of {model} decided anything yet.").format(model=model))
        return
    made = Table(_("GATE"), _("FROM"), _("TO"), _("OUTCOME"), _("BY"), _("WHEN"), _("WHY"), right=(_("FROM"), _("TO")))
    for one in found.items:
        before = "–" if one.previous is None else str(one.previous)
        made.add_row(name(_target(one)), before, str(one.number), _outcome(one.outcome), one.actor, ago(one.at), _why(one))
    write_table(made)
    remark(found)


def print_verdict(verdict: GateVerdict, *, full: bool = True) -> None:
    """Each rule: the limit, what was measured, whether it holds. full: and in words where that comes from."""
    from openmaas.cli.console import Styled, Table, hint, write, write_table
    from openmaas.cli.units import ago

    metric = verdict.gate.rules["metric"]
    head = _("{version} at the gate of {target}, on {dataset}").format(
        version=verdict.version, target=_target(verdict.gate), dataset=verdict.gate.rules["dataset"]
    )
    write(Styled((head, "head")))
    numbers = (_("LIMIT"), _("COUNTED"), _("MEASURED"), _("95%"))
    made = Table("", _("RULE"), *numbers, right=numbers)
    for one in verdict.checks:
        made.add_row(
            Styled(("✓" if one["passed"] else "✗", "good" if one["passed"] else "bad")),
            _rule(one["rule"], metric),
            f"{_side(one['rule'], metric)} {_value(one['rule'], one['limit'], metric)}",
            *_measured(one, metric),
        )
    write_table(made)
    for one in verdict.checks if full else ():
        sign = ("✓ ", "good") if one["passed"] else ("✗ ", "bad")
        write(Styled(sign, (one["evidence"], "faint")))
    for command in dict.fromkeys(filter(None, (one["next_step"] for one in verdict.checks))):
        hint(command)
    job, at = next(((one["job"], one["at"]) for one in verdict.checks if one["job"]), ("", None))
    if job and at:
        write(Styled((_("evaluated by {job}, {ago}").format(job=job, ago=ago(at)), "faint")))


def _measured(one: dict[str, Any], metric: str) -> list[Line]:
    """The bound that counts, the figure, and its interval."""
    from openmaas.cli.console import Styled

    if one["value"] is None or one["estimate"] is None:
        return [Styled((_("not measured"), "bad")), "–", "–"]
    estimate = one["estimate"]
    interval = "–"
    if estimate["low"] is not None and estimate["high"] is not None:
        interval = " – ".join(_value(one["rule"], estimate[bound], metric) for bound in ("low", "high"))
    counted = Styled((_value(one["rule"], one["value"], metric), "good" if one["passed"] else "bad"))
    return [counted, _value(one["rule"], estimate["value"], metric), interval]


def _write_gate(info: GateInfo) -> None:
    from openmaas.cli.console import write_fields
    from openmaas.cli.units import ago

    rules = _rules(info.rules)
    rows: list[tuple[str, Line]] = [(_("rules") if index == 0 else "", line) for index, line in enumerate(rules)]
    rows.append((_("dataset"), info.rules["dataset"]))
    if info.rules["baseline"]:
        rows.append((_("baseline"), info.rules["baseline"]))
    rows.append((_("set"), _("{ago} by {actor}").format(ago=ago(info.at), actor=info.actor)))
    write_fields(rows)


_RULES = ("max_loss", "minimum", "max_p99", "max_size", "max_cost")


def _rules(rules: dict[str, Any]) -> Sequence[str]:
    metric = rules["metric"]
    return [
        f"{_rule(rule, metric)} {_side(rule, metric)} {_value(rule, rules[rule], metric)}"
        for rule in _RULES
        if rules[rule] is not None
    ]


def _rule(rule: str, metric: str) -> str:
    return {
        "max_loss": _("{metric} lost").format(metric=metric), "minimum": metric, "max_p99": _("p99"), "max_size": _("size"),
        "max_cost": _("cost of 1,000 rows"),
    }[rule]  # fmt: skip


def _side(rule: str, metric: str) -> str:
    from openmaas.core.metrics import METRICS

    return "≥" if rule == "minimum" and METRICS[metric].higher else "≤"


def _value(rule: str, value: float, metric: str) -> str:
    from openmaas.cli.units import milliseconds, size
    from openmaas.core.metrics import METRICS

    if rule == "max_loss" or (rule == "minimum" and METRICS[metric].share):
        return f"{value:.2%}"
    if rule == "max_p99":
        return milliseconds(value)
    if rule == "max_size":
        return size(value)
    return f"{value:.3g} s" if rule == "max_cost" else f"{value:.4g}"


def _target(one: GateInfo | GateDecision) -> str:
    if one.target == "alias":
        return f"{one.model}@{one.name}"
    return _("{model} as {name}").format(model=one.model, name=one.name)


def _outcome(outcome: str) -> Line:
    from openmaas.cli.console import Styled

    sign, style = {"passed": ("✓", "good"), "refused": ("✗", "bad"), "forced": ("!", "busy")}[outcome]
    return Styled((f"{sign} {outcome}", style))


def _why(one: GateDecision) -> str:
    """The reason of a forced move, and the rules that did not hold."""
    metric = one.rules["metric"]
    failed = [check for check in one.checks if not check["passed"]]
    said = ", ".join(f"{_rule(check['rule'], metric)} {_found(check, metric)}" for check in failed)
    return ": ".join(filter(None, (one.reason, said)))


def _found(check: dict[str, Any], metric: str) -> str:
    return _("not measured") if check["value"] is None else _value(check["rule"], check["value"], metric)
