"""The routes of datasets, as a client sees them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

import openmaas
from openmaas.api.door import Door
from openmaas.api.services import Services
from openmaas.core.keys import digest_key, make_key
from openmaas.core.resources import DatasetInfo, DatasetPushResult, DatasetSummary, Page, UploadInfo
from openmaas.store.tables import KeyRow
from tests.integration.api.conftest import client_of
from tests.integration.api.test_routes import begin_body, code_of, decode
from tests.integration.registry import Registry, digest

pytestmark = pytest.mark.usefixtures("warm")

CSV = b"a,b,label\n1,2,x\n3,4,y\n5,6,x\n"


async def push(api: httpx.AsyncClient, name: str, data: bytes = CSV) -> DatasetPushResult:
    body = begin_body(name, {"t.csv": data}, kind="dataset")
    upload = decode(await api.post("uploads", json=body), UploadInfo)
    if upload.offsets:
        decode(await api.put(f"uploads/{upload.id}/files/{digest(data)}?offset=0", content=data), UploadInfo)
    return decode(await api.post(f"uploads/{upload.id}/complete"), DatasetPushResult)  # type: ignore[no-any-return]


async def test_the_life_of_a_dataset(api: httpx.AsyncClient) -> None:
    pushed = await push(api, "t")
    assert pushed.created and pushed.dataset.reference == "t:1"
    assert not (await push(api, "t")).created
    second = await push(api, "t", CSV + b"7,8,z\n")
    assert [item.name for item in decode(await api.get("datasets"), Page[DatasetSummary]).items] == ["t"]
    versions = decode(await api.get("datasets/t/versions?limit=1"), Page[DatasetInfo])
    assert (versions.items, versions.total, versions.next) == ([second.dataset], 2, "2")
    for reference in ("t:1", "t%3A1"):
        assert decode(await api.get(f"dataset-versions/{reference}"), DatasetInfo) == pushed.dataset
    answer = await api.get("dataset-versions/t:1/files/t.csv")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, CSV, str(len(CSV)))
    for path in ("none", "..%2F..%2Fopenmaas.db", "%2Fetc%2Fpasswd", "%00"):
        assert code_of(await api.get(f"dataset-versions/t:1/files/{path}"), 404) in ("file_not_found", "no_such_route")
    assert code_of(await api.delete("dataset-versions/t"), 400) == "no_version"
    assert (await api.delete("dataset-versions/t:1")).status_code == 204
    assert code_of(await api.get("dataset-versions/t:1"), 404) == "dataset_not_found"
    assert (await api.delete("datasets/t")).status_code == 204
    assert code_of(await api.get("datasets/t/versions"), 404) == "dataset_not_found"


async def test_what_is_no_dataset_says_why(api: httpx.AsyncClient) -> None:
    data = b"a,b\n1,2\n3\n"
    upload = decode(await api.post("uploads", json=begin_body("t", {"t.csv": data}, kind="dataset")), UploadInfo)
    await api.put(f"uploads/{upload.id}/files/{digest(data)}?offset=0", content=data)
    answer = await api.post(f"uploads/{upload.id}/complete")
    assert code_of(answer, 400) == "invalid_dataset" and "Line 3 has 1 fields" in answer.json()["error"]


async def test_another_projects_key_finds_nothing(app: Door, api: httpx.AsyncClient, services: Services) -> None:
    await push(api, "t")
    made = make_key()
    with services.jobs._database.write() as session:
        session.add(KeyRow(id="theirs", digest=digest_key(made), role="admin", project="other", created_at=1.0))
    services.keys.refresh()
    async with client_of(app, authorization=f"Bearer {made}") as client:
        client.base_url = httpx.URL("http://control/api/v1/")
        for method, path in (
            ("GET", "datasets/t/versions"),
            ("DELETE", "datasets/t"),
            ("GET", "dataset-versions/t:1"),
            ("DELETE", "dataset-versions/t:1"),
            ("GET", "dataset-versions/t:1/files/t.csv"),
        ):
            assert code_of(await client.request(method, path), 404) == "dataset_not_found"
        assert decode(await client.get("datasets"), Page[DatasetSummary]).items == []
        wanted = begin_body("t", {"t.csv": CSV}, kind="dataset", project="other")
        upload = decode(await client.post("uploads", json=wanted), UploadInfo)
        assert upload.offsets == {digest(CSV): 0}  # that somebody has the file is not told


async def test_the_client_pushes_and_downloads(app: Door, key: str, registry: Registry, tmp_path: Path) -> None:
    from openmaas.client.steps import Request, Response

    class Transport:
        """To the application in this process."""

        async def send(self, request: Request) -> Response:
            async with client_of(app, authorization=f"Bearer {key}") as http:
                answer = await http.request(request.method, request.target, content=request.body, headers=request.headers)
            if request.sink is not None and answer.status_code < 300:
                request.sink(answer.content)
            return Response(answer.status_code, dict(answer.headers), answer.content)

        def stream(self, request: Request) -> object:
            raise NotImplementedError

        async def close(self) -> None: ...

    client = openmaas.AsyncClient("http://control", gateway_url="http://gateway", api_key=key, transport=Transport())  # type: ignore[arg-type]
    (tmp_path / "numbers.csv").write_bytes(CSV)
    result = await client.push_dataset(tmp_path / "numbers.csv")
    assert result.dataset.reference == "numbers:1" and result.dataset.manifest["classes"] == ["x", "y"]
    assert await client.dataset("numbers") == result.dataset
    folder = await client.download_dataset("numbers:1", tmp_path / "copy")
    assert (folder / "numbers.csv").read_bytes() == CSV
    await client.delete_dataset("numbers:1")
    assert [item.name async for item in client.datasets()] == []
