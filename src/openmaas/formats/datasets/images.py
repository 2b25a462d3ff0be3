"""A folder of images: sub-folders are classes; without them the images are inputs only."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from openmaas.core.errors import InvalidInput
from openmaas.formats.datasets.base import Budget, Columns, invalid, listed
from openmaas.formats.datasets.values import object_array

_HEAD = 16
_DECODED = 1_000_000_000  # pixels of a push that are decoded to see whether they can be: some ten seconds
_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"})
_BEGINNINGS = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"
)  # fmt: skip


def is_image(path: Path) -> bool:
    """Whether the file begins like one."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"BM"):
        return head[6:10] == bytes(4)  # which no table has whose first column is BMI
    return head.startswith(_BEGINNINGS) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")


def find_images(folder: Path, files: Sequence[str]) -> list[str]:
    """Those of the files that are images, by their content; hidden files are none."""
    return [file for file in files if not _is_hidden(file) and is_image(folder / file)]


def check_images(folder: Path, files: Sequence[str], images: Sequence[str]) -> list[str]:
    """What a person should be told of the rest. Raises InvalidInput for a layout that is not understood, or a broken image."""
    broken = [
        file for file in set(files) - set(images) if PurePosixPath(file).suffix.lower() in _ENDINGS and not _is_hidden(file)
    ]
    if broken:
        raise invalid(
            f"{len(broken)} files are called images and are none: {listed(sorted(broken))}.", "Remove or replace them."
        )
    depths = {len(PurePosixPath(file).parts) for file in images}
    if len(depths) != 1 or max(depths) > 2:
        deepest = max(images, key=lambda file: len(PurePosixPath(file).parts))
        raise invalid(
            f"The images lie at different depths, or deeper than one folder: {min(images, key=len)!r}, {deepest!r}.",
            "Keep one folder for each class, and the images in it: cat/1.png, dog/1.png.",
        )
    _check_pixels(folder, images)
    others = sorted(set(files) - set(images))
    return [f"Files that are no images are left out: {listed(others)}."] if others else []


def read_images(folder: Path, images: Sequence[str], budget: Budget) -> Columns:
    """The columns `image` (the files' own bytes) and, of class folders, `label`."""
    for file in images:
        budget.take((folder / file).stat().st_size + 96, f"up to {file!r}")
    columns = Columns({"image": object_array([(folder / file).read_bytes() for file in images])})
    if "/" in images[0]:
        columns.arrays["label"] = object_array([file.partition("/")[0].encode() for file in images])
    return columns


def _check_pixels(folder: Path, images: Sequence[str]) -> None:
    """Of every image the header: one that is a bomb when it is decoded is refused before anything decodes it. And the pixels,
    as long as they are not too many to be decoded here: a file that was cut off is found now, and not by a job in an hour."""
    try:
        from PIL import Image, UnidentifiedImageError

        from openmaas.processing.image import FORMATS, MAX_PIXELS
    except ImportError:
        return
    left = _DECODED
    for file in images:
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(folder / file, formats=FORMATS) as image:
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
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
            said = " ".join(str(error).split())[:120] if not isinstance(error, UnidentifiedImageError) else "it is no image"
            raise invalid(f"The image {file!r} cannot be read: {said}.", "Remove or replace it.") from None


def _is_hidden(file: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(file).parts)
