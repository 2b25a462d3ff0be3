"""Sizes, times and durations as people write and read them."""

from __future__ import annotations

import re
import time

import typer

from openmaas.cli.i18n import _, plural

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]?i?B?)", re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """`2GiB`, `512MB` or `1048576` as bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2] == "i":
        raise typer.BadParameter(_("{text!r} is not a size; write 2GiB, 512MiB or a number of bytes.").format(text=text))
    unit = match[2].lower()
    base = 1024 if "i" in unit else 1000
    return int(float(match[1]) * base ** _POWERS[unit.rstrip("b").rstrip("i")])


def size(number: float) -> str:
    """Bytes in decimal units: 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 99.5 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def ago(at: float, now: float | None = None) -> str:
    """A Unix time as the time since: 3 min ago."""
    seconds = max(0.0, (time.time() if now is None else now) - at)
    if seconds < 5:
        return _("just now")
    return _("{time} ago").format(time=span(seconds))


def span(seconds: float) -> str:
    """A duration in its largest unit: 40 s, 3 min, 2 h, 5 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.0f} h"
    days = round(seconds / 86400)
    return plural("{n} day", "{n} days", days).format(n=days)


def clock(at: float) -> str:
    """A Unix time as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def milliseconds(seconds: float | None) -> str:
    """A latency: 0.42 ms, 12 ms, 1.3 s."""
    if seconds is None:
        return "–"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    value = seconds * 1000
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"
