"""The contact sheet shows every picture, its inputs before it, and breaks rows."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.nano.contact_sheet import SheetEntry, contact_sheet

COLOURS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (45, 80, 220)}


def plain(colour: str, side: int = 128) -> Image.Image:
    return Image.new("RGB", (side, side), COLOURS[colour])


def area_px(sheet: Image.Image, colour: str) -> int:
    return int((np.asarray(sheet) == COLOURS[colour]).all(-1).sum())


def left_px(sheet: Image.Image, colour: str) -> int:
    return int(np.nonzero((np.asarray(sheet) == COLOURS[colour]).all(-1))[1].min())


def test_sheet_shows_inputs_before_the_drawing_and_a_prompt_below() -> None:
    entry = SheetEntry(prompt="put both on green", drawing=plain("green"), inputs=(plain("red"), plain("blue")))
    sheet = contact_sheet([entry])
    assert all(area_px(sheet, colour) == 128**2 for colour in COLOURS)
    assert left_px(sheet, "red") < left_px(sheet, "blue") < left_px(sheet, "green")
    below = np.asarray(sheet)[12 + 128 :]
    assert (below < 100).all(-1).any(), "no letters below the picture"


def test_sheet_brings_pictures_to_one_size() -> None:
    assert area_px(contact_sheet([SheetEntry(prompt="large", drawing=plain("red", 256))]), "red") == 128**2


@pytest.mark.parametrize(("size", "width"), [((192, 128), 192), ((128, 192), 85)])
def test_sheet_keeps_the_shape_of_a_picture(size: tuple[int, int], width: int) -> None:
    picture = Image.new("RGB", size, COLOURS["red"])
    assert area_px(contact_sheet([SheetEntry(prompt="not square", drawing=picture)]), "red") == 128 * width


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_sheet_of_many_entries_breaks_rows_and_loses_none(count: int) -> None:
    sheet = contact_sheet([SheetEntry(prompt=f"number {k}", drawing=plain("red")) for k in range(count)])
    assert area_px(sheet, "red") == count * 128**2
    assert sheet.width <= 1000


def test_entry_that_starts_a_row_is_below_the_one_before() -> None:
    entries = [SheetEntry(prompt="one", drawing=plain("red")), SheetEntry(prompt="two", drawing=plain("blue"), starts_row=True)]
    sheet = contact_sheet(entries)
    assert left_px(sheet, "red") == left_px(sheet, "blue") and sheet.height > 2 * 128


def test_sheet_of_an_entry_wider_than_the_sheet_still_shows_it() -> None:
    entry = SheetEntry(prompt="all", drawing=plain("green"), inputs=(plain("red"),) * 3)
    assert area_px(contact_sheet([entry, entry], max_width_px=300), "green") == 2 * 128**2
