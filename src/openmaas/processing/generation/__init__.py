"""Between conversations and the token ids that engines of generation know: tokens, prompts, stops and calls of tools."""

from __future__ import annotations

from pathlib import Path

import msgspec

from openmaas.core.errors import EngineFailed
from openmaas.core.generation import ToolFormat
from openmaas.core.manifest import Manifest
from openmaas.processing.generation.codec import TextStream, TokenCodec
from openmaas.processing.generation.probe import Probe, probe_template
from openmaas.processing.generation.stops import StopStrings
from openmaas.processing.generation.template import ChatTemplate
from openmaas.processing.generation.tool_grammar import grammar_for_tools
from openmaas.processing.generation.tools import OPENING, ToolCallReader
from openmaas.processing.text import load_tokenizer

__all__ = [
    "ChatTemplate", "Probe", "StopStrings", "TextModel", "TextStream", "TokenCodec", "ToolCallReader", "grammar_for_tools",
    "open_generation", "probe_template",
]  # fmt: skip


class TextModel(msgspec.Struct, frozen=True, kw_only=True):
    """What stands between one version's callers and its engine. template: None where it has none; to be started before use."""

    codec: TokenCodec
    template: ChatTemplate | None
    tool_format: ToolFormat


def open_generation(manifest: Manifest, folder: Path) -> TextModel:
    """For a version with a `generator`; `folder` holds its files.

    Raises EngineFailed: library_missing with the extra to install, or what is wrong with a file.
    """
    generator = manifest.generator
    if generator is None:
        raise EngineFailed("This version does not generate text.", code="load_failed")
    codec = TokenCodec(load_tokenizer(folder / generator.tokenizer, "generation"), shown=_shown(generator.tool_format))
    template = None
    if generator.chat_template:
        template = ChatTemplate(_text(folder / generator.chat_template), generator.special)
    return TextModel(codec=codec, template=template, tool_format=generator.tool_format)


def _shown(tool_format: ToolFormat) -> tuple[str, ...]:
    """Control tokens that tell a call from text."""
    return (OPENING[tool_format], "[ARGS]", "[CALL_ID]") if tool_format else ()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise EngineFailed(f"The chat template {path.name!r} cannot be read: {said}.", code="load_failed") from None
