"""The server itself: /status, /doctor and /gc."""

from __future__ import annotations

from openmaas.api.bodies import router
from openmaas.api.services import Caller, With
from openmaas.core.resources import Finding, GcReport, ServerStatus

routes = router()


@routes.get("/status")
def status(services: With, caller: Caller) -> ServerStatus:
    return services.status.get(project=caller.project)


@routes.get("/doctor")
def doctor(services: With) -> list[Finding]:
    return services.doctor.examine()


@routes.post("/gc")
def collect_garbage(services: With, apply: bool = False) -> GcReport:
    return services.garbage.apply() if apply else services.garbage.report()
