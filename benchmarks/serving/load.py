"""Load from wrk: one thread, a fixed number of connections."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.processes import Server
from benchmarks.serving.peer import Request

SCRIPT = Path(__file__).parent / "post.lua"
TIMEOUT = 60
"""Seconds after which wrk counts an answer as missing."""


@dataclass(frozen=True)
class Reading:
    """What one run of wrk showed."""

    connections: int
    seconds: float
    answers: int
    errors: int
    """Answers other than success, and requests without an answer."""
    rate: float
    """Successful answers a second."""
    p50: float
    """Seconds."""
    p99: float
    """Seconds."""
    disturbance: float
    """Share of the machine's CPU time that went to processes of others."""


def steady_rate(moments: Sequence[float], connections: int) -> float | None:
    """Answers a second after the first burst; None when there are too few to tell.

    A slow server answers its first callers together and leaves as many unanswered at the end. Both
    bursts are cut off by counting between the first burst's last answer and the last one of all.
    """
    if len(moments) < 3 * connections:
        return None
    moments = sorted(moments)
    return (len(moments) - connections) / (moments[-1] - moments[connections - 1])


def measure(request: Request, server: Server, *, connections: int, seconds: int, slow: bool, work: Path) -> Reading:
    """Repeat a request, or several in turn, over kept-alive connections for some seconds."""
    body = work / "body"
    for place, content in enumerate((request.body, *request.others)):
        body.with_suffix(f".{place}").write_bytes(content)
    command: list[str | Path] = [
        "wrk",
        "--threads=1",
        f"--connections={connections}",
        f"--duration={seconds}s",
        f"--timeout={TIMEOUT}s",
        "--latency",
        f"--script={SCRIPT}",
        request.url,
        "--",
        body,
        str(1 + len(request.others)),
        "record" if slow else "count",
        *(f"{name}: {value}" for name, value in request.headers.items()),
    ]
    machine, ours = _machine_seconds(), _our_seconds(server)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + TIMEOUT)
    ours = _our_seconds(server) - ours
    busy, available = (after - before for after, before in zip(_machine_seconds(), machine, strict=True))
    (line,) = (part for part in done.stdout.splitlines() if part.startswith("reading "))
    seen = json.loads(line.removeprefix("reading "))

    rate = seen["answers"] / seen["seconds"]
    if slow:
        rate = steady_rate(seen["moments"], connections) or rate
    if seen["answers"]:
        rate *= 1 - seen["refused"] / seen["answers"]
    return Reading(
        connections=connections,
        seconds=seen["seconds"],
        answers=seen["answers"],
        errors=seen["refused"] + seen["broken"],
        rate=rate,
        p50=seen["p50"],
        p99=seen["p99"],
        disturbance=max(0.0, busy - ours) / available,
    )


def _machine_seconds() -> tuple[float, float]:
    """CPU seconds used, and CPU seconds there were, since the machine started."""
    times = psutil.cpu_times()
    # Guest time is part of user time already, and iowait is idleness.
    busy = sum((times.user, times.nice, times.system, times.irq, times.softirq, times.steal))
    return busy, busy + times.idle + times.iowait


def _our_seconds(server: Server) -> float:
    """CPU seconds of the server, of this process and of the load it has waited for."""
    own = os.times()
    return server.cpu_seconds() + sum(own[:4])
