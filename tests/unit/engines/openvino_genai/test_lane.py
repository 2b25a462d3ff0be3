from __future__ import annotations

from typing import Any

import pytest

from openmaas.core.generation import GenerationRequest, Sampling
from openmaas.engines.openvino_genai import lane as lanes
from openmaas.engines.openvino_genai.disguise import Disguise
from openmaas.engines.openvino_genai.lane import Lane

pytest.importorskip("openvino_genai")


class FakeHandle:
    def __init__(self, length: int, tokens: int) -> None:
        self.length, self.tokens, self.given, self.cancelled = length, tokens, 0, False

    def can_read(self) -> bool:
        return False

    def get_status(self) -> str:
        return "running"

    def cancel(self) -> None:
        self.cancelled = True


class FakePipeline:
    """Takes what it is given and computes nothing, so that what it was given can be looked at."""

    def __init__(self) -> None:
        self.given: list[list[int]] = []
        self.handles: list[FakeHandle] = []

    def add_request(self, request_id: int, ids: Any, config: Any) -> FakeHandle:
        self.given.append([int(token) for token in ids.data[0]])
        self.handles.append(FakeHandle(len(self.given[-1]), config.max_new_tokens))
        return self.handles[-1]

    def step(self) -> None:
        pass


def request(number: int, length: int, max_tokens: int = 4) -> GenerationRequest:
    prompt = [(number * 7 + place) % 100 for place in range(length)]
    return GenerationRequest(id=number, prompt=prompt, max_tokens=max_tokens, end=(), sampling=Sampling(seed=0))


@pytest.fixture
def pipeline() -> FakePipeline:
    return FakePipeline()


@pytest.fixture
def lane(pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch) -> Lane:
    monkeypatch.setattr(lanes, "stepper", lambda pipeline: pipeline.step)
    return Lane(pipeline, blocks=100, slots=4, part=64, disguise=Disguise(1000))


def admit(lane: Lane, *requests: GenerationRequest) -> None:
    from openmaas.engines.openvino_genai.sampling import generation_config

    for each in requests:
        lane.admit(each, generation_config(each))


def test_short_prompts_go_in_together_and_whole(lane: Lane, pipeline: FakePipeline) -> None:
    admit(lane, *(request(number, 40) for number in (1, 2, 3, 4)))
    lane.step()
    assert [len(ids) for ids in pipeline.given] == [40, 40, 40]  # the fourth would be more than 128 tokens in one step


def test_a_long_prompt_goes_in_by_one_piece_a_step(lane: Lane, pipeline: FakePipeline) -> None:
    admit(lane, request(1, 500))
    lane.step()
    assert [len(ids) for ids in pipeline.given] == [64]
    assert pipeline.handles[0].tokens == 1
    lane.step()
    assert len(pipeline.given) == 1  # nothing goes in while a piece inside is unfinished


def test_a_cancelled_prompt_that_is_half_computed_stays_until_it_is_whole(lane: Lane, pipeline: FakePipeline) -> None:
    admit(lane, request(1, 40))
    lane.step()
    lane.cancel(1)
    assert not pipeline.handles[0].cancelled and lane.busy
    lane._running[0].settled = True
    lane.cancel(1)
    assert pipeline.handles[0].cancelled


def test_who_waits_for_room_waits_in_order(lane: Lane, pipeline: FakePipeline) -> None:
    admit(lane, request(1, 100, 2900), request(2, 100, 2900), request(3, 100, 2900), request(4, 2000, 1000), request(5, 40))
    for _ in range(8):
        for sequence in lane._running:
            sequence.settled = True
        lane.step()
    assert [len(ids) for ids in pipeline.given] == [100, 100, 100]
    assert lane.load_now().waiting == 2  # the fifth would fit, and waits behind the fourth


def test_prompts_with_one_beginning_do_not_compute_it_twice(lane: Lane, pipeline: FakePipeline) -> None:
    one, other = request(1, 100), request(1, 100)
    admit(lane, one, GenerationRequest(**{name: getattr(other, name) for name in other.__struct_fields__} | {"id": 2}))
    lane.step()
    assert len(pipeline.given) == 1


def test_without_a_cache_short_prompts_wait_for_one_long_one_at_most(pipeline: FakePipeline, lane: Lane) -> None:
    lane._disguise = None
    admit(lane, request(1, 500), request(2, 600), request(3, 40))
    lane.step()
    assert [len(ids) for ids in pipeline.given] == [500, 40]
    lane._running[0].settled = True
    lane.step()
    assert [len(ids) for ids in pipeline.given] == [500, 40, 600]
