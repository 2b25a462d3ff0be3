"""Rewrite the marked sections of the benchmark page; what a person wrote around them stays."""

from __future__ import annotations

import re

from benchmarks.places import PAGE

INTRODUCTION = """\
# Benchmarks

OpenMaaS beside its peers, all on one machine, measured in turn. How it is done and why it is fair:
[benchmarks/README.md](../benchmarks/README.md). Everything below is written by `make bench`.
"""


def write_section(name: str, title: str, text: str) -> None:
    """Put the text between the markers of a section, which is added when the page lacks it."""
    page = PAGE.read_text() if PAGE.is_file() else INTRODUCTION
    opening, closing = f"<!-- {name} -->", f"<!-- end of {name} -->"
    section = f"{opening}\n\n{text}\n\n{closing}"
    pattern = re.compile(re.escape(opening) + ".*?" + re.escape(closing), re.DOTALL)
    if pattern.search(page):
        # A function, so that backslashes in the text stay what they are.
        page = pattern.sub(lambda _: section, page)
    else:
        page = f"{page.rstrip()}\n\n## {title}\n\n{section}\n"
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page)
