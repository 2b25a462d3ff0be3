"""What rows of a dataset look like, for people: a short text, or a small PNG."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datasets import DatasetManifest
from openmaas.core.errors import OpenMaaSError
from openmaas.formats.datasets import Dataset, read_dataset

_LONGEST: Final = 160  # characters
_SIDE: Final = 48  # pixels of the longer side, at most
_LARGEST: Final = 4096  # pixels of a side that is taken for an image at all
_SHOWN_COLUMNS: Final = 6
_LEAST_SIDE: Final = 5


def previews_of(
    dataset: DatasetManifest, folder: Path, rows: Sequence[int], shape: Sequence[int] = (), *, limit: int = 1 << 30
) -> list[str]:
    """Of rows of a dataset, in their order; empty texts where nothing can be shown.

    shape: of one row as the model takes it, which tells that a flat row is an image. limit: bytes that reading may take.
    """
    try:
        data = read_dataset(dataset, folder, rows=list(rows), limit=limit)
    except OpenMaaSError:  # a report goes without
        return [""] * len(rows)
    return [_preview(data, number, tuple(shape)) for number in range(data.rows)]


def _preview(data: Dataset, number: int, shape: tuple[int, ...]) -> str:
    texts, numbers = [], []
    for name, array in data.columns.items():
        value = array[number]
        if isinstance(value, bytes):
            if data.manifest.format == "images":
                return _thumbnail(value)
            texts.append(" ".join(value.decode("utf-8", "replace").split()))
        elif np.ndim(value) == 0:
            numbers.append(f"{name} = {value:.4g}" if isinstance(value, np.floating) else f"{name} = {value}")
        elif (pixels := _pixels(np.asarray(value), shape)) is not None:
            return as_png(pixels)
        else:
            numbers.append(f"{name} = {_listed(np.asarray(value))}")
    told = (
        " | ".join(texts) if texts else ", ".join(numbers[:_SHOWN_COLUMNS]) + (", …" if len(numbers) > _SHOWN_COLUMNS else "")
    )
    return told if len(told) <= _LONGEST else f"{told[: _LONGEST - 1]}…"


def _listed(values: NDArray[Any]) -> str:
    flat = values.reshape(-1)[:_SHOWN_COLUMNS].tolist()
    told = ", ".join(f"{one:.3g}" if isinstance(one, float) else str(one) for one in flat)
    return f"[{told}{', …' if values.size > len(flat) else ''}]"


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pixels(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """[H, W] or [H, W, 3] from the least value to the largest; None for what is no image."""
    if values.dtype.kind not in "biuf":
        return None
    if values.ndim == 1 and len(shape) > 1 and values.size == int(np.prod(shape)):
        values = values.reshape(shape)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values.reshape([side for side in values.shape if side != 1] or [1, 1])
    if values.ndim == 3 and values.shape[0] == 3:
        values = values.transpose(1, 2, 0)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3):
        return None
    if not all(_LEAST_SIDE <= side <= _LARGEST for side in values.shape[:2]):
        return None
    step = -(-max(values.shape[:2]) // _SIDE)
    small = np.nan_to_num(values[::step, ::step].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(small.min()), float(small.max())
    scaled: NDArray[np.uint8] = np.rint(255 * (small - low) / (high - low or 1.0)).astype(np.uint8)
    return scaled


def as_png(pixels: NDArray[np.uint8]) -> str:
    """[H, W] grey or [H, W, 3] as a data URL (PNG, ISO/IEC 15948: each line unfiltered)."""
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(lines, 9)) + _chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(body).decode()}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _thumbnail(image: bytes) -> str:
    """Empty without Pillow, and for what it cannot read or is too large."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        return ""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            if max(opened.size) > _LARGEST:
                return ""
            opened.thumbnail((_SIDE, _SIDE))
            return as_png(np.asarray(opened.convert("RGB"), np.uint8))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
