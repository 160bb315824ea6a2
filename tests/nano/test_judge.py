"""The mistakes of pictures against what was expected, and of edits against their source."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.nano.judging.judge import (
    find_edit_mistakes,
    find_mistakes,
    find_task_mistakes,
    psnr_db,
    unchanged_region,
)
from omnigen2_rt.nano.judging.picture_reader import read_picture
from omnigen2_rt.nano.tasks.edits import EDITS, Edit, move, random_edit, restyle
from omnigen2_rt.nano.tasks.task_types import DrawingTask, ExpectedPicture, expected_picture
from omnigen2_rt.nano.world.render import render
from omnigen2_rt.nano.world.scenes import Sampler, Scene, Thing, resized

RED_CIRCLE = Thing(shape="circle", colour="red", size="large", x=33.0, y=64.0, radius=20.0)
BLUE_STAR = Thing(shape="star", colour="blue", size="small", x=95.0, y=64.0, radius=13.0)
MIXED = "small and large things where the request leaves their one size open"
PAIR = Scene(background="white", things=(RED_CIRCLE, BLUE_STAR))


def expect(*things: tuple[str, str, str], background: str = "white", relation: str = "") -> ExpectedPicture:
    return ExpectedPicture(background=background, things=things, relation=relation)


def edit_task(source: Scene, target: Scene, relation: str = "") -> DrawingTask:
    expected = expected_picture(target, relation)
    return DrawingTask(ability="edit", kind="any", prompt="", inputs=(source,), target=target, expected=expected)


@pytest.mark.parametrize(
    ("expected", "mistakes"),
    [
        (
            replace(expect(("large", "red", "circle"), ("small", "blue", "star")), styles=("outlined", "")),
            ("a large red circle where a large outlined red circle was wanted",),
        ),
        (expect(("large", "red", "circle"), ("small", "blue", "star"), relation="left"), ()),
        (expect(("", "red", "circle"), ("", "blue", "star")), (MIXED,)),
        (expect(("small", "blue", "star"), ("large", "red", "circle"), relation="right"), ()),
        (
            expect(("large", "red", "circle"), ("small", "blue", "star"), relation="above"),
            ("the first thing is left, not above",),
        ),
        (
            expect(("large", "red", "circle"), ("large", "blue", "star")),
            ("a small blue star where a large blue star was wanted",),
        ),
        (
            expect(("", "orange", "circle"), ("", "blue", "star")),
            ("a large red circle where an orange circle was wanted",),
        ),
        (expect(("large", "red", "circle")), ("two things, not one",)),
        (
            expect(("", "red", "circle"), ("", "blue", "star"), background="black"),
            ("the background is white, not black", MIXED),
        ),
    ],
)
def test_mistakes_of_a_picture_are_described(expected: ExpectedPicture, mistakes: tuple[str, ...]) -> None:
    assert find_mistakes(render(PAIR), expected) == mistakes


def test_size_between_small_and_large_is_a_mistake_though_no_size_was_requested() -> None:
    between = replace(PAIR, things=(replace(RED_CIRCLE, radius=16.5),))
    assert "neither small nor large" in find_mistakes(render(between), expect(("", "red", "circle")))[0]


@pytest.mark.parametrize("make", EDITS, ids=lambda make: make.__name__)
def test_task_mistakes_of_right_edits_are_none(make: Edit) -> None:
    sampler = Sampler(7)
    for _ in range(12):
        task = random_edit(sampler, make)
        assert find_task_mistakes(render(task.target), task) == ()


@pytest.mark.parametrize("make", EDITS, ids=lambda make: make.__name__)
def test_task_mistakes_of_an_edit_without_effect_are_found(make: Edit) -> None:
    sampler = Sampler(8)
    for _ in range(12):
        task = random_edit(sampler, make)
        assert find_task_mistakes(render(task.inputs[0]), task)


def test_task_mistakes_of_an_edit_that_moved_the_rest_say_so() -> None:
    target = replace(PAIR, things=(replace(RED_CIRCLE, colour="green"), BLUE_STAR))
    moved = replace(target, things=(target.things[0], replace(BLUE_STAR, x=BLUE_STAR.x - 5)))
    task = edit_task(PAIR, target)
    assert find_task_mistakes(render(target), task) == ()
    (mistake,) = find_task_mistakes(render(moved), task)
    assert mistake.startswith("the rest was not kept: PSNR ") and mistake.endswith(" is below 24 dB")


def test_task_mistakes_of_a_thing_added_elsewhere_than_in_the_target_are_none() -> None:
    task = edit_task(replace(PAIR, things=(BLUE_STAR,)), PAIR, relation="left")
    elsewhere = replace(PAIR, things=(replace(RED_CIRCLE, x=44.0, y=50.0), BLUE_STAR))
    assert find_task_mistakes(render(elsewhere), task) == ()


def test_task_mistakes_of_a_new_background_ask_for_the_things_as_they_were() -> None:
    target = replace(PAIR, background="yellow")
    task = edit_task(PAIR, target)
    assert find_task_mistakes(render(target), task) == ()
    moved = replace(target, things=(RED_CIRCLE, replace(BLUE_STAR, y=BLUE_STAR.y - 9)))
    assert "the rest was not kept" in find_task_mistakes(render(moved), task)[-1]


def test_unchanged_region_of_a_recolouring_excludes_the_thing_and_a_margin() -> None:
    region = unchanged_region(PAIR, replace(PAIR, things=(replace(RED_CIRCLE, colour="green"), BLUE_STAR)), ())
    assert not region[64, 33 - 22 : 33 + 22].any()
    assert region[64, 95] and region[64, 33 + 25] and region[64, 33 - 25]


def test_unchanged_region_of_an_addition_follows_the_thing_in_the_picture() -> None:
    source = replace(PAIR, things=(BLUE_STAR,))
    things = read_picture(render(replace(PAIR, things=(replace(RED_CIRCLE, y=40.0), BLUE_STAR)))).things
    region = unchanged_region(source, PAIR, things)
    assert not region[40, 33] and region[64 + 18, 33]


def test_psnr_of_pictures_one_level_apart_is_48_decibels() -> None:
    grey, everywhere = np.full((128, 128, 3), 100, np.float32), np.ones((128, 128), bool)
    assert psnr_db(grey, grey + 1, everywhere) == pytest.approx(48.13, abs=0.01)
    assert psnr_db(grey, grey, everywhere) == math.inf
    assert psnr_db(grey, grey + 9, ~everywhere) == math.inf


def test_mistakes_of_an_array_are_those_of_the_picture() -> None:
    pixels = np.asarray(render(PAIR))
    expected = expect(("large", "red", "circle"), ("small", "blue", "star"))
    assert find_mistakes(pixels, expected) == find_mistakes(Image.fromarray(pixels), expected) == ()
    unsized = expect(("", "red", "circle"), ("", "blue", "star"))
    assert find_mistakes(pixels, unsized) == find_mistakes(Image.fromarray(pixels), unsized) == (MIXED,)


def test_small_and_large_things_are_a_mistake_where_the_request_leaves_their_size_open() -> None:
    """WORLD.md: either size is right, but only one in a picture. Such pictures were accepted."""
    sampler = Sampler(12)
    pair = sampler.two_things("left", "large")
    mixed = replace(pair, things=(pair.things[0], resized(pair.things[1])))
    open_sizes = expected_picture(pair, "left", (False, False))
    assert find_mistakes(render(pair), open_sizes) == ()
    assert "leaves their one size open" in find_mistakes(render(mixed), open_sizes)[0]
    assert find_mistakes(render(mixed), expected_picture(mixed, "left")) == ()


def test_thing_in_another_place_than_the_expected_one_is_a_mistake() -> None:
    scene = Sampler(13).one_thing("left")
    assert find_mistakes(render(scene), expected_picture(scene, place="left")) == ()
    assert find_mistakes(render(scene), expected_picture(scene, place="top")) == (
        "the thing is in the place left, not top",
    )


@pytest.mark.parametrize("make", EDITS, ids=lambda make: make.__name__)
def test_edit_of_a_picture_with_its_things_elsewhere_is_judged_against_that_picture(make: Edit) -> None:
    sampler, wrong = Sampler(14), 0
    for _ in range(12):
        task = random_edit(sampler, make)
        source, target = (moved(scene, 2.0) for scene in (task.inputs[0], task.target))
        assert find_edit_mistakes(render(target), render(source), task) == ()
        wrong += bool(find_edit_mistakes(render(moved(target, -4.0)), render(source), task))
    assert (wrong > 0) == (make not in (move, restyle))  # which leave nothing else to be kept


def moved(scene: Scene, by_px: float) -> Scene:
    return replace(scene, things=tuple(replace(thing, x=thing.x + by_px, y=thing.y + by_px) for thing in scene.things))


def test_style_other_than_the_expected_one_is_a_mistake() -> None:
    striped = Scene(background="white", things=(replace(RED_CIRCLE, x=64.0, style="striped"),))
    outlined = replace(striped, things=(replace(striped.things[0], style="outlined"),))
    assert find_mistakes(render(striped), expected_picture(striped)) == ()
    mistake = "a large striped red circle where a large outlined red circle was wanted"
    assert find_mistakes(render(striped), expected_picture(outlined)) == (mistake,)


def test_picture_of_another_size_than_the_target_is_a_mistake() -> None:
    target = Sampler(15, (192, 128)).one_thing("left")
    square = Sampler(15).one_thing("left")
    task = edit_task(replace(target, background="green" if target.background != "green" else "blue"), target)
    assert find_task_mistakes(render(target), task) == ()
    mistake = ("the picture is 128 x 128 px, not 192 x 128 px",)
    assert find_task_mistakes(render(square), task) == mistake
    assert find_edit_mistakes(render(square), render(task.inputs[0]), task) == mistake


def test_background_edit_of_a_styled_thing_keeps_its_band_in_place() -> None:
    source = Scene(background="white", things=(replace(RED_CIRCLE, x=64.0, style="outlined"),))
    target = replace(source, background="yellow")
    task = edit_task(source, target)
    assert find_task_mistakes(render(target), task) == ()
    assert "the rest was not kept" in find_task_mistakes(render(moved(target, 5.0)), task)[-1]
