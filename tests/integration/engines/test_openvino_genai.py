from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from openmaas.core.generation import Generator
from openmaas.core.manifest import Artifact, EngineChoice, Manifest
from openmaas.core.types import Signature
from openmaas.engines import create_engine
from openmaas.engines.base import EngineSpec, GenerationEngine
from openmaas.engines.openvino_genai import OpenVinoGenAiEngine
from tests.integration.engines.generation_contract import GenerationContract
from tests.tiny_gguf import write_gguf
from tests.tiny_writer import config_of, make_writer

pytest.importorskip("openvino_genai")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writer")
    make_writer(folder / "source")
    write_gguf(folder / "source", folder / "writer.gguf")
    return folder


def spec(folder: Path, precision: str = "f32", **options: object) -> EngineSpec:
    config = config_of(folder / "source")
    artifact = Artifact(kind="gguf", entry="writer.gguf")
    manifest = Manifest(
        format="gguf",
        engine="openvino-genai",
        entry=artifact.entry,
        artifacts=(artifact,),
        signature=Signature(inputs=(), outputs=()),
        files=(),
        generator=Generator(context=512, vocabulary=int(str(config["vocab_size"])), end=(2,), tokenizer="", weights="f16"),
    )
    choice = EngineChoice(engine="openvino-genai", artifact=artifact, precision=precision, options=options)
    return EngineSpec(folder=folder, manifest=manifest, threads=2, choice=choice)


def open_engine(folder: Path, precision: str = "f32", **options: object) -> GenerationEngine:
    engine = create_engine("openvino-genai")
    assert isinstance(engine, OpenVinoGenAiEngine)
    # The weights are random, so that the likeliest tokens are near ties: a coarse cache would tip them.
    engine.load(spec(folder, precision, **{"kv_cache": "f32", **options}))
    engine.warm()
    return engine


@pytest.fixture(scope="module")
def opened(folder: Path) -> Iterator[GenerationEngine]:
    engine = open_engine(folder)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def plain(folder: Path) -> Iterator[GenerationEngine]:
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
