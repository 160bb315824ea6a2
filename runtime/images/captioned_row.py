"""Pictures side by side above their captions, as one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP_PX = 8
MIN_COLUMN_PX = 220
FONT_PX = 14


def captioned_row(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """The pictures in a row on white, each above its caption, wrapped to the width of the column."""
    font = ImageFont.load_default(FONT_PX)
    widths = [max(picture.width, MIN_COLUMN_PX) for picture in pictures]
    texts = [_wrapped(caption, width, font) for caption, width in zip(captions, widths, strict=True)]
    top = max(picture.height for picture in pictures) + GAP_PX
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    bottom = max(measure.multiline_textbbox((0, 0), text, font)[3] for text in texts)
    size = (sum(widths) + GAP_PX * (len(widths) - 1), int(top + bottom + GAP_PX))
    row = Image.new("RGB", size, "white")
    draw, left = ImageDraw.Draw(row), 0
    for picture, text, width in zip(pictures, texts, widths, strict=True):
        row.paste(picture, (left, 0))
        draw.multiline_text((left, top), text, "black", font)
        left += width + GAP_PX
    return row


def _wrapped(text: str, width_px: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    letters = max(1, int(width_px / font.getlength("n")))
    return "\n".join(line for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, letters) or [""])
