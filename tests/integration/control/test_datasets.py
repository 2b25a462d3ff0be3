"""Datasets over both databases: pushed, continued, deduplicated, collected, deleted, and one's own project only."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import select

from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import Conflict, InvalidInput, NotFound, OpenMaaSError, Refused, TooLarge
from openmaas.core.resources import DatasetInfo, UploadRequest
from openmaas.formats.datasets import read_dataset
from openmaas.store.tables import BlobRow, DatasetFileRow, GateRow, JobRow, ModelRow
from tests.integration.conftest import Clock
from tests.integration.registry import Registry, digest, upload_request

pytestmark = pytest.mark.usefixtures("warm")

CSV = b"a,b,label\n1,2,x\n3,4,y\n5,6,x\n"
OTHER = b"a,b,label\n1,2,x\n3,4,y\n5,6,z\n"


def manifest_of(info: DatasetInfo) -> DatasetManifest:
    return msgspec.convert(info.manifest, DatasetManifest)


def test_a_dataset_is_pushed_and_read(registry: Registry, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.arange(12).reshape(4, 3), y=np.array([0, 1, 1, 2]))
    result = registry.push_dataset("numbers", {"numbers.npz": buffer.getvalue()})
    info = registry.datasets.get("numbers")
    assert result.created and result.dataset == info and result.stored_bytes == len(buffer.getvalue())
    assert (info.reference, info.format, info.purpose, info.rows) == ("numbers:1", "npz", "classes", 4)
    manifest = manifest_of(info)
    assert manifest.digest == info.digest and manifest.counts == (1, 2, 1)
    folder = registry.blobs.materialize(manifest, tmp_path / "cache" / info.digest)
    data = read_dataset(manifest, folder)
    assert data.label is not None and data.label.tolist() == [0, 1, 1, 2]
    assert data.columns["x"].tolist() == np.arange(12).reshape(4, 3).tolist()


def test_versions_count_up_and_the_same_again_is_none(registry: Registry) -> None:
    first = registry.push_dataset("t", {"t.csv": CSV})
    again = registry.push_dataset("t", {"t.csv": CSV})
    assert (first.created, again.created, again.stored_bytes) == (True, False, 0) and again.dataset == first.dataset
    second = registry.push_dataset("t", {"t.csv": OTHER})
    third = registry.push_dataset("t", {"t.csv": OTHER}, label="a")  # the same file, understood otherwise
    assert (second.dataset.number, third.dataset.number, third.stored_bytes) == (2, 3, 0)
    assert (second.dataset.purpose, third.dataset.manifest["label"]) == ("classes", "a")
    page = registry.datasets.versions("t", limit=2)
    assert ([info.number for info in page.items], page.total, page.next) == ([3, 2], 3, "2")
    assert [info.number for info in registry.datasets.versions("t", limit=2, after="2").items] == [1]
    listed = registry.datasets.list().items[0]
    assert (listed.name, listed.versions, listed.latest, listed.rows) == ("t", 3, 3, 3)


def test_datasets_are_listed_by_name_in_pages(registry: Registry) -> None:
    for name in ("b", "a", "c"):
        registry.push_dataset(name, {"t.csv": CSV})
    page = registry.datasets.list(limit=2)
    assert ([item.name for item in page.items], page.total, page.next) == (["a", "b"], 3, "b")
    assert [item.name for item in registry.datasets.list(after="b").items] == ["c"]


def test_a_model_of_the_same_name_and_files_is_another_upload(registry: Registry) -> None:
    files = {"t.csv": CSV}
    model = registry.uploads.begin(upload_request("t", files), actor="admin")
    dataset = registry.uploads.begin(upload_request("t", files, kind="dataset"), actor="admin")
    assert model.id != dataset.id
    registry.send(model, files)
    registry.send(dataset, files)
    with pytest.raises(Conflict, match="upload of a model, not of a dataset"):
        registry.pushes.complete_dataset(model.id, actor="admin")
    with pytest.raises(Conflict, match="upload of a dataset, not of a model"):
        registry.pushes.complete(dataset.id, actor="admin")
    assert registry.pushes.complete(model.id, actor="admin").created
    assert registry.pushes.complete_dataset(dataset.id, actor="admin").stored_bytes == 0


def test_a_push_that_was_cut_off_goes_on(registry: Registry) -> None:
    request = upload_request("t", {"t.csv": CSV}, kind="dataset")
    upload = registry.uploads.begin(request, actor="admin")
    registry.uploads.write(upload.id, digest(CSV), 0, CSV[:10])
    with pytest.raises(Conflict, match="not complete"):
        registry.pushes.complete_dataset(upload.id, actor="admin")
    again = registry.uploads.begin(request, actor="admin")
    assert again.id == upload.id and again.offsets == {digest(CSV): 10}
    registry.send(again, {"t.csv": CSV})
    assert registry.pushes.complete_dataset(upload.id, actor="admin").created
    assert registry.parts.list() == []


def test_what_a_project_has_need_not_be_sent_again(registry: Registry) -> None:
    registry.push("model", {"labels.csv": CSV})
    assert registry.uploads.begin(upload_request("t", {"t.csv": CSV}, kind="dataset"), actor="admin").offsets == {}
    registry.push_dataset("t", {"t.csv": OTHER})
    assert registry.uploads.begin(upload_request("m", {"o.csv": OTHER}), actor="admin").offsets == {}
    elsewhere = upload_request("t", {"t.csv": CSV}, kind="dataset", project="other")
    assert registry.uploads.begin(elsewhere, actor="x", project="other").offsets == {digest(CSV): 0}


def test_what_does_not_have_its_digest_is_refused(registry: Registry) -> None:
    upload = registry.uploads.begin(upload_request("t", {"t.csv": CSV}, kind="dataset"), actor="admin")
    registry.uploads.write(upload.id, digest(CSV), 0, OTHER)
    with pytest.raises(Refused) as caught:
        registry.pushes.complete_dataset(upload.id, actor="admin")
    assert caught.value.code == "digest_mismatch"
    assert registry.uploads.get(upload.id).offsets == {digest(CSV): 0}
    assert registry.datasets.list().total == 0


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"t.csv": b"a,b\n1\n"}, "Line 2"),
        ({"t.bin": b"\x00\x01"}, "None of the files"),
        ({"a.csv": CSV, "b.csv": OTHER}, "2 files"),
    ],
)
def test_what_is_no_dataset_registers_nothing(registry: Registry, files: dict[str, bytes], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        registry.push_dataset("t", files)
    assert registry.datasets.list().total == 0 and registry.stored() == set()
    with pytest.raises(NotFound):
        registry.datasets.get("t")


def test_what_takes_too_much_is_told(registry: Registry) -> None:
    registry.pushes._settings = msgspec.structs.replace(registry.settings, examine_memory=1_000_000_000)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.full(6_000_000, b"a"))  # as text, an object each
    with pytest.raises(TooLarge, match="6000000 values"):
        registry.push_dataset("t", {"t.npz": buffer.getvalue()})


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"kind": "dataset", "sample": "t.csv"}, "upload of a dataset has no 'sample'"),
        ({"kind": "dataset", "card": "x"}, "upload of a dataset has no 'card'"),
        ({"kind": "dataset", "metadata": {"a": 1}}, "upload of a dataset has no 'metadata'"),
        ({"label": "x"}, "upload of a model has no 'label'"),
        ({"kind": "dataset", "label": "a\nb"}, "not a column's name"),
    ],
)
def test_fields_of_the_other_kind_are_refused(registry: Registry, more: dict[str, Any], told: str) -> None:
    request: UploadRequest = upload_request("t", {"t.csv": CSV}, **more)
    with pytest.raises(InvalidInput, match=told):
        registry.uploads.begin(request, actor="admin")


# ── deleting and garbage ─────────────────────────────────────────────────────────────────────────────────────────────


def test_garbage_collection_leaves_live_datasets_and_frees_deleted_ones(registry: Registry) -> None:
    registry.push_dataset("t", {"t.csv": CSV})
    registry.push_dataset("t", {"t.csv": OTHER})
    cache = registry.settings.home_path / "cache"
    first, second = (registry.datasets.get(f"t:{number}").digest for number in (1, 2))
    for name in (first, second):
        (cache / name).mkdir(parents=True)
    assert registry.garbage.apply().blobs == 0 and registry.stored() == {digest(CSV), digest(OTHER)}
    assert {path.name for path in cache.iterdir()} == {first, second}

    registry.datasets.delete_version("t:1", actor="admin")
    report = registry.garbage.report()
    assert (report.blobs, report.digests) == (1, [digest(CSV)])
    assert registry.garbage.apply().digests == [digest(CSV)]
    assert registry.stored() == {digest(OTHER)} and [path.name for path in cache.iterdir()] == [second]
    with registry.database.read() as session:
        assert set(session.scalars(select(BlobRow.sha256))) == {digest(OTHER)}


def test_a_file_that_a_model_has_too_stays(registry: Registry) -> None:
    registry.push("model", {"labels.csv": CSV})
    registry.push_dataset("t", {"t.csv": CSV})
    registry.datasets.delete("t", actor="admin")
    assert registry.garbage.apply().blobs == 0
    registry.push_dataset("t", {"t.csv": CSV})
    registry.models.delete("model", actor="admin")
    assert registry.garbage.apply().blobs == 0 and registry.stored() == {digest(CSV)}


def test_an_unfinished_push_keeps_what_it_relies_on(registry: Registry, clock: Clock) -> None:
    registry.push_dataset("t", {"t.csv": CSV})
    upload = registry.uploads.begin(upload_request("u", {"t.csv": CSV}, kind="dataset"), actor="admin")
    registry.datasets.delete("t", actor="admin")
    assert registry.garbage.apply().blobs == 0
    assert registry.pushes.complete_dataset(upload.id, actor="admin").created


def test_deleted_versions_are_gone_and_numbers_go_on(registry: Registry) -> None:
    registry.push_dataset("t", {"t.csv": CSV})
    registry.push_dataset("t", {"t.csv": OTHER})
    with pytest.raises(InvalidInput, match="does not say which version"):
        registry.datasets.delete_version("t", actor="admin")
    registry.datasets.delete_version("t:2", actor="admin")
    assert registry.datasets.get("t").number == 1
    with pytest.raises(NotFound, match="the newest is t:1"):
        registry.datasets.get("t:2")
    registry.datasets.delete("t", actor="admin")
    assert registry.datasets.list().total == 0
    with registry.database.read() as session:
        assert session.scalars(select(DatasetFileRow)).all() == []
    with pytest.raises(NotFound, match="no dataset 't'"):
        registry.datasets.versions("t")
    assert registry.push_dataset("t", {"t.csv": CSV}).dataset.number == 3


def _job(registry: Registry, state: str, kind: str = "evaluate", **arguments: Any) -> None:
    now = time.time()
    with registry.database.write() as session:
        row = JobRow(
            project="default", kind=kind, subject="m:1", arguments=msgspec.json.encode(arguments).decode(), measures=True,
            state=state, actor="admin", created_at=now, queued_at=now, version_id=None, attempt=1, starts=0,
        )  # fmt: skip
        session.add(row)


@pytest.mark.parametrize(("kind", "field"), [("evaluate", "data"), ("compare", "data"), ("optimize", "evaluation")])
def test_what_an_open_job_reads_stays(registry: Registry, kind: str, field: str) -> None:
    registry.push_dataset("t", {"t.csv": CSV})
    registry.push_dataset("t", {"t.csv": OTHER})
    _job(registry, "succeeded", kind, **{field: "t:2"})
    _job(registry, "running", kind, **{field: "t:1"})
    for delete, name in ((registry.datasets.delete_version, "t:1"), (registry.datasets.delete, "t")):
        with pytest.raises(Conflict, match=r"t:1 is in use: the job job-\d+ reads it"):
            delete(name, actor="admin")
    registry.datasets.delete_version("t:2", actor="admin")


def test_what_a_gate_judges_by_stays(registry: Registry) -> None:
    registry.push("m")
    registry.push_dataset("t", {"t.csv": CSV})

    def gate(rules: str | None) -> None:
        with registry.database.write() as session:
            model = session.scalars(select(ModelRow)).one()
            row = GateRow(project="default", model_id=model.id, target="alias", name="champion", rules=rules, actor="a", at=1.0)
            session.add(row)

    gate('{"dataset": "t:1"}')
    with pytest.raises(Conflict, match="t:1 is in use: the gate of m@champion judges by it") as caught:
        registry.datasets.delete("t", actor="admin")
    assert caught.value.next_step is not None and caught.value.next_step.startswith("openmaas gate rm m champion")
    gate(None)
    registry.datasets.delete("t", actor="admin")


# ── projects ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_another_projects_datasets_are_not_spoken_of(registry: Registry) -> None:
    registry.push_dataset("t", {"t.csv": CSV})
    mine = registry.push_dataset("t", {"t.csv": OTHER}, project="other")
    assert mine.dataset.number == 1 and mine.dataset.project == "other"
    assert registry.datasets.get("t", project="other").digest == mine.dataset.digest
    calls = (
        lambda: registry.datasets.get("t", project="third"),
        lambda: registry.datasets.versions("t", project="third"),
        lambda: registry.datasets.read_file("t", "t.csv", project="third"),
        lambda: registry.datasets.delete("t", actor="admin", project="third"),
        lambda: registry.datasets.delete_version("t:1", actor="admin", project="third"),
    )
    for call in calls:
        with pytest.raises(NotFound):
            call()
    assert registry.datasets.list(project="third").total == 0
    registry.datasets.delete("t", actor="admin", project="other")
    assert registry.datasets.get("t").number == 1


def test_files_are_read(registry: Registry) -> None:
    registry.push_dataset("t", {"t.csv": CSV})
    entry, pieces = registry.datasets.read_file("t:1", "t.csv")
    assert b"".join(pieces) == CSV and entry.size == len(CSV)
    for path in ("none", "../t.csv", "\0"):
        with pytest.raises(NotFound, match="has no file"):
            registry.datasets.read_file("t", path)


@pytest.mark.parametrize("reference", ["t@champion", "t:0", "", "a b", "t:99999999999"])
def test_references_that_are_none(registry: Registry, reference: str) -> None:
    registry.push_dataset("t", {"t.csv": CSV})
    with pytest.raises(OpenMaaSError) as caught:
        registry.datasets.get(reference)
    assert caught.value.status in (400, 404, 422)
