from __future__ import annotations

import numpy as np
import pytest

import openmaas
from openmaas.client.steps import Request, Response
from openmaas.core.errors import InvalidInput, Unavailable
from openmaas.core.types import Signature, TensorSpec
from openmaas.protocols.oip import decode_infer, encode_infer
from tests.unit.client.transport import FakeTransport, error_answer, json_answer


class Gateway:
    """Adds one to every value of an input X with `width` columns."""

    def __init__(self, width: int = 3) -> None:
        self.width = width
        self.refusals: list[Response] = []

    def __call__(self, request: Request) -> Response:
        assert request.door == "gateway"
        specs = [{"name": "X", "datatype": "FP32", "shape": [-1, self.width]}]
        if request.method == "GET":
            return json_answer({"name": "m", "platform": "x", "inputs": specs, "outputs": specs})
        if self.refusals:
            return self.refusals.pop()
        spec = TensorSpec(name="X", datatype="FP32", shape=(-1, self.width))
        asked = decode_infer(
            request.body, int(request.headers["inference-header-content-length"]), Signature(inputs=(spec,), outputs=(spec,))
        )
        answer = encode_infer("m", "1", asked, {"X": asked.inputs["X"] + np.float32(1)})  # type: ignore[operator]
        return Response(200, {"inference-header-content-length": str(answer.json_size)}, answer.body)


def _client(gateway: Gateway) -> tuple[openmaas.Client, FakeTransport]:
    transport = FakeTransport(gateway)
    return openmaas.Client("http://server", transport=transport), transport


def test_predict_gives_arrays_by_output_name_and_asks_for_the_signature_once() -> None:
    client, transport = _client(Gateway())
    for _ in range(2):
        assert client.predict("m", [1, 2, 3])["X"].tolist() == [[2, 3, 4]]
    assert [request.method for request in transport.seen] == ["GET", "POST", "POST"]
    assert transport.seen[1].target == "/v2/models/m/infer"
    client.predict("m", [1, 2, 3], version="champion")
    assert transport.seen[-1].target == "/v2/models/m/versions/champion/infer"
    assert "x-request-timeout" not in transport.seen[-1].headers
    client.predict("m", [1, 2, 3], timeout=1.5)
    assert float(transport.seen[-1].headers["x-request-timeout"]) == 1.5


def test_another_version_with_other_inputs_is_noticed() -> None:
    gateway = Gateway(3)
    client, _ = _client(gateway)
    client.predict("m", [1, 2, 3])
    gateway.width = 2
    assert client.predict("m", [1, 2])["X"].tolist() == [[2, 3]]
    with pytest.raises(InvalidInput, match="X"):
        client.predict("m", [1, 2, 3])


def test_a_503_that_says_when_to_come_back_is_tried_once_more() -> None:
    gateway = Gateway()
    client, transport = _client(gateway)
    gateway.refusals = [json_answer({"error": "full", "code": "queue_full"}, 503, retry_after="0")]
    assert client.predict("m", [1, 2, 3])["X"].tolist() == [[2, 3, 4]]
    gateway.refusals = [json_answer({"error": "full", "code": "queue_full"}, 503, retry_after="0")] * 2
    with pytest.raises(Unavailable, match="full"):
        client.predict("m", [1, 2, 3])
    assert len(transport.seen) == 1 + 2 + 2


@pytest.mark.parametrize(("after", "timeout"), [("60", None), ("2", 1.0), (None, None)])
def test_a_503_that_says_too_late_or_nothing_is_told_at_once(after: str | None, timeout: float | None) -> None:
    gateway = Gateway()
    client, transport = _client(gateway)
    gateway.refusals = [error_answer(503, "full") if after is None else json_answer({"error": "full"}, 503, retry_after=after)]
    with pytest.raises(Unavailable):
        client.predict("m", [1, 2, 3], timeout=timeout)
    assert len(transport.seen) == 2


def test_a_raw_body_is_asked_about_as_it_is() -> None:
    answer = {"model": "m", "version": 2, "predictions": [{"label": "cat", "probability": 0.5}], "notes": []}
    transport = FakeTransport(lambda request: json_answer(answer))
    client = openmaas.Client("http://server", transport=transport)
    assert client.predict_raw("m", b"\x89PNG", "image/png", top=3, version="champion", timeout=2.0) == answer
    assert client.predict_raw("m", b'["a"]')["version"] == 2
    first, second = transport.seen
    assert (first.door, first.target, first.body) == ("gateway", "/predict/m?version=champion&top=3", b"\x89PNG")
    assert first.headers == {"content-type": "image/png", "x-request-timeout": "2.000000"}
    assert (second.target, dict(second.headers)) == ("/predict/m", {"content-type": "application/json"})


def test_images_keep_the_zeros_at_their_end() -> None:
    class Images(Gateway):
        def __call__(self, request: Request) -> Response:
            specs = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
            if request.method == "GET":
                return json_answer({"name": "m", "platform": "x", "inputs": specs, "outputs": specs})
            assert request.body.endswith(b"BM\x00\x00" + b"\x05\x00\x00\x00GIF8\x00")
            return json_answer({"outputs": []})

    client, _ = _client(Images())
    assert client.predict("m", [b"BM\x00\x00", b"GIF8\x00"]) == {}
