"""Sizes, times and durations as people write and read them."""

from __future__ import annotations

import re
import time

import typer

from openmaas.cli.i18n import _, plural

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]?i?B?)", re.ASCII)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*(%?)", re.ASCII)
_FIGURE = re.compile(r"(-?\d+(?:\.\d+)?)\s*(%?)", re.ASCII)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s)", re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str) -> int:
    """`2GiB`, `512MB` or `1048576` as bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2] == "i":
        raise typer.BadParameter(_("{text!r} is not a size; write 2GiB, 512MiB or a number of bytes.").format(text=text))
    unit = match[2].lower()
    base = 1024 if "i" in unit else 1000
    return int(float(match[1]) * base ** _POWERS[unit.rstrip("b").rstrip("i")])


def parse_share(text: str) -> float:
    """`0.5%` or `0.005` as 0.005. A bare number above 1 could mean either, and is refused."""
    match = _SHARE.fullmatch(text.strip())
    if match is None or (not match[2] and float(match[1]) > 1):
        raise typer.BadParameter(_("{text!r} is not a share; write 0.5% or 0.005.").format(text=text))
    return float(match[1]) / (100 if match[2] else 1)


def parse_figure(text: str) -> float:
    """`97%`, `0.97` or any number, which may be negative."""
    match = _FIGURE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(_("{text!r} is not a figure; write 97%, 0.97 or a number.").format(text=text))
    return float(match[1]) / (100 if match[2] else 1)


def parse_seconds(text: str) -> float:
    """`20ms`, `1.5s` or `800us` as seconds. A bare number is refused: nobody could tell which is meant."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(_("{text!r} is not a time; write 20ms or 0.5s.").format(text=text))
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]]


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
