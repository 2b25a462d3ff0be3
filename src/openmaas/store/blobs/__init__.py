"""Blobs: files by their SHA-256 digest, in a local folder or a bucket. Light: no database, and S3's library only when used."""

from __future__ import annotations

from pathlib import Path

from openmaas.core.settings import Settings
from openmaas.store.blobs.base import BlobStore
from openmaas.store.blobs.local import LocalBlobs

__all__ = ["BlobStore", "LocalBlobs", "open_blobs"]


def open_blobs(settings: Settings) -> BlobStore:
    """The store that the settings name: `s3://bucket/prefix`, a folder, or `blobs` in the data folder.

    Raises InvalidInput for a URL that cannot be used.
    """
    if "://" in settings.blobs_url:
        from openmaas.store.blobs.bucket import open_bucket

        return open_bucket(settings.blobs_url)
    folder = Path(settings.blobs_url).expanduser().absolute() if settings.blobs_url else settings.home_path / "blobs"
    return LocalBlobs(folder)
