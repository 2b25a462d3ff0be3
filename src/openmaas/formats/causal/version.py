"""What all versions that generate text have in common, in whichever format they were pushed."""

from __future__ import annotations

from openmaas.core.errors import InvalidInput, TooLarge
from openmaas.core.generation import TEXT_INPUT, TEXT_OUTPUT, Generator
from openmaas.core.manifest import Artifact
from openmaas.core.types import Signature, TensorSpec
from openmaas.formats.base import Examined, Task
from openmaas.formats.description import refuse_unused

SIGNATURE = Signature(
    inputs=(TensorSpec(name=TEXT_INPUT, datatype="BYTES", shape=(1,)),),
    outputs=(TensorSpec(name=TEXT_OUTPUT, datatype="BYTES", shape=(1,)),),
)
_MAX_SAMPLE = 16 << 20
_NO_END = "Its files name no token that ends an answer: answers end at the number of tokens that is asked for."
_NO_CHAT = "It has no chat template: it completes texts, and takes no conversations."


def refuse_meaningless(task: Task, kind: str) -> None:
    """Refuse what openmaas.yaml says of tensors: a generator has none."""
    refuse_unused(task.description, kind, "signature", "batchable", "padding", "processing", "labels", "options")


def describe(
    task: Task, artifact: Artifact, engine: str, generator: Generator, notes: tuple[str, ...], added: tuple[str, ...]
) -> Examined:
    """What was found out, with what follows from it. engine: empty where nothing here runs the artifact as it is.

    The sample of a generator is a text that its weights have not seen; conversions are compared with their source on it.
    """
    more = (*(() if generator.end else (_NO_END,)), *(() if generator.chat_template else (_NO_CHAT,)))
    return Examined(
        format=artifact.kind,
        engine=engine,
        entry=artifact.entry,
        artifacts=(artifact,),
        signature=SIGNATURE,
        batching="It takes in requests while others run, and so shares each step among all of them.",
        generator=generator,
        sample=text_sample(task),
        parity=task.parity,
        notes=(*filter(None, notes), *more),
        added=added,
    )


def text_sample(task: Task) -> str | None:
    """The path of the sample among the files: a text. Raises InvalidInput for anything else, TooLarge beyond 16 MiB."""
    if task.sample is None:
        return None
    path = task.folder / task.sample
    if path.stat().st_size > _MAX_SAMPLE:
        raise TooLarge(
            f"The sample {path.name!r} has {path.stat().st_size} bytes; at most {_MAX_SAMPLE} are read.",
            next_step="Give less of the text.",
        )
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        text = ""
    if not text.strip() or "\0" in text:
        raise InvalidInput(
            f"The sample {path.name!r} is no text in UTF-8.",
            code="invalid_sample",
            next_step="Give a text of some thousand words that the model was not trained on.",
        )
    return task.sample
