"""Push: files by digest, in chunks, so that a push that was cut off goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from openmaas.client.answers import check, decode, fetch
from openmaas.client.driver import Session, operation
from openmaas.client.registry import API
from openmaas.client.steps import Operation, Request, Response, Sleep, Work
from openmaas.core.errors import Conflict, DeadlineExceeded, InvalidInput, NotFound, RequestTimeout, Unavailable
from openmaas.core.manifest import check_path
from openmaas.core.names import check_name
from openmaas.core.packs import HEAD, pack
from openmaas.core.resources import PushResult, UploadFile, UploadInfo, UploadRequest

_TRANSIENT = (Unavailable, DeadlineExceeded, RequestTimeout)
_ATTEMPTS = 6  # without any progress in between
_EXAMINE = 3600.0  # seconds that completing may take: the server inspects and converts within its own, shorter limit
_PIECE = 4 * 1024 * 1024
_SMALL = 256 * 1024  # bytes of a file up to which it travels with others


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a push is, in bytes. The stage "examining" is the server's work and has no measure."""

    stage: Literal["exporting", "hashing", "sending", "examining"]
    done: int = 0
    total: int = 0


Report = Callable[[Progress], object]
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Package:
    """What is pushed: files by their path in the version, what was found out on this side, and what is not pushed."""

    files: dict[str, Path]
    sample: str | None = None
    parity: dict[str, Any] | None = None
    left_out: tuple[str, ...] = ()


class Uploads(Session):
    @operation
    def push(
        self,
        model: object,
        *,
        name: str | None = None,
        sample: Any = None,
        metadata: dict[str, Any] | None = None,
        card: str | None = None,
        parent: str | None = None,
        recipe: str | None = None,
        parity: dict[str, Any] | None = None,
        progress: Report | None = None,
    ) -> Operation[PushResult]:
        """Register a new version of a model.

        model: the path of a file or folder, or a live object that an installed format understands, such as a fitted
        scikit-learn estimator. name: of the model; for a path its own name without.
        sample: input rows, an array of shape (rows, …) or a mapping of input names to arrays; beside a path also the path of a
        .npy, .npz, JSON or CSV file. Of a model that generates text: a text of more than one line that it was not trained on,
        or the path of a file with one. A conversion is compared with its source on it.
        metadata: free JSON. card: Markdown. parent and recipe: what the version was made from, and how. parity: beside a path
        that was converted here (`converted` in its openmaas.yaml), what was compared, as core.manifest.Parity in plain data.
        progress: told after each piece.

        Files of a folder that its model does without, such as the same weights for another tool, are not sent; `left_out` of
        the result names them. The same files pushed twice give the same version (`created` is False). A push that was cut off
        goes on where it stopped when it is called again with the same files.
        Raises InvalidInput, Refused (a pickle that is not approved, a wrong digest), TooLarge, StorageFull, Unavailable.
        """
        report = progress or (lambda _: None)
        name = check_name(name or name_of(model))
        with ExitStack() as stack:
            package: _Package = yield Work(lambda: _pack(model, sample, stack, report))
            files = yield Work(lambda: hash_files(package.files, report))
            request = UploadRequest(
                name=name,
                files=files,
                sample=package.sample,
                parity=parity or package.parity,
                metadata=metadata or {},
                card=card,
                parent=parent,
                recipe=recipe,
            )
            sources = {file.sha256: package.files[file.path] for file in files}
            result = yield from send_files(request, sources, report, PushResult)
            return replace(result, left_out=package.left_out)


# ── what is pushed ───────────────────────────────────────────────────────────────────────────────────────────────────


def name_of(model: object) -> str:
    if isinstance(model, str | os.PathLike):
        path = Path(model).absolute()
        return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem if path.is_file() else path.name).strip("-._")
    raise InvalidInput("A live object has no name of its own.", next_step="Give one: push(model, name='digits').")


def _pack(model: object, sample: Any, stack: ExitStack, report: Report) -> _Package:
    if isinstance(model, str | os.PathLike):
        return _pack_path(Path(model), sample, stack)
    report(Progress("exporting"))
    from openmaas.formats import export

    folder = scratch_folder(stack)
    exported = export(model, sample, folder)
    parity = None if exported.parity is None else msgspec.to_builtins(exported.parity)
    return _Package({path: folder / path for path in exported.files}, exported.sample, parity)


def scratch_folder(stack: ExitStack) -> Path:
    """A folder that lives as long as the push."""
    import tempfile

    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openmaas-push-")))


def _pack_path(path: Path, sample: Any, stack: ExitStack) -> _Package:
    files = files_of(path)
    left_out = _idle(path, files)
    for name in left_out:
        del files[name]
    if sample is None:
        return _Package(files, left_out=left_out)
    if isinstance(sample, str) and "\n" in sample:
        sample = _write_text(sample, scratch_folder(stack) / "sample.txt")
    if isinstance(sample, str | os.PathLike):
        for name, file in files.items():
            if file.exists() and Path(sample).exists() and file.samefile(sample):
                return _Package(files, name, left_out=left_out)  # it is among them already
    ending = Path(sample).suffix if isinstance(sample, str | os.PathLike) else ".npz"
    name = next(name for number in count() if (name := f"sample{number or ''}{ending}") not in files)
    if isinstance(sample, str | os.PathLike):
        return _Package({**files, name: _sample_file(Path(sample))}, name, left_out=left_out)
    written = scratch_folder(stack) / name
    write_arrays(sample, written)
    return _Package({**files, name: written}, name, left_out=left_out)


def _idle(path: Path, files: Mapping[str, Path]) -> tuple[str, ...]:
    """What the model in a folder does without: the same weights for other tools, hidden files."""
    if not path.is_dir():
        return ()
    from openmaas.formats.parts import idle_files

    return tuple(idle_files(path, list(files)))


def _write_text(text: str, path: Path) -> Path:
    path.write_text(text, "utf-8", newline="")
    return path


def _sample_file(path: Path) -> Path:
    if not path.is_file():
        raise InvalidInput(f"There is no sample file {str(path)!r}.", code="no_such_file")
    return path


def write_arrays(sample: Any, path: Path) -> None:
    """Arrays by input name, or one without a name; the same bytes each time, and text unpickled, as numpy's own text type."""
    import zipfile

    import numpy as np

    arrays = dict(sample) if isinstance(sample, Mapping) else {"": sample}
    plain = {name: np.asarray(values) for name, values in arrays.items()}
    text = {name: array.astype(str) for name, array in plain.items() if array.dtype.kind == "O"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in {**plain, **text}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def files_of(path: Path) -> dict[str, Path]:
    """Files by their path in the version. Links are refused: what they point at may lie outside."""
    if path.is_file():
        return {check_path(path.name): path}
    if not path.is_dir():
        raise InvalidInput(f"There is no file or folder {str(path)!r}.", code="no_such_file")
    files: dict[str, Path] = {}
    for found in sorted(path.rglob("*")):
        if found.is_symlink():
            raise InvalidInput(
                f"{str(found)!r} is a link; a version holds plain files.",
                code="link_in_model",
                next_step="Copy what it points at.",
            )
        if found.is_file():
            files[check_path(found.relative_to(path).as_posix())] = found
    if not files:
        raise InvalidInput(f"The folder {str(path)!r} holds no files.", code="no_such_file")
    return files


def hash_files(files: dict[str, Path], report: Report) -> list[UploadFile]:
    total = sum(path.stat().st_size for path in files.values())
    done = 0

    def hash_one(path: Path) -> str:
        nonlocal done
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                done += len(piece)
                report(Progress("hashing", done, total))
        return digest.hexdigest()

    return [UploadFile(path=name, size=path.stat().st_size, sha256=hash_one(path)) for name, path in files.items()]


# ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def send_files(request: UploadRequest, sources: dict[str, Path], report: Report, result: type[R]) -> Operation[R]:
    """Begin, send what is missing, complete; after a transient failure the same again, from where the server stands.

    sources: the files by their digest. result: what completing answers with.
    """
    sender = _Sender(request, sources, report)
    failures = 0
    while True:
        before = sender.sent
        try:
            return (yield from sender.attempt(result))
        except (*_TRANSIENT, Conflict, NotFound) as error:
            failures = 1 if sender.sent > before else failures + 1
            lost_track = isinstance(error, Conflict | NotFound) and error.code in ("wrong_offset", "upload_not_found")
            if failures >= _ATTEMPTS or not (lost_track or isinstance(error, _TRANSIENT)):
                raise
            yield Sleep(min(error.retry_after or 0.1 * 2**failures, 5.0))


class _Sender:
    def __init__(self, request: UploadRequest, sources: dict[str, Path], report: Report) -> None:
        self.request = request
        self.sources = sources
        self.report = report
        self.sizes = {file.sha256: file.size for file in request.files}
        self.sent = 0
        self._total = sum(self.sizes.values())
        self._missing = 0

    def attempt(self, result: type[R]) -> Operation[R]:
        upload = yield from fetch(
            Request(
                "POST", (*API, "uploads"), headers={"content-type": "application/json"}, body=msgspec.json.encode(self.request)
            ),
            UploadInfo,
        )
        self._missing = sum(self.sizes[sha256] - offset for sha256, offset in upload.offsets.items())
        small = [sha256 for sha256, offset in upload.offsets.items() if not offset and self.sizes[sha256] <= _SMALL]
        for some in self._packs(small, upload.chunk_size):
            yield from self._send_whole(upload, some)
        large = upload.offsets.keys() - set(small)
        for sha256 in (sha256 for sha256 in upload.offsets if sha256 in large):
            yield from self._send_file(upload, sha256)
        self.report(Progress("examining"))
        return (yield from fetch(Request("POST", (*API, "uploads", upload.id, "complete"), timeout=_EXAMINE), result))

    def _packs(self, small: Sequence[str], limit: int) -> Iterator[list[str]]:
        """As many files at a time as one body takes."""
        some: list[str] = []
        room = limit
        for sha256 in small:
            size = HEAD + self.sizes[sha256]
            if some and size > room:
                yield some
                some, room = [], limit
            some.append(sha256)
            room -= size
        if some:
            yield some

    def _send_whole(self, upload: UploadInfo, some: Sequence[str]) -> Operation[None]:
        if len(some) == 1:
            yield from self._send_file(upload, some[0])
            return
        body = yield Work(lambda: pack((sha256, _read_whole(self.sources[sha256], self.sizes[sha256])) for sha256 in some))
        yield from self._send(upload, (), {}, body)
        self._count(sum(self.sizes[sha256] for sha256 in some))

    def _send_file(self, upload: UploadInfo, sha256: str) -> Operation[None]:
        offset: int | None = upload.offsets[sha256]
        while offset is not None:
            chunk = yield Work(partial(_read_chunk, self.sources[sha256], offset, upload.chunk_size))
            answer = yield from self._send(upload, (sha256,), {"offset": offset}, chunk)
            offset = answer.offsets.get(sha256)
            self._count(len(chunk))

    def _send(self, upload: UploadInfo, parts: tuple[str, ...], query: dict[str, int], body: bytes) -> Operation[UploadInfo]:
        response: Response = yield Request(
            "PUT",
            (*API, "uploads", upload.id, "files", *parts),
            query,
            headers={"content-type": "application/octet-stream"},
            body=body,
            timeout=300.0,
        )
        check(response)
        return decode(response, UploadInfo)

    def _count(self, size: int) -> None:
        self.sent += size
        self._missing -= size
        self.report(Progress("sending", self._total - self._missing, self._total))


def _read_whole(path: Path, size: int) -> bytes:
    content = path.read_bytes()
    if len(content) != size:
        raise _changed(path)
    return content


def _changed(path: Path) -> InvalidInput:
    return InvalidInput(
        f"{str(path)!r} has another size than when the push began.", code="file_changed", next_step="Push it again."
    )


def _read_chunk(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        chunk = file.read(size)
    if not chunk and offset:
        raise _changed(path)
    return chunk
