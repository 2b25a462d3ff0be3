"""Engines: measure them again, and what a measurement found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.i18n import _, plural
from openmaas.cli.jobs import Wait
from openmaas.cli.options import Json, ReferenceArgument, connect

if TYPE_CHECKING:
    from openmaas.cli.styled import Line, Table
    from openmaas.core.measurement import Measurement, Tried
    from openmaas.core.resources import VersionInfo

_BATCHES = (1, 8, 32)


def measure(
    reference: ReferenceArgument,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help=_("How long it may take."))] = 60.0,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Measure again which engine runs a version fastest here; deployments from then on follow it."""
    from openmaas.cli.console import done, hint, print_json
    from openmaas.cli.jobs import follow_job

    client = connect()
    job = client.measure(reference, seconds=seconds)
    if wait:
        follow_job(client, job.id, quiet=as_json)
        version = client.show(job.subject)
        print_json(version.measurement) if as_json else print_engines(version)
    elif as_json:
        print_json(job)
    else:
        done(_("The engines of {version} are being measured by {job}.").format(version=job.subject, job=job.id))
        hint(f"openmaas jobs show {job.id} --wait")


def print_engines(version: VersionInfo) -> None:
    """What was tried on the server's processor: a table, the chosen marked, and why the others are not."""
    from openmaas.cli.console import Styled, write, write_table
    from openmaas.cli.units import ago

    generates = bool(version.manifest.get("generator"))
    if version.measuring is not None:
        what = _("weights are being converted by {job}") if generates else _("engines are being measured by {job}")
        write(Styled("\n", (what.format(job=version.measuring), "busy")))
    if version.measurement is None:
        return
    if generates:
        from openmaas.cli.generators import print_weights

        print_weights(version.measurement)
        return
    import msgspec

    from openmaas.core.measurement import Measurement

    measurement = msgspec.convert(version.measurement, Measurement, strict=False)
    head = _("engines on {processor}, {cores} cores, {ago}; answers held against {reference} (sample {sample})").format(
        processor=measurement.processor.model,
        cores=measurement.processor.cores,
        ago=ago(version.measurement["at"]),
        reference=measurement.reference,
        sample=measurement.sample,
    )
    write(Styled("\n", (head, "head")))
    write_table(_table(measurement, {index: budget for budget, index in version.measurement["chosen"].items()}))
    for one in measurement.tried:
        if one.cause:
            write(Styled((f"{one.choice.label}: {one.cause}", "faint")))
    for budget, index in version.measurement["chosen"].items():
        write(Styled((_why(measurement.tried[index], budget), "faint")))


def _table(measurement: Measurement, chosen: dict[int, str]) -> Table:
    from openmaas.cli.console import Table

    batches = [batch for batch in _BATCHES if any(batch in one.rates for one in measurement.tried)]
    numbers = [_("THREADS"), *(_("ROWS/S AT {batch}").format(batch=batch) for batch in batches)]
    numbers += [_("DIFFERENCE"), _("COSINE"), _("TOP-1"), _("MEMORY")]
    made = Table("", _("ENGINE"), _("PRECISION"), *numbers, _("VERDICT"), right=numbers)
    for index, one in enumerate(measurement.tried):
        made.add_row(*_row(one, batches, starred=index in chosen))
    return made


def _row(one: Tried, batches: list[int], starred: bool) -> list[Line]:
    from openmaas.cli.console import Styled
    from openmaas.cli.units import size

    cosines = [item.cosine for item in one.comparisons if item.cosine is not None]
    shares = [item.top1 for item in one.comparisons if item.top1 is not None]
    gaps = [item.max_abs_diff for item in one.comparisons]
    name = ":".join(filter(None, (one.choice.engine, *sorted(map(str, one.choice.options)))))
    return [
        Styled(("★" if starred else " ", "good")),
        Styled((name, "name")),
        one.choice.precision or _("full"),
        str(one.choice.threads),
        *(_rate(one.rates.get(batch)) for batch in batches),
        f"{max(gaps):.1e}" if gaps else "–",
        f"{min(cosines):.6f}" if cosines else "–",
        f"{min(shares):.0%}" if shares else "–",
        size(one.memory) if one.memory else "–",
        Styled((_("fits") if one.state == "fit" else one.state, "good" if one.state == "fit" else "bad")),
    ]


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _why(one: Tried, budget: Any) -> str:
    share = plural("{n} thread", "{n} threads", int(budget)).format(n=budget)
    used = plural("{n} thread", "{n} threads", one.choice.threads).format(n=one.choice.threads)
    return _("★ for a replica of {share}: {engine} with {used}, {rate} rows/s (geometric mean)").format(
        share=share, engine=one.choice.label, used=used, rate=_rate(one.rate)
    )
