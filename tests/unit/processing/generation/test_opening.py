"""What a version's files give before it can serve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openmaas.core.errors import EngineFailed
from openmaas.core.generation import Generator
from openmaas.core.manifest import Manifest
from openmaas.core.types import Signature
from openmaas.processing.generation import open_generation, rendering
from tests.unit.processing.generation.tokenizers import byte_level

pytest.importorskip("tokenizers")
TEMPLATE = "chat_template.jinja"


def manifest(**changes: Any) -> Manifest:
    given = {"context": 512, "vocabulary": 600, "end": (2,), "tokenizer": "tokenizer.json", "chat_template": TEMPLATE}
    generator = Generator(**(given | changes))
    return Manifest(
        format="causal", engine="dummy", entry="config.json", signature=Signature(inputs=(), outputs=()), files=(),
        generator=generator,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("writer")
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["[TOOL_CALLS]"])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / TEMPLATE).write_text("{{ bos_token }}", encoding="utf-8")
    return path


def test_all_that_stands_between_callers_and_engine(folder: Path) -> None:
    text = open_generation(manifest(tool_format="hermes", special={"bos_token": "<s>"}), folder)
    assert text.codec.decode(text.codec.encode("模型 🙂")) == "模型 🙂"
    assert text.template is not None
    assert text.tool_format == "hermes"


def test_a_version_without_a_template_has_none(folder: Path) -> None:
    assert open_generation(manifest(chat_template=""), folder).template is None


@pytest.mark.parametrize(("tool_format", "shown"), [("", ""), ("hermes", ""), ("mistral", "[TOOL_CALLS]")])
def test_the_control_token_of_a_call_is_shown_where_it_is_read(tool_format: str, shown: str, folder: Path) -> None:
    codec = open_generation(manifest(tool_format=tool_format), folder).codec
    assert codec.decode(codec.encode("[TOOL_CALLS]<|im_end|>")) == shown


@pytest.mark.parametrize("library", ["tokenizers", "jinja2"])
def test_a_missing_library_is_named_with_its_extra(library: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "find_spec", lambda name: None if name == library else name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(EngineFailed) as caught:
        open_generation(manifest(), folder)
    assert caught.value.code == "library_missing"
    assert library in caught.value.message
    assert caught.value.next_step is not None
    assert "openmaas[generation]" in caught.value.next_step


def test_files_that_cannot_be_read_are_named_without_their_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    for wrong in (None, b"\xff"):
        if wrong:
            (tmp_path / TEMPLATE).write_bytes(wrong)
        with pytest.raises(EngineFailed, match=TEMPLATE) as caught:
            open_generation(manifest(), tmp_path)
        assert str(tmp_path) not in caught.value.message
    with pytest.raises(EngineFailed, match="tokenizer"):
        open_generation(manifest(tokenizer="nope.json"), folder)


def test_a_version_that_does_not_generate_is_refused(folder: Path) -> None:
    with pytest.raises(EngineFailed, match="does not generate"):
        open_generation(msgspec.structs.replace(manifest(), generator=None), folder)
