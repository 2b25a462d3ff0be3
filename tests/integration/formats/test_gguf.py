"""GGUF files examined, and OpenVINO GenAI's answers from them beside transformers' on the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openmaas.core.errors import OpenMaaSError
from openmaas.core.manifest import Artifact
from openmaas.formats import Examined, Task
from openmaas.formats.gguf import GgufFormat
from openmaas.formats.gguf.file import read_head
from tests.integration.formats.conftest import Examine
from tests.tiny_gguf import Quantized, write_gguf
from tests.tiny_writer import make_writer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")
openvino = pytest.importorskip("openvino")
genai = pytest.importorskip("openvino_genai")
pytestmark = pytest.mark.timeout(300)

TEXTS = (
    "The engine takes what",
    "模型即服务，永远不会悄悄出错。",
    "Grüße 🙂🚀 naïve café",
    "hello   world\n\n  x=1234567890 it's I'LL",
    "<|im_start|>user\nhi<|im_end|>\n",
)
FULL = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_writer(tmp_path_factory.mktemp("writer") / "model")


def examine(path: Path) -> Examined:
    output = path.parent / "output"
    output.mkdir()
    return GgufFormat().examine(Task(folder=path.parent, output=output), path.name)


def test_a_file_is_understood(writer: Path, folder: Path, output: Path, look: Examine) -> None:
    write_gguf(writer, folder / "tiny.gguf", "q8_0")
    found = look()
    assert (found.format, found.engine, found.entry) == ("gguf", "openvino-genai", "tiny.gguf")
    assert found.artifacts == (Artifact(kind="gguf", entry="tiny.gguf"),)
    assert found.added == ("tokenizer.json", "chat_template.jinja")
    generator = found.generator
    assert generator is not None
    assert (generator.context, generator.vocabulary, generator.end) == (512, 410, (2, 0))
    assert (generator.parameters, generator.weights, generator.tool_format) == (126_528, "q8_0", "hermes")
    assert generator.special == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    assert (output / "chat_template.jinja").read_text() == (writer / "chat_template.jinja").read_text()


@pytest.mark.parametrize("split", ["qwen2", "llama-bpe", "smollm", "gpt-2"])
def test_texts_become_the_tokens_that_genai_makes_of_them(
    writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    from tokenizers import Tokenizer

    named = gguf.GGUFWriter.add_tokenizer_pre
    monkeypatch.setattr(gguf.GGUFWriter, "add_tokenizer_pre", lambda writer, _: named(writer, split))
    path = write_gguf(writer, tmp_path / "tiny.gguf")
    found = examine(path)
    assert found.generator is not None
    ours, theirs = Tokenizer.from_file(str(tmp_path / "output" / found.generator.tokenizer)), genai.Tokenizer(path)
    for text in TEXTS:
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ids == theirs.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
        assert ours.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(("quantized", "rounded"), [("f16", False), ("q8_0", False), ("q4_0", False), ("q4_1", True)])
def test_answers_are_those_of_the_file_s_own_weights(writer: Path, tmp_path: Path, quantized: Quantized, rounded: bool) -> None:
    """What is said of `q4_1` in a note is true: its answers are not, and those of the others are to the last digit."""
    path = write_gguf(writer, tmp_path / "tiny.gguf", quantized)
    assert any("rounds the offsets" in note for note in examine(path).notes) == rounded
    pipeline = genai.LLMPipeline(path, "CPU", **FULL)
    model = dequantised(writer, path, tmp_path / "plain")
    differences = [abs(score - likeliest(model, ids)[token]) for ids in prompts() for token, score in [first(pipeline, ids)]]
    assert (max(differences) > 1e-3) == rounded


def prompts() -> list[list[int]]:
    return [[5 + (number * 31 + place * 7) % 400 for place in range(16)] for number in range(4)]


def first(pipeline: Any, ids: list[int]) -> tuple[int, float]:
    """The likeliest token after these, and its logarithm."""
    config = genai.GenerationConfig()
    config.max_new_tokens, config.do_sample, config.apply_chat_template, config.logprobs = 1, False, False, 1
    config.eos_token_id = 1 << 20
    tensors = [openvino.Tensor(array) for array in (np.array([ids]), np.ones((1, len(ids)), np.int64))]
    found = pipeline.generate(genai.TokenizedInputs(*tensors), config)
    return found.tokens[0][0], found.scores[0]


def likeliest(model: Any, ids: list[int]) -> Any:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)


def dequantised(writer: Path, path: Path, folder: Path) -> Any:
    """The tiny writer with the weights that the file says it has."""
    from gguf.quants import dequantize
    from safetensors.torch import load_file, save_file
    from transformers import LlamaForCausalLM

    from tests.tiny_gguf import _PLACES, _place_in_layer

    shutil.copytree(writer, folder)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    config = json.loads((folder / "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        place = _PLACES.get(name) or _place_in_layer(name)
        read = dequantize(tensors[place].data, tensors[place].tensor_type).reshape(weight.shape).astype(np.float32)
        for part, count in heads.items():
            if f".{part}." in place:
                read = read.reshape(count, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        weights[name] = torch.from_numpy(np.ascontiguousarray(read))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("quantized", ["f32", "bf16"])
def test_what_genai_does_not_read_is_refused_before_it_is_asked(writer: Path, tmp_path: Path, quantized: Quantized) -> None:
    path = write_gguf(writer, tmp_path / "tiny.gguf", quantized)
    with pytest.raises(RuntimeError, match="Unsupported quantization type"):
        genai.LLMPipeline(path, "CPU")
    with pytest.raises(OpenMaaSError, match=f"is {quantized}; OpenVINO GenAI reads f16"):
        examine(path)


def test_the_library_s_own_reader_reads_the_same(writer: Path, tmp_path: Path) -> None:
    path = write_gguf(writer, tmp_path / "tiny.gguf", "q8_0")
    reader = gguf.GGUFReader(path)
    head = read_head(path)
    assert {name: (tensor.kind, tensor.size) for name, tensor in head.tensors.items()} == {
        tensor.name: (tensor.tensor_type.name.lower(), tensor.n_bytes) for tensor in reader.tensors
    }
    assert head.values == {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
