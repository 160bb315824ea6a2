"""Reading pictures of every kind, sizes against the original's, and resizing against PyTorch's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.images.loading import load_image
from omnigen2_rt.runtime.images.pixels import Size, output_size, reference_size, resize_bilinear, to_images, to_pixels
from tests.pictures import CAT, CUP, KINDS, as_the_original_reads_it, over_white
from tests.runtime.goldens import CONFIGS, GOLDENS, arguments, arrays, recordings


def inputs(config: str, name: str) -> Path:
    return GOLDENS / config / "golden" / name


def corner(image: Image.Image) -> tuple[int, ...]:
    assert image.mode == "RGB"
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


# Sizes


@pytest.mark.parametrize("config", CONFIGS)
def test_reference_size_equals_the_original_on_its_size_table(config: str) -> None:
    for height, width, max_pixels, max_side, new_height, new_width in arrays(config, "imgproc")["sizes"].tolist():
        if min(new_height, new_width) > 0:
            assert reference_size(width, height, 16, max_pixels, max_side) == Size(new_width, new_height)
        else:
            with pytest.raises(RequestError, match="too narrow"):
                reference_size(width, height, 16, max_pixels, max_side)


@pytest.mark.parametrize(("config", "name"), [r for r in recordings("pipe_t2i") if "latents_steps" in arrays(*r)])
def test_output_size_of_a_pipeline_gives_the_recorded_latents(config: str, name: str) -> None:
    options = arguments(config, name)["call_kwargs"]
    size = output_size(options["width"], options["height"], 16, options.get("max_pixels", 1024 * 1024))
    assert (size.height_px // 8, size.width_px // 8) == arrays(config, name)["latents_steps"].shape[-2:]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reference_size(8, 40, 16, 10**6, 1024), "input image of 8×40 px is too narrow"),
        (
            lambda: reference_size(4000, 40, 16, 10**6, 1024),
            "input image of 4000×40 px scaled to 1024×10 px by the limits is too narrow",
        ),
        (lambda: output_size(16, 640, 16, 256), "picture of 16×640 px scaled to 2×101 px by the limits is too narrow"),
    ],
)  # fmt: skip
def test_size_that_leaves_no_room_says_so(call: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"^{re.escape(message)}; each side needs at least 16 px$"):
        call()


# Pixels


@pytest.mark.parametrize("config", CONFIGS)
def test_to_pixels_equals_the_original_preprocessing(config: str) -> None:
    golden = arrays(config, "imgproc")
    for name, args in arguments(config, "imgproc").items():
        image = load_image(inputs(config, args["image"]))
        size = reference_size(*image.size, 16, args["max_pixels"], args["max_side_length"])
        pixels = to_pixels(image, size)
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels, golden[name], rtol=0, atol=1e-6)


def test_to_images_clips_and_rounds_like_diffusers() -> None:
    levels = np.arange(256, dtype=np.float32) / 255 * 2 - 1
    pixels = np.concatenate([levels, [-3.0, 3.0, 0.0, 0.5 / 255 * 2 - 1]]).astype(np.float32)
    image = to_images(np.tile(pixels, (2, 3, 1, 1)))
    assert len(image) == 2
    assert np.asarray(image[1])[0, :, 2].tolist() == [*range(256), 0, 255, 128, 0]


@pytest.mark.parametrize("old", [(4, 6), (7, 5), (16, 16), (1, 3)])
@pytest.mark.parametrize("new", [(4, 6), (8, 12), (13, 9), (3, 2), (1, 1), (37, 64), (500, 1011)])
def test_resize_bilinear_equals_pytorch(old: tuple[int, int], new: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).standard_normal((2, 3, *old)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(pixels), size=new, mode="bilinear").numpy()
    resized = resize_bilinear(pixels, *new)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, rtol=0, atol=1e-6)


# Files


def test_load_image_from_path_pil_or_array_gives_the_same_picture() -> None:
    path = inputs("A", "inputs/ref1.png")
    with Image.open(path) as opened:
        array = np.asarray(opened.convert("RGB"))
        pictures = [load_image(source) for source in (path, str(path), opened, array)]
    for picture in pictures:
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), array)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (2, 2), (10, 20, 30)), (10, 20, 30)),
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 51)), (204, 204, 204)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.new("RGB", (2, 2), (9, 90, 200)).quantize(4), (9, 90, 200)),
        (Image.new("CMYK", (2, 2), (255, 0, 0, 0)), (0, 255, 255)),
        (Image.new("YCbCr", (2, 2), (128, 128, 128)), (128, 128, 128)),
        (Image.fromarray(np.full((2, 2), 32896, np.uint16)), (128, 128, 128)),
        (Image.fromarray(np.full((2, 2), 65535, np.int32)), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 300, np.int32)), (1, 1, 1)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)  # fmt: skip
def test_load_image_of_any_mode_gives_rgb(image: Image.Image, expected: tuple[int, int, int]) -> None:
    assert corner(load_image(image)) == expected


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((2, 3), 7, np.uint8), (7, 7, 7)),
        (np.full((2, 3, 1), 7, np.uint8), (7, 7, 7)),
        (np.full((2, 3, 3), 7, np.uint8), (7, 7, 7)),
        (np.array([[[0, 0, 0, 0]]], np.uint8), (255, 255, 255)),
    ],
)
def test_load_image_of_an_array_gives_rgb(array: np.ndarray, expected: tuple[int, int, int]) -> None:
    image = load_image(array)
    assert corner(image) == expected
    assert image.size == array.shape[1::-1]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_load_image_of_16_bit_grey_file_scales_to_8_bits(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / f"grey.{suffix}")
    assert np.asarray(load_image(tmp_path / f"grey.{suffix}"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_load_image_of_a_big_endian_16_bit_tiff_scales_to_8_bits(tmp_path: Path) -> None:
    image = Image.frombytes("I;16B", (2, 1), np.array([128 * 257, 65535], ">u2").tobytes())
    image.save(tmp_path / "grey.tiff")
    assert np.asarray(load_image(tmp_path / "grey.tiff"))[0, :, 0].tolist() == [128, 255]


def test_load_image_of_a_palette_with_a_transparent_entry_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.putdata([0, 1])
    image.save(tmp_path / "palette.png", transparency=0)
    assert np.asarray(load_image(tmp_path / "palette.png"))[0].tolist() == [[255, 255, 255], [200, 10, 10]]


@pytest.mark.parametrize(("name", "kind"), KINDS.items(), ids=KINDS)
def test_load_image_of_any_kind_of_file_shows_what_is_in_it(name: str, kind: Any, tmp_path: Path) -> None:
    """Against the original's own reading, but for transparency and 16 bits, where it shows what nobody meant."""
    make, read = kind
    make(tmp_path / name)
    given, wanted = (np.asarray(image, np.int16) for image in (load_image(tmp_path / name), read(tmp_path / name)))
    assert given.shape == wanted.shape
    assert np.abs(given - wanted).max() <= (1 if read is over_white else 0)


@pytest.mark.parametrize(("path", "size"), [(CAT, (451, 300)), (CUP, (600, 400))], ids=["cat", "cup"])
def test_load_image_of_a_photograph_equals_the_original(path: Path, size: tuple[int, int]) -> None:
    image = load_image(path)
    assert image.size == size
    np.testing.assert_array_equal(np.asarray(image), np.asarray(as_the_original_reads_it(path)))


def test_load_image_missing_or_not_a_picture_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    for path, message in [
        (tmp_path / "none.png", f"image file {str(tmp_path / 'none.png')!r} does not exist"),
        (
            tmp_path / "text.png",
            f"image file {str(tmp_path / 'text.png')!r} is not a picture in a known format; "
            "known are PNG, JPEG, WEBP, GIF, BMP, TIFF, AVIF",
        ),
        (tmp_path, f"image file {str(tmp_path)!r} cannot be read: Is a directory"),
    ]:
        with pytest.raises(RequestError, match=f"^{re.escape(message)}$"):
            load_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_load_image_truncated_names_the_file(tmp_path: Path, suffix: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(
        RequestError, match=r"^image file '.*cut\..*' (cannot be read: .+|is not a picture.*)$"
    ) as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


def test_load_image_of_a_truncated_pil_image_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    with Image.open(path) as image, pytest.raises(RequestError, match=r"^image file '.*cut\.png' cannot be read: "):
        load_image(image)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            Image.new("F", (2, 2)),
            "image has floating-point pixels of unknown range; save it with 8 or 16 bits a channel",
        ),
        (Image.new("RGB", (0, 3)), "image holds no pixels (it is 0×3)"),
        (np.zeros((0, 3), np.uint8), "image array of shape (0, 3) holds no pixels"),
        (np.zeros((2, 3)), "image is a float64 array; image arrays are uint8"),
        (b"png", "image is a bytes; pass a path, a PIL image or a uint8 array"),
        ("a\0b", r"image file 'a\x00b' cannot be read: embedded null byte"),
        ("", "image file '' does not exist"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)  # fmt: skip
def test_load_image_of_what_cannot_be_used_says_why(source: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_image(source)
    assert str(caught.value) == message


class Nameless(Image.Image):
    """An image that can't say its file."""

    @property
    def filename(self) -> str:
        raise OSError("no name")


class Silent(str):
    """A path that can't be shown."""

    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("source", "message"),
    [(Nameless(), "image can't be read: OSError('no name')"), (Silent("none.png"), "image file 'none.png' does not exist")],
    ids=["image", "path"],
)
def test_load_image_whose_name_cannot_be_asked_for_says_so(source: Any, message: str) -> None:
    """The name was asked for outside every guard."""
    with pytest.raises(RequestError) as caught:
        load_image(source)
    assert str(caught.value) == message


def test_load_image_of_a_float_tiff_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "float.tiff"
    Image.fromarray(np.ones((2, 2), np.float32)).save(path)
    with pytest.raises(RequestError, match=r"^image file '.*float\.tiff' has floating-point pixels"):
        load_image(path)
