"""What a picture shows, held against what was wanted, and an edit against its source."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.nano.drawing_tasks import EDITS, DrawingTask, Wanted, as_wanted
from omnigen2_rt.nano.reader import read
from omnigen2_rt.nano.render import render
from omnigen2_rt.nano.scorer import kept_region, mistakes, psnr_db, task_mistakes
from omnigen2_rt.nano.world import Sampler, Scene, Thing

RED_CIRCLE = Thing(shape="circle", colour="red", size="large", x=33.0, y=64.0, radius=20.0)
BLUE_STAR = Thing(shape="star", colour="blue", size="small", x=95.0, y=64.0, radius=13.0)
PAIR = Scene(background="white", things=(RED_CIRCLE, BLUE_STAR))


def wanted(*things: tuple[str, str, str], background: str = "white", relation: str = "") -> Wanted:
    return Wanted(background=background, things=things, relation=relation)


def edited(source: Scene, target: Scene, relation: str = "") -> DrawingTask:
    asked = as_wanted(target, relation)
    return DrawingTask(ability="edit", kind="any", prompt="", inputs=(source,), target=target, wanted=asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (wanted(("large", "red", "circle"), ("small", "blue", "star"), relation="left"), ()),
        (wanted(("", "red", "circle"), ("", "blue", "star")), ()),
        (wanted(("small", "blue", "star"), ("large", "red", "circle"), relation="right"), ()),
        (
            wanted(("large", "red", "circle"), ("small", "blue", "star"), relation="above"),
            ("the first thing is left, not above",),
        ),
        (
            wanted(("large", "red", "circle"), ("large", "blue", "star")),
            ("a small blue star where a large blue star was wanted",),
        ),
        (
            wanted(("", "orange", "circle"), ("", "blue", "star")),
            ("a large red circle where an orange circle was wanted",),
        ),
        (wanted(("large", "red", "circle")), ("two things, not one",)),
        (
            wanted(("", "red", "circle"), ("", "blue", "star"), background="black"),
            ("the background is white, not black",),
        ),
    ],
)
def test_mistakes_of_a_picture_are_told_in_words(asked: Wanted, said: tuple[str, ...]) -> None:
    assert mistakes(render(PAIR), asked) == said


def test_mistakes_of_a_size_between_small_and_large_are_told_though_no_size_was_asked_for() -> None:
    between = replace(PAIR, things=(replace(RED_CIRCLE, radius=16.5),))
    assert "neither small nor large" in mistakes(render(between), wanted(("", "red", "circle")))[0]


@pytest.mark.parametrize("make", EDITS, ids=lambda make: make.__name__)
def test_task_mistakes_of_right_edits_are_none(make: Callable[[Sampler], DrawingTask]) -> None:
    sampler = Sampler(7)
    for _ in range(12):
        task = make(sampler)
        assert task_mistakes(render(task.target), task) == ()


@pytest.mark.parametrize("make", EDITS, ids=lambda make: make.__name__)
def test_task_mistakes_of_an_edit_that_was_not_made_are_found(make: Callable[[Sampler], DrawingTask]) -> None:
    sampler = Sampler(8)
    for _ in range(12):
        task = make(sampler)
        assert task_mistakes(render(task.inputs[0]), task)


def test_task_mistakes_of_an_edit_that_moved_the_rest_say_so() -> None:
    target = replace(PAIR, things=(replace(RED_CIRCLE, colour="green"), BLUE_STAR))
    moved = replace(target, things=(target.things[0], replace(BLUE_STAR, x=BLUE_STAR.x - 5)))
    task = edited(PAIR, target)
    assert task_mistakes(render(target), task) == ()
    (said,) = task_mistakes(render(moved), task)
    assert said.startswith("the rest was not kept: PSNR ") and said.endswith(" is below 24 dB")


def test_task_mistakes_of_a_thing_added_elsewhere_than_in_the_target_are_none() -> None:
    task = edited(replace(PAIR, things=(BLUE_STAR,)), PAIR, relation="left")
    elsewhere = replace(PAIR, things=(replace(RED_CIRCLE, x=44.0, y=50.0), BLUE_STAR))
    assert task_mistakes(render(elsewhere), task) == ()


def test_task_mistakes_of_a_new_background_ask_for_the_things_as_they_were() -> None:
    target = replace(PAIR, background="yellow")
    task = edited(PAIR, target)
    assert task_mistakes(render(target), task) == ()
    moved = replace(target, things=(RED_CIRCLE, replace(BLUE_STAR, y=BLUE_STAR.y - 9)))
    assert "the rest was not kept" in task_mistakes(render(moved), task)[-1]


def test_kept_region_of_a_recolouring_leaves_out_the_thing_and_a_margin() -> None:
    kept = kept_region(PAIR, replace(PAIR, things=(replace(RED_CIRCLE, colour="green"), BLUE_STAR)), ())
    assert not kept[64, 33 - 22 : 33 + 22].any()
    assert kept[64, 95] and kept[64, 33 + 25] and kept[64, 33 - 25]


def test_kept_region_of_an_addition_follows_the_thing_found() -> None:
    source = replace(PAIR, things=(BLUE_STAR,))
    found = read(render(replace(PAIR, things=(replace(RED_CIRCLE, y=40.0), BLUE_STAR)))).things
    kept = kept_region(source, PAIR, found)
    assert not kept[40, 33] and kept[64 + 18, 33]


def test_psnr_of_pictures_one_level_apart_is_48_decibels() -> None:
    grey, everywhere = np.full((128, 128, 3), 100, np.float32), np.ones((128, 128), bool)
    assert psnr_db(grey, grey + 1, everywhere) == pytest.approx(48.13, abs=0.01)
    assert psnr_db(grey, grey, everywhere) == math.inf
    assert psnr_db(grey, grey + 9, ~everywhere) == math.inf


def test_mistakes_of_an_array_are_those_of_the_picture() -> None:
    pixels = np.asarray(render(PAIR))
    asked = wanted(("", "red", "circle"), ("", "blue", "star"))
    assert mistakes(pixels, asked) == mistakes(Image.fromarray(pixels), asked) == ()
