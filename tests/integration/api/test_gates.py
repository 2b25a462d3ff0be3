"""Gates and lineage as a client sees them; the rules behind them are tested at the services."""

from __future__ import annotations

import httpx

from openmaas.api.door import Door
from openmaas.api.services import Services
from openmaas.core.resources import GateDecision, GateInfo, GateVerdict, Lineage, Page
from tests.integration.api.conftest import client_of
from tests.integration.api.test_routes import code_of, decode, push
from tests.integration.control.gated import add_dataset, evaluate
from tests.integration.registry import Registry

GATE = "models/digits/gates/alias/champion"


async def test_the_life_of_a_gate(api: httpx.AsyncClient, registry: Registry) -> None:
    await push(api, "digits")
    await push(api, "digits", {"model.bin": b"better"}, parent="digits:1")
    add_dataset(registry.database)
    evaluate(registry.database, "digits:1", 50)
    info = decode(await api.put(GATE, json={"max_loss": 0.01, "baseline": "digits:1"}), GateInfo)
    assert (info.rules["baseline"], info.actor, info.target) == ("digits:1", "admin", "alias")
    assert decode(await api.get(GATE), GateInfo).rules == info.rules
    assert decode(await api.get("gates"), list[GateInfo]) == decode(await api.get("models/digits/gates"), list[GateInfo])
    verdict = decode(await api.post(f"{GATE}/check", json={"number": 2}), GateVerdict)
    assert (verdict.passed, verdict.version) == (False, "digits:2")
    alias = "models/digits/aliases/champion"
    assert code_of(await api.put(alias, json={"number": 2}), 422) == "gate_refused"
    assert code_of(await api.put(alias, json={"number": 2, "force": True}), 400) == "reason_required"
    assert (await api.put(alias, json={"number": 2, "force": True, "reason": "Monday."})).status_code == 200
    decisions = decode(await api.get("models/digits/gate-decisions"), Page[GateDecision])
    assert [(one.outcome, one.reason) for one in decisions.items] == [("forced", "Monday."), ("refused", "")]
    decode(await api.delete(GATE), GateInfo)
    assert code_of(await api.get(GATE), 404) == "gate_not_found"
    assert [node.version for node in decode(await api.get("versions/digits:2/lineage"), Lineage).nodes] == [
        "digits:1",
        "digits:2",
    ]


async def test_what_is_no_gate_is_refused(api: httpx.AsyncClient) -> None:
    await push(api, "digits")
    for body in ({}, {"max_loss": "much"}, {"max_lost": 0.1}):
        assert (await api.put(GATE, json=body)).status_code in (400, 422)
    assert (await api.put(GATE, content=b'{"max_loss": NaN}')).status_code == 400
    assert (await api.put("models/digits/gates/planet/earth", json={"max_size": 1})).status_code in (400, 422)
    assert code_of(await api.delete("models/digits/gate-decisions"), 405)


async def test_a_deployment_is_refused_by_its_gate(api: httpx.AsyncClient, registry: Registry) -> None:
    await push(api, "digits")
    add_dataset(registry.database)
    rules = {"max_size": 1000, "data": "digits-test"}
    decode(await api.put("models/digits/gates/deployment/shop", json=rules), GateInfo)
    answer = await api.post("deployments", json={"version": "digits", "name": "shop"})
    assert code_of(answer, 422) == "gate_refused"
    assert answer.json()["next_step"] == "openmaas evaluate digits:1 --data digits-test:1"
    assert code_of(await api.get("deployments/shop"), 404)


async def test_a_jobs_key_opens_no_gate(app: Door, services: Services, registry: Registry) -> None:
    with registry.database.write() as session:
        key = registry.keys.make_job_key(session, "job-000001-1", "default")
    registry.keys.refresh()
    services.keys.refresh()
    async with client_of(app, authorization=f"Bearer {key}") as client:
        client.base_url = httpx.URL("http://control/api/v1/")
        assert code_of(await client.put(GATE, json={"max_size": 1}), 403) == "role_forbidden"
        assert code_of(await client.delete(GATE), 403) == "role_forbidden"
        assert code_of(await client.put("models/digits/aliases/champion", json={"number": 1}), 403) == "role_forbidden"
