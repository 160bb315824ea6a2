"""Picture files as they come from anywhere: formats that aren't meant, odd tags, floods of text, sizes beyond the limit."""

from __future__ import annotations

import os
import struct
import threading
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, PngImagePlugin

from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.images import loading, opening, png_chunks
from omnigen2_rt.runtime.images.loading import load_image
from omnigen2_rt.runtime.images.png import read_parameters, save_png

RED = Image.new("RGB", (6, 4), "red")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, row: bytes, *more: bytes) -> bytes:
    """A PNG file of equal rows, `more` chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * height))
    return png_chunks.SIGNATURE + header + b"".join(more) + pixels + chunk(b"IEND", b"")


def pixels_of(path: Path, content: bytes) -> Any:
    path.write_bytes(content)
    return np.asarray(load_image(path))[0].tolist()


def refusal(path: Path) -> str:
    with pytest.raises(RequestError) as caught:
        load_image(path)
    return str(caught.value).removeprefix(f"image file {str(path)!r} ")


# Formats


def test_eps_under_the_name_of_a_png_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to Ghostscript, whose language reads and writes files."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *words, **settings: pytest.fail("Ghostscript was started"))
    path = tmp_path / "holiday.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert refusal(path).startswith("is not a picture in a known format; known are PNG, JPEG, WEBP, GIF, BMP, TIFF")
    with pytest.raises(RequestError, match="is not a PNG file"):
        read_parameters(path)


@pytest.mark.parametrize("format", ["PCX", "PPM", "SGI", "TGA", "ICO", "DDS"])
def test_picture_in_another_format_is_refused_with_the_known_ones(tmp_path: Path, format: str) -> None:
    RED.save(tmp_path / "a.png", format=format)
    assert "is not a picture in a known format" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("format", [name for name, _ in opening._READERS])
def test_picture_in_a_known_format_is_read_whatever_its_name(tmp_path: Path, format: str) -> None:
    RED.save(tmp_path / "a.txt", format=format)
    assert load_image(tmp_path / "a.txt").size == (6, 4)


# Files


def test_fifo_as_an_image_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    said: list[str] = []
    waiting = threading.Thread(target=lambda: said.append(refusal(tmp_path / "a.png")), daemon=True)
    waiting.start()
    waiting.join(timeout=20)
    assert said == ["cannot be read: not a regular file"]
    with pytest.raises(RequestError, match="not a regular file"):
        read_parameters(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a\0b.png", "a" * 5000, "\ud800.png", "/dev/zero", "\udcff"])
def test_path_of_any_kind_that_holds_no_picture_is_refused_in_a_line(name: str) -> None:
    for read in (load_image, read_parameters):
        with pytest.raises(RequestError) as caught:
            read(name)
        assert len(str(caught.value)) <= 300 and str(caught.value).isprintable()


def test_path_object_that_gives_bytes_is_read(tmp_path: Path) -> None:
    RED.save(tmp_path / "a.png")
    with os.scandir(os.fsencode(tmp_path)) as entries:
        entry: Any = next(entries)
    assert load_image(entry).size == (6, 4)


def test_file_beyond_two_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a.webp").open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\xffWEBPVP8 ")
        file.truncate(opening.MAX_FILE_BYTES + 1)
    assert "is larger than 2147483648 bytes" in refusal(tmp_path / "a.webp")


# Tags and texts


def exif(*entries: bytes, values: bytes = b"") -> bytes:
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + struct.pack("<I", 0) + values


TURNED = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
ODD_TAGS = {
    "signed rational": exif(TURNED, struct.pack("<HHII", 0x11A, 10, 1, 38), values=struct.pack("<ii", -1, 0)),
    "text for a number": exif(TURNED, struct.pack("<HHI4s", 0x11B, 2, 4, b"abc\0")),
    "unknown type": exif(TURNED, struct.pack("<HHII", 0x11A, 99, 1, 0)),
    "two values": exif(struct.pack("<HHIHH", 0x112, 3, 2, 6, 6)),
}


@pytest.mark.parametrize("name", ODD_TAGS)
def test_photograph_with_an_odd_tag_is_read_upright(tmp_path: Path, name: str) -> None:
    """One odd tag refused the picture: all of them were written again without the orientation."""
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.jpg", exif=ODD_TAGS[name])
    assert load_image(tmp_path / "a.jpg").size == (20, 40)


@pytest.mark.parametrize("tags", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", exif(TURNED)[:16]])
def test_photograph_with_damaged_tags_is_read_without_a_warning(tmp_path: Path, tags: bytes) -> None:
    """Pillow's warning appeared before the command's own line."""
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.jpg", exif=tags)
    assert load_image(tmp_path / "a.jpg").size in ((40, 20), (20, 40))


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP"])
def test_png_with_megabytes_of_text_is_read(tmp_path: Path, kind: bytes, where: str) -> None:
    """Pillow refuses more than 1 MB in a compressed text and 64 MB in all."""
    compressed = zlib.compress(bytes(2**21))
    body = {b"tEXt": bytes(2**20), b"iTXt": b"\1\0\0\0" + compressed}.get(kind, b"\0" + compressed)
    texts = chunk(kind, b"note\0" + body) * (66 if kind == b"tEXt" else 3)
    picture = png(2, 1, 8, 2, bytes([1, 2, 3, 4, 5, 6]))
    at = picture.index(b"IDAT" if where == "before" else b"IEND") - 4
    assert pixels_of(tmp_path / "a.png", picture[:at] + texts + picture[at:]) == [[1, 2, 3], [4, 5, 6]]


def test_png_whose_orientation_lies_in_a_text_is_read_upright(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png", pnginfo=texts)
    assert load_image(tmp_path / "a.png").size == (20, 40)


def test_png_of_empty_chunks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_chunks, "MAX_CHUNKS", 100)
    (tmp_path / "a.png").write_bytes(png_chunks.SIGNATURE + chunk(b"tEXt", b"") * 101)
    assert refusal(tmp_path / "a.png") == "holds more than 100 chunks, the most that are read"


def test_parameters_behind_the_pixels_or_compressed_are_read_without_decoding_them(tmp_path: Path) -> None:
    compressed = chunk(b"zTXt", b"omnigen2\0\0" + zlib.compress(b'{"steps": 3}'))
    picture = png(60_000, 60_000, 8, 2, b"")
    at = picture.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(picture[:at] + compressed + picture[at:])
    assert read_parameters(tmp_path / "a.png") == {"steps": 3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (chunk(b"zTXt", b"omnigen2\0\0" + zlib.compress(bytes(2**21))), "expands to more than 1048576 bytes"),
        (chunk(b"zTXt", b"omnigen2\0\0abc"), "holds a damaged text"),
        (chunk(b"tEXt", b"omnigen2\0{}")[:-1] + b"x", "its checksum is wrong"),
        (chunk(b"iTXt", b"omnigen2\0\0\0\0\0\xff"), "holds a damaged text"),
        (chunk(b"tEXt", b"omnigen2\0" + b"[" * 100_000), "is nested too deeply"),
        (chunk(b"tEXt", b"omnigen2"), "carries damaged parameters"),
    ],
    ids=["bomb", "garbage", "checksum", "no UTF-8", "deep", "empty"],
)
def test_parameters_that_are_hostile_are_refused_in_a_line(
    tmp_path: Path, text: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png_chunks, "MAX_TEXT_BYTES", 2**20)
    (tmp_path / "a.png").write_bytes(png(2, 1, 8, 0, b"ab", text))
    with pytest.raises(RequestError) as caught:
        read_parameters(tmp_path / "a.png")
    assert said in str(caught.value)


def test_saved_parameters_with_half_a_character_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot write"):
        save_png(RED, tmp_path / "a.png", {"prompt": "\ud800"})
    assert not list(tmp_path.iterdir())


# Transparency and depth


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png(3, 1, 16, 0, struct.pack(">3H", 0, 1000, 65535), chunk(b"tRNS", struct.pack(">H", 1000))), [0, 255, 255]),
        (png(2, 1, 16, 2, struct.pack(">6H", *[1000] * 3, *[2570] * 3), chunk(b"tRNS", struct.pack(">3H", *[1000] * 3))),
         [255, 10]),
        (png(2, 1, 4, 0, b"\x5a", chunk(b"tRNS", struct.pack(">H", 5))), [255, 170]),
        (png(2, 1, 2, 0, b"\x60", chunk(b"tRNS", struct.pack(">H", 1))), [255, 170]),
        (png(2, 1, 1, 0, b"\x40", chunk(b"tRNS", struct.pack(">H", 1))), [0, 255]),
        (png(2, 1, 8, 0, b"\x07\x09", chunk(b"tRNS", struct.pack(">H", 7))), [255, 9]),
    ],
    ids=["grey 16", "colour 16", "grey 4", "grey 2", "grey 1", "grey 8"],
)  # fmt: skip
def test_png_of_any_depth_with_a_transparent_colour_is_laid_over_white(
    tmp_path: Path, content: bytes, expected: list[int]
) -> None:
    """Regression: the colour, in 16, 4 or 2 bits, was compared with pixels that had been brought to 8 bits."""
    assert pixels_of(tmp_path / "a.png", content) == [[level] * 3 for level in expected]


def test_picture_read_in_bands_equals_the_picture_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (37, 23, 4), np.uint8)
    wide = Image.fromarray(np.random.default_rng(2).integers(0, 65536, (37, 23)).astype(np.uint16))
    sources: list[Any] = [noise, Image.fromarray(noise).convert("LA"), wide, Image.fromarray(noise).quantize(5)]
    at_once = [np.asarray(load_image(source)) for source in sources]
    monkeypatch.setattr(loading, "_BAND_PIXELS", 23 * 5)
    for source, expected in zip(sources, at_once, strict=True):
        np.testing.assert_array_equal(np.asarray(load_image(source)), expected)


def test_16_bit_picture_takes_little_more_memory_than_its_pixels(tmp_path: Path) -> None:
    """It was widened to 8 bytes a pixel three times over."""
    side = 3000
    Image.fromarray(np.zeros((side, side), np.uint16)).save(tmp_path / "a.png")
    tracemalloc.start()
    try:
        load_image(tmp_path / "a.png")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * loading._BAND_PIXELS < 16 * side**2


# Size


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tiff", "webp"])
def test_picture_beyond_the_limit_is_refused_in_our_words(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    RED.save(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(opening, "MAX_PIXELS", 20)
    said = "is 6×4 px; at most 20 pixels are read, of a JPEG that isn't progressive 1073741824: scale it down first"
    assert refusal(tmp_path / f"a.{suffix}") == said


@pytest.mark.filterwarnings("error")
def test_picture_within_our_limit_and_beyond_pillows_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit is a warning from 89 megapixels on, and an error from 179 on."""
    for name in ("a.png", "a.jpg", "a.bmp"):
        RED.save(tmp_path / name)
        with monkeypatch.context() as patch:
            patch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
            assert load_image(tmp_path / name).size == (6, 4)


@pytest.mark.parametrize(("limit", "size"), [(600 * 400, (600, 400)), (599 * 400, (300, 200)), (301 * 199, (150, 100))])
def test_jpeg_beyond_the_limit_is_read_at_reduced_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, size: tuple[int, int]
) -> None:
    Image.linear_gradient("L").resize((600, 400)).convert("RGB").save(tmp_path / "a.jpg")
    monkeypatch.setattr(opening, "MAX_PIXELS", limit)
    image = load_image(tmp_path / "a.jpg")
    assert image.size == size and image.getpixel((0, size[1] - 1)) > (250, 250, 250)  # type: ignore[operator]


def test_picture_beyond_a_limit_inside_pillow_is_refused_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RED.save(tmp_path / "a.tiff")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    said = "holds more than 8 pixels, the most that Pillow reads of this format: scale it down first"
    assert refusal(tmp_path / "a.tiff") == said


def test_progressive_jpeg_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would have to be decoded whole: a few bytes could ask for gigabytes."""
    RED.save(tmp_path / "a.jpg", progressive=True)
    monkeypatch.setattr(opening, "MAX_PIXELS", 20)
    assert "is 6×4 px" in refusal(tmp_path / "a.jpg")


def test_array_that_claims_more_pixels_than_the_limit_is_refused() -> None:
    claimed = np.broadcast_to(np.uint8(0), (10**6, 10**6))
    with pytest.raises(RequestError, match="image array is 1000000×1000000 px; at most 201326592 pixels are read"):
        load_image(claimed)
