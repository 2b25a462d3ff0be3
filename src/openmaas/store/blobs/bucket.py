"""Blobs in a bucket, through obstore. The address and the keys come from the environment (AWS_…), as every S3 tool has them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from openmaas.core.errors import InvalidInput, NotFound, Unavailable
from openmaas.store.blobs.base import BlobStore
from openmaas.store.blobs.local import blob_missing
from openmaas.store.files import read_chunks, verified, write_new

_SINGLE_PUT = 16 * 2**20  # bytes up to which a blob goes in one request
_MOST_PARTS = 9_000  # S3 allows 10,000


class BucketBlobs(BlobStore):
    """A prefix of a bucket. `store` is an obstore store."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def put(self, sha256: str, source: Path) -> int:
        import obstore

        size = source.stat().st_size
        if self.size(sha256) == size:
            return 0
        chunks = verified(read_chunks(source), sha256, f"The file {source.name!r}")
        with _foreign_errors():
            if size <= _SINGLE_PUT:
                obstore.put(self.store, _path(sha256), b"".join(chunks), use_multipart=False)
            else:
                part = max(_SINGLE_PUT, -(-size // _MOST_PARTS))
                obstore.put(self.store, _path(sha256), chunks, chunk_size=part, max_concurrency=4)
        return size

    def size(self, sha256: str) -> int | None:
        try:
            with _foreign_errors(sha256):
                return int(self.store.head(_path(sha256))["size"])
        except NotFound:
            return None

    def read(self, sha256: str) -> Iterator[bytes]:
        with _foreign_errors(sha256):
            answer = self.store.get(_path(sha256))
        return self._pieces(answer, sha256)

    def _pieces(self, answer: Any, sha256: str) -> Iterator[bytes]:
        with _foreign_errors(sha256):
            for piece in answer.stream(min_chunk_size=2**20):
                yield bytes(piece)

    def fetch(self, sha256: str, target: Path) -> None:
        write_new(target, self.read(sha256), 0o444)

    def delete(self, sha256: str) -> None:
        with contextlib.suppress(NotFound), _foreign_errors(sha256):
            self.store.delete(_path(sha256))

    def list(self) -> Iterator[tuple[str, int]]:
        with _foreign_errors():
            for batch in self.store.list("sha256/"):
                yield from ((str(entry["path"]).rpartition("/")[2], int(entry["size"])) for entry in batch)


def open_bucket(url: str) -> BucketBlobs:
    """`s3://bucket/prefix`. Raises InvalidInput for another URL or without the library."""
    if not url.startswith("s3://") or url == "s3://":
        raise InvalidInput(
            f"OPENMAAS_BLOBS_URL is {url!r}: a folder or s3://bucket/prefix is allowed.",
            code="invalid_setting",
            next_step="Set OPENMAAS_BLOBS_URL to one of these or unset it.",
        )
    try:
        from obstore.store import from_url
    except ImportError:
        raise InvalidInput(
            "OPENMAAS_BLOBS_URL names a bucket, and its library is not installed.",
            code="missing_extra",
            next_step="pip install 'openmaas[s3]'",
        ) from None
    retry = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
    with _foreign_errors():
        return BucketBlobs(from_url(url, retry_config=retry))


def _path(sha256: str) -> str:
    return f"sha256/{sha256}"


@contextlib.contextmanager
def _foreign_errors(sha256: str | None = None) -> Iterator[None]:
    """obstore's errors as ours; "not found" means the blob where one was asked for, else the bucket."""
    from obstore.exceptions import BaseError, NotFoundError

    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        if sha256 is not None and isinstance(error, NotFoundError | FileNotFoundError):
            raise blob_missing(sha256) from None
        raise Unavailable(
            f"The bucket of OPENMAAS_BLOBS_URL does not answer ({type(error).__name__}).",
            code="blobs_unavailable",
            next_step="Check OPENMAAS_BLOBS_URL, AWS_ENDPOINT_URL and the AWS_… keys; openmaas doctor tries them.",
            retry_after=2,
        ) from error
