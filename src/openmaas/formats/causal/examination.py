"""A decoder's folder examined: every header against its file, every weight against the configuration, and a first answer."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import msgspec

from openmaas.core.errors import Refused
from openmaas.core.generation import Generator
from openmaas.core.manifest import Artifact
from openmaas.formats.base import Examined, Task
from openmaas.formats.causal.figures import context_of, defaults_of, end_of, special_of, vocabulary_of
from openmaas.formats.causal.folder import Said, read_decoder
from openmaas.formats.causal.proof import prove
from openmaas.formats.causal.shapes import check_shapes
from openmaas.formats.causal.template import Template, take_template
from openmaas.formats.causal.tokenizer import Tokenizer, take_tokenizer
from openmaas.formats.causal.version import describe, refuse_meaningless

KIND = "causal"
_CONVERTED = "openvino-genai"
_ALONE = ("bloom", "codegen", "falcon", "gpt_neo", "gptj")
"""Model types whose attention in transformers' code cannot be replaced by one that many sequences share."""
_ONLY_CONVERTED = "No engine here runs it as it is: it is served converted."
_UNCHECKED = "transformers is not installed here, so that its weights were not held against its configuration."


def examine(task: Task, entry: str) -> Examined:
    """Raises InvalidInput or Refused where the folder cannot or must not be served."""
    refuse_meaningless(task, KIND)
    decoder = read_decoder(task.folder, entry)
    template = take_template(task, decoder.said)
    tokenizer = take_tokenizer(task, decoder.said.path)
    generator, notes, added = read_generator(decoder.said, tokenizer, template)
    generator = msgspec.structs.replace(generator, parameters=decoder.parameters, weights=decoder.precision)
    installed = find_spec("transformers") is not None and find_spec("torch") is not None
    proved = [*check_shapes(decoder), *prove(decoder)] if installed else [_UNCHECKED]
    artifact = Artifact(kind=KIND, entry=entry)
    if installed and decoder.said.config["model_type"] not in _ALONE:
        return describe(task, artifact, "transformers", generator, (*notes, *proved), added)
    examined = describe(task, artifact, "", generator, (*notes, *proved, _ONLY_CONVERTED), added)
    return msgspec.structs.replace(examined, convert_to=_CONVERTED)


def read_generator(said: Said, tokenizer: Tokenizer, template: Template) -> tuple[Generator, tuple[str, ...], tuple[str, ...]]:
    """What the JSON files say, but for the weights: the generator, notes, and the files that were added."""
    context, about_context = context_of(said.config)
    defaults, about_defaults = defaults_of(said.generation)
    vocabulary = vocabulary_of(said.config)
    require_ids(tokenizer.loaded, vocabulary)
    generator = Generator(
        context=context,
        vocabulary=vocabulary,
        end=end_of(said, tokenizer.loaded, vocabulary),
        tokenizer=tokenizer.path,
        chat_template=template.path,
        tool_format=template.tool_format,
        special=special_of(said),
        defaults=defaults,
    )
    added = ((tokenizer.path,) if tokenizer.added else ()) + ((template.path,) if template.added else ())
    return generator, (*tokenizer.notes, *template.notes, about_context, about_defaults), added


def require_ids(tokenizer: Any, vocabulary: int) -> None:
    """Raises Refused where the tokenizer gives ids that the model has no embedding for."""
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if highest >= vocabulary:
        raise Refused(
            f"The tokenizer gives ids up to {highest}; the model has embeddings for 0 to {vocabulary - 1}.",
            code="vocabulary_mismatch",
            next_step="Push the tokenizer that the model was trained with.",
        )
