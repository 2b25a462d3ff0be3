"""How the server stands: where it answers, what runs, and how many deployments are in which state."""

from __future__ import annotations

from sqlalchemy import func, select, text

from openmaas import __version__
from openmaas.control.observed import Fleet
from openmaas.core.names import DEFAULT_PROJECT
from openmaas.core.resources import ProcessInfo, ServerStatus
from openmaas.core.settings import Settings
from openmaas.store.database import Database
from openmaas.store.tables import DeploymentRow


class StatusService:
    """Tells the state of the server."""

    def __init__(self, settings: Settings, database: Database, fleet: Fleet) -> None:
        self._settings = settings
        self._database = database
        self._fleet = fleet

    def get(self, *, project: str = DEFAULT_PROJECT) -> ServerStatus:
        settings = self._settings
        return ServerStatus(
            version=__version__,
            control_url=settings.url(settings.control_port),
            gateway_url=settings.url(settings.http_port),
            home=str(settings.home_path),
            database=self._database.dialect,
            supervised=self._fleet.supervised,
            processes=[
                ProcessInfo(
                    name=process.name,
                    state=process.state,
                    pid=process.pid,
                    restarts=process.restarts,
                    memory=process.memory,
                    url=process.url,
                )
                for process in self._fleet.processes
            ],
            deployments=self._deployments(project),
        )

    def check(self) -> None:
        """Raises Unavailable when the database does not answer."""
        with self._database.read() as session:
            session.execute(text("SELECT 1"))

    def _deployments(self, project: str) -> dict[str, int]:
        query = select(DeploymentRow.state, func.count()).where(DeploymentRow.project == project)
        with self._database.read() as session:
            return {str(state): count for state, count in session.execute(query.group_by(DeploymentRow.state))}
