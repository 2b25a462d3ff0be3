"""One visit to one server: start, check, warm, measure, weigh, stop."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from benchmarks.cases.case import Case
from benchmarks.processes import Memory, ServerError
from benchmarks.serving import load, wire
from benchmarks.serving.peer import Peer, Request, Running

PATIENCE = 180.0
"""Seconds a server gets from its start to its first answer."""


@dataclass(frozen=True)
class Visit:
    """What one visit found."""

    peer: str
    cold: float
    """Seconds from the start of the process to the first right answer."""
    memory: Memory
    """Held right after the load."""
    readings: list[load.Reading]


def visit(
    peer: Peer,
    case: Case,
    *,
    connections: Sequence[int],
    seconds: int,
    warm: int,
    work: Path,
    tell: Callable[[str], None],
) -> Visit:
    """Measure a server that nothing else shares the machine with.

    Raises:
        ServerError: it did not start, or its first answer is not the model's.
    """
    work.mkdir(parents=True, exist_ok=True)
    tell("starting")
    running = peer.start(case, work)
    try:
        body = first_answer(running)
        cold = time.perf_counter() - running.server.started
        check(peer, case, body)
        request = replace(running.request, others=wire.others(case, running.request.body))
        # At the highest load, so that every thread, pool and arena is as large as it will be.
        most = peer.connections(case)
        levels = [level for level in connections if level <= most]
        readings = []
        for level, length, what in (
            (max(levels), warm, "warming"),
            *((level, seconds, f"{level} connections") for level in levels),
        ):
            tell(what)
            # What the load before left in the queue would delay the first answers of this one.
            post(running.request)
            readings.append(
                load.measure(
                    request,
                    running.server,
                    connections=level,
                    seconds=length,
                    slow=case.slow,
                    work=work,
                )
            )
        running.server.require_alive()
        return Visit(peer.name, cold, running.server.memory(), readings[1:])
    finally:
        tell("stopping")
        running.server.stop()


def first_answer(running: Running) -> bytes:
    """The body of the first successful answer, asked for over and over from the start."""
    deadline = time.monotonic() + PATIENCE
    last = "no connection"
    while time.monotonic() < deadline:
        running.server.require_alive()
        try:
            status, body = post(running.request)
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        else:
            if status == http.HTTPStatus.OK:
                return body
            last = f"status {status}: {body[:500]!r}"
        time.sleep(0.01)
    raise ServerError(f"no answer in {PATIENCE:.0f} s; the last try: {last}")


def check(peer: Peer, case: Case, body: bytes) -> None:
    """Compare an answer with the reference, so that no server is fast at being wrong."""
    answer, reference = peer.answer(body), case.reference
    if answer.shape != reference.shape:
        raise ServerError(f"the answer's shape is {answer.shape}, not {reference.shape}")
    difference = float(np.abs(answer - reference).max())
    if not difference <= case.tolerance:
        raise ServerError(f"the answer differs from the reference by {difference:g}")


def post(request: Request) -> tuple[int, bytes]:
    """Status and body of one request over a connection of its own."""
    url = urlsplit(request.url)
    connection = http.client.HTTPConnection(url.netloc, timeout=60)
    target = f"{url.path}?{url.query}" if url.query else url.path
    headers = {"Content-Type": "application/json", **request.headers}
    try:
        connection.request("POST", target, request.body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
