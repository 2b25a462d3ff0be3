from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from openmaas.core.keys import make_key
from openmaas.core.log import redact

_KEY = make_key()


@pytest.mark.parametrize(
    "event",
    [
        {"event": f"a request with {_KEY} came"},
        {"authorization": f"Bearer {_KEY}"},
        {"header": "Bearer something-else"},
        {"X-API-Key": "anything"},
        {"password": "p"},
        {"url": "postgresql+psycopg://user:secret@host/db"},
        {"exception": f"Traceback …\n  key = '{_KEY}'"},
        {"lines": [f"key {_KEY}"]},
        {"lines": (f"key {_KEY}",)},
        {"nested": {"authorization": "x", "text": f"{_KEY}", "deep": [{"token": "secret"}]}},
    ],
)
def test_no_secret_passes(event: dict[str, Any]) -> None:
    text = repr(redact(None, "info", event))
    assert _KEY not in text
    for secret in ("something-else", "anything", "'p'", "secret"):
        assert secret not in text
    assert "***" in text


def test_on_a_terminal_the_traceback_is_plain_and_shows_no_variables() -> None:
    program = (
        "import sys; sys.stderr.isatty = lambda: True\n"
        "from openmaas.core.log import *; configure_logging('x')\n"
        "def f(authorization): raise ValueError('boom')\n"
        "try: f('hunter2-' + 'x')\n"
        "except ValueError: get_logger('n').exception('broke')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "ValueError: boom" in done.stderr
    assert "hunter2-x" not in done.stderr


def test_what_is_no_secret_passes_as_it_is() -> None:
    event = {"event": "loaded", "port": 8000, "url": "http://127.0.0.1:8000/v2", "ratio": 0.5, "none": None, "lines": ["a", 1]}
    assert redact(None, "info", dict(event)) == event


def test_a_line_is_json_names_the_process_and_carries_the_traceback() -> None:
    program = (
        "from openmaas.core.log import *; configure_logging('gateway-0', 'warning'); log = get_logger('http');"
        f"log.info('unseen'); log.warning('seen', key='{_KEY}', n=1)\n"
        "try: raise ValueError('boom')\n"
        "except ValueError: log.exception('broke')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    seen, broke = [json.loads(line) for line in done.stderr.splitlines()]
    assert (seen["event"], seen["process"], seen["noun"], seen["level"], seen["n"], seen["key"]) == (
        "seen", "gateway-0", "http", "warning", 1, "***",
    )  # fmt: skip
    assert "ValueError: boom" in broke["exception"]
    assert "timestamp" in seen
    assert done.stdout == ""
