"""What an open job reads is not deleted, on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, update

from openmaas.control.datasets import DatasetService
from openmaas.control.jobs import JobService
from openmaas.control.keys import KeyService
from openmaas.control.models import ModelService
from openmaas.control.observed import Fleet
from openmaas.control.versions import VersionService
from openmaas.core.errors import Conflict, InvalidInput
from openmaas.core.resources import CauseInfo, JobReport
from openmaas.core.settings import Settings
from openmaas.store.blobs import open_blobs
from openmaas.store.database import Database
from openmaas.store.tables import DatasetRow, DatasetVersionRow, VersionRow
from tests.integration.control.gated import add_dataset, evaluate
from tests.integration.control.test_deployments import add_versions

RECIPE = {"steps": [{"distil": {"teacher": "teacher:1"}}]}


def test_a_dataset_that_versions_were_made_with_or_evaluated_on_is_removed_by_name_only(
    database: Database, tmp_path: Path
) -> None:
    add_versions(database, "digits", 2)
    for name, number in (("digits-test", 1), ("digits-test", 2), ("digits-test", 11), ("digits-train", 1), ("free", 1)):
        add_dataset(database, name, number)
    blobs = open_blobs(Settings(home=str(tmp_path)))
    datasets = DatasetService(database, blobs)
    made = {"optimize": {"steps": []}, "data": {"version": "digits-train:1", "digest": "x"}, "notes": ["not of free:1"]}
    with database.write() as session:
        session.execute(update(VersionRow).where(VersionRow.number == 2).values(recipe=msgspec.json.encode(made).decode()))
    evaluate(database, "digits:1")
    evaluate(database, "digits:2", data="digits-test:11", job="job-000004")
    evaluate(database, "digits:2", data="digits-test:11", job="job-000005")
    for reference, said in (
        ("digits-train:1", "digits:2 was made with it (data)"),
        ("digits-test:1", "digits:1 was evaluated on it by job-000001"),
        ("digits-test:11", "2 evaluations are on it, the newest of digits:2 by job-000005"),
    ):
        with pytest.raises(Conflict) as refusal:
            datasets.delete_version(reference, actor="anna")
        assert (refusal.value.code, said in refusal.value.message) == ("dataset_named", True), refusal.value.message
        assert f"openmaas data rm {reference} --force --reason TEXT" in (refusal.value.next_step or "")
    with pytest.raises(Conflict):
        datasets.delete("digits-test", actor="anna")
    datasets.delete_version("digits-test:2", actor="anna")
    datasets.delete("free", actor="anna")
    with pytest.raises(InvalidInput):
        datasets.delete_version("digits-train:1", actor="anna", force=True)
    datasets.delete_version("digits-train:1", actor="anna", force=True, reason="Asked for by its owner.")
    with database.read() as session:
        kept = session.execute(
            select(DatasetVersionRow.deleted_by, DatasetVersionRow.deleted_for)
            .join(DatasetRow, DatasetRow.id == DatasetVersionRow.dataset_id)
            .where(DatasetRow.name == "digits-train")
        ).one()
    assert tuple(kept) == ("anna", "Asked for by its owner.")
    VersionService(database, blobs).delete("digits:1")
    datasets.delete_version("digits-test:1", actor="anna")  # what was evaluated on it is gone


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
