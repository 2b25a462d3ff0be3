"""Gates: when an alias or a deployment may move, and what was decided."""

from __future__ import annotations

from collections.abc import Sequence

from openmaas.api.bodies import router
from openmaas.api.services import Caller, With
from openmaas.control.paging import DEFAULT_LIMIT
from openmaas.core.resources import GateDecision, GateInfo, GateRequest, GateTarget, GateTrial, GateVerdict, Page

routes = router()
_PATH = "/models/{name}/gates/{target}/{which}"


@routes.get("/gates")
def list_gates(services: With, caller: Caller) -> Sequence[GateInfo]:
    return services.gates.list(project=caller.project)


@routes.get("/models/{name}/gates")
def list_model_gates(services: With, caller: Caller, name: str) -> Sequence[GateInfo]:
    return services.gates.list(name, project=caller.project)


@routes.get(_PATH)
def get_gate(services: With, caller: Caller, name: str, target: GateTarget, which: str) -> GateInfo:
    return services.gates.get(name, target, which, project=caller.project)


@routes.put(_PATH)
def set_gate(services: With, caller: Caller, name: str, target: GateTarget, which: str, gate: GateRequest) -> GateInfo:
    return services.gates.set(name, target, which, gate, actor=caller.id, project=caller.project)


@routes.delete(_PATH)
def remove_gate(services: With, caller: Caller, name: str, target: GateTarget, which: str) -> GateInfo:
    return services.gates.remove(name, target, which, actor=caller.id, project=caller.project)


@routes.post(f"{_PATH}/check")
def check_gate(services: With, caller: Caller, name: str, target: GateTarget, which: str, trial: GateTrial) -> GateVerdict:
    return services.gates.check(name, target, which, trial, project=caller.project)


@routes.get("/models/{name}/gate-decisions")
def gate_decisions(
    services: With, caller: Caller, name: str, after: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[GateDecision]:
    return services.gates.decisions(name, project=caller.project, after=after, limit=limit)
