"""A generator's tokenizer.json: held against what loading it could do, and against transformers' own reading of the folder."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from openmaas.core.errors import InvalidInput, OpenMaaSError, Refused
from openmaas.engines.huggingface.encoder import library, quietly, reason
from openmaas.formats.base import Task
from openmaas.formats.files import free_name
from openmaas.formats.huggingface.sentences import LONG, SENTENCES
from openmaas.formats.huggingface.tokenizer import MAX_BYTES, MAX_TOKENS, TOKENIZER
from openmaas.processing.generation.codec import TokenCodec
from openmaas.processing.text import load_tokenizer

_SECONDS = 10.0
"""For texts of which any tokenizer that is known needs a hundredth of that."""
_OTHERS = ("tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "spiece.model")
_TEXTS = (*SENTENCES, LONG, " begun by a space ", "  two\n\nand\ttabs\r\n", "x=1234567890;  if(a[i]!=b){}", "🙂👩\u200d👧🚀")
_HARD = ("a" * 20_000, " " * 20_000, "\n" * 20_000, "aA1 !" * 4_000, "模" * 20_000)
"""What a careless pattern takes minutes for."""


class Tokenizer(NamedTuple):
    """path: of the tokenizer.json relative to the pushed files or, where `added`, to the output. loaded: by `tokenizers`."""

    path: str
    added: bool
    loaded: Any
    notes: tuple[str, ...] = ()


def take_tokenizer(task: Task, folder: Path) -> Tokenizer:
    """The folder's tokenizer.json; a new one where transformers reads the folder otherwise. Raises InvalidInput or Refused."""
    own = keep_tokenizer(task, folder)
    try:
        theirs = _as_transformers(folder)
        alike = theirs is None or _read_alike(own.loaded, theirs)
    except OpenMaaSError as error:
        return own._replace(notes=(f"Its tokenizer.json serves. transformers cannot read the tokenizer: {error.message}",))
    if alike:
        return own
    path = write_tokenizer(task, theirs)
    note = "transformers reads the tokenizer's files otherwise than its tokenizer.json alone; its reading serves."
    return Tokenizer(path, True, open_tokenizer(task.output / path), (note,))


def keep_tokenizer(task: Task, folder: Path) -> Tokenizer:
    """The folder's tokenizer.json as it is. Raises InvalidInput or Refused."""
    own = folder / TOKENIZER
    if not own.is_file():
        raise _missing(folder)
    return Tokenizer(own.relative_to(task.folder).as_posix(), False, open_tokenizer(own))


def write_tokenizer(task: Task, tokenizer: Any) -> str:
    """As a new file; its path below the output."""
    name = free_name(task.folder, TOKENIZER)
    path = task.output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tokenizer.to_str(), "utf-8")
    return name


def open_tokenizer(path: Path) -> Any:
    """A tokenizers.Tokenizer that the serving side can use and that ends in time. Raises InvalidInput or Refused."""
    if path.stat().st_size > MAX_BYTES:
        raise Refused(f"{path.name!r} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read.", code="damaged")
    try:
        loaded = _guarded(lambda: load_tokenizer(path))
        count = loaded.get_vocab_size(with_added_tokens=True)
        if not 0 < count <= MAX_TOKENS:
            raise Refused(f"The tokenizer has {count} tokens; 1 to {MAX_TOKENS} are served.", code="damaged")
        _guarded(lambda: TokenCodec(load_tokenizer(path)))
        outcome = _outcome(lambda: loaded.encode_batch_fast(list(_HARD)))
        if outcome < 0:
            raise _too_slow()
        if outcome:
            raise OpenMaaSError("it fails on texts of 20000 characters.")
        _ids(loaded)
    except OpenMaaSError as error:
        if isinstance(error, Refused) or error.code == "library_missing":
            raise
        raise InvalidInput(f"The tokenizer cannot be used: {error.message}", code="invalid_tokenizer", next_step=_HOW) from None
    return loaded


_HOW = "Write it again: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers writes tokenizer.json."


def _missing(folder: Path) -> InvalidInput:
    others = [name for name in _OTHERS if (folder / name).is_file()]
    beside = f" It has {', '.join(others)}." if others else ""
    return InvalidInput(f"The folder has no {TOKENIZER}.{beside}", code="invalid_tokenizer", next_step=_HOW)


def _too_slow() -> Refused:
    return Refused(
        f"The tokenizer takes longer than {_SECONDS:g} s for texts of 20000 characters.",
        code="unsupported_tokenizer",
        next_step="Look for a pattern in its 'pre_tokenizer' that goes back and forth.",
    )


def _guarded(work: Callable[[], Any]) -> Any:
    """What it gives. Raises OpenMaaSError with a library's words; a panic in its Rust is no Exception."""
    try:
        return work()
    except (MemoryError, KeyboardInterrupt, SystemExit, OpenMaaSError):
        raise
    except BaseException as error:
        raise OpenMaaSError(reason(error)) from None


def _as_transformers(folder: Path) -> Any | None:
    """As AutoTokenizer has it, None where transformers is not installed. Raises OpenMaaSError where it cannot load it."""
    if find_spec("transformers") is None:
        return None
    transformers = library()
    with quietly():
        found = _guarded(
            lambda: transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_fast=True
            )
        )
    return getattr(found, "backend_tokenizer", None)


def _read_alike(one: Any, other: Any) -> bool:
    """Whether both give the same ids for texts of many kinds, and know the same tokens."""
    return bool(_ids(one) == _ids(other) and one.get_vocab(True) == other.get_vocab(True))


def _ids(tokenizer: Any) -> list[list[int]]:
    """Of each of these texts. Raises OpenMaaSError where one has none."""
    return _guarded(lambda: [encoding.ids for encoding in tokenizer.encode_batch_fast(list(_TEXTS))])  # type: ignore[no-any-return]


def _outcome(work: Callable[[], object]) -> int:
    """0 where it comes to an end, 1 where it fails, less where it does not end in time: an alarm ends a child of this process
    even within a library."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, _SECONDS)
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
