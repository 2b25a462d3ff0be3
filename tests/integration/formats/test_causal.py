"""Decoders' folders examined: what is found out of a tiny Llama, and what does not fit together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openmaas.core.errors import OpenMaaSError
from openmaas.core.manifest import Artifact
from openmaas.formats import Examined, Task
from openmaas.formats.causal import CausalFormat, examination, proof, tokenizer
from tests.integration.formats.conftest import Examine
from tests.tiny_writer import make_writer
from tests.unit.formats.encoders import change_json

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.timeout(300)

Weights = dict[str, Any]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_writer(tmp_path_factory.mktemp("writer") / "model")


@pytest.fixture
def copied(writer: Path, folder: Path) -> Path:
    shutil.copytree(writer, folder, dirs_exist_ok=True)
    return folder


def examine(folder: Path, **more: Any) -> Examined:
    """In this process, since every child would import the libraries again."""
    output = folder.parent / "output"
    output.mkdir(exist_ok=True)
    return CausalFormat().examine(Task(folder=folder, output=output, **more), "config.json")


def change_weights(folder: Path, change: Callable[[Weights], None]) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_a_decoder_is_understood(copied: Path, look: Examine) -> None:
    (copied / "held-out.txt").write_text("A text that it has not seen.\n")
    (copied / "openmaas.yaml").write_text("sample: held-out.txt\ncard: A writer.\n")
    change_json(copied / "generation_config.json", temperature=0.6, top_p=0.9, do_sample=True, eos_token_id=[2, 0])
    found = look()
    assert (found.format, found.engine, found.entry, found.convert_to) == ("causal", "transformers", "config.json", None)
    assert found.artifacts == (Artifact(kind="causal", entry="config.json"),)
    assert [(spec.name, spec.datatype, spec.shape) for spec in found.signature.inputs] == [("text_input", "BYTES", (1,))]
    assert [(spec.name, spec.datatype, spec.shape) for spec in found.signature.outputs] == [("text_output", "BYTES", (1,))]
    assert not found.batchable
    assert (found.sample, found.card, found.notes, found.added) == ("held-out.txt", "A writer.", (), ())
    generator = found.generator
    assert generator is not None
    assert (generator.context, generator.vocabulary, generator.end) == (512, 410, (2, 0))
    assert (generator.parameters, generator.weights) == (126_528, "f32")
    assert (generator.tokenizer, generator.chat_template, generator.tool_format) == (
        "tokenizer.json",
        "chat_template.jinja",
        "hermes",
    )
    assert generator.special == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    assert generator.defaults == {"temperature": 0.6, "top_p": 0.9}


def test_a_model_in_several_files(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    parts = {"one.safetensors": sorted(weights)[::2], "two.safetensors": sorted(weights)[1::2]}
    for name, names in parts.items():
        save_file({key: weights[key] for key in names}, copied / name, {"format": "pt"})
    (copied / "model.safetensors").unlink()
    listed = {key: name for name, names in parts.items() for key in names}
    (copied / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    generator = examine(copied).generator
    assert generator is not None
    assert generator.parameters == 126_528


def test_weights_that_two_layers_share(copied: Path) -> None:
    change_json(copied / "config.json", tie_word_embeddings=True)
    change_weights(copied, lambda weights: weights.pop("lm_head.weight"))
    found = examine(copied)
    assert found.generator is not None
    assert found.generator.parameters == 126_528 - 410 * 64
    assert found.notes == ()


def test_weights_without_a_place(copied: Path) -> None:
    change_weights(copied, lambda weights: weights.update(extra=torch.ones(2)))
    assert "1 weights of the files have no place in the model: extra." in examine(copied).notes


def _broken(weights: Weights) -> None:
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")


def _overflows(weights: Weights) -> None:
    weights["model.norm.weight"].fill_(3e38)


@pytest.mark.parametrize(
    ("change", "code", "why"),
    [
        (lambda weights: weights.pop("lm_head.weight"), "weights_missing", "1 of the model's weights .* lm_head.weight"),
        (_broken, "not_finite", r"1 of the weights hold NaN or Infinity: model\.layers\.1\.mlp\.up_proj\.weight"),
        (_overflows, "not_finite", "answers 8 tokens with NaN or Infinity"),
    ],
)
def test_weights_that_cannot_be_used(copied: Path, change: Any, code: str, why: str) -> None:
    change_weights(copied, change)
    with pytest.raises(OpenMaaSError, match=why) as caught:
        examine(copied)
    assert (caught.value.status // 100, caught.value.code) == (4, code)


@pytest.mark.parametrize(
    ("changes", "code", "why"),
    [
        ({"intermediate_size": 96}, "weights_mismatch", r"down_proj\.weight' is \[64, 128\], .* \[64, 96\], and 5 more"),
        ({"num_hidden_layers": 3}, "weights_missing", "9 of the model's weights"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "weights_missing", "of the model's weights"),
        ({"hidden_size": "wide"}, "damaged", "transformers cannot read config.json"),
        ({"hidden_act": "unheard_of"}, "load_failed", "transformers cannot make the model"),
        ({"vocab_size": 400}, "vocabulary_mismatch", "ids up to 409; the model has embeddings for 0 to 399"),
        ({"eos_token_id": 410}, "vocabulary_mismatch", "end token 410"),
    ],
)
def test_a_configuration_of_another_model(copied: Path, changes: dict[str, Any], code: str, why: str) -> None:
    change_json(copied / "config.json", **changes)
    with pytest.raises(OpenMaaSError, match=why) as caught:
        examine(copied)
    assert (caught.value.status // 100, caught.value.code) == (4, code)


def test_too_large_to_be_run(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_weights(copied, _broken)
    monkeypatch.setattr(proof, "fits", lambda size: False)
    assert "Its weights have 506112 bytes, too many for OPENMAAS_EXAMINE_MEMORY: it was not run." in examine(copied).notes


def test_without_transformers_it_is_to_be_converted(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "find_spec", lambda name: None)
    monkeypatch.setattr(tokenizer, "find_spec", lambda name: None)
    found = examine(copied)
    assert (found.engine, found.convert_to) == ("", "openvino-genai")
    assert "transformers is not installed here" in found.notes[0]


def test_a_decoder_whose_attention_cannot_be_shared_is_to_be_converted(copied: Path) -> None:
    import transformers

    config = transformers.GPTJConfig(
        vocab_size=410, n_positions=64, n_embd=32, n_layer=1, n_head=2, rotary_dim=8, bos_token_id=1, eos_token_id=2
    )
    (copied / "model.safetensors").unlink()
    transformers.GPTJForCausalLM(config).save_pretrained(copied)
    found = examine(copied)
    assert (found.engine, found.convert_to) == ("", "openvino-genai")
    assert found.notes == ("No engine here runs it as it is: it is served converted.",)


def test_what_says_nothing_of_a_chat_or_an_end_is_told(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    change_json(copied / "config.json", eos_token_id=None)
    change_json(copied / "tokenizer_config.json", eos_token=None)
    (copied / "generation_config.json").unlink()
    found = examine(copied)
    assert found.generator is not None
    assert (found.generator.end, found.generator.chat_template) == ((), "")
    assert [note.partition(":")[0] for note in found.notes] == [
        "Its files name no token that ends an answer",
        "It has no chat template",
    ]


def test_a_tokenizer_that_transformers_reads_otherwise(copied: Path) -> None:
    """Its class of tokenizer has a normalizer of its own, and takes no notice of the one in the file."""
    from tokenizers import Tokenizer

    change_json(copied / "tokenizer.json", normalizer={"type": "Lowercase"})
    change_json(copied / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    found = examine(copied)
    assert found.generator is not None
    assert found.added == (found.generator.tokenizer,) == ("converted-1/tokenizer.json",)
    assert "its reading serves" in found.notes[0]
    written = Tokenizer.from_file(str(copied.parent / "output" / found.generator.tokenizer))
    assert written.decode(written.encode("The Engine").ids) == "The Engine"


def test_a_tokenizer_that_transformers_cannot_load(copied: Path) -> None:
    change_json(copied / "tokenizer_config.json", tokenizer_class="GemmaTokenizer")
    found = examine(copied)
    assert found.added == ()
    assert "Its tokenizer.json serves. transformers cannot read the tokenizer" in found.notes[0]


def test_openmaas_yaml_says_nothing_of_tensors(copied: Path, look: Examine) -> None:
    (copied / "openmaas.yaml").write_text("batchable: true\n")
    with pytest.raises(OpenMaaSError, match="'batchable' means nothing for the format causal"):
        look()
