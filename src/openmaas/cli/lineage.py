"""Lineage: what a version was made of, and what was made of it, as a tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from openmaas.cli.i18n import _
from openmaas.cli.options import Json, ReferenceArgument, connect

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from openmaas.core.resources import Lineage, LineageLink, LineageNode

_WIDE = 200  # columns where the output goes to no terminal
_KNOWN = ("optimize", "convert", "data", "evaluation", "seed", "libraries")  # of a recipe, that have a place of their own


def lineage(
    reference: ReferenceArgument,
    full: Annotated[bool, typer.Option("--full", help=_("Digests, seeds and libraries too."))] = False,
    as_json: Json = False,
) -> None:
    """Draw what a version was made of, and what was made of it: recipes, data, size and quality."""
    from openmaas.cli.console import nothing, print_json

    found = connect().lineage(reference)
    if as_json:
        print_json(found)
        return
    _draw(found, full)
    if not found.complete:
        nothing(_("There are more versions than these {n}.").format(n=len(found.nodes)))


def _draw(found: Lineage, full: bool) -> None:
    import sys

    from rich.console import Console
    from rich.tree import Tree

    from openmaas.cli.console import in_colour, terminal_width

    nodes = {node.version: node for node in found.nodes}
    trees: dict[str, Tree] = {}
    roots: list[Tree] = []
    for node in found.nodes:  # parents come first
        parent = nodes.get(node.parent or "")
        label = _label(node, parent, asked=node.version == found.version, full=full)
        above = trees.get(node.parent or "")
        tree = above.add(label) if above is not None else Tree(label, guide_style="dim")
        trees[node.version] = tree
        if above is None:
            roots.append(tree)
        for link in node.links:
            tree.add(_link(link))
    width, colour = terminal_width(sys.stdout) or _WIDE, in_colour(sys.stdout)
    console = Console(width=width, highlight=False, emoji=False, no_color=not colour, force_terminal=colour)
    for tree in roots:
        console.print(tree)


def _label(node: LineageNode, parent: LineageNode | None, *, asked: bool, full: bool) -> Text:
    """The version with its aliases and marks; how it was made; what it is."""
    from rich.text import Text

    from openmaas.cli.styled import harmless

    text = Text("● " if asked else "○ ", style="bold" if asked else "dim")
    text.append(node.version, style="dim strike" if node.deleted else "bold cyan")
    if node.deleted:
        text.append(_("  deleted"), style="red")
    for alias in node.aliases:
        text.append(f"  {alias}", style="green")
    if node.dominated:
        text.append(_("  dominated"), style="red")
    if node.recipe:
        text.append("\n" + harmless(f"{node.recipe}{_made_on(node.details)}"))
    text.append("\n" + harmless(" · ".join(_figures(node, parent))), style="dim")
    for line in _more(node) if full else ():
        text.append("\n" + harmless(line), style="dim")
    return text


def _made_on(details: dict[str, Any]) -> str:
    """The data that it was made with."""
    data = details.get("data")
    name = data.get("version", "") if isinstance(data, dict) else data
    return _(" on {data}").format(data=name) if name else ""


def _figures(node: LineageNode, parent: LineageNode | None) -> list[str]:
    from openmaas.cli.units import ago, size

    shown = [node.format, size(node.size)]
    if parent is not None and node.size and parent.size:
        ratio = parent.size / node.size
        if ratio >= 1.05:
            shown[-1] += _(" ({ratio:.1f}× smaller)").format(ratio=ratio)
        elif ratio <= 1 / 1.05:
            shown[-1] += _(" ({ratio:.1f}× larger)").format(ratio=1 / ratio)
    if node.quality is not None:
        shown.append(_quality(node.quality))
    if node.loss is not None:
        loss = _("{loss:.2%} lost against {baseline}").format(loss=node.loss["value"], baseline=node.baseline)
        if node.loss.get("high") is not None:
            loss += _(" (at most {high:.2%})").format(high=node.loss["high"])
        shown.append(loss)
    return [*shown, ago(node.created_at)]


def _quality(found: dict[str, Any]) -> str:
    from openmaas.core.metrics import METRICS

    known = METRICS.get(found["metric"])
    form = ".2%" if known is not None and known.share else ".4g"
    words = f"{found['metric']} {found['value']:{form}}"
    if found["low"] is not None and found["high"] is not None:
        words += f" ({found['low']:{form}} – {found['high']:{form}})"
    return _("{words} on {dataset}").format(words=words, dataset=found["dataset"])


def _more(node: LineageNode) -> list[str]:
    """Digest, who made it, and what its recipe keeps besides the steps."""
    lines = [_("digest {digest} by {actor}").format(digest=node.digest, actor=node.created_by)]
    details = node.details
    lines += [f"{key} {_plain(details[key])}" for key in ("data", "evaluation") if details.get(key)]
    if "seed" in details:
        lines.append(_("seed {seed}").format(seed=details["seed"]))
    if details.get("libraries"):
        lines.append(_plain(details["libraries"]))
    lines += [f"{key} {_plain(value)}" for key, value in details.items() if key not in _KNOWN]
    return lines


def _plain(value: Any, depth: int = 3) -> str:
    if isinstance(value, dict) and depth:
        return ", ".join(f"{key} {_plain(one, depth - 1)}" for key, one in value.items())
    return str(value)


def _link(link: LineageLink) -> Text:
    """To a version that is no parent, or to a dataset that is gone, dashed."""
    from rich.text import Text

    from openmaas.cli.styled import harmless

    text = Text(f"┄┄ {link.role} ", style="dim")
    text.append(harmless(link.version), style="dim strike" if link.deleted else "cyan")
    if link.deleted:
        text.append(_("  deleted"), style="red")
    if link.note:
        text.append(harmless(f" {link.note}"), style="dim")
    return text
