"""OpenVINO GenAI folders examined: a graph that GenAI itself wrote, with the files of its source beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from openmaas.core.errors import OpenMaaSError
from openmaas.core.manifest import Artifact
from openmaas.formats import Examined, Task
from openmaas.formats.genai import GenAiFormat
from openmaas.formats.genai import examination as examining
from tests.integration.formats.conftest import Examine
from tests.tiny_gguf import write_gguf
from tests.tiny_writer import make_writer
from tests.unit.formats.encoders import change_json

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gguf")
genai = pytest.importorskip("openvino_genai")
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("writer")
    writer = make_writer(place / "model")
    (place / "graph").mkdir()
    path = write_gguf(writer, place / "graph" / "tiny.gguf", "q8_0")
    genai.LLMPipeline(path, "CPU", enable_save_ov_model=True)
    path.unlink()
    for file in writer.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, place / "graph")
    return place / "graph"


@pytest.fixture
def copied(converted: Path, folder: Path) -> Path:
    shutil.copytree(converted, folder, dirs_exist_ok=True)
    return folder


def examine(folder: Path) -> Examined:
    output = folder.parent / "output"
    output.mkdir(exist_ok=True)
    return GenAiFormat().examine(Task(folder=folder, output=output), "openvino_model.xml")


def test_a_converted_generator_is_understood(copied: Path, look: Examine) -> None:
    found = look()
    assert (found.format, found.engine, found.entry) == ("openvino-genai", "openvino-genai", "openvino_model.xml")
    assert found.artifacts == (Artifact(kind="openvino-genai", entry="openvino_model.xml"),)
    assert (found.notes, found.added) == ((), ())
    generator = found.generator
    assert generator is not None
    assert (generator.context, generator.vocabulary, generator.end) == (512, 410, (2,))
    assert (generator.tokenizer, generator.chat_template, generator.tool_format) == (
        "tokenizer.json",
        "chat_template.jinja",
        "hermes",
    )
    assert generator.weights == "int8"
    assert generator.parameters == pytest.approx(126_528, rel=0.01)  # norms are not counted


def test_a_graph_of_fewer_tokens(copied: Path) -> None:
    change_json(copied / "config.json", vocab_size=4096)
    with pytest.raises(OpenMaaSError, match=r"logits of 410 tokens; config\.json names 4096"):
        examine(copied)


def test_a_graph_that_answers_with_nothing(copied: Path) -> None:
    data = bytearray((copied / "openvino_model.bin").read_bytes())
    data[:] = b"\xff" * len(data)
    (copied / "openvino_model.bin").write_bytes(data)
    with pytest.raises(OpenMaaSError) as caught:
        examine(copied)
    assert caught.value.code in ("not_finite", "model_not_runnable")


def test_a_graph_whose_weights_are_cut(copied: Path) -> None:
    with (copied / "openvino_model.bin").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(OpenMaaSError, match="which has 1000") as caught:
        examine(copied)
    assert caught.value.code == "truncated"


def test_without_a_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    with pytest.raises(OpenMaaSError, match=r"no tokenizer\.json"):
        examine(copied)


def test_too_large_to_be_run(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "fits", lambda size: False)
    assert "it was not run" in examine(copied).notes[0]
