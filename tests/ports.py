"""Ports for servers under test."""

from __future__ import annotations

import random
import socket

_GIVEN: set[int] = set()
_random = random.SystemRandom()  # nobody seeds it


def free_port() -> int:
    """One that nobody listens at, and that this process was not given before.

    It is below those that the system gives to outgoing connections (from 32768 on, on Linux): of the thousands that tests
    open, none can take it before its server does, or while that starts again.
    """
    while True:
        port = _random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _GIVEN:
            _GIVEN.add(port)
            return port
