"""The contact sheet: what was asked of nano and what it drew, as one picture. Knows nothing of who drew it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ..runtime.images.captions import sheet_of

GAP_PX = 12
ARROW_PX = 22
WIDEST_PX = 1000
SIDE_PX = 128
LEAST_CELL_PX = 220
"""As wide as a caption is made at least."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """A request, the pictures it came with, and the picture that answers it."""

    prompt: str
    picture: Image.Image
    inputs: tuple[Image.Image, ...] = ()


def contact_sheet(drawings: Sequence[Drawn], widest_px: int = WIDEST_PX) -> Image.Image:
    """The drawings in rows on white, inputs beside outputs, each above its prompt."""
    strips = [_strip(drawn) for drawn in drawings]
    rows = [
        sheet_of([strips[k] for k in row], [drawings[k].prompt for k in row])
        for row in _rows([strip.width for strip in strips], widest_px)
    ]
    size = (max(row.width for row in rows) + 2 * GAP_PX, sum(row.height + GAP_PX for row in rows) + GAP_PX)
    sheet, top = Image.new("RGB", size, "white"), GAP_PX
    for row in rows:
        sheet.paste(row, (GAP_PX, top))
        top += row.height + GAP_PX
    return sheet


def _rows(widths: Sequence[int], widest_px: int) -> Iterator[list[int]]:
    """The numbers of the strips in each row: as many as fit, in their order."""
    row: list[int] = []
    taken = 2 * GAP_PX
    for number, width in enumerate(widths):
        needed = max(width, LEAST_CELL_PX) + GAP_PX
        if row and taken + needed > widest_px:
            yield row
            row, taken = [], 2 * GAP_PX
        row.append(number)
        taken += needed
    if row:
        yield row


def _strip(drawn: Drawn) -> Image.Image:
    """The inputs, an arrow and the output side by side; the output alone where nothing was given."""
    pictures = [_at_size(picture) for picture in (*drawn.inputs, drawn.picture)]
    arrow = ARROW_PX if drawn.inputs else 0
    width = len(pictures) * (SIDE_PX + GAP_PX // 2) + arrow
    strip = Image.new("RGB", (width, SIDE_PX), "white")
    for number, picture in enumerate(pictures):
        after_arrow = arrow if number == len(pictures) - 1 else 0
        strip.paste(picture, (number * (SIDE_PX + GAP_PX // 2) + after_arrow, 0))
    if drawn.inputs:
        _draw_arrow(strip, width - SIDE_PX - GAP_PX // 2 - (ARROW_PX + GAP_PX // 2) // 2)
    return strip


def _draw_arrow(strip: Image.Image, middle_px: int) -> None:
    draw, y, half = ImageDraw.Draw(strip), SIDE_PX // 2, ARROW_PX // 2 - 2
    draw.line((middle_px - half, y, middle_px + half - 4, y), "black", 2)
    draw.polygon([(middle_px + half, y), (middle_px + half - 6, y - 5), (middle_px + half - 6, y + 5)], "black")


def _at_size(picture: Image.Image) -> Image.Image:
    square = (SIDE_PX, SIDE_PX)
    return picture.convert("RGB") if picture.size == square else picture.convert("RGB").resize(square)
