"""Models, embeddings and tokens."""

from __future__ import annotations

import base64
import subprocess
import sys
from typing import Any

import msgspec
import numpy as np
import pytest
from openai.types import CreateEmbeddingResponse, Model

from openmaas.core.errors import EngineFailed
from openmaas.protocols.openai import (
    ServedModel,
    decode_detokenize,
    decode_embeddings,
    decode_tokenize,
    encode_detokenize,
    encode_embeddings,
    encode_tokenize,
    model_body,
    models_body,
)
from tests.unit.protocols.openai.asks import MESSAGES, WEATHER, client, refused, unknown_fields

encode = msgspec.json.encode
VECTORS = np.array([[0.5, -1.25, 3.0], [1e-3, 2.0, 0.0]], np.float32)

# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_list_of_models_serves_both_clients() -> None:
    body = encode(models_body([ServedModel(name="b", owner="team", created=5.9), ServedModel(name="a", owner="team")]))
    assert msgspec.json.decode(body)["models"] == ["a", "b"]
    listed = client(body).models.list()
    assert [model.id for model in listed.data] == ["a", "b"]
    assert listed.data[1] == Model(id="b", object="model", created=5, owned_by="team")


def test_one_model_serves_both_clients() -> None:
    body = model_body(ServedModel(name="a", owner="team", created=5, ready=False))
    assert (body["name"], body["ready"]) == ("a", False)
    assert not unknown_fields(Model.model_validate_json(encode(body), strict=True), allowed=("name", "ready"))


def test_the_gateway_gets_no_numpy_with_it() -> None:
    """It reads names and writes errors; numpy would cost it its quick start."""
    command = "import sys, openmaas.protocols.openai; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False, timeout=60).returncode == 0


# ── embeddings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_client_asks_for_base64_by_itself_and_reads_it() -> None:
    sent: list[bytes] = []
    body = encode_embeddings(VECTORS, as_base64=True, deployment="minilm", prompt_tokens=7)
    answer = client(body, sent=sent).embeddings.create(model="minilm", input=["x", "y"], user="me")
    assert [one.embedding for one in answer.data] == VECTORS.tolist()
    ask = decode_embeddings(sent[0])
    assert (list(ask.inputs), ask.base64, ask.dimensions) == (["x", "y"], True, None)


def test_lists_of_numbers() -> None:
    body = encode_embeddings(VECTORS.astype(np.float64), as_base64=False, deployment="minilm", prompt_tokens=7)
    answer = CreateEmbeddingResponse.model_validate_json(body, strict=True)
    assert not unknown_fields(answer)
    assert [(one.index, one.embedding) for one in answer.data] == list(enumerate(VECTORS.tolist()))
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == ("minilm", 7, 7)


def test_base64_is_of_little_endian_floats() -> None:
    body = encode_embeddings(VECTORS.T, as_base64=True, deployment="m", prompt_tokens=1)  # columns, not contiguous
    text = msgspec.json.decode(body)["data"][1]["embedding"]
    assert np.frombuffer(base64.b64decode(text), "<f4").tolist() == VECTORS[:, 1].tolist()


def test_what_is_not_finite_is_an_error() -> None:
    with pytest.raises(EngineFailed):
        encode_embeddings(np.array([[np.nan]]), as_base64=True, deployment="m", prompt_tokens=1)


def test_what_embeddings_are_asked_for() -> None:
    ask = decode_embeddings(encode({"model": "m", "input": [[1, 2]], "encoding_format": "float", "dimensions": 384}))
    assert (list(ask.inputs), ask.base64, ask.dimensions) == ([[1, 2]], False, 384)
    assert not decode_embeddings(encode({"input": "x"})).base64
    assert len(decode_embeddings(encode({"input": ["x"] * 2048})).inputs) == 2048


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
        ({"input": "x", "dimensions": 65_537}, "dimensions"),
        ({"input": "x", "input_type": "query"}, "input_type"),
        ({"input": "x", "user": 5}, "user"),
    ],
)
def test_embeddings_that_are_refused(body: dict[str, Any], param: str) -> None:
    assert refused(lambda: decode_embeddings(encode(body))).param == param


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tokens_of_a_text() -> None:
    ask = decode_tokenize(b'{"model":"w","prompt":"x"}')
    assert (ask.prompt, ask.messages, ask.special, ask.strings) == ("x", None, True, False)
    ask = decode_tokenize(b'{"model":"w","prompt":"","add_special_tokens":false,"return_token_strs":true}')
    assert (ask.prompt, ask.special, ask.strings) == ("", False, True)


def test_tokens_of_a_conversation() -> None:
    ask = decode_tokenize(encode({"messages": MESSAGES, "tools": [WEATHER], "chat_template_kwargs": {"a": 1}}))
    assert (ask.messages, ask.tools, ask.template_variables) == (MESSAGES, [WEATHER], {"a": 1})
    assert (ask.special, ask.add_generation_prompt) == (False, True)
    ask = decode_tokenize(encode({"messages": MESSAGES, "add_special_tokens": True, "add_generation_prompt": False}))
    assert (ask.special, ask.add_generation_prompt) == (True, False)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "x", "messages": MESSAGES}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"prompt": "x", "tools": [WEATHER]}, "tools"),
        ({"prompt": "x", "add_generation_prompt": True}, "add_generation_prompt"),
        ({"messages": []}, "messages"),
        ({"messages": MESSAGES, "continue_final_message": True}, "continue_final_message"),
        ({"messages": MESSAGES, "chat_template": "x"}, "chat_template"),
    ],
)
def test_tokens_that_are_refused(body: dict[str, Any], param: str) -> None:
    assert refused(lambda: decode_tokenize(encode(body))).param == param


def test_answers_in_the_shapes_of_vllm() -> None:
    assert msgspec.json.decode(encode_tokenize([1, 2], context=512)) == {
        "count": 2, "max_model_len": 512, "tokens": [1, 2], "token_strs": None,
    }  # fmt: skip
    assert msgspec.json.decode(encode_tokenize([1], context=512, strings=["Ġx"]))["token_strs"] == ["Ġx"]
    assert encode_detokenize("é") == '{"prompt":"é"}'.encode()


def test_the_text_of_tokens() -> None:
    assert decode_detokenize(b'{"model":"w","tokens":[1,2]}') == [1, 2]
    assert decode_detokenize(b'{"tokens":[]}') == []
    for bad in ({}, {"tokens": "x"}, {"tokens": [-1]}, {"tokens": ["x"]}):
        assert (refused(lambda bad=bad: decode_detokenize(encode(bad))).param or "").startswith("tokens")  # type: ignore[misc]
