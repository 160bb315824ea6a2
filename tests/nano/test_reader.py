"""The reader sees what was rendered, also through a model's small faults, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.nano import drawing_tasks
from omnigen2_rt.nano.drawing_tasks import as_wanted
from omnigen2_rt.nano.reader import components, named, read
from omnigen2_rt.nano.render import render
from omnigen2_rt.nano.scorer import mistakes
from omnigen2_rt.nano.world import COLOURS, RADII_PX, SHAPES, Sampler, Scene
from tests.nano.spoiling import CORRUPTIONS, TREATMENTS, Original, turned, upside_down, without_a_point

PICTURES = 400
"""Of each treatment: 2,000 in all."""
MAKERS = (
    drawing_tasks.draw_one,
    drawing_tasks.draw_held_out,
    drawing_tasks.draw_two,
    drawing_tasks.draw_count,
    drawing_tasks.edit,
    drawing_tasks.combine,
)


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_reader_of_rendered_pictures_is_right_in_99_of_100(treatment: str) -> None:
    sampler, rng = Sampler(list(TREATMENTS).index(treatment)), np.random.default_rng(1)
    wrong = []
    for number in range(PICTURES):
        task = MAKERS[number % len(MAKERS)](sampler)
        found = mistakes(TREATMENTS[treatment](render(task.target), rng), task.wanted)
        wrong += [(task.prompt, found)] if found else []
    assert len(wrong) <= PICTURES // 100, wrong


@pytest.mark.parametrize("size", RADII_PX)
@pytest.mark.parametrize("shape", SHAPES)
def test_reader_of_one_thing_gives_its_place_and_radius(shape: str, size: str) -> None:
    it = Original(shape, size, seed=3)
    (thing,) = read(render(it.scene)).things
    assert (thing.shape, thing.colour, thing.size) == (it.thing.shape, it.thing.colour, it.thing.size)
    assert np.hypot(thing.x - it.thing.x, thing.y - it.thing.y) < 0.4
    assert abs(thing.radius - it.thing.radius) < 0.4


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.__name__)
def test_reader_of_a_corrupted_picture_finds_a_mistake(corruption: Callable[[Original], np.ndarray]) -> None:
    for seed, (shape, size) in enumerate((shape, size) for shape in SHAPES for size in RADII_PX):
        it = Original(shape, size, seed)
        assert mistakes(corruption(it), as_wanted(it.scene)), (shape, size)


@pytest.mark.parametrize(
    ("shape", "corruption"),
    [("star", without_a_point), ("star", turned), ("star", upside_down)]
    + [("triangle", turned), ("triangle", upside_down), ("square", turned)],
)
@pytest.mark.parametrize("size", RADII_PX)
def test_reader_of_a_shape_that_is_not_the_worlds_finds_none(
    shape: str, corruption: Callable[[Original], np.ndarray], size: str
) -> None:
    reading = read(corruption(Original(shape, size, seed=5)))
    assert [thing.shape for thing in reading.things] == [""]
    assert "is none of the shapes" in reading.faults[0]


def test_reader_of_a_blank_picture_finds_its_background_and_no_things() -> None:
    reading = read(render(Scene(background="purple", things=())))
    assert (reading.background, reading.things, reading.faults) == ("purple", (), ())


def test_reader_of_a_grey_picture_names_no_background() -> None:
    reading = read(Image.new("RGB", (128, 128), (128, 128, 128)))
    assert reading.background == ""
    assert reading.faults == ("the background's colour is none of the palette",)


def test_reader_of_noise_tells_a_few_faults_and_counts_the_others() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    reading = read(Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC))
    assert len(reading.faults) == 5 and reading.faults[-1].endswith(" faults more")


def test_reader_of_a_larger_picture_reads_it_at_the_worlds_size() -> None:
    it = Original("star", "large", seed=2)
    (thing,) = read(render(it.scene).resize((256, 256), Image.Resampling.BICUBIC)).things
    assert (thing.shape, thing.size) == ("star", "large")
    assert abs(thing.radius - it.thing.radius) < 0.5


@pytest.mark.parametrize("colour", COLOURS)
def test_named_colour_a_little_off_is_found_and_halfway_to_grey_is_not(colour: str) -> None:
    exact = np.array(COLOURS[colour], np.float32)
    assert named(exact + 20) == colour
    assert named((exact + np.float32([0, 255, 255])) / 2) == ""


def test_components_of_shapes_that_join_below_are_one() -> None:
    letters = np.array([[1, 0, 1, 0, 1], [1, 1, 1, 0, 1], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]], bool)
    assert sorted(int(part.sum()) for part in components(letters)) == [1, 3, 5]
