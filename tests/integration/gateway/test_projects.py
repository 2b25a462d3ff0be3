"""What a key of one project sees of another's, by OpenAI's own client."""

from __future__ import annotations

import httpx
import msgspec
import openai
import pytest

from openmaas.core.contracts import Key
from openmaas.core.keys import digest_key, make_key
from tests.integration.gateway.plane import Plane


def test_openai_s_client_lists_what_its_key_can_call() -> None:
    plane = Plane()
    try:
        plane.replica("one")
        plane.start_gateway()
        plane.deploy("ours")
        plane.deploy("theirs")
        plane.deployments["theirs"] = msgspec.structs.replace(plane.deployments["theirs"], project="other")
        text = make_key()
        caller = Key(id="job-000001-1", digest=digest_key(text), role="job", project="default")
        snapshot = plane.snapshot()
        plane.control.publish(msgspec.structs.replace(snapshot, keys=(*snapshot.keys, caller)))
        plane.wait_ready("theirs")
        with httpx.Client(timeout=60, trust_env=False) as http:
            client = openai.OpenAI(base_url=f"{plane.url}/v1", api_key=text, http_client=http, max_retries=0)
            assert [(model.id, model.object, model.owned_by) for model in client.models.list()] == [
                ("ours", "model", "default")
            ]
            assert client.models.retrieve("ours").id == "ours"
            with pytest.raises(openai.PermissionDeniedError):
                client.models.retrieve("theirs")
            admin = openai.OpenAI(base_url=f"{plane.url}/v1", api_key=plane.key, http_client=http, max_retries=0)
            assert [model.id for model in admin.models.list()] == ["ours", "theirs"]
    finally:
        plane.close()
