from __future__ import annotations

import inspect

import pytest

import openmaas
from openmaas.client.steps import Request, Response
from openmaas.core.errors import NotFound, Unavailable
from openmaas.core.resources import GcReport
from tests.unit.client.transport import Answer, FakeAsyncTransport, FakeTransport, error_answer, json_answer

URL = "http://server:8080"


def client(answer: Answer) -> openmaas.Client:
    return openmaas.Client(URL, api_key="omk_x", transport=FakeTransport(answer))


def async_client(answer: Answer) -> openmaas.AsyncClient:
    return openmaas.AsyncClient(URL, api_key="omk_x", transport=FakeAsyncTransport(answer))


REPORT = {"blobs": 2, "bytes": 10, "uploads": 0, "done": False, "digests": ["a", "b"]}


async def test_both_clients_run_the_same_operation() -> None:
    expected = GcReport(blobs=2, bytes=10, uploads=0, done=False, digests=["a", "b"])
    assert client(lambda _: json_answer(REPORT)).gc() == expected
    assert await async_client(lambda _: json_answer(REPORT)).gc() == expected


async def test_both_clients_raise_the_error_that_the_server_told() -> None:
    def answer(_: Request) -> Response:
        return error_answer(404, "model_not_found", "no model 'x'", next_step="openmaas ls", request_id="r1")

    with pytest.raises(NotFound) as raised:
        client(answer).show("x")
    with pytest.raises(NotFound):
        await async_client(answer).show("x")
    assert raised.value.code == "model_not_found"
    assert raised.value.next_step == "openmaas ls"
    assert raised.value.request_id == "r1"


def test_the_two_clients_have_the_same_public_methods_and_arguments() -> None:
    def public(kind: type) -> dict[str, inspect.Signature]:
        return {
            name: inspect.signature(getattr(kind, name))
            for name in dir(kind)
            if not name.startswith("_") and callable(getattr(kind, name))
        }

    blocking, asynchronous = public(openmaas.Client), public(openmaas.AsyncClient)
    assert blocking == asynchronous
    assert {"push", "deploy", "predict", "models", "show", "logs"} <= set(blocking)


def test_every_public_method_is_described() -> None:
    for name in dir(openmaas.Client):
        if not name.startswith("_"):
            assert inspect.getdoc(getattr(openmaas.Client, name)), name


def _page(request: Request) -> Response:
    """Five models, two a page."""
    after = int(request.query.get("after") or 0)
    names = [str(n) for n in range(after, min(after + 2, 5))]
    blank = {"project": "default", "versions": 1, "latest": 1, "format": "onnx", "size": 1, "aliases": {}, "updated_at": 0.0}
    items = [{"name": name, **blank} for name in names]
    return json_answer({"items": items, "total": 5, "next": str(after + 2) if after + 2 < 5 else None})


def test_a_listing_asks_for_the_next_page_only_when_it_is_needed() -> None:
    transport = FakeTransport(_page)
    models = openmaas.Client(URL, transport=transport).models()
    rows = iter(models)
    assert [next(rows).name, next(rows).name] == ["0", "1"]
    assert len(transport.seen) == 1
    assert [row.name for row in rows] == ["2", "3", "4"]
    assert len(transport.seen) == 3
    assert models.page().total == 5


async def test_an_asynchronous_listing() -> None:
    assert [model.name async for model in async_client(_page).models()] == ["0", "1", "2", "3", "4"]
    assert (await async_client(_page).models().page()).next == "2"


def test_names_are_one_path_segment() -> None:
    transport = FakeTransport(lambda _: error_answer(404, "x"))
    with pytest.raises(NotFound):
        openmaas.Client(URL, transport=transport).show("digits@champion")
    assert transport.seen[0].target == "/api/v1/versions/digits%40champion"


def test_an_answer_that_is_not_json_is_still_an_error_of_ours() -> None:
    def answer(_: Request) -> Response:
        return Response(502, {"retry-after": "3"}, b"<html>bad gateway</html>")

    with pytest.raises(openmaas.OpenMaaSError, match="HTTP 502: <html>"):
        client(answer).gc()
    with pytest.raises(openmaas.OpenMaaSError, match="not what this client understands"):
        client(lambda _: Response(200, {}, b"[")).gc()


def test_the_time_to_come_back_is_read_from_the_header() -> None:
    with pytest.raises(Unavailable) as raised:
        client(lambda _: json_answer({"error": "full"}, 503, retry_after="7")).gc()
    assert raised.value.retry_after == 7.0
