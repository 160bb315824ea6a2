"""A contact sheet: prompts, input pictures and drawings as one picture. Knows nothing of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ..runtime.images.captioned_row import captioned_row

GAP_PX = 12
ARROW_PX = 22
MAX_WIDTH_PX = 1000
HEIGHT_PX = 128
"""The height of every picture on the sheet."""
MIN_CELL_PX = 220
"""The smallest width of a caption."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SheetEntry:
    """A prompt, its drawing and its input pictures. starts_row: a new row begins with it."""

    prompt: str
    drawing: Image.Image
    inputs: tuple[Image.Image, ...] = ()
    starts_row: bool = False


def contact_sheet(entries: Sequence[SheetEntry], max_width_px: int = MAX_WIDTH_PX) -> Image.Image:
    """The entries in rows on white: inputs, an arrow and the drawing above the prompt."""
    strips = [_strip(entry) for entry in entries]
    rows = [
        captioned_row([strips[k] for k in row], [entries[k].prompt for k in row])
        for row in _rows([strip.width for strip in strips], [entry.starts_row for entry in entries], max_width_px)
    ]
    size = (max(row.width for row in rows) + 2 * GAP_PX, sum(row.height + GAP_PX for row in rows) + GAP_PX)
    sheet, top = Image.new("RGB", size, "white"), GAP_PX
    for row in rows:
        sheet.paste(row, (GAP_PX, top))
        top += row.height + GAP_PX
    return sheet


def _rows(widths: Sequence[int], starts: Sequence[bool], max_width_px: int) -> Iterator[list[int]]:
    """The indices of the strips in each row, as many as fit. starts: whether a strip begins a new row."""
    row: list[int] = []
    used_px = 2 * GAP_PX
    for number, width in enumerate(widths):
        cell_px = max(width, MIN_CELL_PX) + GAP_PX
        if row and (starts[number] or used_px + cell_px > max_width_px):
            yield row
            row, used_px = [], 2 * GAP_PX
        row.append(number)
        used_px += cell_px
    if row:
        yield row


def _strip(entry: SheetEntry) -> Image.Image:
    """The inputs, an arrow and the drawing side by side; the drawing alone where there are no inputs."""
    pictures = [_at_size(picture) for picture in (*entry.inputs, entry.drawing)]
    arrow = ARROW_PX if entry.inputs else 0
    width = sum(picture.width + GAP_PX // 2 for picture in pictures) + arrow
    strip, left = Image.new("RGB", (width, HEIGHT_PX), "white"), 0
    for picture in pictures[:-1]:
        strip.paste(picture, (left, 0))
        left += picture.width + GAP_PX // 2
    if entry.inputs:
        _draw_arrow(strip, left + (ARROW_PX - GAP_PX // 2) // 2)
    strip.paste(pictures[-1], (left + arrow, 0))
    return strip


def _draw_arrow(strip: Image.Image, middle_px: int) -> None:
    draw, y, half = ImageDraw.Draw(strip), HEIGHT_PX // 2, ARROW_PX // 2 - 2
    draw.line((middle_px - half, y, middle_px + half - 4, y), "black", 2)
    draw.polygon([(middle_px + half, y), (middle_px + half - 6, y - 5), (middle_px + half - 6, y + 5)], "black")


def _at_size(picture: Image.Image) -> Image.Image:
    size = (round(picture.width * HEIGHT_PX / picture.height), HEIGHT_PX)
    return picture.convert("RGB") if picture.size == size else picture.convert("RGB").resize(size)
