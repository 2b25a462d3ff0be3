"""Generators of text that want to do harm: decoders' folders, GGUF files, OpenVINO graphs. They join hostile.py's corpus."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from tests.tiny_writer import make_writer
from tests.unit.formats.encoders import change_json
from tests.unit.formats.gguf_files import TENSORS, VALUES, write

from .hostile import CORPUS, _pickle, _safetensors, hostile

BIG = 1 << 62


def _decoder(folder: Path, **config: Any) -> Path:
    make_writer(folder)
    change_json(folder / "config.json", **config)
    return folder


# ── code and pickles ─────────────────────────────────────────────────────────────────────────────────────────────────


@hostile
def decoder_with_code_of_its_own(folder: Path, canary: Path) -> None:
    _decoder(folder, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    (folder / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')\n")


@hostile
def decoder_whose_tokenizer_has_code(folder: Path, canary: Path) -> None:
    change_json(_decoder(folder) / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")


@hostile
def decoder_that_generates_by_code(folder: Path, canary: Path) -> None:
    change_json(_decoder(folder) / "generation_config.json", auto_map={"generate": "custom_generate/generate.py"})
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"open({str(canary)!r}, 'w')\n")


@hostile
def decoder_of_pickled_weights(folder: Path, canary: Path) -> None:
    (_decoder(folder) / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(_pickle(canary))


@hostile
def decoder_with_a_pickle_beside(folder: Path, canary: Path) -> None:
    (_decoder(folder) / "merges.dat").write_bytes(_pickle(canary))


@hostile
def decoder_whose_weights_are_a_pickle(folder: Path, canary: Path) -> None:
    (_decoder(folder) / "model.safetensors").unlink()
    (folder / "model-00001.safetensors").write_bytes(_pickle(canary))
    index = {"weight_map": {"lm_head.weight": "model-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# ── chat templates ───────────────────────────────────────────────────────────────────────────────────────────────────

_TEMPLATES = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "takes_memory": "{{ 'a' * 10**10 }}",
    "grows": "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "runs_a_command": "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "looks_for_classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "is_endless": "{{ messages }}" * 30_000,
}


def _template(what: str) -> None:
    def in_a_folder(folder: Path, canary: Path) -> None:
        (_decoder(folder) / "chat_template.jinja").write_text(_TEMPLATES[what].replace("CANARY", str(canary)))

    CORPUS[f"decoder_whose_template_{what}"] = in_a_folder


for _what in _TEMPLATES:
    _template(_what)


@hostile
def gguf_whose_template_runs_a_command(folder: Path, canary: Path) -> None:
    text = _TEMPLATES["runs_a_command"].replace("CANARY", str(canary))
    write(folder / "model.gguf", VALUES | {"tokenizer.chat_template": text})


# ── figures, weights, tokenizers ─────────────────────────────────────────────────────────────────────────────────────

for _name, _config in {
    "a_billion_layers": {"num_hidden_layers": 10**9},
    "a_giant_width": {"hidden_size": 10**9},
    "giant_heads": {"head_dim": 1 << 23},
    "a_giant_vocabulary": {"vocab_size": 1 << 23},
    "negative_layers": {"num_hidden_layers": -1},
    "words_for_numbers": {"hidden_size": "wide"},
    "an_activation_that_is_code": {"hidden_act": "__import__('os').system('true')"},
    "somebody_s_weights": {"transformers_weights": "../../../../../../../etc/passwd"},
    "a_library_s_own_numbers": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
}.items():
    CORPUS[f"decoder_with_{_name}"] = lambda folder, canary, config=_config: _decoder(folder, **config)


@hostile
def decoder_whose_header_lies(folder: Path, canary: Path) -> None:
    _decoder(folder)
    header = b'{"lm_head.weight":{"dtype":"F32","shape":[1048576],"data_offsets":[0,4194304]}}'
    _safetensors(folder / "model.safetensors", header)


@hostile
def decoder_whose_header_is_endless(folder: Path, canary: Path) -> None:
    _safetensors(_decoder(folder) / "model.safetensors", b"{}", length=BIG)


@hostile
def decoder_whose_index_climbs(folder: Path, canary: Path) -> None:
    (_decoder(folder) / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "../../../../../../../../etc/passwd"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@hostile
def decoder_whose_tokenizer_is_deep(folder: Path, canary: Path) -> None:
    (_decoder(folder) / "tokenizer.json").write_bytes(b'{"model":' * 1_000_000)


@hostile
def decoder_whose_tokenizer_is_giant(folder: Path, canary: Path) -> None:
    with (_decoder(folder) / "tokenizer.json").open("r+b") as file:
        file.truncate(80 << 20)


@hostile
def decoder_whose_tokenizer_never_ends(folder: Path, canary: Path) -> None:
    pattern = {"type": "Split", "pattern": {"Regex": "(a|aa)+$|(.*.*.*.*.*)Z"}, "behavior": "Isolated", "invert": False}
    change_json(_decoder(folder) / "tokenizer.json", pre_tokenizer=pattern)


# ── GGUF ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _gguf(name: str, **more: Any) -> None:
    def make(folder: Path, canary: Path) -> None:
        write(folder / "model.gguf", **more)

    CORPUS[f"gguf_{name}"] = make


_gguf("of_endless_tensors", start=b"GGUF" + struct.pack("<IQQ", 3, BIG, 17))
_gguf("of_endless_values", start=b"GGUF" + struct.pack("<IQQ", 3, 11, BIG))
_gguf("of_more_tensors_than_there_are", start=b"GGUF" + struct.pack("<IQQ", 3, 65_000, 17))
_gguf("with_an_endless_text", values=VALUES | {"x": struct.pack("<IQ", 8, BIG)})
_gguf("with_a_giant_text", values=VALUES | {"x": struct.pack("<IQ", 8, 1 << 20)})
_gguf("with_endless_items", values=VALUES | {"x": struct.pack("<IIQ", 9, 8, BIG)})
_gguf("with_lists_of_lists", values=VALUES | {"x": struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 10_000})
_gguf("beyond_its_end", offsets={"blk.0.ffn_down.weight": 1 << 40})
_gguf("that_overlaps", offsets={"blk.0.ffn_down.weight": 0})
_gguf("of_a_giant_shape", tensors=TENSORS | {"token_embd.weight": (1, (1 << 32, 1 << 32))}, data=64)
_gguf("without_alignment", values=VALUES | {"general.alignment": 0})
_gguf("of_a_billion_layers", values=VALUES | {"llama.block_count": 10**9})
_gguf("whose_merges_lie", values=VALUES | {"tokenizer.ggml.merges": ["a " + "b" * 100_000]})
_gguf("whose_tokens_are_too_many", values=VALUES | {"tokenizer.ggml.tokens": [str(number) for number in range(70_000)]})
_gguf("that_is_cut", data=64)


# ── OpenVINO ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _graph(name: str, text: str) -> None:
    def make(folder: Path, canary: Path) -> None:
        (_decoder(folder) / "model.safetensors").unlink()
        (folder / "openvino_model.xml").write_text(text)
        (folder / "openvino_model.bin").write_bytes(bytes(64))

    CORPUS[f"generator_s_graph_{name}"] = make


_INPUTS = "".join(
    f'<layer name="{name}" type="Parameter"><output><port names="{name}"/></output></layer>'
    for name in ("input_ids", "attention_mask", "beam_idx")
)
_graph(
    "with_entities",
    f'<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]><net name="&x;" version="11"><layers>{_INPUTS}</layers></net>',
)
_graph("nested_without_end", f'<net name="x" version="11"><layers>{_INPUTS}' + "<a>" * 100_000)
_graph(
    "beyond_its_weights",
    f'<net name="x" version="11"><layers>{_INPUTS}<layer name="w" type="Const"><data element_type="f16" shape="4, 4" '
    f'offset="999999999999999999" size="32"/></layer></layers></net>',
)
_graph("that_keeps_nothing", f'<net name="x" version="11"><layers>{_INPUTS}</layers></net>')
