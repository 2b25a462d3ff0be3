"""A GGUF file examined: its head alone is read; tokenizer and chat template become files of their own."""

from __future__ import annotations

from pathlib import Path

from openmaas.core.errors import Refused
from openmaas.core.generation import Generator
from openmaas.core.manifest import Artifact
from openmaas.formats.base import Examined, Task
from openmaas.formats.causal.examination import require_ids
from openmaas.formats.causal.template import Template, written
from openmaas.formats.causal.tokenizer import open_tokenizer
from openmaas.formats.causal.version import describe, refuse_meaningless
from openmaas.formats.files import free_name
from openmaas.formats.gguf.file import Value, read_head
from openmaas.formats.gguf.model import check_model
from openmaas.formats.gguf.vocabulary import read_vocabulary
from openmaas.formats.huggingface.tokenizer import TOKENIZER

KIND = "gguf"
_ENGINE = "openvino-genai"
_SUFFIX = ".gguf"


def examine(task: Task, entry: str) -> Examined:
    """Raises Refused where the file lies, or where it would not be answered from as it says."""
    refuse_meaningless(task, KIND)
    if Path(entry).suffix != _SUFFIX:
        raise Refused(
            f"The GGUF file is called {entry!r}; OpenVINO GenAI wants a name that ends in {_SUFFIX}.",
            code="invalid_path",
            next_step="Rename it and push again.",
        )
    head = read_head(task.folder / entry)
    model = check_model(head)
    vocabulary = read_vocabulary(head.values)
    name = free_name(task.folder, TOKENIZER)
    path = task.output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(vocabulary.tokenizer, "utf-8")
    require_ids(open_tokenizer(path), model.vocabulary)
    template = _template(task, head.values.get("tokenizer.chat_template"), vocabulary.special)
    generator = Generator(
        context=model.context,
        vocabulary=model.vocabulary,
        end=vocabulary.end,
        tokenizer=name,
        parameters=model.parameters,
        chat_template=template.path,
        tool_format=template.tool_format,
        special=vocabulary.special,
        weights=model.weights,
    )
    added = (name, *((template.path,) if template.added else ()))
    return describe(task, Artifact(kind=KIND, entry=entry), _ENGINE, generator, (*model.notes, *template.notes), added)


def _template(task: Task, text: Value, special: dict[str, str]) -> Template:
    return written(task, text, special) if isinstance(text, str) and text else Template()
