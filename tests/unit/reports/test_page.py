"""The page of a comparison: complete, harmless, and nothing from anywhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest

from openmaas.core.evaluations import Agreement, Estimate, VersionComparison
from openmaas.reports import render_html, terminal_plot, words
from tests.unit.reports.made_up import comparison

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

HOSTILE = '<script>alert("1")</script>&$x^{2}$\x00\x1b[31m\'"><img src=x onerror=alert(1)>中文'


class Seen(HTMLParser):
    """Tags with their attributes, and the text outside of styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._style = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._style else data


@pytest.fixture(scope="module")
def page() -> str:
    return render_html(comparison(), made_at="2030-01-02 03:04", job="job-000012")


def test_the_page_tells_all_of_it(page: str) -> None:
    seen = Seen(page)
    for told in (
        "Recommended: digits:3", "dominated", "digits-test:1", "Some CPU × 2", "job-000012", "2030-01-02 03:04",
        "onnxruntime 1.31.1",
        "98.00% (96.0 to 99.0)", "0.40 points, at most 0.80", "90.0 kB", "0.20 ms", "5.00×", "30\u2009000", "prune → quantize",
        "7 rows, the first 2 here", "99.00%", "0.99900", "61.0 s", "A note on seven.",
    ):  # fmt: skip
        assert told in seen.text, told
    assert sum(tag == "svg" for tag, _ in seen.tags) == 5  # two fronts, speeds, batches, classes
    assert "nan" not in seen.text.lower().split()


def test_text_generators_have_tokens_and_streams_and_tell_what_they_write() -> None:
    plain = comparison(text="how it goes on")
    alike = Agreement(rows=4000, top1=0.95)
    entrants = tuple(msgspec.structs.replace(one, agreement=alike, classes=()) for one in plain.entrants)
    written = msgspec.structs.replace(plain, task="generation", metric="accuracy", entrants=entrants)
    seen = Seen(render_html(written))
    for told in (
        "tokens/s, at best",
        "32 streams",
        "p50, 1 stream",
        "What they write",
        "same next token as",
        "95.00%",
        "passage",
    ):
        assert told in seen.text, told
    for told in ("rows/s", "batch 32", "same class", "least cosine"):
        assert told not in seen.text, told
    drawn = terminal_plot(written)
    assert drawn is not None
    assert "p50 at 1 stream" in drawn


def test_names_are_text_and_nothing_else() -> None:
    page = render_html(comparison(name=HOSTILE, label=HOSTILE, text=HOSTILE))
    seen = Seen(page)
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & {tag for tag, _ in seen.tags}
    assert [attributes for tag, attributes in seen.tags if tag == "img"] == [
        {"src": "data:image/png;base64," + str(attributes["src"]).partition(",")[2], "alt": "row 4"}
        for tag, attributes in seen.tags
        if tag == "img"
    ]
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert '<script>alert("1")</script>' in seen.text, "shown as it is"


def test_nothing_is_fetched(page: str) -> None:
    assert "default-src 'none'" in page
    addresses = re.findall(r"""(?:src|href|action|data)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import\s+(\S+)""", page)
    for found in addresses:
        address = "".join(found)
        assert address.startswith(("#", "data:image/png;base64,")), address


def test_a_preview_that_only_says_it_were_an_image_is_text() -> None:
    previews = ("data:text/html,<b>", 'data:image/png;base64,AA" onload="x', "data:image/svg+xml;base64,AA==")
    told = comparison()
    last = told.entrants[2]
    changed = tuple(msgspec.structs.replace(last.changed[0], preview=preview) for preview in previews)
    told = msgspec.structs.replace(told, entrants=(*told.entrants[:2], msgspec.structs.replace(last, changed=changed)))
    seen = Seen(render_html(told))
    assert not [tag for tag, _ in seen.tags if tag == "img"]
    assert all(preview in seen.text for preview in previews)


def without_quality(told: VersionComparison) -> VersionComparison:
    bare = [
        msgspec.structs.replace(
            one, metrics={}, difference={}, loss=None, agreement=None, classes=(), changed=(), changed_rows=0
        )
        for one in told.entrants
    ]
    return msgspec.structs.replace(told, entrants=tuple(bare), metric="", dataset="", task="agreement", recommended="", why="")


def test_without_a_quality_there_are_speeds_and_no_front() -> None:
    told = without_quality(comparison())
    seen = Seen(render_html(told))
    assert sum(tag == "svg" for tag, _ in seen.tags) == 2
    assert "answers to the sample of digits:1" in seen.text
    assert terminal_plot(told) is None


def test_figures_that_are_none_are_dashes() -> None:
    assert words.estimate("accuracy", None) == words.value("rmse", float("nan")) == words.size(float("inf")) == words.DASH
    assert words.lost("accuracy", Estimate(value=-0.002, low=-0.01, high=0.0005)) == "−0.20 points, at most 0.05"
    assert words.lost("rmse", Estimate(value=0.031, low=0.0, high=0.05)) == "3.10%, at most 5.00"
    assert [words.duration(seconds) for seconds in (2.5, 0.0123, 0.0004, 0.0000042)] == [
        "2.50 s",
        "12.3 ms",
        "0.40 ms",
        "4.20 µs",
    ]


def test_the_front_in_characters_fits_into_80_columns() -> None:
    pytest.importorskip("plotext")
    drawn = terminal_plot(comparison())
    assert drawn is not None
    assert max(map(len, drawn.splitlines())) <= 80
    assert "\x1b" not in drawn
    inner = "".join(line.partition("│")[2] or line.partition("┤")[2] for line in drawn.splitlines())
    assert [inner.count(mark) for mark in "abc"] == [1, 1, 1]
    assert terminal_plot(comparison()) == drawn, "nothing is left of the last one"
