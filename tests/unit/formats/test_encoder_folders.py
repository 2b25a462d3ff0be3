"""What a Hugging Face folder says of itself, what is refused of it, and what a push leaves out. Nothing is loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.formats.files import list_files
from openmaas.formats.huggingface import HuggingFaceFormat
from openmaas.formats.huggingface.folder import Folder, read_folder
from openmaas.formats.parts import idle_files
from tests.unit.formats.encoders import change_json, copy_minilm
from tests.unit.formats.test_weights import GOOD, write

FORMAT = HuggingFaceFormat()
BERT: dict[str, Any] = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32, "num_hidden_layers": 2}


def model(folder: Path, **changes: Any) -> Path:
    """The least that is taken for a model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(BERT))
    change_json(folder / "config.json", **changes)
    write(folder / "model.safetensors", GOOD)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def sentences(folder: Path, kinds: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"), **pooling: Any) -> Path:
    model(folder)
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": number, "type": kind if "." in kind else f"sentence_transformers.models.{kind}", "path": path}
        for number, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode_mean_tokens": True}))
    return folder


def find(folder: Path) -> list[str]:
    return FORMAT.find(folder, list_files(folder))


def read(folder: Path) -> Folder:
    return read_folder(folder, "config.json")


# ── found by content ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_folder_is_one_model(tmp_path: Path) -> None:
    sentences(tmp_path)
    model(tmp_path / "onnx")
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "config.json").write_text(json.dumps(BERT))
    assert find(tmp_path) == ["config.json"]
    assert find(model(tmp_path / "elsewhere").parent) == ["config.json"]


def test_two_folders_are_two_models(tmp_path: Path) -> None:
    model(tmp_path / "a")
    model(tmp_path / "b")
    assert find(tmp_path) == ["a/config.json", "b/config.json"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b"nothing of that kind"),
        lambda folder: (folder / "config.json").write_text("[1, 2]"),
        lambda folder: (folder / "config.json").write_text("{" * 9999),
        lambda folder: (folder / "config.json").write_text('{"width": 4}'),
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "config.json").write_bytes(b" " * (17 << 20)),
    ],
)
def test_what_is_no_model_is_not_found(tmp_path: Path, spoil: Any) -> None:
    spoil(model(tmp_path))
    assert find(tmp_path) == []


def test_looking_for_models_loads_nothing_heavy(tmp_path: Path) -> None:
    import subprocess

    sentences(tmp_path)
    code = (
        "import sys; from pathlib import Path; from openmaas.formats.huggingface import HuggingFaceFormat as F\n"
        f"assert F().find(Path({str(tmp_path)!r}), ['config.json', 'model.safetensors']) == ['config.json']\n"
        "print([name for name in ('torch', 'transformers', 'onnx', 'tokenizers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# ── what it is ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertModel", "features"),
        ("BertForSequenceClassification", "sequence-classification"),
        ("BertForTokenClassification", "token-classification"),
    ],
)
def test_the_task_is_the_architecture_s(tmp_path: Path, architecture: str, task: str) -> None:
    assert read(model(tmp_path, architectures=[architecture])).task == task


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"architectures": ["BertForMaskedLM"]}, "'BertForMaskedLM'"),
        ({"architectures": ["BertForQuestionAnswering"]}, "'BertForQuestionAnswering'"),
        ({"architectures": []}, "does not name one architecture"),
        ({"architectures": None}, "does not name one architecture"),
        ({"architectures": ["BertModel", "BertModel"]}, "does not name one architecture"),
        ({"architectures": [7]}, "does not name one architecture"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "'llama'"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "'t5'"),
        ({"model_type": "my_own"}, "'my_own'"),
        ({"model_type": ["bert"]}, "model_type"),
        ({"is_decoder": True}, "'is_decoder'"),
        ({"is_encoder_decoder": True}, "'is_encoder_decoder'"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "'quantization_config'"),
        ({"transformers_weights": "../other.safetensors"}, "'transformers_weights'"),
    ],
)
def test_anything_else_is_refused_with_what_is_served(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=f"{why}.*Served are encoders for feature extraction") as caught:
        read(model(tmp_path, **changes))
    assert caught.value.code == "unsupported_model"
    assert caught.value.next_step


def test_sentence_transformers_say_how_they_pool(tmp_path: Path) -> None:
    folder = sentences(tmp_path, pooling_mode_cls_token=True, pooling_mode_mean_tokens=True, pooling_mode_max_tokens=False)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 128, "do_lower_case": true}')
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"q": "query: "}, "default_prompt_name": "q"}')
    found = read(folder)
    assert (found.task, found.poolings, found.normalize) == ("embedding", ("cls", "mean"), True)
    assert (found.max_length, found.lowercase) == (128, True)
    assert "'q'" in found.notes[0]


def test_a_masked_model_with_pooling_gives_embeddings(tmp_path: Path) -> None:
    sentences(tmp_path, ("Transformer", "Pooling"), pooling_mode="cls")
    change_json(tmp_path / "config.json", architectures=["BertForMaskedLM"])
    assert read(tmp_path)[2:5] == ("embedding", ("cls",), False)


def test_the_transformer_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    sentences(tmp_path)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        target = tmp_path / "0_Transformer" / name
        target.parent.mkdir(exist_ok=True)
        (tmp_path / name).rename(target)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert find(tmp_path) == ["0_Transformer/config.json"]
    found = read_folder(tmp_path, "0_Transformer/config.json")
    assert (found.task, found.poolings) == ("embedding", ("mean",))


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        (("Transformer", "Pooling", "Dense"), "unsupported_model"),
        (("Transformer",), "unsupported_model"),
        (("CLIPModel", "Pooling"), "unsupported_model"),
        (("evil_module.Transformer", "Pooling"), "custom_code"),
        (("Transformer", "os.Pooling"), "custom_code"),
    ],
)
def test_other_modules_are_refused(tmp_path: Path, kinds: tuple[str, ...], code: str) -> None:
    with pytest.raises(Refused) as caught:
        read(sentences(tmp_path, kinds))
    assert caught.value.code == code


@pytest.mark.parametrize("pooling", [{"pooling_mode_lasttoken": True}, {"pooling_mode": "weightedmean"}, {"dimension": 3}])
def test_other_poolings_are_refused(tmp_path: Path, pooling: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"The pooling .* is not served"):
        read(sentences(tmp_path, **pooling))


# ── code, and lies ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_auto_map_is_refused(tmp_path: Path, name: str) -> None:
    path = model(tmp_path) / name
    if not path.exists():
        path.write_text("{}")
    change_json(path, auto_map={"AutoModel": "evil/repo--modeling.Evil", "AutoConfig": "configuration.Evil"})
    with pytest.raises(Refused, match=f"{name} names code of the model's own") as caught:
        read(tmp_path)
    assert caught.value.code == "custom_code"


@pytest.mark.parametrize("name", ["modeling_evil.py", "deep/down/code.py", "extension.so", "__pycache__/x.cpython-311.pyc"])
def test_code_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    path = model(tmp_path) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("raise SystemExit")
    with pytest.raises(Refused, match="brings code of its own") as caught:
        read(tmp_path)
    assert caught.value.code == "custom_code"


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 10**9}, {"hidden_size": 1 << 40}, {"vocab_size": -(1 << 40)}])
def test_giant_figures_are_refused(tmp_path: Path, changes: dict[str, int]) -> None:
    with pytest.raises(Refused, match="is believed"):
        read(model(tmp_path, **changes))


def test_adapters_are_refused(tmp_path: Path) -> None:
    (model(tmp_path) / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/repo"}')
    with pytest.raises(Refused, match="adapter"):
        read(tmp_path)


def test_a_folder_of_pickled_weights_is_told_how_to_go_on(tmp_path: Path) -> None:
    (model(tmp_path) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert find(tmp_path) == ["config.json"]
    with pytest.raises(InvalidInput, match="no weights as safetensors") as caught:
        read(tmp_path)
    assert "save_pretrained" in (caught.value.next_step or "")


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a/../../b", "..\\up"])
def test_modules_elsewhere_are_refused(tmp_path: Path, path: str) -> None:
    sentences(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[1]["path"] = path
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InvalidInput, match="is not inside"):
        read(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[[]]", '[{"idx": 0}]', "[" * 9999])
def test_damaged_modules_are_refused(tmp_path: Path, content: str) -> None:
    (sentences(tmp_path) / "modules.json").write_text(content)
    with pytest.raises(OpenMaaSError):
        read(tmp_path)


# ── what a push leaves out ───────────────────────────────────────────────────────────────────────────────────────────

BESIDE = (
    ".gitattributes", ".cache/huggingface/download/model.lock", "onnx/model.onnx", "onnx/config.json",
    "openvino/openvino_model.xml",
    "pytorch_model.bin", "tf_model.h5", "rust_model.ot", "flax_model.msgpack", "model.fp16.safetensors", "train_script.py",
    "coreml/model.mlmodel",
)  # fmt: skip


def with_others(folder: Path) -> Path:
    for name in BESIDE:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"whatever it holds")
    return folder


def test_the_same_weights_for_other_tools_are_left_out(tmp_path: Path) -> None:
    files = list_files(with_others(sentences(tmp_path)))
    assert sorted(idle_files(tmp_path, files)) == sorted(BESIDE)


def test_a_real_folder_keeps_all_that_it_needs(tmp_path: Path) -> None:
    files = list_files(with_others(copy_minilm(tmp_path)))
    kept = set(files) - set(idle_files(tmp_path, files))
    assert {"model.safetensors", "config.json", "tokenizer.json", "vocab.txt", "modules.json", "1_Pooling/config.json"} <= kept
    assert not kept & set(BESIDE)


def test_code_that_the_model_needs_is_not_left_out(tmp_path: Path) -> None:
    folder = with_others(model(tmp_path, auto_map={"AutoModel": "train_script.Model"}))
    assert "train_script.py" not in idle_files(folder, list_files(folder))


@pytest.mark.parametrize(
    "text", ["entry: onnx/model.onnx\n", "converted: onnx/model.onnx\n", "format: onnx\n", "nonsense: 1\n"]
)
def test_nothing_is_left_out_where_somebody_said_which_model(tmp_path: Path, text: str) -> None:
    folder = with_others(model(tmp_path))
    (folder / "openmaas.yaml").write_text(text)
    assert idle_files(folder, list_files(folder)) == []


def test_nothing_is_left_out_of_other_folders(tmp_path: Path) -> None:
    for name in BESIDE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert idle_files(tmp_path, list_files(tmp_path)) == []


def test_pickled_weights_alone_are_not_left_out(tmp_path: Path) -> None:
    (model(tmp_path) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert idle_files(tmp_path, list_files(tmp_path)) == []
