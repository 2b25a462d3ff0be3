"""What a new version asks for by itself: its engines measured, or a conversion where nothing here can run it as it is."""

from __future__ import annotations

from openmaas.control.jobs import JobService
from openmaas.control.measurements import MeasurementService
from openmaas.core.errors import OpenMaaSError
from openmaas.core.log import get_logger
from openmaas.core.resources import VersionInfo
from openmaas.formats import Examined

_log = get_logger("follow up")


class FollowUpService:
    """Begins jobs after a push. A push never fails by this: what could not be begun is logged, and can be begun by hand."""

    def __init__(self, jobs: JobService, measurements: MeasurementService) -> None:
        self._jobs = jobs
        self._measurements = measurements

    def begin(self, version: VersionInfo, examined: Examined, actor: str, project: str) -> list[str]:
        """The ids of the jobs."""
        if examined.convert_to is None:
            return self._measurements.after_push(version, actor, project)
        reference = f"{version.model}:{version.number}"
        try:
            arguments = {"version": reference, "to": examined.convert_to}
            return [self._jobs.submit("convert", arguments, actor=actor, project=project).id]
        except OpenMaaSError as error:
            _log.warning("not begun", version=reference, to=examined.convert_to, cause=error.message)
            return []
