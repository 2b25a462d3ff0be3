"""What a decoder's folder says of itself, and what is refused of it. Nothing is loaded but tokenizers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.formats.base import Task
from openmaas.formats.causal import CausalFormat
from openmaas.formats.causal.figures import context_of, defaults_of, end_of, special_of, vocabulary_of
from openmaas.formats.causal.folder import Decoder, Said, read_decoder
from openmaas.formats.causal.template import Template, take_template
from openmaas.formats.causal.tokenizer import _outcome, keep_tokenizer
from openmaas.formats.causal.version import text_sample
from openmaas.formats.files import list_files
from openmaas.formats.genai import GenAiFormat
from openmaas.formats.genai.graph import Graph, read_graph
from openmaas.formats.huggingface import HuggingFaceFormat
from openmaas.formats.openvino import OpenVinoFormat
from tests.unit.formats.encoders import change_json
from tests.unit.formats.test_weights import write

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 4,
    "num_hidden_layers": 2,
    "rope_theta": 500_000_000,
}
TENSORS: dict[str, Any] = {
    "w": {"dtype": "BF16", "shape": [4, 4], "data_offsets": [0, 32]},
    "mask": {"dtype": "BOOL", "shape": [8], "data_offsets": [32, 40]},
}
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True},
    "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "</s>": 2, "ab": 3}, "merges": ["a b"]},
}


def model(folder: Path, tensors: dict[str, Any] = TENSORS, data: int = 40, **changes: Any) -> Path:
    """The least that is taken for a decoder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    change_json(folder / "config.json", **changes)
    write(folder / "model.safetensors", tensors, data)
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return folder


def read(folder: Path) -> Decoder:
    return read_decoder(folder, "config.json")


def said(folder: Path, **parts: dict[str, Any]) -> Said:
    return Said(folder, *(parts.get(name, {}) for name in ("config", "generation", "tokenizer", "special")))


def task(folder: Path, **more: Any) -> Task:
    output = folder.parent / "output"
    output.mkdir(exist_ok=True)
    return Task(folder=folder, output=output, **more)


# ── which format ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "decoder"),
    [
        ({}, True),
        ({"architectures": None}, True),
        ({"model_type": "my_own"}, True),
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, True),
        ({"architectures": ["LlamaModel"]}, False),
        ({"architectures": ["LlamaForSequenceClassification"]}, False),
        ({"architectures": ["T5ForConditionalGeneration"]}, False),
        ({"architectures": ["BertModel"], "model_type": "bert"}, False),
        ({"architectures": None, "model_type": "bert"}, False),
    ],
)
def test_decoders_and_all_else_are_told_apart(tmp_path: Path, changes: dict[str, Any], decoder: bool) -> None:
    files = list_files(model(tmp_path, **changes))
    assert CausalFormat().find(tmp_path, files) == (["config.json"] if decoder else [])
    assert HuggingFaceFormat().find(tmp_path, files) == ([] if decoder else ["config.json"])


def test_the_same_weights_for_other_tools_are_left_out(tmp_path: Path) -> None:
    model(tmp_path)
    for name in ("pytorch_model.bin", "model.gguf", "modeling_my.py", "README.md"):
        (tmp_path / name).write_bytes(b"x")
    left_out = ["model.gguf", "modeling_my.py", "pytorch_model.bin"]
    assert CausalFormat().idle(tmp_path, "config.json", list_files(tmp_path)) == left_out


# ── may it be served ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_weights_are(tmp_path: Path) -> None:
    found = read(model(tmp_path))
    assert (found.parameters, found.precision, found.size) == (16, "bf16", 40)


@pytest.mark.parametrize(
    ("changes", "why", "code"),
    [
        ({"model_type": "mamba"}, "'mamba'.*encoders.*decoders", "unsupported_model"),
        ({"model_type": ["llama"]}, "model_type", "unsupported_model"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.My"}}, "'auto_map'", "custom_code"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised \\('gptq'\\)", "unsupported_model"),
        ({"is_encoder_decoder": True}, "'is_encoder_decoder'", "unsupported_model"),
        ({"transformers_weights": "../other"}, "'transformers_weights'", "unsupported_model"),
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000; at most 512", "damaged"),
        ({"n_layer": 513}, "at most 512", "damaged"),
        ({"hidden_size": 10**9}, "'hidden_size' is 1000000000", "damaged"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], why: str, code: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        read(model(tmp_path, **changes))
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json"])
def test_code_that_another_file_names(tmp_path: Path, name: str) -> None:
    (model(tmp_path) / name).write_text('{"auto_map": {"AutoTokenizer": ["my.Tokenizer", null]}}')
    with pytest.raises(Refused, match=f"{name} names code"):
        read(tmp_path)


def test_packed_weights_are_refused(tmp_path: Path) -> None:
    packed = {"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}
    with pytest.raises(Refused, match="'w' is F8_E4M3"):
        read(model(tmp_path, packed, 4))
    with pytest.raises(Refused, match="'m' is I64"):
        read(model(tmp_path, {"m": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, 8))


def test_an_adapter_and_a_folder_without_safetensors(tmp_path: Path) -> None:
    (model(tmp_path) / "adapter_config.json").write_text("{}")
    with pytest.raises(Refused, match="adapter"):
        read(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InvalidInput, match="no weights as safetensors"):
        read(tmp_path)


# ── its figures ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"max_seq_len": 2048, "n_positions": None}, 2048),
        ({"max_position_embeddings": 32768, "sliding_window": 4096}, 32768),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_parameters": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        ({"max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": "a"}}, 64),
    ],
)
def test_how_long_a_text_may_be(config: dict[str, Any], context: int) -> None:
    assert context_of(config) == (context, "")


def test_a_length_that_is_not_told_or_none() -> None:
    length, note = context_of({})
    assert length == 2048
    assert "2048" in note
    with pytest.raises(Refused, match="have 4 tokens"):
        context_of({"max_position_embeddings": 4})


def test_what_ends_an_answer(tmp_path: Path) -> None:
    tokenizer = keep_tokenizer(task(model(tmp_path / "model")), tmp_path / "model").loaded
    every = said(
        tmp_path,
        generation={"eos_token_id": [3, 1]},
        config={"eos_token_id": 1},
        tokenizer={"eos_token": {"content": "</s>", "lstrip": False}},
    )
    assert end_of(every, tokenizer, 4) == (3, 1, 2)
    assert end_of(said(tmp_path, config={"eos_token_id": None}), tokenizer, 4) == ()
    with pytest.raises(Refused, match="end token 4; the model has ids from 0 to 3"):
        end_of(said(tmp_path, config={"eos_token_id": [4]}), tokenizer, 4)


@pytest.mark.parametrize(
    "config",
    [
        {"max_position_embeddings": 1 << 25},
        {"max_position_embeddings": 1 << 24, "rope_scaling": {"type": "linear", "factor": 1024}},
        {
            "max_position_embeddings": 64,
            "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 10**400},
        },
    ],
)
def test_lengths_that_nobody_believes(config: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="8 to 16777216 are believed"):
        context_of(config)


def test_more_ends_than_anybody_has(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="100000 end tokens; at most 64"):
        end_of(said(tmp_path, config={"eos_token_id": list(range(100_000))}), None, 200_000)


def test_a_figure_of_hundreds_of_digits_is_not_followed() -> None:
    defaults, told = defaults_of({"temperature": 10**400, "top_k": -(10**400), "top_p": 0.5})
    assert defaults == {"top_p": 0.5}
    assert "temperature 1000" in told


def test_special_texts(tmp_path: Path) -> None:
    found = special_of(
        said(tmp_path, tokenizer={"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None, "unk_token": 7},
             special={"bos_token": "other", "sep_token": "<sep>"})
    )  # fmt: skip
    assert found == {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "<sep>"}


@pytest.mark.parametrize(
    ("generation", "defaults", "told"),
    [
        ({}, {}, ""),
        (
            {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "do_sample": True},
            {"temperature": 0.7, "top_p": 0.8, "top_k": 20},
            "",
        ),
        (
            {"do_sample": False, "temperature": 0.7, "repetition_penalty": 1.1},
            {"temperature": 0, "repetition_penalty": 1.1},
            "",
        ),
        ({"temperature": -1, "min_p": 0.1}, {"min_p": 0.1}, "temperature -1"),
        ({"top_p": "most", "top_k": True}, {}, "top_p most, top_k True"),
    ],
)
def test_how_its_makers_sample(generation: dict[str, Any], defaults: dict[str, float], told: str) -> None:
    found, note = defaults_of(generation)
    assert found == defaults
    assert told in note


def test_a_vocabulary_is_told() -> None:
    assert vocabulary_of({"vocab_size": 4}) == 4
    for size in (None, "4", True, 0):
        with pytest.raises(InvalidInput, match="vocab_size"):
            vocabulary_of({"vocab_size": size})


# ── tokenizers ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * 100_000, "cannot be used"),
        (b'{"model": ' * 50_000, "cannot be used"),
        (b"not JSON", "cannot be used"),
        (b"\xff\xfe", "cannot be used"),
        (json.dumps(TOKENIZER | {"model": {"type": "BPE", "vocab": {}, "merges": []}}).encode(), "has 0 tokens"),
        (json.dumps(TOKENIZER | {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}).encode(), "cannot be used"),
    ],
)
def test_tokenizers_that_are_none(tmp_path: Path, content: bytes, why: str) -> None:
    (model(tmp_path / "model") / "tokenizer.json").write_bytes(content)
    with pytest.raises(OpenMaaSError, match=why) as caught:
        keep_tokenizer(task(tmp_path / "model"), tmp_path / "model")
    assert 400 <= caught.value.status < 500


def test_a_giant_tokenizer_and_a_missing_one(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(65 << 20)
    with pytest.raises(Refused, match="at most"):
        keep_tokenizer(task(folder), folder)
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    with pytest.raises(InvalidInput, match=r"no tokenizer\.json\. It has tokenizer\.model\.") as caught:
        keep_tokenizer(task(folder), folder)
    assert "save_pretrained" in str(caught.value.next_step)


def test_a_pattern_that_never_comes_to_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmaas.formats.causal.tokenizer._SECONDS", 0.3)
    split = {"type": "Split", "pattern": {"Regex": "(a|aa)+$|(.*.*.*.*.*)Z"}, "behavior": "Isolated", "invert": False}
    (model(tmp_path / "model") / "tokenizer.json").write_text(json.dumps(TOKENIZER | {"pre_tokenizer": split}))
    with pytest.raises(OpenMaaSError, match=r"takes longer than|fails on texts") as caught:  # the library may give up by itself
        keep_tokenizer(task(tmp_path / "model"), tmp_path / "model")
    assert 400 <= caught.value.status < 500


def test_how_work_that_may_hang_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmaas.formats.causal.tokenizer._SECONDS", 0.1)
    assert _outcome(lambda: None) == 0
    assert _outcome(lambda: 1 / 0) == 1
    assert _outcome(lambda: time.sleep(30)) < 0


# ── chat templates ───────────────────────────────────────────────────────────────────────────────────────────────────

PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"
TOOLS = "{{ tools | tojson }}{% for message in messages %}{{ message.content }}{% endfor %}"


def template(folder: Path, found: Any, **files: str) -> tuple[Template, str]:
    """What is taken, and its text."""
    model(folder)
    for name, content in files.items():
        (folder / f"{name}.jinja").write_text(content)
    given = task(folder)
    taken = take_template(given, said(folder, tokenizer={"chat_template": found}))
    place = given.output if taken.added else folder
    return taken, (place / taken.path).read_text() if taken.path else ""


def test_a_template_is_a_file_among_the_files(tmp_path: Path) -> None:
    taken, text = template(tmp_path / "model", "other", chat_template=PLAIN)
    assert (taken.path, taken.added, text) == ("chat_template.jinja", False, PLAIN)


def test_a_template_of_the_configuration_becomes_one(tmp_path: Path) -> None:
    taken, text = template(tmp_path / "model", PLAIN)
    assert (taken.path, taken.added, text) == ("chat_template.jinja", True, PLAIN)


def test_templates_by_name_are_joined(tmp_path: Path) -> None:
    both = [
        {"name": "default", "template": PLAIN + "\n"},
        {"name": "tool_use", "template": TOOLS},
        {"name": "rag", "template": "r"},
    ]
    _, text = template(tmp_path / "model", both)
    assert text == f"{{%- if tools %}}{TOOLS}{{%- else %}}{PLAIN}{{%- endif %}}"
    assert template(tmp_path / "one", both[:1])[1] == PLAIN + "\n"
    assert template(tmp_path / "none", both[2:])[0] == Template()


def test_templates_in_several_files_are_joined(tmp_path: Path) -> None:
    (model(tmp_path / "model") / "additional_chat_templates").mkdir()
    (tmp_path / "model" / "additional_chat_templates" / "tool_use.jinja").write_text(TOOLS)
    taken, text = template(tmp_path / "model", None, chat_template=PLAIN)
    assert (taken.path, taken.added) == ("converted-1/chat_template.jinja", True)
    assert text == f"{{%- if tools %}}{TOOLS}{{%- else %}}{PLAIN}{{%- endif %}}"


def test_no_template(tmp_path: Path) -> None:
    assert template(tmp_path / "model", None)[0] == Template()


def test_a_template_that_fails_is_not_used(tmp_path: Path) -> None:
    taken, _ = template(tmp_path / "model", "{{ raise_exception('never') }}")
    assert taken.path == ""
    assert "not used. The chat template refuses this conversation: never" in taken.notes[0]
    assert not list((tmp_path / "output").iterdir())


@pytest.mark.parametrize(
    "bad",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ 'a' * 10**10 }}",
        "a" * (257 << 10),
    ],
)
def test_a_template_that_would_do_harm(tmp_path: Path, bad: str) -> None:
    with pytest.raises(Refused) as caught:
        template(tmp_path / "model", bad)
    assert caught.value.code.startswith("template")


# ── samples ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_sample_is_a_text(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    assert text_sample(task(folder)) is None
    (folder / "sample.txt").write_text("Ein Text über nichts.\n")
    assert text_sample(task(folder, sample="sample.txt")) == "sample.txt"
    for content in (b"", b" \n", b"\xff\xfe", b"a\0b"):
        (folder / "sample.txt").write_bytes(content)
        with pytest.raises(InvalidInput, match="no text in UTF-8"):
            text_sample(task(folder, sample="sample.txt"))


# ── OpenVINO graphs ──────────────────────────────────────────────────────────────────────────────────────────────────


def layer(kind: str, name: str, data: str = "") -> str:
    return f'<layer name="{name}" type="{kind}"><data {data}/><output><port id="0" names="{name}"/></output></layer>'


GRAPH = (
    '<?xml version="1.0"?><net name="m" version="11"><layers>'
    + "".join(layer("Parameter", name) for name in ("input_ids", "attention_mask", "position_ids", "beam_idx"))
    + layer("ReadValue", "past")
    + layer("Const", "w", 'element_type="i8" shape="4, 8" offset="0" size="32"')
    + layer("Const", "w/scale", 'element_type="f16" shape="4, 1" offset="32" size="8"')
    + layer("MatMul", "logits")
    + "</layers></net>"
)


def converted(folder: Path, graph: str = GRAPH, data: int = 40) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "openvino_model.xml").write_text(graph)
    (folder / "openvino_model.bin").write_bytes(bytes(data))
    return folder


def graph(folder: Path) -> Graph:
    return read_graph(folder, "openvino_model.xml")


def test_a_generator_s_graph_is_told_from_any_other(tmp_path: Path) -> None:
    files = list_files(converted(tmp_path))
    assert GenAiFormat().find(tmp_path, files) == ["openvino_model.xml"]
    assert OpenVinoFormat().find(tmp_path, files) == []
    change_json(tmp_path / "config.json", architectures=["BertModel"])
    assert GenAiFormat().find(tmp_path, files) == []
    assert OpenVinoFormat().find(tmp_path, files) == ["openvino_model.xml"]


def test_beside_the_source_s_weights_the_source_is_the_model(tmp_path: Path) -> None:
    files = list_files(model(converted(tmp_path)))
    assert GenAiFormat().find(tmp_path, files) == []
    assert CausalFormat().find(tmp_path, files) == ["config.json"]


def test_a_graph_is_read(tmp_path: Path) -> None:
    found = graph(converted(tmp_path))
    assert (found.parameters, found.precision) == (32, "int8")


def test_four_bits_are_told_beside_larger_embeddings(tmp_path: Path) -> None:
    more = layer("Const", "v", 'element_type="u4" shape="2, 8" offset="0" size="8"')
    assert graph(converted(tmp_path, GRAPH.replace("</layers>", more + "</layers>"))).precision == "int4"


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("ReadValue", "Add", "keeps nothing"),
        ("logits", "scores", "no 'logits'"),
        ("attention_mask", "mask", "takes no 'attention_mask'"),
        ('size="32"', 'size="9999"', "needs 9999 bytes"),
        ("<net ", "<!DOCTYPE net []><net ", "document type"),
    ],
)
def test_graphs_that_are_no_generator_s(tmp_path: Path, before: str, after: str, why: str) -> None:
    with pytest.raises(OpenMaaSError, match=why) as caught:
        graph(converted(tmp_path, GRAPH.replace(before, after)))
    assert 400 <= caught.value.status < 500


def test_the_graph_has_one_name(tmp_path: Path) -> None:
    (converted(tmp_path) / "openvino_model.xml").rename(tmp_path / "model.xml")
    with pytest.raises(InvalidInput, match=r"looks for 'openvino_model\.xml'"):
        read_graph(tmp_path, "model.xml")
