"""Versions that generate text: what they are, their variants, and what was measured of their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openmaas.cli.i18n import _, plural

if TYPE_CHECKING:
    from openmaas.cli.styled import Line
    from openmaas.core.measurement import Measurement, Tried
    from openmaas.core.resources import VersionInfo

_STREAMS = (1, 8)


def generator_rows(generator: dict[str, Any]) -> list[tuple[str, str]]:
    """Of a manifest's generator, labels and values."""
    chat = _("yes") if generator["chat_template"] else _("no")
    tools = generator["tool_format"] or _("no")
    defaults = ", ".join(f"{name} {value:g}" for name, value in sorted(generator["defaults"].items()))
    return [
        (_("parameters"), f"{generator['parameters']:,}" if generator["parameters"] else _("not known")),
        (_("weights"), generator["weights"] or _("not known")),
        (_("context"), plural("{n} token", "{n} tokens", generator["context"]).format(n=f"{generator['context']:,}")),
        (_("vocabulary"), plural("{n} token", "{n} tokens", generator["vocabulary"]).format(n=f"{generator['vocabulary']:,}")),
        (_("chat template"), chat if not generator["chat_template"] else f"{chat}  {_('tools')}: {tools}"),
        (_("sampling"), defaults or _("nothing is recommended")),
    ]


def parity_rows(parity: dict[str, Any], verdict: str) -> list[str]:
    """A generator held against its source."""
    before, after = parity["perplexity"]
    head = _("{source} → {target}: {verdict} (sample {sample})").format(
        source=parity["source"], target=parity["target"], verdict=verdict, sample=parity["sample"]
    )
    rows = [_("perplexity {before:.3f} → {after:.3f} ({rise:+.2%}; at most {most:+.2%})").format(
        before=before, after=after, rise=after / before - 1, most=parity["rtol"]
    )]  # fmt: skip
    rows += [
        _("logits: least cosine {cosine:.5f}, the same token {top1:.1%}").format(cosine=one["cosine"], top1=one["top1"])
        for one in parity["comparisons"]
    ]
    return [head, *rows, *([parity["reason"]] if parity.get("reason") else [])]


def print_weights(told: dict[str, Any]) -> None:
    """What was tried on the server's processor: a table, the chosen marked, why the others are not, and why it won.

    told: a measurement as JSON; `at` where it is kept already.
    """
    import msgspec

    from openmaas.cli.console import Styled, write, write_table
    from openmaas.cli.units import ago
    from openmaas.core.measurement import Measurement

    measurement = msgspec.convert(told, Measurement, strict=False)
    head = _(
        "weights on {processor}, {cores} cores; logits held against the source's (sample {sample}, perplexity {own})"
    ).format(
        processor=measurement.processor.model,
        cores=measurement.processor.cores,
        sample=measurement.sample,
        own=_perplexity(measurement.perplexity),
    )
    when = f", {ago(told['at'])}" if "at" in told else ""
    write(Styled("\n", (head + when, "head")))
    best = measurement.best(measurement.processor.cores)
    write_table(_table(measurement, best))
    for one in measurement.tried:
        if one.cause:
            write(Styled((f"{one.choice.precision}: {one.cause}", "faint")))
    if best is not None:
        told_why = _("★ {weights}: the fastest of those within the tolerance, {rate} tokens/s (geometric mean)")
        write(Styled((told_why.format(weights=best.choice.precision, rate=f"{best.rate:,.1f}"), "faint")))


def _table(measurement: Measurement, best: Tried | None) -> Any:
    from openmaas.cli.console import Styled, Table
    from openmaas.cli.units import size

    numbers = [_("TOKENS/S AT {n}").format(n=streams) for streams in _STREAMS]
    numbers += [_("PERPLEXITY"), _("COSINE"), _("TOP-1"), _("SIZE"), _("MEMORY")]
    made = Table("", _("WEIGHTS"), _("ENGINE"), *numbers, _("VERDICT"), right=numbers)
    for one in measurement.tried:
        compared = one.comparisons[0] if one.comparisons else None
        made.add_row(
            Styled(("★" if one is best else " ", "good")),
            Styled((one.choice.precision, "name")),
            one.choice.engine,
            *(f"{one.rates[streams]:,.1f}" if streams in one.rates else "–" for streams in _STREAMS),
            _perplexity(one.perplexity),
            "–" if compared is None or compared.cosine is None else f"{compared.cosine:.5f}",
            "–" if compared is None or compared.top1 is None else f"{compared.top1:.1%}",
            size(one.size) if one.size else "–",
            size(one.memory) if one.memory else "–",
            Styled((_("fits") if one.state == "fit" else one.state, "good" if one.state == "fit" else "bad")),
        )
    return made


def print_variants(version: VersionInfo, versions: list[VersionInfo]) -> None:
    """Versions that were converted from this one, newest first."""
    from openmaas.cli.console import Styled, Table, name, write, write_table
    from openmaas.cli.units import ago, size
    from openmaas.core.jobs import weights_of

    source = f"{version.model}:{version.number}"
    made = [one for one in versions if one.parent == source and weights_of(one.recipe)]
    if not made:
        return
    numbers = (_("SIZE"), _("PERPLEXITY"), _("COSINE"))
    table = Table(_("VARIANT"), _("WEIGHTS"), _("ENGINE"), *numbers, _("MADE"), right=numbers)
    for one in made:
        parity = one.manifest.get("parity") or {}
        compared: dict[str, Any] = next(iter(parity.get("comparisons", ())), {})
        perplexity: Line = _perplexity((parity.get("perplexity") or (None, None))[1])
        cosine = "–" if compared.get("cosine") is None else f"{compared['cosine']:.5f}"
        row = (weights_of(one.recipe), one.engine, size(one.size), perplexity, cosine, ago(one.created_at))
        table.add_row(name(f"{one.model}:{one.number}"), *row)
    write(Styled("\n", (_("variants of {source}").format(source=source), "head")))
    write_table(table)


def _perplexity(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
