"""How the server stands: where it answers, what runs, and how many deployments are in which state."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import text

from openmaas import __version__
from openmaas.control.deployments import DeploymentService
from openmaas.control.jobs import JobService
from openmaas.control.observed import Fleet
from openmaas.core.names import DEFAULT_PROJECT
from openmaas.core.resources import ProcessInfo, ServerStatus
from openmaas.core.settings import Settings
from openmaas.store.database import Database


class StatusService:
    """Tells the state of the server."""

    def __init__(
        self, settings: Settings, database: Database, fleet: Fleet, deployments: DeploymentService, jobs: JobService
    ) -> None:
        self._settings = settings
        self._database = database
        self._fleet = fleet
        self._deployments = deployments
        self._jobs = jobs

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
            deployments=dict(Counter(self._deployments.states(project=project).values())),
            jobs=self._jobs.counts(project=project),
        )

    def check(self) -> None:
        """Raises Unavailable when the database does not answer."""
        with self._database.read() as session:
            session.execute(text("SELECT 1"))
