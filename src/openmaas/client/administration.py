"""The server itself: its state, its checks, approvals and garbage."""

from __future__ import annotations

import re

import msgspec

from openmaas.client.answers import check, fetch
from openmaas.client.driver import Session, operation
from openmaas.client.registry import API
from openmaas.client.steps import Operation, Request, Response
from openmaas.core.errors import InvalidInput
from openmaas.core.resources import Approval, ApprovalRequest, Finding, GcReport, ServerStatus

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Administration(Session):
    @operation
    def status(self) -> Operation[ServerStatus]:
        """URLs, processes with their ids and states, and how many deployments are in which state."""
        return (yield from fetch(Request("GET", (*API, "status"), timeout=10.0), ServerStatus))

    @operation
    def doctor(self) -> Operation[list[Finding]]:
        """What the server found when it checked itself."""
        return (yield from fetch(Request("GET", (*API, "doctor")), list[Finding]))

    @operation
    def gc(self, *, apply: bool = False) -> Operation[GcReport]:
        """What no version uses any more: said, or with `apply` freed. Sizes in bytes."""
        query = {"apply": "true" if apply else "false"}
        return (yield from fetch(Request("POST", (*API, "gc"), query, timeout=3600.0), GcReport))

    @operation
    def approve(self, sha256: str, *, reason: str = "") -> Operation[Approval]:
        """Allow the file with this digest, which runs code when it is loaded (a pickle), to be loaded in replicas."""
        if not _DIGEST.fullmatch(sha256):
            raise InvalidInput(f"{sha256[:80]!r} is not a SHA-256 digest: 64 lower-case hexadecimal digits.")
        body = msgspec.json.encode(ApprovalRequest(sha256=sha256, reason=reason))
        headers = {"content-type": "application/json"}
        return (yield from fetch(Request("POST", (*API, "approvals"), headers=headers, body=body), Approval))

    @operation
    def approvals(self) -> Operation[list[Approval]]:
        """All approvals."""
        return (yield from fetch(Request("GET", (*API, "approvals")), list[Approval]))

    @operation
    def metrics(self) -> Operation[str]:
        """The gateway's metrics and those of its replicas, in Prometheus' text form."""
        response: Response = yield Request("GET", ("metrics",), door="gateway", headers={"accept": "text/plain"})
        check(response)
        return response.body.decode()
