"""The reader recovers rendered scenes, also with a model's small flaws, and rejects everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.nano.judging.judge import find_mistakes
from omnigen2_rt.nano.judging.masks import connected_components
from omnigen2_rt.nano.judging.picture_reader import colour_name, read_picture
from omnigen2_rt.nano.tasks import drawing_tasks, edits
from omnigen2_rt.nano.tasks.task_types import expected_picture
from omnigen2_rt.nano.world.render import render
from omnigen2_rt.nano.world.scenes import COLOURS, RADII_PX, SHAPES, SIZES_PX, STYLES, PictureSize, Sampler, Scene
from tests.nano.corruptions import (
    CORRUPTIONS,
    STYLED_CORRUPTIONS,
    TREATMENTS,
    Sample,
    turned,
    upside_down,
    without_a_point,
)

PICTURES = 200
"""Of each treatment: 2,000 in all."""
TASK_MAKERS = (
    drawing_tasks.draw_one,
    drawing_tasks.draw_held_out,
    drawing_tasks.draw_two,
    drawing_tasks.draw_count,
    edits.edit,
    drawing_tasks.combine,
)


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_reader_of_rendered_pictures_is_right_in_99_of_100(treatment: str) -> None:
    sampler, rng = Sampler(list(TREATMENTS).index(treatment)), np.random.default_rng(1)
    wrong = []
    for number in range(PICTURES):
        task = TASK_MAKERS[number % len(TASK_MAKERS)](sampler)
        mistakes = find_mistakes(TREATMENTS[treatment](render(task.target), rng), task.expected)
        wrong += [(task.prompt, mistakes)] if mistakes else []
    assert len(wrong) <= PICTURES // 100, wrong


@pytest.mark.parametrize("size", RADII_PX)
@pytest.mark.parametrize("shape", SHAPES)
def test_reader_of_one_thing_gives_its_place_and_radius(shape: str, size: str) -> None:
    sample = Sample(shape, size, seed=3)
    (thing,) = read_picture(render(sample.scene)).things
    assert (thing.shape, thing.colour, thing.size) == (sample.thing.shape, sample.thing.colour, sample.thing.size)
    assert np.hypot(thing.x - sample.thing.x, thing.y - sample.thing.y) < 0.4
    assert abs(thing.radius - sample.thing.radius) < 0.4


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.__name__)
def test_reader_of_a_corrupted_picture_finds_a_mistake(corruption: Callable[[Sample], np.ndarray]) -> None:
    for seed, (shape, size) in enumerate((shape, size) for shape in SHAPES for size in RADII_PX):
        sample = Sample(shape, size, seed)
        assert find_mistakes(corruption(sample), expected_picture(sample.scene)), (shape, size)


@pytest.mark.parametrize("size_px", SIZES_PX)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_reader_of_a_style_finds_it_in_every_size_of_picture(shape: str, style: str, size_px: PictureSize) -> None:
    sample, rng = Sample(shape, "large", 4, style, size_px), np.random.default_rng(2)
    for radius in RADII_PX["large"]:
        scene = replace(sample.scene, things=(replace(sample.thing, radius=radius),))
        for treatment in ("clean", "blurred", "noisy"):
            reading = read_picture(TREATMENTS[treatment](render(scene), rng))
            assert (reading.faults, reading.size_px) == ((), size_px)
            (thing,) = reading.things
            assert (thing.shape, thing.style, thing.colour) == (shape, style, sample.thing.colour)
            assert abs(thing.radius - radius) < 0.6


@pytest.mark.parametrize("corruption", STYLED_CORRUPTIONS, ids=lambda corruption: corruption.__name__)
def test_reader_of_a_corrupted_style_finds_a_mistake(corruption: Callable[[Sample], np.ndarray]) -> None:
    for seed, (shape, style) in enumerate((shape, style) for shape in SHAPES for style in STYLES[1:]):
        sample = Sample(shape, "large", seed, style, SIZES_PX[seed % len(SIZES_PX)])
        assert find_mistakes(corruption(sample), expected_picture(sample.scene)), (shape, style)


@pytest.mark.parametrize(
    ("shape", "corruption"),
    [("star", without_a_point), ("star", turned), ("star", upside_down)]
    + [("triangle", turned), ("triangle", upside_down), ("square", turned)],
)
@pytest.mark.parametrize("size", RADII_PX)
def test_reader_of_a_shape_that_is_not_the_worlds_finds_none(
    shape: str, corruption: Callable[[Sample], np.ndarray], size: str
) -> None:
    reading = read_picture(corruption(Sample(shape, size, seed=5)))
    assert [thing.shape for thing in reading.things] == [""]
    assert "is none of the shapes" in reading.faults[0]


def test_reader_of_a_blank_picture_finds_its_background_and_no_things() -> None:
    reading = read_picture(render(Scene(background="purple", things=())))
    assert (reading.background, reading.things, reading.faults) == ("purple", (), ())


def test_reader_of_a_grey_picture_names_no_background() -> None:
    reading = read_picture(Image.new("RGB", (128, 128), (128, 128, 128)))
    assert reading.background == ""
    assert reading.faults == ("the background's colour is none of the palette",)


def test_reader_of_noise_describes_a_few_faults_and_counts_the_others() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    reading = read_picture(Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC))
    assert len(reading.faults) == 5 and reading.faults[-1].endswith(" faults more")


def test_reader_of_a_larger_picture_reads_it_at_the_worlds_size() -> None:
    sample = Sample("star", "large", seed=2)
    (thing,) = read_picture(render(sample.scene).resize((256, 256), Image.Resampling.BICUBIC)).things
    assert (thing.shape, thing.size) == ("star", "large")
    assert abs(thing.radius - sample.thing.radius) < 0.5


@pytest.mark.parametrize("colour", COLOURS)
def test_colour_name_allows_a_small_difference_and_not_halfway_to_grey(colour: str) -> None:
    exact = np.array(COLOURS[colour], np.float32)
    assert colour_name(exact + 20) == colour
    assert colour_name((exact + np.float32([0, 255, 255])) / 2) == ""


def test_components_of_shapes_that_join_below_are_one() -> None:
    letters = np.array([[1, 0, 1, 0, 1], [1, 1, 1, 0, 1], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]], bool)
    assert sorted(int(part.sum()) for part in connected_components(letters)) == [1, 3, 5]
