"""Every route of the REST table once, as a client sees it; the rules behind them are tested at the services."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from openmaas.control.requests import MAX_FILES
from openmaas.core.resources import (
    AliasMove,
    Approval,
    Finding,
    GcReport,
    ModelSummary,
    Page,
    PushResult,
    ReplicaInfo,
    ServerStatus,
    UploadInfo,
    VersionInfo,
)
from tests.integration.registry import Registry, digest

FILES = {"model.bin": b"weights", "dir/labels.txt": b"a\nb"}


def decode(answer: httpx.Response, kind: Any, status: int = 200) -> Any:
    """As the client does."""
    assert answer.status_code == status, answer.text
    return msgspec.json.decode(answer.content, type=kind)


def code_of(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["code"])


def begin_body(name: str, files: dict[str, bytes], **more: Any) -> dict[str, Any]:
    listed = [{"path": path, "size": len(data), "sha256": digest(data)} for path, data in files.items()]
    return {"name": name, "files": listed, **more}


async def push(api: httpx.AsyncClient, name: str, files: dict[str, bytes] | None = None, **more: Any) -> PushResult:
    files = FILES if files is None else files
    upload = decode(await api.post("uploads", json=begin_body(name, files, **more)), UploadInfo)
    for data in files.values():
        if digest(data) in upload.offsets:
            decode(await api.put(f"uploads/{upload.id}/files/{digest(data)}?offset=0", content=data), UploadInfo)
    return decode(await api.post(f"uploads/{upload.id}/complete"), PushResult)  # type: ignore[no-any-return]


async def test_the_life_of_a_model(api: httpx.AsyncClient) -> None:
    pushed = await push(api, "digits", metadata={"accuracy": 0.97}, card="# Digits")
    assert pushed.created
    await push(api, "digits", {"model.bin": b"better"})
    assert [item.name for item in decode(await api.get("models"), Page[ModelSummary]).items] == ["digits"]
    assert decode(await api.get("models/digits"), ModelSummary).latest == 2
    versions = decode(await api.get("models/digits/versions?limit=1"), Page[VersionInfo])
    assert ([item.number for item in versions.items], versions.total, versions.next) == ([2], 2, "2")
    older = decode(await api.get("models/digits/versions?limit=1&after=2"), Page[VersionInfo])
    assert older.items == [pushed.version]
    assert decode(await api.put("models/digits/aliases/champion", json={"number": 1}), AliasMove).actor == "admin"
    decode(await api.put("models/digits/aliases/champion", json={"number": 2}), AliasMove)
    assert decode(await api.post("models/digits/aliases/champion/rollback"), AliasMove).number == 1
    for reference, number in (("digits", 2), ("digits:1", 1), ("digits@champion", 1)):
        assert decode(await api.get(f"versions/{quote(reference, safe='')}"), VersionInfo).number == number
        assert decode(await api.get(f"versions/{reference}"), VersionInfo).number == number
    assert decode(await api.patch("versions/digits:1", json={"card": "new"}), VersionInfo).card == "new"
    assert [move.action for move in decode(await api.get("models/digits/history"), Page[AliasMove]).items] == [
        "rollback",
        "set",
        "set",
    ]
    assert code_of(await api.delete("versions/digits:1"), 409) == "version_aliased"
    assert decode(await api.delete("models/digits/aliases/champion"), AliasMove).number is None
    deleted = await api.delete("versions/digits:1")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert decode(await api.post("gc"), GcReport).done is False
    assert decode(await api.post("gc?apply=true"), GcReport).blobs == 2
    assert (await api.delete("models/digits")).status_code == 204
    assert code_of(await api.get("models/digits"), 404) == "model_not_found"


async def test_the_files_of_a_version(api: httpx.AsyncClient) -> None:
    await push(api, "digits")
    answer = await api.get("versions/digits:1/files/dir/labels.txt")
    assert (answer.status_code, answer.content) == (200, b"a\nb")
    assert answer.headers["content-length"] == "3"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment"
    for path in ("none", "..%2F..%2Fopenmaas.db", "%2Fetc%2Fpasswd", "dir", "dir/", "%00"):
        assert code_of(await api.get(f"versions/digits:1/files/{path}"), 404) in ("file_not_found", "no_such_route")


async def test_an_upload_goes_on_and_is_given_up(api: httpx.AsyncClient) -> None:
    upload = decode(await api.post("uploads", json=begin_body("digits", FILES)), UploadInfo)
    path = f"uploads/{upload.id}/files/{digest(b'weights')}"
    assert decode(await api.put(f"{path}?offset=0", content=b"wei"), UploadInfo).offsets[digest(b"weights")] == 3
    assert code_of(await api.put(f"{path}?offset=0", content=b"weights"), 409) == "wrong_offset"
    assert decode(await api.get(f"uploads/{upload.id}"), UploadInfo).offsets[digest(b"weights")] == 3
    assert code_of(await api.post(f"uploads/{upload.id}/complete"), 409) == "upload_incomplete"
    assert (await api.delete(f"uploads/{upload.id}")).status_code == 204
    assert code_of(await api.get(f"uploads/{upload.id}"), 404) == "upload_not_found"


async def test_an_upload_is_of_the_keys_project(api: httpx.AsyncClient) -> None:
    assert code_of(await api.post("uploads", json=begin_body("digits", FILES, project="other")), 403) == "other_project"


async def test_approvals(api: httpx.AsyncClient) -> None:
    made = decode(await api.post("approvals", json={"sha256": "a" * 64, "reason": "mine"}), Approval)
    assert decode(await api.get("approvals"), list[Approval]) == [made]
    assert made.actor == "admin"


async def test_status_doctor_and_replicas(api: httpx.AsyncClient, registry: Registry) -> None:
    status = decode(await api.get("status"), ServerStatus)
    assert (status.home, status.supervised, status.database) == (
        str(registry.settings.home_path),
        False,
        registry.database.dialect,
    )
    await push(api, "digits")
    findings = {finding.check: finding for finding in decode(await api.get("doctor"), list[Finding])}
    assert findings["blobs"].ok
    assert findings["database"].ok
    assert findings["admin key"].ok
    assert findings["data folder"].ok
    assert not findings["supervisor"].ok
    assert all(finding.ok or finding.next_step or finding.check == "gateway" for finding in findings.values())
    assert decode(await api.get("replicas"), list[ReplicaInfo]) == []


async def test_the_doctor_finds_what_is_wrong(api: httpx.AsyncClient, registry: Registry) -> None:
    await push(api, "digits", {"m": b"weights"})
    home = registry.settings.home_path
    stored = home / "blobs" / digest(b"weights")[:2] / digest(b"weights")
    stored.unlink()
    stored.write_bytes(b"weightz")
    (home / "admin.key").chmod(0o644)
    home.chmod(0o755)
    findings = {finding.check: finding for finding in decode(await api.get("doctor"), list[Finding])}
    assert digest(b"weights") in findings["blobs"].message
    assert findings["admin key"].next_step == f"chmod 600 {home / 'admin.key'}"
    assert findings["data folder"].next_step == f"chmod 700 {home}"
    (home / "admin.key").unlink()
    stored.unlink()
    findings = {finding.check: finding for finding in decode(await api.get("doctor"), list[Finding])}
    assert (findings["blobs"].ok, findings["admin key"].ok) == (False, False)


async def test_deployments(api: httpx.AsyncClient) -> None:
    await push(api, "digits")
    info = await api.post("deployments", json={"version": "digits"})
    assert (info.status_code, info.json()["state"], info.json()["actor"]) == (202, "starting", "admin")
    assert (await api.get("deployments")).json()["total"] == 1
    assert (await api.get("deployments/digits")).json()["version"] == 1
    assert code_of(await api.delete("versions/digits:1"), 409) == "version_deployed"
    assert code_of(await api.delete("models/digits"), 409) == "version_deployed"
    assert (await api.get("deployments/digits/history")).json()["items"][0]["action"] == "deploy"
    assert (await api.get("deployments/digits/logs?lines=5")).json() == {"lines": [], "offset": 0}
    assert code_of(await api.post("deployments/digits/rollback"), 409) == "nothing_before"
    assert (await api.delete("deployments/digits")).json()["state"] == "stopped"
    assert code_of(await api.get("deployments/none"), 404) == "deployment_not_found"


# ── what clients get wrong ───────────────────────────────────────────────────────────────────────────────────────────


BAD_BODIES = (
    b"", b"{", b"[]", b"null", b'{"number": NaN}', b'{"number": Infinity}', b'{"number": 1e999}', b'{"number": 1, "extra": 2}',
    b'{"number": "x"}', b'{"number": 1.5}', b"{}", b'{"number": null}', b"\xff\xfe", b"[" * 100_000, b'{"number": 1}x',
    b'{"number": "\\ud800"}',
)  # fmt: skip


async def test_a_bad_body_is_told_as_one(api: httpx.AsyncClient) -> None:
    await push(api, "digits")
    for body in BAD_BODIES:
        answer = await api.put("models/digits/aliases/a", content=body, headers={"content-type": "application/json"})
        assert code_of(answer, 400) in ("invalid_json", "invalid_request"), body
        assert len(answer.text) < 1000


async def test_an_error_names_the_field(api: httpx.AsyncClient) -> None:
    answer = await api.post("uploads", json={"name": "digits", "files": [{"path": "m", "size": "big", "sha256": "a" * 64}]})
    assert "files.0.size" in answer.json()["error"]
    answer = await api.post("deployments", json={"version": "digits", "replica": 2})
    assert "replica" in answer.json()["error"]
    assert "limit" in (await api.get("models?limit=many")).json()["error"]
    assert code_of(await api.get("models?limit=many"), 400) == "invalid_request"
    assert "Content-Type" in (await api.post("approvals", content=b"{}")).json()["next_step"]


async def test_a_mistyped_parameter_is_not_ignored(api: httpx.AsyncClient) -> None:
    for target in ("models?limits=5", "models?limit=5&limit=6", "status?x", "models?Limit=5"):
        assert code_of(await api.get(target), 400) == "invalid_request"
    answer = await api.post("gc?aply=true")
    assert (code_of(answer, 400), answer.json()["next_step"]) == ("invalid_request", "This route takes apply.")


HOSTILE = (
    "models?limit=0", "models?limit=99999999999999999999", "models?after=%00", "models?prefix=%F0%9F%98%80", "models/%00",
    "models/..", "models/" + "a" * 5000, "versions/digits:99999999999", "versions/@", "models/digits/versions?after=-5",
    "models/digits/history?after=99999999999", "uploads/%00", "deployments/%00", "deployments/digits/logs?lines=-1",
    "deployments/digits/logs?offset=99999999999999999999", "versions/digits%2Fx", "versions/digits%00", "approvals/x",
    "deployments?after=%00", "models/digits/versions?limit=501", "versions/digits@" + "a" * 64,
)  # fmt: skip


async def test_hostile_addresses_are_refused(api: httpx.AsyncClient) -> None:
    await push(api, "digits")
    await api.post("deployments", json={"version": "digits"})
    for target in HOSTILE:
        answer = await api.get(target)
        assert answer.status_code in (400, 404), (target, answer.text)
    for number in (10**18, 10**40, -1, 0):
        assert code_of(await api.put("models/digits/aliases/a", json={"number": number}), 404) == "version_not_found"


async def test_an_offset_is_a_number(api: httpx.AsyncClient) -> None:
    upload = decode(await api.post("uploads", json=begin_body("digits", FILES)), UploadInfo)
    for offset in ("-1", "x", "99999999999999999999999", "1.5", ""):
        answer = await api.put(f"uploads/{upload.id}/files/{digest(b'weights')}?offset={offset}", content=b"x")
        assert code_of(answer, 400) == "invalid_request"


async def test_a_chunk_beyond_the_limit_is_not_read(api: httpx.AsyncClient, registry: Registry) -> None:
    data = bytes(registry.settings.chunk_size + 1)
    upload = decode(await api.post("uploads", json=begin_body("digits", {"m": data})), UploadInfo)
    path = f"uploads/{upload.id}/files/{digest(data)}?offset=0"
    assert code_of(await api.put(path, content=data), 413) == "body_too_large"

    async def pieces() -> Any:
        for _ in range(100):
            yield bytes(2**16)

    assert code_of(await api.put(path, content=pieces()), 413) == "body_too_large"
    assert decode(await api.get(f"uploads/{upload.id}"), UploadInfo).offsets == {digest(data): 0}


async def test_a_json_body_is_bounded_and_a_list_of_files_may_be_long(api: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    large = json.dumps({"sha256": "a" * 64, "reason": "x" * 2**20}).encode()
    assert code_of(await api.post("approvals", content=large, headers=headers), 413) == "body_too_large"
    files = [{"path": f"some/folder/with/a/longer/name/{n:05}", "size": n + 1, "sha256": f"{n:064x}"} for n in range(MAX_FILES)]
    upload = decode(await api.post("uploads", json={"name": "many", "files": files}), UploadInfo)
    assert len(upload.offsets) == MAX_FILES
    files.append({"path": "one-more", "size": 1, "sha256": "f" * 64})
    assert code_of(await api.post("uploads", json={"name": "many", "files": files}), 400) == "file_count"


async def test_too_many_chunks_at_once_are_turned_away(api: httpx.AsyncClient) -> None:
    upload = decode(await api.post("uploads", json=begin_body("digits", FILES)), UploadInfo)
    path, go, arriving = f"uploads/{upload.id}/files/{digest(b'weights')}?offset=0", asyncio.Event(), 0

    async def slow() -> Any:
        nonlocal arriving
        arriving += 1
        yield b"wei"
        await go.wait()
        yield b"ghts"

    waiting = [asyncio.create_task(api.put(path, content=slow())) for _ in range(16)]
    async with asyncio.timeout(60):
        while arriving < 16:
            await asyncio.sleep(0.01)
    turned_away = await api.put(path, content=b"weights")
    go.set()
    answers = sorted([(await task).status_code for task in waiting])
    assert (turned_away.status_code, turned_away.headers["retry-after"]) == (503, "1")
    assert answers == [200] + [409] * 15
    assert decode(await api.get(f"uploads/{upload.id}"), UploadInfo).offsets == {digest(b"a\nb"): 0}


async def test_a_long_examination_does_not_keep_others_waiting(api: httpx.AsyncClient, registry: Registry) -> None:
    import threading

    go = threading.Event()
    registry.examine.does = lambda folder, output: (go.wait(60), None)[1]
    pushing = [asyncio.create_task(push(api, f"slow-{n}", {"m": b"%d" % n})) for n in range(6)]
    await asyncio.sleep(0.5)
    began = asyncio.get_running_loop().time()
    for _ in range(5):
        assert (await api.get("models")).status_code == 200
    assert asyncio.get_running_loop().time() - began < 20
    go.set()
    assert all(result.created for result in await asyncio.gather(*pushing))
