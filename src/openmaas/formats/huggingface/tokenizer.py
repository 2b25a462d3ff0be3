"""The folder's tokenizer as transformers itself would use it, written down as one tokenizer.json where the folder's differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.engines.huggingface.encoder import library, quietly, reason
from openmaas.formats.base import Task
from openmaas.formats.files import free_name
from openmaas.formats.huggingface.folder import Folder

TOKENIZER = "tokenizer.json"
MAX_BYTES = 64 << 20
"""Of any one of the tokenizer's files; that of XLM-RoBERTa has 17 MB."""
MAX_TOKENS = 4 << 20
_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "added_tokens.json",
)
_PARTS = ("model", "normalizer", "pre_tokenizer", "post_processor", "added_tokens")
_NEXT = "Save the tokenizer again with transformers: tokenizer.save_pretrained(FOLDER) writes tokenizer.json."


class Tokenizer(NamedTuple):
    """path: of the tokenizer.json relative to the pushed files or, where `added`, to the output.

    pad: the id that rows are filled up with. highest: the highest id that it can give. limit: tokens of a row, None where it
    names none. pairs: whether it joins two texts. inputs: what the model is fed with, in transformers' words.
    """

    path: str
    added: bool
    pad: int
    highest: int
    limit: int | None
    inputs: tuple[str, ...]

    def file(self, task: Task) -> Path:
        return (task.output if self.added else task.folder) / self.path


def prepare_tokenizer(task: Task, folder: Folder) -> Tokenizer:
    """Raises InvalidInput or Refused for a tokenizer that is missing, damaged, or not one of the `tokenizers` library."""
    for file in filter(Path.is_file, (folder.path / name for name in _FILES)):
        if file.stat().st_size > MAX_BYTES:
            raise Refused(f"{file.name!r} has {file.stat().st_size} bytes; at most {MAX_BYTES} are read.", code="damaged")
    tokenizer = _load(folder.path)
    pad = next((number for number in (tokenizer.pad_token_id, folder.config.get("pad_token_id")) if isinstance(number, int)), 0)
    wanted = _written(tokenizer, pad, folder.lowercase)
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    if not 0 < len(vocabulary) <= MAX_TOKENS:
        raise Refused(f"The tokenizer has {len(vocabulary)} tokens; 1 to {MAX_TOKENS} are served.", code="damaged")
    path, added = _place(task, folder, wanted)
    longest = tokenizer.model_max_length
    return Tokenizer(
        path=path,
        added=added,
        pad=pad,
        highest=max(*vocabulary.values(), pad),
        limit=int(longest) if isinstance(longest, int) and 0 < longest < MAX_TOKENS else None,
        inputs=tuple(tokenizer.model_input_names),
    )


def _load(path: Path) -> Any:
    transformers = library()
    try:
        with quietly():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=False, use_fast=True
            )
    except (MemoryError, OpenMaaSError):
        raise
    except BaseException as error:  # a panic in the library's Rust is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise InvalidInput(
            f"transformers cannot load the tokenizer: {reason(error)}", code="invalid_tokenizer", next_step=_NEXT
        ) from None
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise Refused(
            f"The tokenizer is a {type(tokenizer).__name__}, which the `tokenizers` library cannot run.",
            code="unsupported_tokenizer",
            next_step="Push a model whose tokenizer has a fast version, or send token ids to an ONNX export.",
        )
    return tokenizer


def _written(tokenizer: Any, pad: int, lowercase: bool) -> dict[str, Any]:
    """The whole of it as a tokenizer.json: what fills rows up, and the side that is cut, are part of it."""
    written: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    written["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": pad,
        "pad_type_id": 0,
        "pad_token": tokenizer.pad_token or "[PAD]",
    }
    written["truncation"] = {
        "direction": tokenizer.truncation_side.capitalize(),
        "max_length": 512,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    if lowercase:
        parts = [{"type": "Lowercase"}, *filter(None, [written["normalizer"]])]
        written["normalizer"] = {"type": "Sequence", "normalizers": parts}
    return written


def _place(task: Task, folder: Folder, wanted: dict[str, Any]) -> tuple[str, bool]:
    """The folder's own file where it says the same, otherwise a new one."""
    own = folder.path / TOKENIZER
    if own.is_file() and _says_the_same(json.loads(own.read_bytes()), wanted):
        return own.relative_to(task.folder).as_posix(), False
    name = free_name(task.folder, TOKENIZER)
    path = task.output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted, ensure_ascii=False), "utf-8")
    return name, True


def _says_the_same(own: dict[str, Any], wanted: dict[str, Any]) -> bool:
    side = (own.get("truncation") or {}).get("direction", "Right")
    pad = (own.get("padding") or {}).get("pad_id", 0)
    return (
        all(own.get(part) == wanted[part] for part in _PARTS)
        and side == wanted["truncation"]["direction"]
        and pad == wanted["padding"]["pad_id"]
    )
