from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from openmaas.core.errors import EngineFailed, InvalidInput, Unavailable
from openmaas.core.generation import GenerationRequest, Generator, Grammar, Sampling
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.core.types import Signature
from openmaas.engines import create_engine
from openmaas.engines.base import EngineSpec, GenerationEngine
from openmaas.engines.openvino_genai import OpenVinoGenAiEngine
from tests.integration.engines.generation_contract import GREEDY, GenerationContract, Run
from tests.tiny_gguf import write_gguf
from tests.tiny_writer import config_of, make_writer

pytest.importorskip("openvino_genai")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writer")
    make_writer(folder / "source")
    write_gguf(folder / "source", folder / "writer.gguf")
    return folder


def spec(
    folder: Path, precision: str = "f32", defaults: dict[str, float] | None = None, vocabulary: int = 0, **options: object
) -> EngineSpec:
    config = config_of(folder / "source")
    artifact = Artifact(kind="gguf", entry="writer.gguf")
    manifest = Manifest(
        format="gguf",
        engine="openvino-genai",
        entry=artifact.entry,
        artifacts=(artifact,),
        signature=Signature(inputs=(), outputs=()),
        files=(),
        generator=Generator(
            context=512,
            vocabulary=vocabulary or int(str(config["vocab_size"])),
            end=(2,),
            tokenizer="",
            weights="f16",
            defaults=defaults or {},
        ),
    )
    choice = EngineChoice(engine="openvino-genai", artifact=artifact, precision=precision, options=options)
    return EngineSpec(folder=folder, manifest=manifest, threads=2, choice=choice)


def open_engine(folder: Path, **options: Any) -> OpenVinoGenAiEngine:
    engine = create_engine("openvino-genai")
    assert isinstance(engine, OpenVinoGenAiEngine)
    # The weights are random, so that the likeliest tokens are near ties: a coarse cache would tip them.
    engine.load(spec(folder, **{"kv_cache": "f32", **options}))
    engine.warm()
    return engine


@pytest.fixture(scope="module")
def opened(folder: Path) -> Iterator[OpenVinoGenAiEngine]:
    engine = open_engine(folder)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def plain(folder: Path) -> Iterator[OpenVinoGenAiEngine]:
    engine = open_engine(folder, prefix_cache=False)
    yield engine
    engine.close()


class Contract(GenerationContract):
    vocabulary = 400

    @pytest.fixture(autouse=True)
    def tokenizer(self, folder: Path) -> None:
        self.decode = Tokenizer.from_file(str(folder / "source" / "tokenizer.json")).decode

    def text(self, tokens: list[int]) -> str:
        return str(self.decode(tokens))


class TestContract(Contract):
    @pytest.fixture
    def engine(self, opened: GenerationEngine) -> GenerationEngine:
        return opened


class TestContractWithoutPrefixCache(Contract):
    @pytest.fixture
    def engine(self, plain: GenerationEngine) -> GenerationEngine:
        return plain


CONTRACT = Contract()
CONTRACT.vocabulary = 400


def used_blocks(engine: OpenVinoGenAiEngine) -> float:
    lane = engine._lanes[True]
    return float(lane._pipeline.get_metrics().cache_usage) / 100 * lane._blocks


def test_only_prompts_of_one_salt_share_the_cache(opened: OpenVinoGenAiEngine) -> None:
    run, prompt, taken = Run(opened), CONTRACT.prompt(416, 9), []
    requests = [CONTRACT.request(prompt, max_tokens=60, salt=salt) for salt in ("one", "one", "two", "two")]
    for request in requests:
        before = used_blocks(opened) if taken else 0.0
        run.admit(request)
        while not run.tokens[request.id]:
            run.step()
        taken.append(round(used_blocks(opened) - before))
    # 416 tokens are 13 blocks; twelve are shared, and some more go to what is generated meanwhile.
    assert taken[0] >= 13 and taken[2] >= 13
    assert taken[1] <= 6 and taken[3] <= 6
    for request in requests:
        opened.cancel(request.id)
    while opened.busy:
        opened.step()


def test_a_short_prompt_does_not_wait_for_a_long_one(opened: OpenVinoGenAiEngine) -> None:
    run = Run(opened)
    long, short = CONTRACT.request(CONTRACT.prompt(500, 10)), CONTRACT.request(CONTRACT.prompt(20, 11))
    run.admit(long)
    run.step()
    run.admit(short)
    run.step()
    assert run.tokens[short.id] and not run.tokens[long.id]
    run.until([long.id, short.id])
    assert len(run.tokens[long.id]) == 8


def test_a_long_prompt_is_not_starved_by_short_ones(opened: OpenVinoGenAiEngine) -> None:
    run = Run(opened)
    long = CONTRACT.request(CONTRACT.prompt(500, 12))
    run.admit(long)
    for seed in range(20):
        run.admit(CONTRACT.request(CONTRACT.prompt(100, 100 + seed), max_tokens=1))
        run.step()
        if run.tokens[long.id]:
            break
    assert run.tokens[long.id]
    run.until(run.tokens)


def test_many_prompts_in_a_small_cache_get_the_answers_of_a_large_one(folder: Path, plain: OpenVinoGenAiEngine) -> None:
    """Forks of one another, cancelled at any moment, evicted from a cache that holds four of them."""
    engine, chance = open_engine(folder, cache_mib=1, sequences=6), random.Random(5)
    run, expected = Run(engine), Run(plain)
    prompts = [CONTRACT.prompt(length, length) for length in (1, 31, 33, 64, 100, 300)]
    live = []
    for _ in range(150):
        stem = chance.choice(prompts)
        prompt = stem[: chance.randint(1, len(stem))] + CONTRACT.prompt(chance.choice((1, 5, 31, 64)), chance.randint(0, 9))
        prompts[chance.randrange(6)] = prompt[:400]
        request = CONTRACT.request(prompt[:400], max_tokens=chance.choice((1, 4, 40)), salt=chance.choice("ab"))
        run.admit(request)
        live.append(request)
        if chance.random() < 0.3:
            engine.cancel(live.pop(chance.randrange(len(live))).id)
        for _ in range(chance.randint(0, 4)):
            run.step()
    run.until([request.id for request in live])
    for request in live:
        assert expected.all(request)[0] == run.tokens[request.id]
    assert engine.load_now().cache == 0.0


def test_what_never_fits_is_refused_with_the_numbers(folder: Path) -> None:
    engine = open_engine(folder, cache_mib=1, kv_cache="")
    lane = engine._lanes[True]
    lane._blocks = 4
    with pytest.raises(Unavailable, match="comes to 140 tokens, and the engine's cache holds 128"):
        engine.admit(CONTRACT.request(CONTRACT.prompt(100), max_tokens=40))
    assert not engine.busy


def test_a_cache_smaller_than_was_told_is_an_error_and_no_silence(folder: Path) -> None:
    engine = open_engine(folder, kv_cache="f32", prefix_cache=False)
    lane = engine._lanes[False]
    engine._blocks = 4
    small = engine._open(False)
    small._blocks = lane._blocks
    engine._lanes[False] = small
    run = Run(engine)
    request = CONTRACT.request(CONTRACT.prompt(100), max_tokens=100)
    run.admit(request)
    run.until([request.id])
    assert isinstance(run.errors[request.id], Unavailable)
    assert not engine.busy


def test_penalties_run_beside_the_shared_cache(folder: Path) -> None:
    engine = open_engine(folder)
    run = Run(engine)
    plain = CONTRACT.request(max_tokens=30)
    penalised = CONTRACT.request(max_tokens=30, sampling=Sampling(seed=0, temperature=0.0, repetition_penalty=50.0))
    run.admit(penalised, plain)
    assert engine.load_now().waiting == 2
    run.until([plain.id, penalised.id])
    assert sorted(engine._lanes) == [False, True]
    assert len(set(run.tokens[penalised.id])) == 30
    assert "presence_penalty" not in engine.honours and "frequency_penalty" not in engine.honours


def test_a_model_with_a_penalty_among_its_defaults_begins_without_the_shared_cache(folder: Path) -> None:
    assert list(open_engine(folder, defaults={"repetition_penalty": 1.1})._lanes) == [False]


def test_where_the_disguise_does_not_hold_nothing_is_shared(folder: Path) -> None:
    engine = open_engine(folder, vocabulary=350)
    assert list(engine._lanes) == [False]
    assert engine.describe()["prefix_cache"] == "off"
    assert "grammar" not in engine.honours
    with pytest.raises(InvalidInput, match="no vocabulary"):
        engine.admit(CONTRACT.request([3], sampling=Sampling(seed=0, grammar=Grammar(schema="{}")), end=(2,)))
    assert len(Run(engine).all(CONTRACT.request([3, 4, 5], max_tokens=5))[0]) == 5


def test_a_step_leaves_the_interpreter_to_others(opened: OpenVinoGenAiEngine) -> None:
    lane = opened._lanes[True]
    assert lane._compute != lane._pipeline.step


def test_grammars_compile_beside_others(opened: OpenVinoGenAiEngine) -> None:
    run = Run(opened)
    other = CONTRACT.request(max_tokens=200)
    names = [f"property {number}" for number in range(200)]
    schema = json.dumps({"type": "object", "properties": {name: {"type": "string", "maxLength": 9} for name in names}})
    slow = CONTRACT.request(max_tokens=3, sampling=Sampling(seed=0, grammar=Grammar(schema=schema)), end=(2,))
    run.admit(other)
    run.step()
    run.admit(slow)
    run.step()
    assert not run.tokens[slow.id]
    before = len(run.tokens[other.id])
    run.step()
    assert len(run.tokens[other.id]) == before + 1
    run.until([other.id, slow.id])
    assert len(run.tokens[slow.id]) == 3


def in_json(schema: str, max_tokens: int = 3) -> GenerationRequest:
    return CONTRACT.request(max_tokens=max_tokens, sampling=Sampling(seed=0, grammar=Grammar(schema=schema)), end=(2,))


def test_a_request_that_waits_for_its_grammar_can_be_cancelled(opened: OpenVinoGenAiEngine) -> None:
    request = in_json('{"type": "string", "maxLength": 777}')
    opened.admit(request)
    assert opened.busy and opened.load_now().waiting == 1
    opened.cancel(request.id)
    assert not opened.busy


def test_new_grammars_are_refused_when_they_hold_too_much_memory(
    opened: OpenVinoGenAiEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(opened)
    known = '{"type": "integer", "minimum": 17, "maximum": 90}'
    run.all(in_json(known))
    monkeypatch.setattr("openmaas.engines.openvino_genai.grammars._MEMORY", 0)
    run.all(in_json(known))
    with pytest.raises(Unavailable, match="memory"):
        opened.admit(in_json('{"type": "integer", "minimum": 18, "maximum": 90}'))


def test_a_pipeline_that_cannot_be_opened_fails_those_who_need_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(folder)
    run = Run(engine)
    penalty = Sampling(seed=0, repetition_penalty=2.0)
    lost, other = CONTRACT.request(sampling=penalty), CONTRACT.request(max_tokens=20)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_open", refuse)
        run.admit(lost, other)
        run.until([lost.id, other.id])
    assert run.errors[lost.id].message == "There is no memory left."
    assert len(run.tokens[other.id]) == 20
    assert len(run.all(CONTRACT.request(sampling=penalty))[0]) == 8  # the next one tries again


def test_what_needs_memory_that_is_not_there_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(folder)
    run = Run(engine)
    penalty = Sampling(seed=0, repetition_penalty=2.0)
    with monkeypatch.context() as patch:
        for module in ("openmaas.engines.openvino_genai", "openmaas.engines.openvino_genai.grammars"):
            patch.setattr(f"{module}.free_memory", lambda: 100 << 20)
        with pytest.raises(Unavailable, match="128 MiB with what goes with them; 100 MiB are free"):
            engine.admit(CONTRACT.request(sampling=penalty))
        with pytest.raises(Unavailable, match="100 MiB of memory are free"):
            engine.admit(in_json('{"type": "integer", "minimum": 19, "maximum": 90}'))
        assert not engine.busy
        assert len(run.all(CONTRACT.request(max_tokens=4))[0]) == 4
    assert len(run.all(CONTRACT.request(sampling=penalty))[0]) == 8
    engine.close()


def test_a_broken_schema_beyond_ascii_is_refused(opened: OpenVinoGenAiEngine) -> None:
    with pytest.raises(InvalidInput, match="is no JSON"):
        opened.admit(in_json('{"const": "é'))
    assert not opened.busy


def refuse(cached: bool) -> None:
    raise EngineFailed("There is no memory left.")


def test_a_grammar_is_nothing_without_an_end(opened: OpenVinoGenAiEngine) -> None:
    with pytest.raises(InvalidInput, match="an id that ends it"):
        opened.admit(CONTRACT.request(sampling=Sampling(seed=0, grammar=Grammar(schema="{}"))))


@pytest.mark.parametrize(
    ("prompt", "end", "sampling"),
    [
        ([3, -5], (), GREEDY),
        ([3, 410], (), Sampling(seed=0, repetition_penalty=2.0)),
        ([3], (2, 999), GREEDY),
        ([3], (), Sampling(seed=0, temperature=float("nan"))),
        ([3], (), Sampling(seed=0, top_p=float("inf"))),
        ([3], (), Sampling(seed=0, repetition_penalty=0.0)),
        ([3], (), Sampling(seed=0, min_p=-1.0)),
    ],
)
def test_what_would_end_the_process_is_refused(
    opened: OpenVinoGenAiEngine, prompt: list[int], end: tuple[int, ...], sampling: Sampling
) -> None:
    with pytest.raises(InvalidInput):
        opened.admit(CONTRACT.request(prompt, end=end, sampling=sampling))
    assert not opened.busy


def test_extremes_of_sampling(opened: OpenVinoGenAiEngine) -> None:
    everything = Sampling(
        seed=2**64 - 1,
        temperature=1e6,
        top_k=10**6,
        top_p=0.0,
        min_p=1.0,
        repetition_penalty=1e30,
        logprobs=0,
        grammar=Grammar(schema='{"type": "array", "items": {"type": "integer"}}', before="«", after="»"),
    )
    requests = [CONTRACT.request(sampling=everything, end=(2,)) for _ in range(2)]
    requests += [CONTRACT.request(sampling=Sampling(seed=0, temperature=temperature)) for temperature in (1e-9, 1e-4, 1e9)]
    answers = Run(opened).all(*requests)
    assert answers[0] == answers[1] and all(answers)


def test_two_ends_and_a_grammar(opened: OpenVinoGenAiEngine) -> None:
    run = Run(opened)
    schema = Grammar(schema='{"const": "x"}')
    request = CONTRACT.request(sampling=Sampling(seed=0, grammar=schema), end=(2, 1), max_tokens=20)
    run.all(request)
    assert run.finish[request.id] == "stop" and run.tokens[request.id][-1] in (1, 2)


def test_a_thousand_requests_leave_nothing(opened: OpenVinoGenAiEngine) -> None:
    run, resident = Run(opened), []
    for batch in range(25):
        run.all(*(CONTRACT.request(CONTRACT.prompt(50, 40 * batch + seed), max_tokens=4) for seed in range(40)))
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
    assert resident[-1] - resident[4] < 16 << 20
    assert not opened._lanes[True]._known


def test_what_is_told(opened: OpenVinoGenAiEngine, folder: Path) -> None:
    said = opened.describe()
    assert said["library"] == "openvino_genai" and said["version"].startswith("2026.")
    assert (said["device"], said["threads"], said["precision"], said["weights"]) == ("cpu", "2", "f32", "f16")
    assert sorted(path.name for path in folder.iterdir()) == ["source", "writer.gguf"]  # nothing is written


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"precision": "int3"}, "precision 'int3'"),
        ({"chunk": 3}, "options are wrong"),
        ({"kv_cache": "u7"}, "cannot load the model"),
    ],
)
def test_what_cannot_be_opened_says_why(folder: Path, broken: dict[str, Any], said: str) -> None:
    with pytest.raises(EngineFailed, match=said):
        open_engine(folder, **broken)


def test_a_damaged_file_says_why(folder: Path, tmp_path: Path) -> None:
    make = tmp_path / "source"
    make.mkdir()
    (make / "config.json").write_bytes((folder / "source" / "config.json").read_bytes())
    (tmp_path / "writer.gguf").write_bytes((folder / "writer.gguf").read_bytes()[:5000])
    with pytest.raises(EngineFailed, match=r"writer\.gguf cannot be loaded"):
        open_engine(tmp_path)


def test_ways_to_run_it(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    manifest = spec(folder).manifest
    artifact = manifest.artifacts[0]
    monkeypatch.setattr("openmaas.engines.openvino_genai.computes_bf16", lambda: True)
    assert [choice.precision for choice in OpenVinoGenAiEngine.choices(artifact, manifest)] == ["", "f32"]
    monkeypatch.setattr("openmaas.engines.openvino_genai.computes_bf16", lambda: False)
    assert [choice.precision for choice in OpenVinoGenAiEngine.choices(artifact, manifest)] == [""]
    assert OpenVinoGenAiEngine.choices(Artifact(kind="onnx", entry="model.onnx"), manifest) == ()


def test_the_default_precision_gives_an_answer(folder: Path) -> None:
    engine = open_engine(folder, precision="", kv_cache="")
    assert len(Run(engine).all(CONTRACT.request(max_tokens=5, sampling=GREEDY))[0]) == 5
