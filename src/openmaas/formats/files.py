"""The files of a pushed folder: regular files only, inside the folder only."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from openmaas.core.errors import InvalidInput
from openmaas.core.manifest import check_path


def list_files(folder: Path) -> list[str]:
    """Relative paths of all files, sorted. Raises InvalidInput for a link, a device, a bad name or no file at all."""
    files: list[str] = []
    for path in sorted(folder.rglob("*")):
        relative = check_path(path.relative_to(folder).as_posix())
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            files.append(relative)
        elif not stat.S_ISDIR(mode):
            raise InvalidInput(f"{relative!r} is a link or a device; a model holds plain files only.", code="invalid_path")
    if not files:
        raise InvalidInput(
            "There is no file in it.", code="no_model", next_step="Push a model file, or a folder that holds one."
        )
    return files


def file_inside(folder: Path, path: str, noun: str) -> Path:
    """The file at a relative path of the folder, or InvalidInput that names it."""
    found = folder / check_path(path)
    if any(part.is_symlink() for part in (found, *found.parents) if part != folder and part.is_relative_to(folder)):
        raise InvalidInput(f"{noun} {path!r} is a link; a model holds plain files only.", code="invalid_path")
    if not found.is_file():
        raise InvalidInput(f"{noun} {path!r} is not among the pushed files.", code="file_missing")
    return found


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_name(folder: Path, name: str) -> str:
    """`name`, or the first of converted-1/name, converted-2/name … that the folder does not have."""
    candidates = (name, *(f"converted-{number}/{name}" for number in range(1, 1000)))
    return next(candidate for candidate in candidates if not (folder / candidate).exists())
