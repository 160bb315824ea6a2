"""Landscapes are read from their renderings, also with small flaws, and nothing else is accepted for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from omnigen2_rt.nano.judging.judge import find_edit_mistakes, find_mistakes, find_task_mistakes
from omnigen2_rt.nano.judging.landscape_reader import read_landscape
from omnigen2_rt.nano.tasks.landscape_tasks import edit_landscape
from omnigen2_rt.nano.tasks.task_types import ExpectedLandscape, expected_picture
from omnigen2_rt.nano.world import render as rendering
from omnigen2_rt.nano.world.landscapes import PAINTS, SUBJECTS, Element, Landscape, elements, random_landscape
from omnigen2_rt.nano.world.render import render
from omnigen2_rt.nano.world.scenes import SIZES_PX, Sampler
from tests.nano.corruptions import noisy

RED_HOUSE = Landscape(subject="house", colour="red", is_night=False, shift_px=2.3)
PARTS = [
    (subject, number) for subject in SUBJECTS for number in range(len([*elements(replace(RED_HOUSE, subject=subject))]))
]


def blurred_and_noisy(picture: Image.Image) -> Image.Image:
    return noisy(picture.filter(ImageFilter.GaussianBlur(0.8)), np.random.default_rng(0))


def some_landscapes() -> Iterator[Landscape]:
    """One of every subject, colour and time, with random shifts and in all sizes."""
    rng, kinds = np.random.default_rng(1), [(s, c, n) for s in SUBJECTS for c in PAINTS for n in (False, True)]
    for number, (subject, colour, is_night) in enumerate(kinds):
        shift_px, size_px = float(rng.uniform(-8, 8)), SIZES_PX[number % len(SIZES_PX)]
        yield Landscape(subject=subject, colour=colour, is_night=is_night, shift_px=shift_px, size_px=size_px)


@pytest.mark.parametrize("treatment", [lambda picture: picture, blurred_and_noisy], ids=["clean", "blurred and noisy"])
def test_reader_of_every_landscape_finds_it(treatment: Callable[[Image.Image], Image.Image]) -> None:
    for landscape in some_landscapes():
        found = read_landscape(treatment(render(landscape)))
        assert found is not None, landscape
        assert replace(found, shift_px=landscape.shift_px) == landscape
        assert abs(found.shift_px - landscape.shift_px) <= 0.5


def drawn(parts: Sequence[Element], landscape: Landscape, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    """A landscape's picture with other parts."""
    with monkeypatch.context() as patch:
        patch.setattr(rendering, "elements", lambda _: parts)
        return render(landscape)


@pytest.mark.parametrize(("subject", "number"), PARTS)
def test_landscape_without_one_of_its_parts_is_none(subject: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    landscape = replace(RED_HOUSE, subject=subject)
    parts = [*elements(landscape)]
    assert read_landscape(drawn(parts[:number] + parts[number + 1 :], landscape, monkeypatch)) is None


def test_landscape_with_a_full_moon_or_a_torn_roof_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    night = replace(RED_HOUSE, is_night=True)
    assert read_landscape(drawn([part for k, part in enumerate(elements(night)) if k != 1], night, monkeypatch)) is None
    torn = np.array(render(RED_HOUSE))
    torn[46:70, 64:70] = torn[2, 2]
    assert read_landscape(torn) is None


@pytest.mark.parametrize(
    ("expected", "mistakes"),
    [
        (ExpectedLandscape(subject="house", colour="red", is_night=False), ()),
        (ExpectedLandscape(subject="house", colour="red"), ()),
        (
            ExpectedLandscape(subject="tree", colour="white", is_night=True),
            ("it shows a red house by day, not a white tree at night",),
        ),
        (
            ExpectedLandscape(subject="house", colour="red", is_night=True),
            ("it shows a red house by day, not a red house at night",),
        ),
        (ExpectedLandscape(subject="house", colour="yellow"), ("it shows a red house by day, not a yellow house",)),
    ],
)
def test_mistakes_of_a_landscape_are_described(expected: ExpectedLandscape, mistakes: tuple[str, ...]) -> None:
    assert find_mistakes(render(RED_HOUSE), expected) == mistakes


def test_time_that_the_request_leaves_open_may_be_night() -> None:
    night = render(replace(RED_HOUSE, is_night=True))
    assert find_mistakes(night, ExpectedLandscape(subject="house", colour="red")) == ()


def test_scene_for_a_landscape_and_the_other_way_round_are_mistakes() -> None:
    scene = Sampler(1).one_thing()
    (differ, *_) = find_mistakes(render(scene), ExpectedLandscape(subject="house", colour="red"))
    assert " pixels differ from a " in differ and differ.endswith(", the nearest landscape")
    assert find_mistakes(render(RED_HOUSE), expected_picture(scene))


def moved(landscape: Landscape, by_px: float) -> Landscape:
    return replace(landscape, shift_px=landscape.shift_px + by_px)


@pytest.mark.parametrize("size_px", SIZES_PX)
def test_edits_of_landscapes_are_right_near_the_source_and_without_effect_wrong(size_px: tuple[int, int]) -> None:
    sampler = Sampler(3, size_px)
    for _ in range(4):
        landscape = replace(random_landscape(sampler), shift_px=-4.0)
        task = edit_landscape(sampler, landscape)
        target = task.target
        assert isinstance(target, Landscape)
        assert find_task_mistakes(render(moved(target, 2.0)), task) == ()
        assert find_task_mistakes(render(landscape), task)
        assert find_task_mistakes(render(moved(target, 6.0)), task) == (f"the {target.subject} was moved by 6.0 px",)
        source = render(moved(landscape, 5.0))
        assert find_edit_mistakes(render(moved(target, 6.0)), source, task) == ()
        assert find_edit_mistakes(render(target), source, task) == (f"the {target.subject} was moved by 5.0 px",)
