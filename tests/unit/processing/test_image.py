"""Images → tensors: against plain Pillow and numpy, and against what hostile or careless callers send."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from openmaas.core.errors import InvalidInput, OpenMaaSError, TooLarge
from openmaas.core.processing import ImageInput
from openmaas.core.types import DataType, TensorSpec
from openmaas.processing.image import Images

pytest.importorskip("PIL")

from PIL import Image

from tests.unit.processing.pictures import encode, noise, png_header, rotated

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(datatype: DataType = "FP32", **declared: Any) -> Images:
    fields: dict[str, Any] = {"tensor": "x", "height": 8, "width": 12, "scale": 1.0} | declared
    return Images(ImageInput(**fields), TensorSpec(name="x", datatype=datatype, shape=(-1,)))


def rows(*encoded: bytes) -> NDArray[np.object_]:
    array = np.empty(len(encoded), dtype=object)
    array[:] = encoded
    return array


def tensor(one: Images, *encoded: bytes) -> NDArray[Any]:
    return one.prepare(rows(*encoded)).inputs["x"]


def pixels(image: Image.Image) -> NDArray[Any]:
    return np.asarray(image).reshape(image.height, image.width, -1).astype(float)


# ── right figures ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("kind", "options"), [
    ("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True}),
])  # fmt: skip
def test_lossless_formats_give_their_pixels(kind: str, options: dict[str, Any]) -> None:
    image = noise()
    found = tensor(images(layout="channels_last"), encode(image, kind, **options))
    assert found.dtype == np.float32 and found.shape == (1, 8, 12, 3)
    assert (found[0] == pixels(image)).all()


def test_lossy_formats_give_what_pillow_decodes() -> None:
    for kind in ("JPEG", "GIF"):
        data = encode(noise(), kind)
        expected = pixels(Image.open(io.BytesIO(data)).convert("RGB"))
        assert (tensor(images(layout="channels_last"), data)[0] == expected).all()


def test_layouts_modes_types_and_normalisation() -> None:
    image = noise()
    data, plain = encode(image), pixels(image)
    expected = ((plain / 255 - MEAN) / STD).transpose(2, 0, 1)
    found = tensor(images(scale=1 / 255, mean=MEAN, std=STD), data)
    assert found.shape == (1, 3, 8, 12)
    assert np.allclose(found[0], expected, atol=1e-5)
    assert (tensor(images(layout="flat"), data)[0] == plain.ravel()).all()
    half = tensor(images("FP16", scale=1 / 255, mean=(0.5,), std=(0.5,)), data)
    assert half.dtype == np.float16 and np.allclose(half[0], ((plain / 255 - 0.5) / 0.5).transpose(2, 0, 1), atol=1e-3)
    raw = tensor(images("UINT8", layout="channels_last", scale=1 / 255), data)
    assert raw.dtype == np.uint8 and (raw[0] == plain).all(), "pixels go in as they are"
    grey = tensor(images(mode="L", layout="channels_last"), data)
    assert (grey[0] == pixels(image.convert("L"))).all()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_stretching_is_pillows(interpolation: str) -> None:
    image = noise(31, 17)
    found = tensor(images(layout="channels_last", interpolation=interpolation), encode(image))
    assert (found[0] == pixels(image.resize((12, 8), Image.Resampling[interpolation.upper()]))).all()


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 40), (33, 33), (8, 8), (5, 9)])
def test_cropping_is_the_middle_after_the_shorter_side_was_scaled(width: int, height: int) -> None:
    image = noise(width, height)
    found = tensor(images(layout="channels_last", height=8, width=8, resize="crop", shorter=16), encode(image))
    scale = 16 / min(width, height)
    inner = (16, int(16 * height / width)) if width <= height else (int(16 * width / height), 16)
    assert max(inner) == int(max(width, height) * scale)
    left, top = round((inner[0] - 8) / 2), round((inner[1] - 8) / 2)
    middle = image.resize(inner, Image.Resampling.BILINEAR).crop((left, top, left + 8, top + 8))
    assert (found[0] == pixels(middle)).all()


@pytest.mark.parametrize(("width", "height", "black"), [(24, 8, "rows"), (6, 8, "columns"), (12, 8, ""), (1, 8000, "columns")])
def test_padding_is_black_beside_the_longer_side(width: int, height: int, black: str) -> None:
    image = Image.new("RGB", (width, height), (200, 100, 50))
    (found,) = tensor(images(layout="channels_last", resize="pad"), encode(image))
    filled = (found == (200, 100, 50)).all(axis=2)
    assert ((found == 0).all(axis=2) | filled).all()
    assert filled.any() and filled.all() == (black == "")
    if black == "rows":
        assert filled.all(axis=1).tolist() == [False] * 2 + [True] * 4 + [False] * 2
    if black == "columns" and width == 6:
        assert filled.all(axis=0).tolist() == [False] * 3 + [True] * 6 + [False] * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_says_which_side_is_up(orientation: int) -> None:
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste("black", (0, 0, 24, 16))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    turned = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    data = rotated(turned, orientation, "PNG")
    (found,) = tensor(images(layout="channels_last", height=32, width=48, resize="pad"), data)
    assert (found == pixels(upright)).all()


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 40, bytes(range(64))]
)
def test_an_unreadable_exif_says_nothing(exif: bytes) -> None:
    image = noise()
    assert (tensor(images(layout="channels_last"), encode(image, "PNG", exif=exif))[0] == pixels(image)).all()


def test_palettes_alpha_greys_and_sixteen_bits() -> None:
    one = images(layout="channels_last")
    palette = noise().quantize(7)
    assert (tensor(one, encode(palette))[0] == pixels(palette.convert("RGB"))).all()
    for mode in ("L", "1"):
        grey = noise(mode="L").convert(mode)
        assert (tensor(one, encode(grey))[0] == pixels(grey.convert("RGB"))).all()
    deep = np.random.default_rng(1).integers(0, 65536, (8, 12)).astype(np.uint16)
    found = tensor(one, encode(Image.fromarray(deep)))[0]
    assert (found == (deep >> 8)[:, :, None]).all(), "the upper 8 bits"
    cmyk = noise(mode="CMYK")
    data = encode(cmyk, "JPEG")
    assert (tensor(one, data)[0] == pixels(Image.open(io.BytesIO(data)).convert("RGB"))).all()


def test_dropped_transparency_is_told() -> None:
    one = images(layout="channels_last")
    image = noise(mode="RGBA")
    prepared = one.prepare(rows(encode(noise()), encode(image)))
    assert (prepared.inputs["x"][1] == pixels(image)[:, :, :3]).all()
    assert prepared.notes == ({"row": 1, "transparency": "dropped"},)
    image.putalpha(255)
    assert one.prepare(rows(encode(image))).notes == ()
    gif = encode(noise().quantize(7), "GIF", transparency=0)
    assert one.prepare(rows(gif)).notes[0]["row"] == 0


def test_of_an_animation_the_first_picture() -> None:
    first, second = Image.new("RGB", (12, 8), (255, 0, 0)), Image.new("RGB", (12, 8), (0, 0, 255))
    for kind in ("GIF", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(first, kind, save_all=True, append_images=[second], **options)
        assert (tensor(images(layout="channels_last"), data)[0] == (255, 0, 0)).all()


def test_rows_keep_their_order_and_threads_may_share_it() -> None:
    one = images(layout="channels_last")
    colours = [(n, 255 - n, 7) for n in range(40)]
    encoded = rows(*[encode(Image.new("RGB", (12 + n, 8), colour)) for n, colour in enumerate(colours)])
    wrong: list[int] = []

    def check() -> None:
        found = one.prepare(encoded).inputs["x"]
        wrong.extend(n for n, colour in enumerate(colours) if not (found[n] == colour).all())

    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ── what cannot be meant ─────────────────────────────────────────────────────────────────────────────────────────────

SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) run\n"


@pytest.mark.parametrize(
    ("data", "came"),
    [
        (b"", "nothing"), (SVG, "<?xml"), (EPS, "%!PS-Adobe"), (b"%PDF-1.7\n", "25 50 44 46"), (b"P6\n1 1\n255\nabc", "50 36"),
        (b"\x00\x00\x00 ftypavif", "00 00"), (b"\x89PNG", "89 50"), (bytes(range(1, 256)) * 300, "bytes"), (b"BM", "'BM'"),
    ],
)  # fmt: skip
def test_what_is_no_image_of_ours(data: bytes, came: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        images().prepare(rows(encode(noise()), data))
    assert caught.value.code in ("not_an_image", "broken_image")
    assert "row 1" in caught.value.message.lower()
    assert len(caught.value.message) < 400
    if caught.value.code == "not_an_image":
        assert came in caught.value.message and "PNG" in caught.value.message


@pytest.mark.parametrize("size", [(100_000, 100_000), (50_000, 900), (2**31 - 1, 1), (7000, 6000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match="pixels") as caught:
        images(max_pixels=40_000_000).prepare(rows(png_header(*size)))
    assert caught.value.code in ("image_too_large", "broken_image")
    assert "row 0" in caught.value.message


def test_a_size_of_its_own() -> None:
    one = images(max_pixels=96)
    one.prepare(rows(encode(noise(12, 8))))
    with pytest.raises(InvalidInput, match="13 × 8 pixels; at most 96"):
        one.prepare(rows(encode(noise(12, 8)), encode(noise(13, 8))))


def test_many_small_bombs_in_one_request() -> None:
    with pytest.raises(TooLarge, match="pixels together"):
        images(max_pixels=20_000_000).prepare(rows(*[png_header(4000, 4900)] * 11))
    with pytest.raises(TooLarge, match=r"at most \d+ images a request") as caught:
        images(height=4000, width=4000).prepare(rows(*[b"x"] * 100))
    assert caught.value.code == "too_many_rows"


def test_a_thread_of_an_image_is_not_scaled_up() -> None:
    with pytest.raises(InvalidInput, match="too narrow"):
        images(height=224, width=224, resize="crop", shorter=256).prepare(rows(encode(Image.new("RGB", (1, 20_000)))))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_that_is_cut_short_never_answers_half_an_image(kind: str) -> None:
    data = encode(noise(64, 64), kind)
    for length in (len(data) // 3, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(InvalidInput) as caught:
            images().prepare(rows(data[:length]))
        assert caught.value.code in ("broken_image", "not_an_image")


def test_floating_point_images_have_no_known_range() -> None:
    data = encode(Image.fromarray(np.ones((8, 12), np.float32)), "TIFF")
    with pytest.raises(InvalidInput, match="32 bits"):
        images().prepare(rows(data))


def test_a_polyglot_is_only_an_image() -> None:
    image = noise()
    data = encode(image) + b"<script>alert(1)</script>PK\x03\x04import os"
    assert (tensor(images(layout="channels_last"), data)[0] == pixels(image)).all()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_gives_an_image_or_an_error_of_ours(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]))
    encoded = bytearray(encode(noise(16, 16), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = tensor(_FUZZED, bytes(encoded))
    except OpenMaaSError as error:
        assert "row 0" in error.message.lower()
    else:
        assert found.shape == (1, 3, 8, 12) and np.isfinite(found).all()


_FUZZED = images(max_pixels=100_000)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(OpenMaaSError):
        _FUZZED.prepare(rows(data))
