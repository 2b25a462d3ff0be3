"""What an open job reads is not deleted, on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openmaas.control.jobs import JobService
from openmaas.control.keys import KeyService
from openmaas.control.models import ModelService
from openmaas.control.observed import Fleet
from openmaas.control.versions import VersionService
from openmaas.core.errors import Conflict
from openmaas.core.resources import CauseInfo, JobReport
from openmaas.core.settings import Settings
from openmaas.store.blobs import open_blobs
from openmaas.store.database import Database
from tests.integration.control.gated import add_dataset
from tests.integration.control.test_deployments import add_versions

RECIPE = {"steps": [{"distil": {"teacher": "teacher:1"}}]}


@pytest.mark.parametrize(
    ("kind", "arguments", "named"),
    [
        ("compare", {"others": ["digits:2", "teacher"]}, ("digits:1", "digits:2", "teacher:1")),
        ("optimize", {"recipe": RECIPE, "data": "digits-test"}, ("digits:1", "teacher:1")),
    ],
)
def test_a_job_keeps_all_versions_that_it_names(
    database: Database, tmp_path: Path, kind: str, arguments: dict[str, Any], named: tuple[str, ...]
) -> None:
    add_versions(database, "digits", 3)
    add_versions(database, "teacher", 1)
    add_dataset(database)
    settings = Settings(home=str(tmp_path))
    jobs = JobService(settings, database, Fleet(), KeyService(settings, database, lambda: None), lambda: None)
    versions, models = VersionService(database, open_blobs(settings)), ModelService(database, lambda: None)
    job = jobs.submit(kind, {"version": "digits:1", **arguments}, actor="anna")
    for reference in named:
        with pytest.raises(Conflict, match=f"{reference} is in use: the job {job.id}"):
            versions.delete(reference)
    with pytest.raises(Conflict, match="The model 'teacher' is in use"):
        models.delete("teacher", actor="anna")
    versions.delete("digits:3")
    jobs.report(job.id, JobReport(cause=CauseInfo(code="a", message="b", stderr=[], next_step="")), key=f"{job.id}-1")
    models.delete("teacher", actor="anna")
