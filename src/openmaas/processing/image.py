"""Encoded images → the engine's tensor, with Pillow.

Alpha is dropped, as `convert("RGB")` does where models are trained, and the answer says so. Of 16 bits the upper 8 count. What
EXIF says of the camera's orientation is followed. Of an animation the first picture is taken. Sizes are checked in the header,
before anything is decoded.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from openmaas.core.datatypes import numpy_dtype
from openmaas.core.errors import InvalidInput, TooLarge
from openmaas.core.processing import ImageInput
from openmaas.core.types import TensorSpec
from openmaas.processing.base import Before, Prepared

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
NAMES: Final = "PNG, JPEG, WebP, GIF, BMP and TIFF"
MAX_PIXELS: Final = 89_478_485
"""Pillow's own limit; a declared one cannot be higher."""
_MAX_TENSOR: Final = 512 * 2**20  # bytes of the engine's input that one request may make
_ALL_PIXELS: Final = 10  # a request's images together may have so many times the pixels of the largest single one
_ORIENTATION: Final = 0x0112
_SIDES: Final = 1 << 16  # of a picture after resizing and before it is cut
_MODES_16: Final = ("I;16", "I;16L", "I;16B", "I;16N")


class Images(Before):
    """Decodes, turns, resizes and normalises. spec: the engine input, whose datatype the result has.

    The images of one request are decoded side by side; Pillow lets go of the interpreter's lock meanwhile.
    """

    quick: ClassVar[int] = 0

    def __init__(self, declared: ImageInput, spec: TensorSpec) -> None:
        _set_up_pillow()
        self.spec = TensorSpec(name=declared.name, datatype="BYTES", shape=(-1,))
        self._declared = declared
        self._tensor = spec.name
        self._dtype = numpy_dtype(spec.datatype)
        self._channels = len(declared.mode)
        std = np.broadcast_to(np.asarray(declared.std, np.float64), self._channels)
        mean = np.broadcast_to(np.asarray(declared.mean, np.float64), self._channels)
        self._factor = (declared.scale / std).astype(np.float32)
        self._shift = (-mean / std).astype(np.float32)
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="image")

    def prepare(self, rows: NDArray[np.object_]) -> Prepared:
        """Raises InvalidInput that names the row and what came, TooLarge for more than one request may hold."""
        encoded: list[bytes] = rows.reshape(-1).tolist()
        self._check_room(len(encoded))
        out = np.empty((len(encoded), *self._shape()), self._dtype)
        images = [_open(row, data, self._declared.max_pixels) for row, data in enumerate(encoded)]
        self._check_pixels(images)
        decode = partial(self._decode, out)
        numbered = range(len(images))
        noted = map(decode, numbered, images) if len(images) == 1 else self._pool.map(decode, numbered, images)
        return Prepared({self._tensor: out}, notes=tuple(note for note in noted if note is not None))

    def _shape(self) -> tuple[int, ...]:
        height, width, channels = self._declared.height, self._declared.width, self._channels
        layouts = {
            "channels_first": (channels, height, width),
            "channels_last": (height, width, channels),
            "flat": (height * width * channels,),
        }
        return layouts[self._declared.layout]

    def _check_room(self, count: int) -> None:
        size = self._dtype.itemsize * self._channels * self._declared.height * self._declared.width
        if count * size > _MAX_TENSOR:
            raise TooLarge(
                f"{count} images make {count * size} bytes of input; at most {_MAX_TENSOR} are made for one request.",
                code="too_many_rows",
                next_step=f"Send at most {_MAX_TENSOR // size} images a request.",
            )

    def _check_pixels(self, images: Sequence[Image]) -> None:
        allowed = _ALL_PIXELS * self._declared.max_pixels
        if (pixels := sum(image.width * image.height for image in images)) > allowed:
            raise TooLarge(
                f"The {len(images)} images have {pixels} pixels together; at most {allowed} are decoded for one request.",
                code="too_many_pixels",
                next_step="Send fewer images a request, or smaller ones.",
            )

    def _decode(self, out: NDArray[Any], row: int, image: Image) -> dict[str, Any] | None:
        """Fill one row of `out`; what is to be noted of it."""
        try:
            with image:
                image.load()
                upright = _upright(image)
                transparent = _is_transparent(upright)
                plain = _resized(row, _in_mode(row, upright, self._declared.mode), self._declared)
        except (InvalidInput, MemoryError):
            raise
        except Exception as error:  # whatever a decoder says of a broken file
            raise _broken(row, error) from None
        self._fill(out[row], np.asarray(plain))
        return {"row": row, "transparency": "dropped"} if transparent else None

    def _fill(self, out: NDArray[Any], pixels: NDArray[np.uint8]) -> None:
        """out: one row of the tensor. pixels: [height, width] or [height, width, channels]."""
        pixels = pixels.reshape(*pixels.shape[:2], self._channels)
        if self._declared.layout == "channels_first":
            pixels = pixels.transpose(2, 0, 1)
            factor, shift = self._factor[:, None, None], self._shift[:, None, None]
        else:
            factor, shift = self._factor, self._shift
        target = out.reshape(pixels.shape)
        if self._dtype == np.uint8:
            target[...] = pixels
        elif self._dtype == np.float32:
            np.multiply(pixels, factor, out=target)
            np.add(target, shift, out=target)
        else:
            target[...] = (pixels * factor + shift).astype(self._dtype)


def _set_up_pillow() -> None:
    from PIL import Image

    # For the whole process: one that decodes others' images wants no bomb to be a mere warning, and no line for each odd file.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    Image.init()


# ── one image ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _open(row: int, data: bytes, max_pixels: int) -> Image:
    """The image with its header read and nothing decoded."""
    from PIL import Image

    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise InvalidInput(
            f"Row {row} is not an image that can be read: expected {NAMES}, {_begins(data)} came.", code="not_an_image"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidInput(
            f"The image in row {row} has more pixels than the {max_pixels} that are decoded.", code="image_too_large"
        ) from None
    except Exception as error:
        raise _broken(row, error) from None
    if not 0 < image.width * image.height <= max_pixels:
        raise InvalidInput(
            f"The image in row {row} is {image.width} × {image.height} pixels; at most {max_pixels} pixels are decoded.",
            code="image_too_large",
            next_step="Send a smaller image.",
        )
    return image


def _broken(row: int, error: Exception) -> InvalidInput:
    reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
    return InvalidInput(f"The image in row {row} is broken or cut short: {reason}.", code="broken_image")


def _begins(data: bytes) -> str:
    """What came, in a few words."""
    if not data:
        return "nothing"
    start = data[:12]
    shown = start.decode("ascii") if start.isascii() and start.decode("ascii").isprintable() else start.hex(" ")
    return f"{len(data)} bytes that begin with {shown!r}"


def _upright(image: Image) -> Image:
    """Turned as EXIF says; an unreadable EXIF says nothing."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
    }  # fmt: skip
    try:
        turn = turns.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        turn = None
    return image if turn is None else image.transpose(turn)


def _is_transparent(image: Image) -> bool:
    """Whether some pixel is not fully opaque."""
    if not image.has_transparency_data:
        return False
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return bool(lowest < 255)


def _in_mode(row: int, image: Image, mode: str) -> Image:
    """8 bits a channel in the colour mode that the model takes."""
    from PIL.Image import fromarray

    if image.mode in _MODES_16:
        values = np.asarray(image)
        image = fromarray((values >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise InvalidInput(
            f"The image in row {row} has 32 bits a pixel, whose range is not known; expected 8 or 16 bits a channel.",
            code="unknown_depth",
        )
    return image if image.mode == mode else image.convert(mode)


def _resized(row: int, image: Image, declared: ImageInput) -> Image:
    """height × width, as the declaration's `resize` says."""
    size = (declared.width, declared.height)
    if image.size == size and not (declared.resize == "crop" and declared.shorter):
        return image
    if declared.resize == "stretch":
        return _scaled(image, size, declared)
    if declared.resize == "pad":
        return _padded(image, size, declared)
    return _cropped(row, image, size, declared)


def _scaled(image: Image, size: tuple[int, int], declared: ImageInput) -> Image:
    from PIL.Image import Resampling

    return image if image.size == size else image.resize(size, Resampling[declared.interpolation.upper()])


def _padded(image: Image, size: tuple[int, int], declared: ImageInput) -> Image:
    from PIL.Image import new

    scale = min(size[0] / image.width, size[1] / image.height)
    inner = (min(size[0], max(1, round(image.width * scale))), min(size[1], max(1, round(image.height * scale))))
    whole = new(image.mode, size)
    whole.paste(_scaled(image, inner, declared), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return whole


def _cropped(row: int, image: Image, size: tuple[int, int], declared: ImageInput) -> Image:
    """The shorter side first, then the middle; the figures are rounded as torchvision's Resize and CenterCrop do."""
    shorter = declared.shorter or min(size)
    longer = int(shorter * max(image.size) / min(image.size))
    if longer > _SIDES:
        raise InvalidInput(
            f"The image in row {row} is {image.width} × {image.height} pixels, too narrow to cut {size[0]} × {size[1]} from.",
            code="image_too_narrow",
        )
    inner = (shorter, longer) if image.width <= image.height else (longer, shorter)
    left, top = round((inner[0] - size[0]) / 2), round((inner[1] - size[1]) / 2)
    return _scaled(image, inner, declared).crop((left, top, left + size[0], top + size[1]))
