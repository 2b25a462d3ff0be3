"""Answers of completions, parsed strictly by the client's own types and read by the client itself."""

from __future__ import annotations

from openai.types import Completion

from openmaas.protocols.generation import Choice, Delta
from tests.unit.protocols.openai.asks import GRUESSE, USAGE, ask, client, events, streamed, unknown_fields, whole, writer

HEAD = b'data: {"id":"cmpl-r1","object":"text_completion","created":1700000000,"model":"writer","system_fingerprint":"3",'


def test_a_stream_byte_by_byte() -> None:
    assert streamed("completions", [Delta(text="é\n"), Delta()], "length") == (
        HEAD + '"choices":[{"index":0,"text":"é\\n","logprobs":null,"finish_reason":null}]}\n\n'.encode()
        + HEAD + b'"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"length"}]}\n\n'
        + b"data: [DONE]\n\n"
    )  # fmt: skip


def test_the_client_reads_a_stream_and_its_usage() -> None:
    stream = streamed("completions", [Delta(text="a"), Delta(text="b")], stream_options={"include_usage": True})
    assert [data["usage"] for _, data in events(stream)[:-1]] == [None] * 3
    chunks = list(client(stream).completions.create(model="writer", prompt="x", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "ab"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == USAGE.completion


def test_answers_of_several_prompts_are_told_apart() -> None:
    made = writer("completions", ask("completions", prompt=["x", "y"], n=2, stream=True))
    for index in range(4):
        ((_, data),) = events(made.delta(index, Delta(text="t")))
        assert data["choices"][0]["index"] == index


def test_a_whole_answer_with_logprobs() -> None:
    body = whole(
        "completions",
        Choice(index=0, text="Grüße", finish="stop", logprobs=GRUESSE),
        Choice(index=1, text="x", finish="length"),
        n=2,
        logprobs=2,
    )
    parsed = Completion.model_validate_json(body, strict=True)
    assert not unknown_fields(parsed)
    assert [(choice.index, choice.text, choice.finish_reason) for choice in parsed.choices] == [
        (0, "Grüße", "stop"),
        (1, "x", "length"),
    ]
    logprobs = parsed.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["Gr", "�", "�", "ße"]
    assert logprobs.text_offset == [0, 2, 3, 3]
    assert logprobs.token_logprobs == [-0.25, -0.5, -9999.0, -9999.0]
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[0] == {"Gr": -0.25, "Hi": -2.0}
    assert logprobs.top_logprobs[2] == {"�": -0.1}
    assert parsed.choices[1].logprobs is None


def test_text_offsets_go_on_from_delta_to_delta() -> None:
    deltas = [Delta(text="Gr", logprobs=GRUESSE[:2]), Delta(logprobs=[]), Delta(text="üße", logprobs=GRUESSE[2:])]
    stream = streamed("completions", deltas, logprobs=1)
    chunks = [data["choices"][0] for _, data in events(stream)]
    assert [chunk["logprobs"]["text_offset"] for chunk in chunks if chunk["logprobs"]] == [[0, 2], [3, 3]]


def test_without_likeliest_there_is_no_list_of_them() -> None:
    body = whole("completions", Choice(index=0, text="ße", finish="stop", logprobs=GRUESSE[3:]), logprobs=0)
    logprobs = Completion.model_validate_json(body, strict=True).choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.top_logprobs, logprobs.tokens) == (None, ["ße"])
