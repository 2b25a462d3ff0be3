"""Encoder folders examined, converted and run: the real all-MiniLM-L6-v2, and tiny ones of several architectures and tasks."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from openmaas.core.errors import EngineFailed, InvalidInput, OpenMaaSError, Refused
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.core.processing import Embedding, Labels, TextInput
from openmaas.engines import Engine, EngineSpec, create_engine, engine_choices
from openmaas.engines.huggingface.encoder import quietly
from openmaas.formats import Examined, Task
from openmaas.formats.converters import Conversion, find_route
from openmaas.formats.examiner import Request, examine_folder
from openmaas.formats.huggingface import HuggingFaceFormat, exporting
from openmaas.formats.huggingface.sentences import LONG, SENTENCES
from openmaas.formats.sample import read_sample, split_expected
from openmaas.processing.text import Texts
from tests.integration.formats.conftest import Examine
from tests.unit.formats.encoders import change_json, copy_minilm, encoder_folder, minilm, word_tokenizer

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
ir = pytest.importorskip("onnx_ir")
MEMORY = 6 << 30
SECONDS = 500.0
pytestmark = pytest.mark.timeout(600)  # an export takes seconds on a quiet machine, and minutes on a busy one


class Pushed(NamedTuple):
    """A folder, what was found out, and all files of the version in one place."""

    source: Path
    examined: Examined
    version: Path

    @property
    def manifest(self) -> Manifest:
        names = ("format", "engine", "entry", "signature", "artifacts", "batchable", "padding", "processing", "options")
        return Manifest(files=(), **{name: getattr(self.examined, name) for name in names})

    @property
    def declared(self) -> TextInput:
        assert self.examined.processing is not None
        assert isinstance(self.examined.processing.input, TextInput)
        return self.examined.processing.input

    @property
    def texts(self) -> Texts:
        return Texts(self.declared, self.version)

    def engine(self, kind: str, precision: str = "") -> Engine:
        """The engine of an artifact's kind, loaded."""
        found = next(
            choice
            for choice in engine_choices(self.manifest)
            if choice.artifact.kind == kind
            and choice.precision == precision
            and choice.engine in ("onnxruntime", "huggingface")
        )
        engine = create_engine(found.engine)
        engine.load(EngineSpec(folder=self.version, manifest=self.manifest, threads=2, choice=found))
        return engine


def push(source: Path, place: Path, **task: Any) -> Pushed:
    """Examined in this process, since every child would import the libraries again."""
    output = place / "output"
    output.mkdir(parents=True)
    (entry,) = HuggingFaceFormat().find(source, [path.relative_to(source).as_posix() for path in source.rglob("*.*")])
    examined = HuggingFaceFormat().examine(Task(folder=source, output=output, **task), entry)
    return assembled(source, output, examined)


def assembled(source: Path, output: Path, examined: Examined) -> Pushed:
    version = output.parent / "version"
    for root in (source, output):
        for path in root.rglob("*"):
            target = version / path.relative_to(root)
            if path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.hardlink_to(path)
    return Pushed(source, examined, version)


def rows(*texts: str) -> Any:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def theirs(source: Path, head: str, texts: list[str], limit: int) -> Any:
    """transformers alone: its tokenizer, its padding, its model."""
    with quietly():
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=True)
        model = getattr(transformers, head).from_pretrained(source, local_files_only=True, dtype=torch.float32).eval()
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.no_grad():
            return model(**encoded), encoded


# ── the real one ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    """all-MiniLM-L6-v2 as a server examines it: in the child, within its limits."""
    from openmaas.formats import examine

    place = tmp_path_factory.mktemp("minilm")
    (place / "output").mkdir()
    source = copy_minilm(place / "source")
    examined = examine(source, output=place / "output", timeout=SECONDS, memory=MEMORY)
    return assembled(source, place / "output", examined)


def test_minilm_is_understood(real: Pushed) -> None:
    found = real.examined
    assert (found.format, found.engine, found.entry) == ("huggingface", "onnxruntime", "model.onnx")
    assert [artifact.kind for artifact in found.artifacts] == ["onnx", "huggingface"]
    assert [(spec.name, spec.datatype, spec.shape) for spec in found.signature.inputs] == [
        (name, "INT64", (-1, -1)) for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    assert [(spec.name, spec.datatype, spec.shape) for spec in found.signature.outputs] == [("embedding", "FP32", (-1, 384))]
    assert real.declared.tokenizer == "tokenizer.json"
    assert real.declared.max_length == 256
    assert not real.declared.pair
    assert found.processing is not None
    assert found.processing.output == Embedding(output="embedding")
    assert found.batchable
    assert found.padding is not None
    assert found.padding.pad == {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0}
    assert found.padding.trim == ()
    assert found.parity is not None
    assert found.parity.passed
    assert [comparison.batch for comparison in found.parity.comparisons] == [1, 2, 7]
    assert found.parity.max_abs_diff < 1e-5
    assert found.added == ("model.onnx", "sample.npz")


def test_minilm_gives_the_vectors_of_transformers(real: Pushed) -> None:
    texts = ["A cat sits on the mat.", "会议改到星期三下午三点。", "I love this! 😍🎉", LONG, ""]
    found, encoded = theirs(real.source, "AutoModel", texts, 256)
    mask = encoded["attention_mask"].unsqueeze(-1)
    mean = (found.last_hidden_state * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(mean, dim=-1).numpy()
    prepared = real.texts.prepare(rows(*texts))
    assert prepared.notes[0]["row"] == 3
    for kind in ("onnx", "huggingface"):
        actual = real.engine(kind).run(prepared.inputs)["embedding"]
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_the_sample_of_minilm_holds_answers_to_real_sentences(real: Pushed) -> None:
    assert real.examined.sample is not None
    inputs, expected = split_expected(read_sample(real.version / real.examined.sample))
    assert set(inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    assert len(expected["embedding"]) == len(SENTENCES) == 64
    lengths = inputs["attention_mask"].sum(1)
    assert len(set(lengths.tolist())) > 10
    assert lengths.max() <= 64
    np.testing.assert_allclose(real.engine("onnx").run(inputs)["embedding"], expected["embedding"], atol=1e-5)


def test_bf16_is_a_choice_of_the_native_engine(real: Pushed) -> None:
    prepared = real.texts.prepare(rows("A cat sits on the mat.", "Water boils."))
    exact, coarse = (real.engine("huggingface", precision).run(prepared.inputs)["embedding"] for precision in ("", "bf16"))
    assert coarse.dtype == np.float32
    assert 0 < np.abs(exact - coarse).max() < 0.05
    assert ((exact * coarse).sum(1) > 0.999).all()


def test_the_engine_describes_itself_and_warms_up(real: Pushed) -> None:
    engine = real.engine("huggingface")
    engine.warm()
    assert engine.describe() == {
        "library": "transformers", "version": transformers.__version__, "device": "cpu", "threads": "2"
    }  # fmt: skip
    with pytest.raises(EngineFailed, match="transformers cannot run this input"):
        engine.run({name: np.full((1, 3), 10**6, np.int64) for name in real.declared.tensors})


# ── architectures and tasks ──────────────────────────────────────────────────────────────────────────────────────────

HEADS = {
    "Model": "AutoModel",
    "SequenceClassification": "AutoModelForSequenceClassification",
    "TokenClassification": "AutoModelForTokenClassification",
}
KINDS = ("bert", "distilbert", "roberta")
QUICK = [("bert", "SequenceClassification"), ("distilbert", "TokenClassification"), ("roberta", "Model")]
CASES = [(kind, head) for kind in KINDS for head in HEADS] + [
    (kind, "Model") for kind in ("albert", "deberta-v2", "electra", "modernbert", "mpnet")
]


@pytest.fixture(
    scope="module",
    params=[pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow, id="-".join(case)) for case in CASES],
)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Pushed]:
    kind, head = request.param
    place = tmp_path_factory.mktemp(f"{kind}-{head}")
    labels = {} if head == "Model" else {"id2label": {0: "neither", 1: "bad", 2: "good"}}
    return kind, head, push(encoder_folder(place / "source", kind, head, **labels), place)


@pytest.fixture
def unconverted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the export, which takes most of the time."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("no decomposition for this operator in /usr/lib/somewhere/file.py")

    monkeypatch.setattr(exporting, "_export", fail)


def test_each_is_served_as_onnx_that_answers_as_transformers(tiny: tuple[str, str, Pushed]) -> None:
    kind, head, pushed = tiny
    found = pushed.examined
    assert found.engine == "onnxruntime", found.notes
    assert found.parity is not None
    assert found.parity.passed
    texts = ["A cat sits on the mat.", "😀", "Quarterly revenue rose 4.7% to $1.23 billion.", " ".join(["water"] * 200)]
    expected, encoded = theirs(pushed.source, HEADS[head], texts, pushed.declared.max_length)
    answers = pushed.engine("onnx").run(pushed.texts.prepare(rows(*texts)).inputs)
    names = {"last_hidden_state": "last_hidden_state", "pooled_output": "pooler_output", "logits": "logits"}
    kept = encoded["attention_mask"].numpy().astype(bool)
    for name, answer in answers.items():
        theirs_ = expected[names[name]].numpy()
        tokens = answer.ndim == 3
        np.testing.assert_allclose(answer[kept] if tokens else answer, theirs_[kept] if tokens else theirs_, atol=2e-4)
    assert ("pooled_output" in answers) == (head == "Model" and kind in ("albert", "bert", "mpnet", "roberta"))


def test_each_is_proved_to_be_batchable_and_paddable(tiny: tuple[str, str, Pushed]) -> None:
    kind, head, pushed = tiny
    found = pushed.examined
    assert found.batchable, found.batching
    assert found.padding is not None, found.notes
    assert found.padding.pad["input_ids"] == (1 if kind in ("roberta", "mpnet") else 0)
    assert found.padding.pad["attention_mask"] == 0
    trims = {"Model": ("last_hidden_state",), "SequenceClassification": (), "TokenClassification": ("logits",)}
    assert found.padding.trim == trims[head]
    shapes = {spec.name: spec.shape for spec in found.signature.outputs}
    assert all(shapes[name][:2] == (-1, -1) for name in found.padding.trim)


def test_each_declares_what_comes_of_its_answers(tiny: tuple[str, str, Pushed]) -> None:
    kind, head, pushed = tiny
    assert pushed.examined.processing is not None
    output = pushed.examined.processing.output
    if head == "Model":
        assert output is None
    else:
        assert output == Labels(
            output="logits", labels=("neither", "bad", "good"), activation="softmax", tokens=head == "TokenClassification"
        )
    assert pushed.declared.pair == (head == "SequenceClassification")
    assert ("token_type_ids" in pushed.declared.tensors) == (kind in ("albert", "bert", "electra"))
    assert pushed.declared.max_length == (94 if kind in ("roberta", "mpnet") else 96)


def test_the_sample_of_answers_for_tokens_has_no_padding(tiny: tuple[str, str, Pushed]) -> None:
    _, head, pushed = tiny
    inputs, expected = split_expected(read_sample(pushed.version / str(pushed.examined.sample)))
    assert set(expected) == {spec.name for spec in pushed.examined.signature.outputs}
    assert len(np.unique(inputs["input_ids"], axis=0)) == 64
    assert bool(inputs["attention_mask"].all()) == (head != "SequenceClassification")


def test_rows_of_the_greatest_length_run(tiny: tuple[str, str, Pushed]) -> None:
    """The last position that is promised is one that the model has."""
    _, _, pushed = tiny
    prepared = pushed.texts.prepare(rows(LONG))
    assert prepared.lengths == (pushed.declared.max_length,)
    one, other = (pushed.engine(kind).run(prepared.inputs) for kind in ("onnx", "huggingface"))
    for name, answer in one.items():
        np.testing.assert_allclose(answer, other[name], atol=2e-4)


# ── what a folder may say besides ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return encoder_folder(tmp_path / "source")


@pytest.mark.usefixtures("unconverted")
def test_vocabularies_without_tokenizer_json_are_written_down(tmp_path: Path) -> None:
    source = copy_minilm(tmp_path / "source")
    (source / "tokenizer.json").unlink()
    pushed = push(source, tmp_path)
    assert pushed.declared.tokenizer == "tokenizer.json"
    assert "tokenizer.json" in pushed.examined.added
    texts = rows("A cat sits on the mat.", "Ünïcode, 会议, 😍", "UPPER and lower")
    ours = pushed.texts.prepare(texts).inputs["input_ids"]
    whole = Texts(pushed.declared, minilm()).prepare(texts).inputs["input_ids"]
    assert np.array_equal(ours, whole)


@pytest.mark.usefixtures("unconverted")
def test_a_tokenizer_that_transformers_reads_otherwise_is_written_down(tmp_path: Path) -> None:
    """sentence-transformers makes texts small before they are tokens; the file does not."""
    source = encoder_folder(tmp_path / "source")
    word_tokenizer(lowercase=False).save(str(source / "tokenizer.json"))
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    (source / "modules.json").write_text(
        json.dumps([{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules])
    )
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}')
    (source / "sentence_bert_config.json").write_text('{"max_seq_length": 20, "do_lower_case": true}')
    pushed = push(source, tmp_path)
    assert pushed.declared.tokenizer == "converted-1/tokenizer.json"
    assert pushed.declared.max_length == 20
    large, small = (pushed.texts.prepare(rows(text)).inputs["input_ids"].tolist() for text in ("A CAT", "a cat"))
    assert large == small
    (output,) = pushed.examined.signature.outputs
    assert output.shape == (-1, 64)  # two poolings of 32, and not of length 1
    vector = pushed.engine("huggingface").run(pushed.texts.prepare(rows("a cat")).inputs)["embedding"]
    assert abs(np.linalg.norm(vector) - 1) > 0.01


@pytest.mark.usefixtures("unconverted")
def test_sharded_weights_are_one_model(tmp_path: Path) -> None:
    source = encoder_folder(tmp_path / "source")
    with quietly():
        model = transformers.AutoModel.from_pretrained(source, local_files_only=True)
        (source / "model.safetensors").unlink()
        model.save_pretrained(source, max_shard_size="50KB")
    assert len(list(source.glob("*.safetensors"))) > 1
    assert push(source, tmp_path).examined.batchable


@pytest.mark.usefixtures("unconverted")
def test_a_pooled_output_without_weights_is_not_made_up(tmp_path: Path) -> None:
    source = encoder_folder(tmp_path / "source", head="MaskedLM")
    change_json(source / "config.json", architectures=["BertModel"])
    found = push(source, tmp_path).examined
    assert [spec.name for spec in found.signature.outputs] == ["last_hidden_state"]
    assert any("no weights for a pooled output" in note for note in found.notes)
    assert any("have no place in the model: cls." in note for note in found.notes)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"architectures": ["BertForSequenceClassification"]}, "weights_missing"),
        ({"num_hidden_layers": 3}, "weights_missing"),
        ({"hidden_size": 64}, "load_failed"),
        ({"vocab_size": 601}, "load_failed"),
        ({"num_attention_heads": 5}, "load_failed"),
        ({"hidden_act": "no_such_function"}, "load_failed"),
        ({"max_position_embeddings": "many"}, "load_failed"),
    ],
)
def test_a_configuration_of_another_model_is_refused(bert: Path, tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    change_json(bert / "config.json", **changes)
    with pytest.raises(OpenMaaSError) as caught:
        push(bert, tmp_path)
    assert caught.value.code == code
    assert str(tmp_path) not in str(caught.value)


def test_a_tokenizer_of_another_model_is_refused(bert: Path, tmp_path: Path) -> None:
    path = bert / "tokenizer.json"
    data = json.loads(path.read_text("utf-8"))
    data["model"]["vocab"]["beyond"] = 600
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(Refused, match="ids up to 600; the model has embeddings for 0 to 599") as caught:
        push(bert, tmp_path)
    assert caught.value.code == "vocabulary_mismatch"


@pytest.mark.parametrize("content", [b"", b"{}", b"{" * 9999, b'{"version": "1.0", "model": {"type": "Nothing"}}', b"\xff\xfe"])
def test_a_damaged_tokenizer_is_refused(bert: Path, tmp_path: Path, content: bytes) -> None:
    (bert / "tokenizer.json").write_bytes(content)
    with pytest.raises(OpenMaaSError) as caught:
        push(bert, tmp_path)
    assert caught.value.status in (400, 422)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.usefixtures("unconverted")
def test_a_tokenizer_cannot_promise_more_than_there_are_positions(tmp_path: Path) -> None:
    source = encoder_folder(tmp_path / "source")
    change_json(source / "tokenizer_config.json", model_max_length=4096)
    assert push(source, tmp_path).declared.max_length == 96


@pytest.mark.usefixtures("unconverted")
@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({"problem_type": "multi_label_classification", "num_labels": 4}, "sigmoid"),
        ({"problem_type": "regression", "num_labels": 3}, None),
        ({"num_labels": 1}, None),
    ],
)
def test_the_kind_of_classification_decides_on_probabilities(
    tmp_path: Path, config: dict[str, Any], activation: str | None
) -> None:
    pushed = push(encoder_folder(tmp_path / "source", "distilbert", "SequenceClassification", **config), tmp_path)
    assert pushed.examined.processing is not None
    output = pushed.examined.processing.output
    assert (output.activation if isinstance(output, Labels) else None) == activation


def test_weights_that_overflowed_are_refused(bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(bert / "model.safetensors")
    weights["encoder.layer.0.attention.self.query.weight"][0, 0] = float("nan")
    save_file(weights, bert / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidInput, match="NaN or Infinity in 'last_hidden_state'"):
        push(bert, tmp_path)


# ── samples ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sample_of_texts_is_compared_on(bert: Path, tmp_path: Path) -> None:
    (bert / "sample.json").write_text(json.dumps({"text": [f"sentence number {number} of ten" for number in range(10)]}))
    pushed = push(bert, tmp_path, sample="sample.json")
    assert pushed.examined.parity is not None
    assert pushed.examined.parity.sample == "given"
    assert pushed.examined.sample == "sample.npz"
    inputs, expected = split_expected(read_sample(pushed.version / "sample.npz"))
    assert len(inputs["input_ids"]) == len(expected["last_hidden_state"]) == 10


def test_a_sample_of_token_ids_is_compared_on(bert: Path, tmp_path: Path) -> None:
    ids = np.random.default_rng(7).integers(5, 600, (9, 12))
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    np.savez(bert / "sample.npz", **arrays)
    found = push(bert, tmp_path, sample="sample.npz").examined
    assert found.parity is not None
    assert (found.parity.passed, found.parity.sample) == (True, "given")
    assert found.batchable


def test_a_sample_of_something_else_is_refused(bert: Path, tmp_path: Path) -> None:
    np.save(bert / "sample.npy", np.zeros((3, 4)))
    with pytest.raises(InvalidInput, match="the model takes 'attention_mask', 'input_ids', 'token_type_ids'"):
        push(bert, tmp_path, sample="sample.npy")


# ── conversions ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("unconverted")
def test_what_cannot_be_converted_is_served_by_transformers(bert: Path, tmp_path: Path) -> None:
    pushed = push(bert, tmp_path)
    found = pushed.examined
    assert (found.engine, found.entry) == ("huggingface", "config.json")
    assert found.parity is not None
    assert not found.parity.passed
    assert any(note.startswith("transformers itself serves it: torch cannot export") for note in found.notes)
    assert not any("/usr/lib" in note for note in found.notes)
    assert found.added == ("sample.npz",)
    assert found.batchable
    assert found.padding is not None
    engine = create_engine(pushed.manifest.engine)
    engine.load(EngineSpec(folder=pushed.version, manifest=pushed.manifest))
    answer = engine.run(pushed.texts.prepare(rows("a cat")).inputs)
    assert list(answer) == ["last_hidden_state", "pooled_output"]


def test_a_conversion_that_answers_otherwise_does_not_serve(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = exporting._export

    def spoil(encoder: Any, *rest: Any) -> Any:
        program = export(encoder, *rest)
        weights = program.model.graph.initializers
        name = next(name for name in weights if name.endswith("LayerNorm.bias"))
        weights[name].const_value = ir.tensor(weights[name].const_value.numpy() + 0.01)
        return program

    monkeypatch.setattr(exporting, "_export", spoil)
    found = push(bert, tmp_path).examined
    assert found.engine == "huggingface"
    assert found.parity is not None
    assert "'last_hidden_state' differs by up to" in (found.parity.reason or "")
    assert "model.onnx" not in found.added


def test_weights_too_large_for_one_file_lie_beside_it(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import load_file

    monkeypatch.setattr(exporting, "SINGLE_FILE", 1000)
    pushed = push(bert, tmp_path)
    assert pushed.examined.added[:2] == ("model.onnx", "model.onnx.data")
    weights = sum(array.nbytes for array in load_file(bert / "model.safetensors").values())
    assert (pushed.version / "model.onnx.data").stat().st_size > weights / 2
    assert pushed.engine("onnx").run(pushed.texts.prepare(rows("a cat")).inputs)


@pytest.mark.parametrize(
    ("target", "entry", "name"), [("onnx", "model.onnx", "onnxruntime"), ("torch-export", "model.pt2", "torch")]
)
def test_converters_write_what_another_engine_runs(bert: Path, tmp_path: Path, target: str, entry: str, name: str) -> None:
    pushed = push(bert, tmp_path)
    artifact, chain = find_route([pushed.examined.artifacts[-1]], target)
    (converter,) = chain
    inputs, expected = split_expected(read_sample(pushed.version / "sample.npz"))
    output = tmp_path / "converted"
    output.mkdir()
    made = converter.convert(
        Conversion(
            folder=pushed.version, artifact=artifact, manifest=pushed.manifest, sample=inputs, output=output, python=Path("-")
        )
    )
    assert made == Artifact(kind=target, entry=entry)
    engine = create_engine(name)
    choice = EngineChoice(engine=name, artifact=made)
    engine.load(EngineSpec(folder=output, manifest=pushed.manifest, choice=choice))
    for name, answer in engine.run(inputs).items():
        np.testing.assert_allclose(answer, expected[name], atol=1e-4)


# ── hostile folders, in the child ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    asked: list[Any] = []

    def refuse(*address: Any, **_: Any) -> Any:
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield asked
    assert not asked


def test_nothing_is_fetched(tmp_path: Path, no_network: list[Any]) -> None:
    source = encoder_folder(tmp_path / "source")
    change_json(source / "config.json", _name_or_path="somebody/repo", attn_implementation="somebody/kernel")
    change_json(source / "tokenizer_config.json", name_or_path="somebody/repo")
    assert push(source, tmp_path).examined.engine == "onnxruntime"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("modeling_evil.py", "open({canary!r}, 'w')"),
        ("config.json", None),
        ("pytorch_model.bin", b"\x80\x04cos\nsystem\n(S'touch canary'\ntR."),
    ],
)
def test_code_in_a_folder_is_refused_by_the_server(
    folder: Path, look: Examine, tmp_path: Path, name: str, content: Any
) -> None:
    encoder_folder(folder)
    canary = tmp_path / "canary"
    if content is None:
        (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
        change_json(folder / name, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    else:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.format(canary=str(canary)).encode())
    with pytest.raises(Refused) as caught:
        look(memory=MEMORY, timeout=SECONDS)
    assert caught.value.code in ("custom_code", "pickle_refused")
    assert not canary.exists()


def test_a_chat_template_is_not_rendered(folder: Path, look: Examine, tmp_path: Path) -> None:
    encoder_folder(folder)
    (folder / "chat_template.jinja").write_text("{% for i in range(10**12) %}{{ cycler.__init__.__globals__.os }}{% endfor %}")
    change_json(folder / "tokenizer_config.json", chat_template="{{ 1 / 0 }}{% for i in range(10**12) %}x{% endfor %}")
    assert look(memory=MEMORY, timeout=SECONDS).engine == "onnxruntime"


def test_other_models_in_the_folder_do_not_make_it_ambiguous(folder: Path, output: Path) -> None:
    encoder_folder(folder)
    (folder / "onnx").mkdir()
    from tests.unit.formats import models

    models.save(models.linear(), folder / "onnx")
    request = Request(
        folder=str(folder), output=str(output), sample=None, parity=None, approved=[], memory=MEMORY, seconds=60, parent=0
    )
    assert examine_folder(request).format == "huggingface"
    (folder / "openmaas.yaml").write_text("entry: onnx/model.onnx\nformat: onnx\n")
    assert examine_folder(request).format == "onnx"
