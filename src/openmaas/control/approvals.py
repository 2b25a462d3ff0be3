"""Approvals: an admin's word that a file which runs code when it is loaded (a pickle) may be loaded. By its digest."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import select

from openmaas.control.details import check_text
from openmaas.control.requests import is_digest
from openmaas.core.errors import InvalidInput
from openmaas.core.names import DEFAULT_PROJECT
from openmaas.core.resources import Approval
from openmaas.store.database import Database
from openmaas.store.tables import ApprovalRow

_MAX_REASON = 1000


class ApprovalService:
    """Keeps approvals."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def approve(self, sha256: str, *, reason: str, actor: str, project: str = DEFAULT_PROJECT) -> Approval:
        """Approve a file; the first approval where there is one. Raises InvalidInput for what is no digest."""
        if not is_digest(sha256):
            raise InvalidInput(
                f"{sha256[:80]!r} is not a SHA-256 digest: 64 lower-case hexadecimal digits.", code="invalid_digest"
            )
        check_text(reason, "reason", _MAX_REASON)
        with self._database.write() as session:
            row = session.get(ApprovalRow, (project, sha256))
            if row is None:
                row = ApprovalRow(project=project, sha256=sha256, reason=reason, actor=actor, at=self._clock())
                session.add(row)
            return _view(row)

    def list(self, *, project: str = DEFAULT_PROJECT) -> list[Approval]:
        """All of them, the newest first."""
        with self._database.read() as session:
            query = select(ApprovalRow).where(ApprovalRow.project == project)
            return [_view(row) for row in session.scalars(query.order_by(ApprovalRow.at.desc(), ApprovalRow.sha256))]

    def digests(self, *, project: str = DEFAULT_PROJECT) -> frozenset[str]:
        """What may be loaded."""
        with self._database.read() as session:
            return frozenset(session.scalars(select(ApprovalRow.sha256).where(ApprovalRow.project == project)))


def _view(row: ApprovalRow) -> Approval:
    return Approval(sha256=row.sha256, reason=row.reason, actor=row.actor, at=row.at)
