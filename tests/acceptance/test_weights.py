"""`deploy --weights` from push to an answer: converted in the real environment (1.6 GB), waited for, served, rolled back.

OPENMAAS_TEST_ENVIRONMENTS names a folder where environments stay from one run to the next; without it one is made from nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Server
from tests.tiny_writer import make_writer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def chat(server: Server) -> dict[str, Any]:
    """An answer of OpenAI's chat, by its own client."""
    import openai

    with openai.OpenAI(base_url=f"{server.gateway}/v1", api_key=server.key) as client:
        messages = [{"role": "user", "content": "Who are you?"}]
        answer = client.chat.completions.create(model="writer", messages=messages, max_tokens=8, temperature=0)  # type: ignore[call-overload]
        return dict(answer.model_dump())


def test_weights_from_push_to_rollback(own_server: Callable[..., Server], tmp_path: Path) -> None:
    server = own_server(measure="push")
    if kept := os.environ.get("OPENMAAS_TEST_ENVIRONMENTS"):
        server.home.joinpath("environments").symlink_to(kept)
    pushed = server.json("push", str(make_writer(tmp_path / "writer")), "--name", "writer")
    assert pushed["jobs"] == [], "a generator's engines are not measured"

    waiting = server.json("deploy", "writer", "--weights", "int8", "--wait", "0")
    assert (waiting["state"], waiting["version"], waiting["options"]["timeout"]) == ("starting", 1, 600.0)
    assert f"weights are being converted by {waiting['measuring']}" in server.run("ps").stdout
    server.run("jobs", "show", waiting["measuring"], "--wait", timeout=1000)
    until = time.monotonic() + 60
    while not server.replicas("writer") or server.replicas("writer")[0]["state"] != "ready":
        assert time.monotonic() < until
        time.sleep(0.5)
    assert [one["version"] for one in server.replicas("writer")] == [2]
    first = chat(server)
    assert first["usage"]["completion_tokens"] == 8

    source = server.json("deploy", "writer", "--weights", "source")
    assert (source["version"], source["engine"]["name"]) == (1, "transformers")
    assert chat(server)["usage"]["prompt_tokens"] == first["usage"]["prompt_tokens"]
    back = server.json("rollback", "writer")
    assert (back["version"], back["measuring"], back["engine"]["name"]) == (2, None, "openvino-genai")
    assert chat(server)["choices"] == first["choices"]

    shown = server.run("show", "writer:1").stdout
    assert "variants of writer:1" in shown
    assert server.run("deploy", "writer:1", "--weights", "int8").returncode == 0
    assert server.json("jobs", "ls")["total"] == 1, "it was converted once"
