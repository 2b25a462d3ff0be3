"""Images in a folder, or in a zip file of one: sub-folders are classes; without them the images are inputs only."""

from __future__ import annotations

import contextlib
import struct
import warnings
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath

from openmaas.core.errors import InvalidInput
from openmaas.core.manifest import check_path
from openmaas.formats.datasets.base import Arrays, Budget, invalid, listed
from openmaas.formats.datasets.values import object_array

MAX_IMAGES = 2_000_000
_HEAD = 16
_OBJECT = 96  # bytes that an image takes besides its own
_DECODED = 1_000_000_000  # pixels of a push that are decoded to see whether they can be: some ten seconds
_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"})
_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")


class Source(ABC):
    """Files by their path. size: in bytes, as it is claimed; no more than that is ever read."""

    files: Sequence[str]

    @abstractmethod
    def size(self, file: str) -> int: ...

    @abstractmethod
    def read(self, file: str, most: int = -1) -> bytes: ...


class Folder(Source):
    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self._folder = folder
        self.files = files

    def size(self, file: str) -> int:
        return (self._folder / file).stat().st_size

    def read(self, file: str, most: int = -1) -> bytes:
        with (self._folder / file).open("rb") as opened:
            return opened.read(most)


class Archive(Source):
    """A zip file's members. Nothing is ever unpacked to a path."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members = {check_path(info.filename): info for info in archive.infolist() if not info.is_dir()}
        if len(self._members) > MAX_IMAGES:
            raise invalid(f"The zip file has {len(self._members)} files; at most {MAX_IMAGES} are taken.")
        self.files = sorted(self._members)

    def size(self, file: str) -> int:
        return self._members[file].file_size

    def read(self, file: str, most: int = -1) -> bytes:
        with self._archive.open(self._members[file]) as opened:
            return opened.read(most)


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Raises InvalidInput, also for what breaks off while it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield Archive(archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise invalid(f"The zip file cannot be read: {reason}.") from None


def holds_images(path: Path) -> bool:
    """Whether a zip file is one of images; arrays (npz) have their own ending."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(name).suffix.lower() in _ENDINGS for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return False


def find_images(source: Source) -> list[str]:
    """Those of the files that are images, by their content, in the order of their paths; hidden files are none."""
    return sorted(file for file in source.files if not _is_hidden(file) and _is_image(source.read(file, _HEAD)))


def check_layout(source: Source, images: Sequence[str]) -> list[str]:
    """What a person should be told of the rest. Raises InvalidInput for a layout that is not understood."""
    others = sorted(set(source.files) - set(images))
    broken = [file for file in others if PurePosixPath(file).suffix.lower() in _ENDINGS and not _is_hidden(file)]
    if broken:
        raise invalid(f"{len(broken)} files are called images and are none: {listed(broken)}.", "Remove or replace them.")
    depths = {len(PurePosixPath(file).parts) for file in images}
    if len(depths) != 1 or max(depths) > 2:
        deepest = max(images, key=lambda file: len(PurePosixPath(file).parts))
        raise invalid(
            f"The images lie at different depths, or deeper than one folder: {min(images, key=len)!r}, {deepest!r}.",
            "Keep one folder for each class, and the images in it: cat/1.png, dog/1.png.",
        )
    return [f"Files that are no images are left out: {listed(others)}."] if others else []


def read_images(source: Source, images: Sequence[str], budget: Budget, *, labelled: bool) -> Arrays:
    """The columns `image` (the files' own bytes) and, of class folders, `label`."""
    for file in images:
        budget.take(source.size(file) + _OBJECT, f"up to {file!r}")
    arrays = {"image": object_array([source.read(file) for file in images])}
    if labelled:
        arrays["label"] = object_array([file.partition("/")[0].encode() for file in images])
    return arrays


def check_pixels(images: Sequence[str], contents: Iterable[bytes]) -> None:
    """Of every image the header: one that is a bomb when it is decoded is refused before anything decodes it. And the pixels,
    as long as they are not too many to be decoded here: a file that was cut off is found now, and not by a job in an hour.

    Raises InvalidInput that names the image. Without Pillow nothing is checked.
    """
    try:
        from PIL import Image, UnidentifiedImageError

        from openmaas.processing.image import FORMATS, MAX_PIXELS
    except ImportError:
        return
    left = _DECODED
    for file, content in zip(images, contents, strict=True):
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise invalid(f"The image {file!r} has {width} x {height} pixels; at most {MAX_PIXELS} are taken.")
                left -= width * height
                if left >= 0:
                    image.load()
        except InvalidInput:
            raise
        except Image.DecompressionBombError:
            raise invalid(f"The image {file!r} has more than {MAX_PIXELS} pixels.") from None
        except UnidentifiedImageError:
            raise invalid(f"The image {file!r} cannot be read: it is no image.", "Remove or replace it.") from None
        except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
            said = " ".join(str(error).split())[:120]
            raise invalid(f"The image {file!r} cannot be read: {said}.", "Remove or replace it.") from None


def in_class_folders(images: Sequence[str]) -> bool:
    return "/" in images[0]


def _is_image(head: bytes) -> bool:
    """Whether a file begins like one."""
    if head.startswith(b"BM"):
        return head[6:10] == bytes(4)  # which no table has whose first column is BMI
    return head.startswith(_BEGINNINGS) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")


def _is_hidden(file: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(file).parts)
