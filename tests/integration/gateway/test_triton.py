"""Triton's own client, unmodified, against our gateway."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.integration.gateway.plane import Plane

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the libraries that it brings
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException


@pytest.fixture
def client(plane: Plane) -> Iterator[Any]:
    one = triton.InferenceServerClient(f"127.0.0.1:{plane.port}")
    headers = plane.headers
    for name in ("infer", "get_model_metadata", "get_model_config", "is_model_ready", "get_server_metadata"):
        setattr(one, name, _with(getattr(one, name), headers))
    for name in ("get_inference_statistics", "get_model_repository_index", "load_model", "unload_model"):
        setattr(one, name, _with(getattr(one, name), headers))
    yield one
    one.close()


def _with(call: Any, headers: dict[str, str]) -> Any:
    return lambda *arguments, **named: call(*arguments, headers=headers, **named)


def _input(values: Any, binary: bool, name: str = "x", datatype: str = "FP32") -> Any:
    array = np.asarray(values, object if datatype == "BYTES" else np.float32)
    one = triton.InferInput(name, array.shape, datatype)
    one.set_data_from_numpy(array, binary_data=binary)
    return one


ROWS = [[1, 2], [3, 4.5], [5, 6]]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_infer(client: Any, binary_in: bool, binary_out: bool | None) -> None:
    outputs = None if binary_out is None else [triton.InferRequestedOutput("y", binary_data=binary_out)]
    answer = client.infer("m", [_input(ROWS, binary_in)], outputs=outputs, request_id="mine")
    assert np.array_equal(answer.as_numpy("y"), np.float32(ROWS) * 2)
    said = answer.get_response()
    assert (said["model_name"], said["model_version"], said["id"]) == ("m", "1", "mine")
    # Without outputs the client asks for binary ones in its request's parameters.
    assert ("parameters" in said["outputs"][0]) is (binary_out is not False)


@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("answer_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compression_both_ways(client: Any, request_coding: Any, answer_coding: Any, binary: bool) -> None:
    rows = np.arange(4000, dtype=np.float32).reshape(-1, 2)
    answer = client.infer(
        "m",
        [_input(rows, binary)],
        outputs=[triton.InferRequestedOutput("y", binary_data=binary)],
        request_compression_algorithm=request_coding,
        response_compression_algorithm=answer_coding,
    )
    assert np.array_equal(answer.as_numpy("y"), rows * 2)


@pytest.mark.parametrize("binary", [True, False])
def test_words(client: Any, binary: bool) -> None:
    words = ["a", "", "ä漢", "x" * 5000]
    answer = client.infer(
        "words", [_input(words, binary, "text", "BYTES")], outputs=[triton.InferRequestedOutput("label", binary_data=binary)]
    )
    said = [item.decode() if isinstance(item, bytes) else item for item in answer.as_numpy("label").tolist()]
    assert said == words


def test_a_version_by_number_and_an_alias(client: Any) -> None:
    assert client.infer("m", [_input(ROWS, True)], model_version="1").get_response()["model_version"] == "1"
    assert client.infer("m@champion", [_input(ROWS, True)]).get_response()["model_name"] == "m"
    with pytest.raises(InferenceServerException, match="serves version 1"):
        client.infer("m", [_input(ROWS, True)], model_version="2")


def test_async_infer(client: Any) -> None:
    waiting = [client.async_infer("m", [_input([[n, n]], True)], headers=_headers(client)) for n in range(10)]
    for n, one in enumerate(waiting):
        assert one.get_result().as_numpy("y").tolist() == [[2 * n, 2 * n]]


def _headers(client: Any) -> dict[str, str]:
    return client.infer.__closure__[1].cell_contents  # type: ignore[no-any-return]


def test_errors_say_what_is_wrong(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="must have shape"):
        client.infer("m", [_input([[1, 2, 3]], True)])
    with pytest.raises(InferenceServerException, match="unknown; the model takes 'x' FP32"):
        client.infer("m", [_input(ROWS, True, "z")])
    with pytest.raises(InferenceServerException, match="Nothing is deployed"):
        client.infer("nobody", [_input(ROWS, True)])
    with pytest.raises(InferenceServerException, match="NaN or Infinity"):
        client.infer("odd", [_input(ROWS, True)], outputs=[triton.InferRequestedOutput("y", binary_data=False)])
    answer = client.infer("odd", [_input(ROWS, True)])
    assert np.isinf(answer.as_numpy("y")).all()
    with pytest.raises(InferenceServerException, match="sequences are not supported"):
        client.infer("m", [_input(ROWS, True)], sequence_id=5)


def test_health_needs_no_key(plane: Plane) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{plane.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    with pytest.raises(InferenceServerException, match="no API key"):
        client.infer("m", [_input(ROWS, True)])
    client.close()


def test_metadata_config_and_readiness(client: Any) -> None:
    assert client.get_server_metadata()["name"] == "openmaas"
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("m") == {
        "name": "m",
        "versions": ["1"],
        "platform": "dummy",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    config = client.get_model_config("words")
    assert config["input"] == [{"name": "text", "data_type": "TYPE_STRING", "dims": []}]
    assert config["max_batch_size"] == 32
    assert client.is_model_ready("m")
    assert client.is_model_ready("m", "1")
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("m", "2")


def test_statistics_count_requests_and_rows(client: Any) -> None:
    def now() -> Any:
        (entry,) = client.get_inference_statistics("m")["model_stats"]
        return entry

    before = now()
    for _ in range(3):
        client.infer("m", [_input(ROWS, True)])
    after = now()
    assert after["inference_count"] - before["inference_count"] == 9
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 3
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert after["last_inference"] >= before["last_inference"]
    everything = client.get_inference_statistics()["model_stats"]
    assert {entry["name"] for entry in everything} == {"m", "words", "slow", "stuck", "odd"}


def test_the_repository(client: Any) -> None:
    index = client.get_model_repository_index()
    assert {"name": "words", "version": "3", "state": "READY", "reason": ""} in index
    assert len(index) == 5
    client.load_model("m")  # it runs already
    with pytest.raises(InferenceServerException, match="decided at control"):
        client.unload_model("m")
    with pytest.raises(InferenceServerException, match="Nothing is deployed"):
        client.load_model("nobody")
    assert client.is_model_ready("m")
