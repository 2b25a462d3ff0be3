"""An upload's request, checked: bounds first, then paths, digests and what else belongs to the version."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

import msgspec

from openmaas.control.details import MAX_RECIPE, check_card, check_text, encode_metadata
from openmaas.core.errors import InvalidInput, TooLarge
from openmaas.core.manifest import Parity, check_path
from openmaas.core.names import check_name, parse_reference
from openmaas.core.resources import UploadFile, UploadRequest

MAX_FILES = 20_000
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_LABEL = 255
_EMPTY = hashlib.sha256().hexdigest()


def check_request(request: UploadRequest, max_size: int) -> None:
    """Raises InvalidInput or TooLarge with the first thing that is wrong. `max_size`: bytes of all files together."""
    check_name(request.name, request.kind)
    _check_amount(request, max_size)
    for file in request.files:
        check_path(file.path)
        if not is_digest(file.sha256):
            raise InvalidInput(f"The digest of {file.path!r} is not 64 lower-case hexadecimal digits.", code="invalid_digest")
    _check_sizes(request.files)
    check_collisions(file.path for file in request.files)
    if request.sample is not None and request.sample not in {file.path for file in request.files}:
        raise InvalidInput(f"The sample {request.sample[:120]!r} is not among the files.", code="invalid_sample")
    _check_kind(request)
    _check_rest(request)


def is_digest(text: str) -> bool:
    """Whether it is a SHA-256 digest as they are written here."""
    return _DIGEST.fullmatch(text) is not None


def upload_id(project: str, request: UploadRequest) -> str:
    """The same for the same project, kind, name and files: a push that was cut off finds itself again."""
    files = sorted((file.path, file.size, file.sha256) for file in request.files)
    kind = [] if request.kind == "model" else [request.kind]
    return hashlib.sha256(msgspec.json.encode([project, request.name, files, *kind])).hexdigest()[:32]


def check_collisions(paths: Iterable[str]) -> None:
    """Raises InvalidInput for two paths that some file system could not keep apart, or where one lies inside another."""
    seen: dict[str, str] = {}
    for path in paths:
        key = _folded(path)
        if key in seen:
            raise InvalidInput(
                f"The files {seen[key]!r} and {path!r} have names that some file systems cannot tell apart.",
                code="path_collision",
            )
        seen[key] = path
    for key, path in seen.items():
        for parent in _parents(key):
            if parent in seen:
                raise InvalidInput(f"{seen[parent]!r} is a file and, for {path!r}, a folder.", code="path_collision")


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _parents(path: str) -> Iterable[str]:
    position = path.find("/")
    while position >= 0:
        yield path[:position]
        position = path.find("/", position + 1)


def _check_amount(request: UploadRequest, max_size: int) -> None:
    files = request.files
    if not 1 <= len(files) <= MAX_FILES:
        raise InvalidInput(
            f"A {request.kind} has 1 to {MAX_FILES} files; this one has {len(files)}.",
            code="file_count",
            next_step="Put the images into one zip, npz or Parquet file." if request.kind == "dataset" else None,
        )
    if any(file.size < 0 for file in files):
        raise InvalidInput("A file has a size below zero.", code="invalid_size")
    check_total(sum(file.size for file in files), max_size, request.kind)


def check_total(size: int, max_size: int, noun: str = "model") -> None:
    """Raises TooLarge for a model or dataset of more than `max_size` bytes."""
    if size > max_size:
        raise TooLarge(
            f"The {noun} has {size} bytes; {max_size} are allowed.",
            code=f"{noun}_too_large",
            next_step=f"Raise OPENMAAS_MAX_MODEL_SIZE, or push a smaller {noun}.",
        )


def _check_kind(request: UploadRequest) -> None:
    """A field of the other kind would be ignored."""
    models = {name: getattr(request, name) for name in ("sample", "parity", "metadata", "card", "parent", "recipe")}
    foreign = {"label": request.label} if request.kind == "model" else models
    given = [name for name, value in foreign.items() if value]
    if given:
        raise InvalidInput(f"The upload of a {request.kind} has no {given[0]!r}.", code="invalid_request")
    if request.label is not None and not (0 < len(request.label) <= _MAX_LABEL and request.label.isprintable()):
        raise InvalidInput(f"{request.label[:80]!r} is not a column's name.", code="invalid_label")


def _check_sizes(files: Sequence[UploadFile]) -> None:
    sizes: dict[str, int] = {_EMPTY: 0}
    for file in files:
        if sizes.setdefault(file.sha256, file.size) != file.size or (file.size == 0 and file.sha256 != _EMPTY):
            raise InvalidInput(f"The size of {file.path!r} does not go with its digest.", code="invalid_size")


def _check_rest(request: UploadRequest) -> None:
    encode_metadata(request.metadata)
    check_card(request.card or "")
    check_text(request.recipe or "", "recipe", MAX_RECIPE)
    parity_of(request)
    if request.parent is not None:
        parse_reference(request.parent)


def parity_of(request: UploadRequest) -> Parity | None:
    """What the pusher compared. Raises InvalidInput when it is not of that form."""
    if request.parity is None:
        return None
    try:
        return msgspec.convert(request.parity, Parity)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"'parity' is not a comparison: {error}.", code="invalid_parity") from None
