"""openmaas.yaml: what the pusher says about a model where its files do not say it themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from openmaas.core.errors import InvalidInput, TooLarge
from openmaas.core.generation import Generator
from openmaas.core.processing import Padding, Processing
from openmaas.core.types import Signature, TensorSpec

FILE_NAME = "openmaas.yaml"
MAX_BYTES = 1 << 20
_NEXT = f"Correct {FILE_NAME} and push again."


class DeclaredTensor(TensorSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input or output as openmaas.yaml writes it: `{name: x, datatype: FP32, shape: [-1, 4]}`."""


class DeclaredSignature(Signature, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The signature as openmaas.yaml writes it."""

    inputs: tuple[DeclaredTensor, ...]
    outputs: tuple[DeclaredTensor, ...]


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of openmaas.yaml, all of them optional.

    format and entry: which format, and which of several files. signature: checked against the files. batchable: whether
    requests may share a batch; checked too. padding: rows of different lengths may, when they are padded; proved on the sample.
    converted: the ONNX file that the pusher made from `entry` and compared with it. processing: before and after the engine,
    each in place of what was found out. labels: short for an output of that kind, the classes' names in score order.
    sample: which file is the sample, where the push does not say it. generator: makes of a dummy one that generates text.
    """

    format: str | None = None
    entry: str | None = None
    converted: str | None = None
    signature: DeclaredSignature | None = None
    batchable: bool | None = None
    padding: Padding | None = None
    processing: Processing | None = None
    labels: tuple[str | int, ...] = ()
    sample: str | None = None
    generator: Generator | None = None
    options: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    card: str = ""
    licence: str = ""


def refuse_unused(description: Description, kind: str, *names: str) -> None:
    """Refuse fields that mean nothing for a format, rather than to read and ignore them."""
    if given := [name for name in names if getattr(description, name)]:
        raise InvalidInput(
            f"{FILE_NAME}: {', '.join(map(repr, given))} means nothing for the format {kind}.",
            code="invalid_description",
            next_step=_NEXT,
        )


def read_description(folder: Path) -> Description:
    """The folder's openmaas.yaml, or an empty description. Raises InvalidInput that names the field, TooLarge beyond 1 MiB."""
    path = folder / FILE_NAME
    if not path.is_file():
        return Description()
    if path.stat().st_size > MAX_BYTES:
        raise TooLarge(f"{FILE_NAME} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read.", next_step=_NEXT)
    try:
        return msgspec.convert(_load_yaml(path.read_text("utf-8")) or {}, Description)
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except msgspec.ValidationError as error:
        reason = str(error)
    raise InvalidInput(f"{FILE_NAME}: {reason}.", code="invalid_description", next_step=_NEXT)


def _load_yaml(text: str) -> Any:
    """Plain data of a YAML text: what JSON could hold too, without aliases, tags or double keys."""
    import yaml

    from openmaas.formats.plain_yaml import PlainLoader

    try:
        data = yaml.load(text, PlainLoader)  # noqa: S506  PlainLoader is a SafeLoader
        json.dumps(data, allow_nan=False)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()).replace('in "<unicode string>", ', "")
    except RecursionError:
        reason = "it is nested too deeply"
    else:
        return data
    raise InvalidInput(f"{FILE_NAME}: {reason[:400]}.", code="invalid_description", next_step=_NEXT)
