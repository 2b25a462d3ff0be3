"""Which chat template a folder brings, as one file among the version's; and whether it may be used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from openmaas.core.errors import EngineFailed, InvalidInput, Refused
from openmaas.core.generation import ToolFormat
from openmaas.formats.base import Task
from openmaas.formats.causal.figures import special_of
from openmaas.formats.causal.folder import Said
from openmaas.formats.files import free_name
from openmaas.processing.generation import probe_template

TEMPLATE = "chat_template.jinja"
TOOLS = "additional_chat_templates/tool_use.jinja"
MAX_BYTES = 256 << 10


class Template(NamedTuple):
    """path: relative to the pushed files or, where `added`, to the output; empty where there is none to be used."""

    path: str = ""
    added: bool = False
    tool_format: ToolFormat = ""
    notes: tuple[str, ...] = ()


def take_template(task: Task, said: Said) -> Template:
    """The folder's own, from wherever transformers would take it. Raises Refused for one that would do harm."""
    special = special_of(said)
    own = said.path / TEMPLATE
    if own.is_file():
        more = said.path / TOOLS
        if more.is_file():
            return written(task, _by_tools(_text_of(own), _text_of(more)), special)
        return probed(own.relative_to(task.folder).as_posix(), _text_of(own), special)
    found = said.tokenizer.get("chat_template")
    text = found if isinstance(found, str) else _joined(found) if isinstance(found, list) else ""
    return written(task, text, special) if text else Template()


def written(task: Task, text: str, special: Mapping[str, str]) -> Template:
    """A template that stood elsewhere, as a file of its own."""
    name = free_name(task.folder, TEMPLATE)
    template = probed(name, text, special)
    if not template.path:
        return template
    path = task.output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return template._replace(added=True)


def _text_of(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise _too_large(path.stat().st_size)
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"{path.name!r} is not UTF-8 text.", code="damaged") from None


def _joined(found: list[Any]) -> str:
    """Of several by name."""
    named = {
        str(one.get("name")): text for one in found if isinstance(one, dict) and isinstance(text := one.get("template"), str)
    }
    default, tools = named.get("default", ""), named.get("tool_use", "")
    return _by_tools(default, tools) if tools and default else default or tools


def _by_tools(default: str, tools: str) -> str:
    """One for conversations with tools and one for all others, as a single template."""
    return f"{{%- if tools %}}{tools.removesuffix(chr(10))}{{%- else %}}{default.removesuffix(chr(10))}{{%- endif %}}"


def _too_large(size: int) -> Refused:
    return Refused(f"The chat template has {size} bytes; at most {MAX_BYTES} are read.", code="template_too_large")


def probed(path: str, text: str, special: Mapping[str, str]) -> Template:
    """Rendered once, in a child of limited means: one that fails on a plain question is not used, and a note says why."""
    if len(text.encode()) > MAX_BYTES:
        raise _too_large(len(text.encode()))
    try:
        probe = probe_template(text, special)
    except EngineFailed as error:
        return Template(path=path, notes=(f"The chat template was not tried: {error.message}",))
    if probe.renders:
        return Template(path=path, tool_format=probe.tool_format)
    if probe.code not in ("template_failed", "template_refused") or "SecurityError" in probe.problem:
        raise Refused(probe.problem, code=probe.code, next_step="Push the model with another chat template, or without one.")
    return Template(notes=(f"Its chat template is not used. {probe.problem}",))
