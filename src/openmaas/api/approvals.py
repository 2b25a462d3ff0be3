"""/approvals: files that run code when they are loaded, and may be."""

from __future__ import annotations

from openmaas.api.bodies import router
from openmaas.api.services import Caller, With
from openmaas.core.resources import Approval, ApprovalRequest

routes = router()


@routes.get("/approvals")
def list_approvals(services: With, caller: Caller) -> list[Approval]:
    return services.approvals.list(project=caller.project)


@routes.post("/approvals")
def approve(services: With, caller: Caller, approval: ApprovalRequest) -> Approval:
    return services.approvals.approve(approval.sha256, reason=approval.reason, actor=caller.id, project=caller.project)
