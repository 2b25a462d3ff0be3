"""Against vLLM itself where it is installed, on whatever it was built for: it does not live with the rest of our libraries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openmaas.core.errors import EngineFailed
from openmaas.core.generation import Generator
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.core.types import Signature
from openmaas.engines.base import EngineSpec
from openmaas.engines.vllm import VllmEngine
from tests.integration.engines.generation_contract import GenerationContract
from tests.tiny_writer import config_of, make_writer

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_writer(tmp_path_factory.mktemp("writer"), hidden=128)


def loaded(folder: Path) -> VllmEngine:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    config = config_of(folder)
    generator = Generator(context=512, vocabulary=int(str(config["vocab_size"])), end=(2,), tokenizer="tokenizer.json")
    signature = Signature(inputs=(), outputs=())
    manifest = Manifest(format="causal", engine="vllm", entry="config.json", signature=signature, files=(), generator=generator)
    options = {"eager": True, "sequences": 32, "memory": 0.3}
    choice = EngineChoice(
        engine="vllm", artifact=Artifact(kind="causal", entry="config.json"), precision="f32", options=options
    )
    engine = VllmEngine()
    engine.load(EngineSpec(folder=folder, manifest=manifest, threads=1, choice=choice))
    engine.warm()
    return engine


class TestContract(GenerationContract):
    folder: Path

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, writer: Path) -> VllmEngine:
        cls.folder = writer
        return loaded(writer)

    def text(self, tokens: list[int]) -> str:
        from tokenizers import Tokenizer

        return str(Tokenizer.from_file(str(self.folder / "tokenizer.json")).decode(tokens))


def test_what_it_cannot_load_says_so_without_a_path(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 9, "max_position_embeddings": 8}')
    with pytest.raises(EngineFailed) as raised:
        loaded(tmp_path)
    assert str(tmp_path) not in str(raised.value)
