from __future__ import annotations

from pathlib import Path

import pytest

from openmaas.core.errors import EngineFailed
from openmaas.core.generation import EngineLoad, GenerationRequest, Progress
from openmaas.engines import EngineSpec, GenerationEngine
from openmaas.tasks import decoding
from openmaas.tasks.decoding import decode_rate, go_on


class Counting(GenerationEngine):
    """A token for each request in each step, which takes a tenth of a second; prompts begin one after the other."""

    def __init__(self) -> None:
        self.now = 0.0
        self.left: dict[int, int] = {}
        self.started: set[int] = set()
        self.broken = False

    def load(self, spec: EngineSpec) -> None: ...

    def describe(self) -> dict[str, str]:
        return {}

    def admit(self, request: GenerationRequest) -> None:
        assert request.end == ()
        self.left[request.id] = request.max_tokens

    def cancel(self, request_id: int) -> None:
        self.left.pop(request_id, None)

    def step(self) -> list[Progress]:
        self.now += 0.1
        fresh = [one for one in self.left if one not in self.started][:1]
        self.started |= set(fresh)
        progress = []
        for one in [one for one in self.left if one in self.started]:
            self.left[one] -= 1
            over = self.left[one] == 0
            if over:
                del self.left[one]
            error = EngineFailed("broken") if self.broken else None
            progress.append(Progress(id=one, tokens=[5], finish="length" if over else "", error=error))
        return progress

    def load_now(self) -> EngineLoad:
        return EngineLoad()

    @property
    def busy(self) -> bool:
        return bool(self.left)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Counting:
    made = Counting()
    monkeypatch.setattr(decoding.time, "perf_counter", lambda: made.now)
    return made


def test_tokens_count_from_when_every_stream_has_begun(engine: Counting) -> None:
    assert decode_rate(engine, [[1, 2]] * 4, 1000, 2.0, 0) == pytest.approx(40.0)
    assert not engine.busy
    assert engine.now == pytest.approx(2.4, abs=0.11), "as long as was asked for, and four prompts"


def test_a_short_context_ends_it_early(engine: Counting) -> None:
    assert decode_rate(engine, [[1, 2]], 12, 60.0, 7) == pytest.approx(10.0)
    assert engine.now == pytest.approx(1.0)


def test_what_the_engine_tells_is_raised(engine: Counting) -> None:
    engine.broken = True
    with pytest.raises(EngineFailed, match="broken"):
        decode_rate(engine, [[1]], 100, 1.0, 0)


def test_an_engine_that_gives_one_token_has_no_rate(engine: Counting, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="no token after their first"):
        decode_rate(engine, [[1, 2, 3]], 4, 1.0, 0)


def test_all_prompts_go_on_by_as_many_tokens() -> None:
    engine = Counting()
    assert go_on(engine, [[1, 2], [3]], 4, first_id=7) == [[5] * 4, [5] * 4]
    assert not engine.busy
    engine.broken = True
    with pytest.raises(EngineFailed, match="broken"):
        go_on(engine, [[1]], 4, first_id=20)
