from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openmaas.core.errors import EngineFailed, InvalidInput, Unavailable
from openmaas.core.generation import GenerationRequest, Generator, Sampling
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.core.types import Signature
from openmaas.engines.base import EngineSpec
from openmaas.engines.transformers import TransformersEngine, batched
from openmaas.engines.transformers.batched import BatchedDecoder
from openmaas.engines.transformers.cache import Budget
from openmaas.engines.transformers.model import Decoder
from openmaas.engines.transformers.schedule import Schedule
from tests.integration.engines.generation_contract import GREEDY, GenerationContract, Run
from tests.tiny_writer import config_of, make_writer

CAUSAL = Artifact(kind="causal", entry="config.json")
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 200,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WINDOWED = SHAPE | {"sliding_window": 8}


DECODERS = pytest.mark.parametrize("decoder_type", [Decoder, BatchedDecoder])


def device_of(decoder_type: type[Decoder]) -> str:
    import torch

    return "cuda" if decoder_type is BatchedDecoder and torch.cuda.is_available() else "cpu"


def manifest(folder: Path, weights: str = "f32") -> Manifest:
    config = config_of(folder)
    generator = Generator(
        context=int(str(config["max_position_embeddings"])),
        vocabulary=int(str(config["vocab_size"])),
        end=(2,),
        tokenizer="tokenizer.json",
        weights=weights,
    )
    signature = Signature(inputs=(), outputs=())
    return Manifest(format="causal", engine="", entry="config.json", signature=signature, files=(), generator=generator)


def loaded(folder: Path, precision: str = "", **options: Any) -> TransformersEngine:
    engine = TransformersEngine()
    choice = EngineChoice(engine="transformers", artifact=CAUSAL, precision=precision, options=options)
    engine.load(EngineSpec(folder=folder, manifest=manifest(folder), threads=1, choice=choice))
    engine.warm()
    return engine


def request(number: int, prompt: list[int], max_tokens: int = 20, **fields: Any) -> GenerationRequest:
    return GenerationRequest(id=number, prompt=prompt, max_tokens=max_tokens, end=(), sampling=GREEDY, **fields)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_writer(tmp_path_factory.mktemp("writer"))


class TestContract(GenerationContract):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, writer: Path) -> TransformersEngine:
        return loaded(writer)


class TestContractInParts(GenerationContract):
    """The smallest parts of prompts, and few sequences at a time."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, writer: Path) -> TransformersEngine:
        return loaded(writer, part=16, sequences=3)


class TestContractTogether(GenerationContract):
    """All sequences in one attention, and their tokens chosen at once."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, writer: Path) -> TransformersEngine:
        return loaded(writer, batched=True)


class TestContractTogetherInParts(GenerationContract):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, writer: Path) -> TransformersEngine:
        return loaded(writer, batched=True, part=16, sequences=3)


@DECODERS
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("llama", SHAPE),
        ("qwen3", SHAPE | {"head_dim": 16}),
        ("mistral", WINDOWED),
        ("gemma2", WINDOWED | {"head_dim": 16, "attn_logit_softcapping": 0.5}),
        ("gpt_oss", WINDOWED | {"head_dim": 16, "num_local_experts": 4}),
        ("gpt2", {"vocab_size": 200, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
        ("phi", SHAPE | {"partial_rotary_factor": 0.5}),
        ("mistral", SHAPE | {"sliding_window": 100, "max_position_embeddings": 512}),
    ],
)
def test_the_likeliest_tokens_are_those_of_generate_alone_and_in_company(
    kind: str, shape: dict[str, Any], decoder_type: type[Decoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **shape)).eval()
    for name, values in model.named_parameters():
        if name.endswith("sinks"):
            torch.nn.init.normal_(values)
    model.save_pretrained(tmp_path)
    decoder = decoder_type.load(tmp_path, "float32", device_of(decoder_type))
    prompts = [torch.randint(3, 200, (length,)).tolist() for length in (5, 40, 70, 190)]
    told = [
        model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)
        for prompt in prompts
    ]
    expected = [answer[0, len(prompt) :].tolist() for prompt, answer in zip(prompts, told, strict=True)]
    for gathered in (1 << 28, 1 << 14):  # the long ones are apart from the short ones with the second
        monkeypatch.setattr(batched, "_GATHERED", gathered)
        run = Run(Schedule(decoder, tokens=2000, sequences=8, longest_part=16))  # type: ignore[arg-type]
        for number, prompt in enumerate(prompts):
            run.admit(request(number, prompt, 24))
            run.step()
            run.step()
        run.until(range(4))
        assert [run.tokens[number] for number in range(4)] == expected


@pytest.mark.parametrize(
    ("kind", "shape", "why"),
    [
        ("bloom", {"vocab_size": 200, "hidden_size": 64, "n_layer": 2, "n_head": 4}, "0 of its 2 layers"),
        ("mamba", {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 2}, "0 of its 2 layers"),
        ("llama4_text", SHAPE | {"head_dim": 16, "num_local_experts": 2, "intermediate_size_mlp": 64}, "chunks of a text"),
    ],
)
@pytest.mark.parametrize(("dtype", "decoder_type"), [("float32", Decoder), ("bfloat16", Decoder), ("float32", BatchedDecoder)])
def test_what_it_cannot_run_right_it_refuses_to_load(
    kind: str, shape: dict[str, Any], why: str, dtype: str, decoder_type: type[Decoder], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(kind, **shape)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(EngineFailed, match=why):
        decoder_type.load(tmp_path, dtype, "cpu")


@pytest.mark.parametrize("together", [False, True])
def test_a_full_cache_makes_the_youngest_wait_and_changes_no_answer(together: bool, writer: Path) -> None:
    ample, narrow = Run(loaded(writer, batched=together)), Run(loaded(writer, batched=together))
    narrow.engine._schedule._budget.total = 400  # type: ignore[attr-defined]
    prompts = [[3 + (number * 31 + place * 7) % 290 for place in range(100)] for number in range(4)]
    expected = [ample.all(request(number, prompt, 80))[0] for number, prompt in enumerate(prompts)]
    narrow.admit(*(request(number, prompt, 80) for number, prompt in enumerate(prompts)))
    waited = 0
    while narrow.engine.busy:
        narrow.step()
        load = narrow.engine.load_now()
        assert load.cache <= 1
        waited = max(waited, load.waiting)
    assert [narrow.tokens[number] for number in range(4)] == expected
    assert waited
    with pytest.raises(Unavailable, match="400"):
        narrow.engine.admit(request(9, prompts[0], 301))


@pytest.mark.parametrize("together", [False, True])
def test_a_prefix_is_read_once_and_not_for_another_salt(together: bool, writer: Path) -> None:
    run = Run(loaded(writer, batched=together))
    prompt = [3 + place % 290 for place in range(120)]

    def cached(number: int, prompt: list[int], salt: str) -> int:
        run.admit(request(number, prompt, 2, salt=salt))
        first = run.step()
        run.until([number])
        return first[0].cached

    assert cached(1, prompt, "a") == 0
    assert cached(2, prompt, "a") == len(prompt) - 1
    assert cached(3, [*prompt[:50], 9, 9], "a") == 50
    assert cached(4, prompt, "b") == 0
    run.admit(request(5, prompt, 30, salt="c"))
    run.step()
    run.admit(request(6, prompt, 2, salt="c"))
    assert [progress.cached for progress in run.step()] == [-1, len(prompt) - 1]


@pytest.mark.parametrize("together", [False, True])
def test_a_long_prompt_does_not_keep_others_from_answering(together: bool, writer: Path) -> None:
    run = Run(loaded(writer, part=32, batched=together))
    run.admit(request(1, [5, 6, 7], 60))
    run.step()
    run.admit(request(2, [3 + place % 290 for place in range(400)], 2))
    for _ in range(10):
        assert [progress.id for progress in run.step()] == [1]


@pytest.mark.parametrize("together", [False, True])
def test_a_seed_repeats_whatever_the_company(together: bool, writer: Path) -> None:
    run = Run(loaded(writer, batched=together))
    sampling = Sampling(seed=11, temperature=1.2, top_p=0.95, top_k=50, frequency_penalty=0.3)

    def drawn(number: int) -> GenerationRequest:
        return GenerationRequest(id=number, prompt=[4, 5, 6], max_tokens=30, end=(), sampling=sampling)

    alone = run.all(drawn(1))[0]
    run.admit(*(request(number, [number, 8, 9], 40) for number in range(10, 16)))
    run.step()
    assert run.all(drawn(2))[0] == alone


def test_bf16_and_what_describes_it(writer: Path) -> None:
    engine = loaded(writer, "bf16", sequences=32)
    run = Run(engine)
    assert run.all(request(1, [4, 5, 6]))[0]
    assert engine.describe()["precision"] == "bf16"
    assert int(engine.describe()["cache_tokens"]) == 32 * 512


def test_options_that_it_does_not_know_are_told(writer: Path) -> None:
    with pytest.raises(EngineFailed, match="cache_mb"):
        loaded(writer, cache_mb=1)
    with pytest.raises(EngineFailed, match="int4"):
        loaded(writer, "int4")


def test_refuses_tokens_that_the_model_does_not_have(writer: Path) -> None:
    engine = loaded(writer)
    for token in (-1, 100_000):
        with pytest.raises(InvalidInput, match="token"):
            engine.admit(request(1, [token]))
    assert not engine.busy


@pytest.mark.parametrize("together", [False, True])
def test_numbers_that_are_not_finite_fail_their_request_and_no_other(together: bool, writer: Path) -> None:
    """A token that the model has no number for spoils what is remembered of its sequence, too; others take its room later."""
    import torch

    engine = loaded(writer, batched=together)
    run = Run(engine)
    prompts = [[3 + (number * 31 + place * 7) % 290 for place in range(70)] for number in range(4)]
    expected = run.all(*(request(number, prompt) for number, prompt in enumerate(prompts)))
    spoiled = next(token for token in range(300, 600) if not any(token in answer for answer in expected))
    engine = loaded(writer, batched=together, cache_mib=1)
    schedule = engine._loaded
    with torch.no_grad():
        schedule._decoder.model.get_input_embeddings().weight[spoiled] = float("nan")
    run = Run(engine)
    run.admit(request(9, [spoiled] * 100), request(10, prompts[0]))
    run.until([9, 10])
    assert "finite" in str(run.errors[9]) and run.tokens[10] == expected[0]
    run.admit(request(11, [*prompts[1][:-1], spoiled], salt="kept"))
    run.until([11])
    run.admit(request(12, prompts[1], salt="kept"))
    run.until([12])
    assert 11 in run.errors and run.tokens[12] == expected[1]
    while schedule._prefixes.forget():
        pass
    assert run.all(*(request(number, prompt) for number, prompt in enumerate(prompts))) == expected


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_a_folder_that_lacks_something_says_so_without_a_path(writer: Path, tmp_path: Path, missing: str) -> None:
    for file in writer.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(EngineFailed) as raised:
        Decoder.load(tmp_path, "float32", "cpu")
    assert str(tmp_path) not in str(raised.value)


def test_no_pickle_is_ever_read(writer: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for file in writer.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(EngineFailed, match="safetensors"):
        Decoder.load(tmp_path, "float32", "cpu")


def test_positions_stretched_by_company_are_refused_beyond_their_own(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64}
    config = transformers.LlamaConfig(**SHAPE | {"rope_parameters": rope})
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    schedule = Schedule(Decoder.load(tmp_path, "float32", "cpu"), tokens=1000, sequences=4)
    schedule.admit(request(1, [5] * 40, 24))
    with pytest.raises(InvalidInput, match="beyond 64"):
        schedule.admit(request(2, [5] * 41, 24))


def test_choices_are_of_the_file_first(writer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for computes, weights, found in (
        (True, "f32", ["", "bf16"]),
        (True, "bf16", ["", "f32"]),
        (False, "bf16", [""]),
        (False, "f32", [""]),
    ):
        monkeypatch.setattr("openmaas.engines.transformers._computes_bf16", lambda computes=computes: computes)
        choices = TransformersEngine.choices(CAUSAL, manifest(writer, weights))
        assert [choice.precision for choice in choices] == found
    assert TransformersEngine.choices(Artifact(kind="gguf", entry="a.gguf"), manifest(writer)) == ()


def test_a_memory_grows_and_keeps_what_it_holds() -> None:
    torch = pytest.importorskip("torch")
    budget = Budget(300)
    memory = budget.memory()
    parts = [torch.randn(1, 2, length, 4) for length in (10, 60, 1, 200)]
    for part in parts:
        assert memory.reserve(memory.length + part.shape[2])
        keys, values = memory.append(0, part, -part)
        memory.length += part.shape[2]
    assert torch.equal(keys, torch.cat(parts, dim=2)) and torch.equal(values, -keys)
    assert not memory.reserve(301) and budget.taken == memory.room <= 300
    memory.free()
    assert budget.taken == 0
