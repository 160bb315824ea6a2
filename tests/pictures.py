"""Pictures as people have them: a photograph in many kinds of files, and what the model must be shown of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

PHOTOS = Path(__file__).parent / "data" / "photos"
CAT, CUP = PHOTOS / "cat.jpg", PHOTOS / "cup.jpg"
"""Photographs, 451×300 and 600×400, the second turned by its EXIF tag."""
ORIENTATION = 0x0112  # the EXIF tag


def photo(width: int = 70, height: int = 46) -> Image.Image:
    """The photograph in RGB, made smaller."""
    with Image.open(CAT) as opened:
        return opened.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def as_the_original_reads_it(path: Path) -> Image.Image:
    """The picture that the original's script reads from a file (inference.py): RGB, then upright."""
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened.convert("RGB"))
        assert upright is not None
        return upright


def over_white(path: Path) -> Image.Image:
    """A file with transparency, laid over white; the original drops the alpha channel and shows what is hidden."""
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGBA"), np.float64)
    alpha = pixels[..., 3:] / 255
    return Image.fromarray(np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8))


def in_8_bits(path: Path) -> Image.Image:
    """A 16-bit grey file, scaled; the original cuts everything above 255 off."""
    with Image.open(path) as opened:
        return Image.fromarray(np.rint(np.asarray(opened, np.float64) / 257).astype(np.uint8)).convert("RGB")


def _animated(path: Path) -> None:
    photo().save(path, save_all=True, append_images=[photo().rotate(180), photo().rotate(90)], duration=40)


def _rotated(orientation: int) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        photo().save(path, exif=exif)

    return save


def _see_through(path: Path) -> None:
    image = photo()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


def _grey_see_through(path: Path) -> None:
    image = photo().convert("LA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


def _palette(path: Path) -> None:
    photo().quantize(16).save(path, transparency=3)


def _wide_grey(path: Path) -> None:
    levels = np.asarray(photo().convert("L"), np.uint16) * 257 + np.uint16(40)
    Image.fromarray(np.minimum(levels, 65535).astype(np.uint16)).save(path)


def _in_mode(mode: str) -> Callable[[Path], None]:
    return lambda path: photo().convert(mode).save(path)


def _of_size(width: int, height: int) -> Callable[[Path], None]:
    return lambda path: photo(width, height).save(path)


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Image.Image]]] = {
    "animated.gif": (_animated, as_the_original_reads_it),
    "animated.webp": (_animated, as_the_original_reads_it),
    "animated.png": (_animated, as_the_original_reads_it),
    "cmyk.jpg": (_in_mode("CMYK"), as_the_original_reads_it),
    "cmyk.tiff": (_in_mode("CMYK"), as_the_original_reads_it),
    "grey.jpg": (_in_mode("L"), as_the_original_reads_it),
    "black and white.bmp": (_in_mode("1"), as_the_original_reads_it),
    **{f"orientation {k}.jpg": (_rotated(k), as_the_original_reads_it) for k in range(1, 9)},
    "orientation 6.png": (_rotated(6), as_the_original_reads_it),
    "orientation 6.webp": (_rotated(6), as_the_original_reads_it),
    "see-through.png": (_see_through, over_white),
    "see-through.webp": (_see_through, over_white),
    "grey see-through.png": (_grey_see_through, over_white),
    "palette.png": (_palette, over_white),
    "palette.gif": (_palette, over_white),
    "16 bits.png": (_wide_grey, in_8_bits),
    "16 bits.tiff": (_wide_grey, in_8_bits),
    "wide.jpg": (_of_size(333, 17), as_the_original_reads_it),
    "tall.webp": (_of_size(19, 161), as_the_original_reads_it),
}
"""By file name: what makes the file, and how to read it independently of the runtime."""
