"""TIFF files whose tags change what their pixels mean, and whose tiles are larger than the picture."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.images.loading import load_image

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, STRIP, SAMPLES, ROWS, STRIP_BYTES = 256, 257, 258, 259, 262, 273, 277, 278, 279
TILE_WIDTH, TILE_LENGTH, TILE, TILE_BYTES, SAMPLE_FORMAT = 322, 323, 324, 325, 339


def tiff(levels: Any, order: str = "<", **tags: int) -> bytes:
    """A grey TIFF of one row in one strip, with tags of its own by number, such as t262=0."""
    data = np.asarray(levels).tobytes()
    own = {int(name[1:]): value for name, value in tags.items()}
    bits = np.asarray(levels).itemsize * 8
    values = {WIDTH: len(levels), LENGTH: 1, BITS: bits, COMPRESSION: 1, PHOTOMETRIC: 1, SAMPLES: 1}
    values |= {STRIP: 0, ROWS: 1, STRIP_BYTES: len(data), **own}
    values[STRIP] = 8 + 2 + 12 * len(values) + 4
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, values[tag]) for tag in sorted(values))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(values))
    return head + entries + struct.pack(f"{order}I", 0) + data


def grey(path: Path, content: bytes) -> list[int]:
    path.write_bytes(content)
    return np.asarray(load_image(path))[0, :, 0].tolist()


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        load_image(path)
    return str(caught.value).removeprefix(f"image file {str(path)!r} ")


@pytest.mark.parametrize(("direction", "expected"), [(0, [255, 254, 127, 0]), (1, [0, 1, 128, 255])])
def test_16_bit_tiff_is_read_in_the_direction_that_it_says(tmp_path: Path, direction: int, expected: list[int]) -> None:
    """Regression: a picture in which 0 is white was shown as its negative."""
    content = tiff(np.array([0, 257, 128 * 257, 65535], "<u2"), t262=direction)
    assert grey(tmp_path / "a.tiff", content) == expected
    with Image.open(tmp_path / "a.tiff") as opened:
        assert np.asarray(load_image(opened))[0, :, 0].tolist() == expected


def test_big_endian_16_bit_tiff_whose_0_is_white_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path / "a.tiff", tiff(np.array([0, 257], ">u2"), ">", t262=0))
    assert said == "cannot be read: unknown pixel mode"


@pytest.mark.parametrize(
    "content",
    [
        tiff(np.array([0, 2**32 - 1], "<u4")),
        tiff(np.array([-1, 1], "<i4"), t339=2),
        tiff(np.array([-1, 1], "<i2"), t339=2),
        tiff(np.array([-1, 1], ">i2"), ">", t339=2),
        tiff(np.array([-1, 1], "i1"), t339=2),
        tiff(np.array([255, 255, 255], "u1"), t256=2, t258=12),
    ],
    ids=["32 bits", "signed 32", "signed 16", "big-endian signed 16", "signed 8", "12 bits"],
)
def test_tiff_of_integers_of_unknown_range_is_refused(tmp_path: Path, content: bytes) -> None:
    """Values beyond 16 bits and below 0 were cut off; 12 bits were shown almost black."""
    said = "has integer pixels of unknown range; save it with 8 or 16 bits a channel, without a sign"
    assert refusal(tmp_path / "a.tiff", content) == said


def test_image_of_integers_beyond_16_bits_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^image has integer pixels from -1 to 70000; at most 16 bits, 0 to 65535, are read$"):
        load_image(Image.fromarray(np.array([[-1, 70000]], np.int32)))


def tiled(width: int, height: int, side: int) -> bytes:
    tags = {"t256": width, "t257": height, "t258": 8, "t259": 8, "t322": side, "t323": side, "t324": 8, "t325": 16}
    return tiff(np.zeros(16, np.uint8), **tags)


def test_tiff_of_tiles_far_larger_than_the_picture_is_refused(tmp_path: Path) -> None:
    """A file of 200 bytes took 2 GB: a tile is decoded whole."""
    said = refusal(tmp_path / "a.tiff", tiled(16, 16, 46_000))
    assert said == "is 16×16 px in tiles of 46000×46000: save it in smaller ones"


def test_small_tiff_in_a_tile_of_a_usual_size_is_read(tmp_path: Path) -> None:
    tags = {TILE_WIDTH: 256, TILE_LENGTH: 256}
    Image.new("L", (17, 9), 40).save(tmp_path / "a.tiff", compression="tiff_deflate", tiffinfo=tags)
    assert load_image(tmp_path / "a.tiff").getpixel((16, 8)) == (40, 40, 40)


@pytest.mark.parametrize("compression", ["raw", "tiff_deflate"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_opened_tiff_that_is_not_yet_decoded_is_turned_upright_once(
    tmp_path: Path, orientation: int, mode: str, compression: str
) -> None:
    """It was turned twice, and where it is grey and uncompressed its pixels were mixed up."""
    tags = Image.Exif()
    tags[0x112] = orientation
    pixels = np.repeat(np.random.default_rng(orientation).integers(0, 256, (8, 5, 1), np.uint8), 3, 2)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.tiff", exif=tags, compression=compression)
    turned = {5: pixels.swapaxes(0, 1), 6: np.rot90(pixels, -1), 7: np.rot90(pixels, 2).swapaxes(0, 1), 8: np.rot90(pixels)}
    with Image.open(tmp_path / "a.tiff") as opened:
        np.testing.assert_array_equal(np.asarray(load_image(opened)), turned[orientation])
