"""Drawn pictures: each is drawn once, and again when something that decides it has changed."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt import load
from omnigen2_rt.evaluation.benchmark import shifted_timesteps
from omnigen2_rt.evaluation.benchmarks import BENCHMARKS, GEDIT, OMNICONTEXT
from omnigen2_rt.evaluation.pictures import draw_samples, judged_input, picture_path
from omnigen2_rt.evaluation.samples import Sample
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.images.png import read_parameters
from omnigen2_rt.runtime.pipeline import Pipeline
from omnigen2_rt.runtime.request import Request
from omnigen2_rt.runtime.schedulers.timesteps import timesteps

FIELDS = {"height_px": 32, "width_px": 32, "steps": 1, "text_guidance": 1.0, "align_size": False}


@pytest.fixture(scope="module")
def nano() -> Iterator[Pipeline]:
    with load("nano", backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        yield pipeline


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    return Sample(key="1", task="single_object", instruction="make the square green", inputs=(tmp_path / "red.png",))


class Counted:
    """The pipeline, and the number of its drawings."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.bundle, self.backend, self._pipeline, self.drawings = pipeline.bundle, pipeline.backend, pipeline, 0

    def generate(self, request: Request) -> object:
        self.drawings += 1
        return self._pipeline.generate(request)


def test_picture_is_drawn_once_and_again_when_something_changes(nano: Pipeline, sample: Sample, tmp_path: Path) -> None:
    pipeline = Counted(nano)

    def drawn(sample: Sample, **changes: object) -> int:
        before = pipeline.drawings
        assert draw_samples(pipeline, [sample], {**FIELDS, **changes}, tmp_path / "model") == {}  # type: ignore[arg-type]
        return pipeline.drawings - before

    file = picture_path(tmp_path / "model", sample)
    assert drawn(sample) == 1
    content = file.read_bytes()
    assert drawn(sample) == 0 and file.read_bytes() == content
    assert read_parameters(file)["prompt"] == "make the square green" and read_parameters(file)["images"] == ["red.png"]
    assert [drawn(sample, steps=2), drawn(sample), drawn(dataclasses.replace(sample, instruction="again"))] == [1, 1, 1]
    assert drawn(sample) == 1 and file.read_bytes() == content
    Image.new("RGB", (32, 32), "blue").save(sample.inputs[0])
    assert drawn(sample) == 1


def test_picture_of_another_program_is_never_replaced(nano: Pipeline, sample: Sample, tmp_path: Path) -> None:
    file = picture_path(tmp_path / "model", sample)
    file.parent.mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(file)
    for content in (file.read_bytes(), file.read_bytes()[:-12], b"a picture of a kind that is not read here"):
        file.write_bytes(content)
        with pytest.raises(RequestError, match="was not drawn by this command: take --no-draw"):
            draw_samples(nano, [sample], FIELDS, tmp_path / "model")
        assert file.read_bytes() == content


@pytest.mark.parametrize("length", [0, 5, 20, -60], ids=["empty", "no signature", "no mark", "pixels cut off"])
def test_damaged_picture_is_drawn_again_and_said(length: int, nano: Pipeline, sample: Sample, tmp_path: Path) -> None:
    file, notes = picture_path(tmp_path / "model", sample), list[str]()
    draw_samples(nano, [sample], FIELDS, tmp_path / "model", note=notes.append)
    content = file.read_bytes()
    file.write_bytes(content[:length])
    for _ in range(2):
        assert draw_samples(nano, [sample], FIELDS, tmp_path / "model", note=notes.append) == {}
        assert file.read_bytes() == content
    (said,) = notes
    assert said.startswith("a damaged picture is drawn again: ") and "single_object/1.png" in said


def test_sample_that_cannot_be_drawn_is_a_problem_and_others_are_drawn(nano: Pipeline, sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = dataclasses.replace(sample, key="2", inputs=(tmp_path / "broken.png",))
    missing = dataclasses.replace(sample, key="3", inputs=(), problem="the input picture 'x' is missing")
    problems = draw_samples(nano, [broken, missing, sample], FIELDS, tmp_path / "model")
    assert [*problems] == ["single_object/2"] and "broken.png" in problems["single_object/2"]
    assert [picture_path(tmp_path / "model", each).is_file() for each in (broken, missing, sample)] == [False, False, True]


def test_setting_that_no_request_takes_is_refused_before_drawing(nano: Pipeline, sample: Sample, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="steps=0"):
        draw_samples(nano, [sample], {**FIELDS, "steps": 0}, tmp_path / "model")


def test_omnicontext_draws_with_the_published_settings() -> None:
    request = Request(prompt="", **OMNICONTEXT.drawing_fields({}))
    facts = (request.height_px, request.width_px, request.steps, request.text_guidance, request.image_guidance, request.seed)
    assert facts == (1024, 1024, 50, 5.0, 2.0, 0)
    assert (request.cfg_range, request.align_size, request.max_prompt_tokens, request.scheduler) == ((0, 1), False, 1024, "euler")
    assert (request.max_pixels, request.max_input_side_px, request.timesteps) == (1024**2, 1024, None)


def test_edits_are_drawn_with_a_fixed_shift_of_the_times() -> None:
    request = Request(prompt="", **GEDIT.drawing_fields({"steps": 20}))
    assert request.timesteps is not None and (len(request.timesteps), request.timesteps[0]) == (20, 0)
    assert (request.text_guidance, request.image_guidance, request.negative_prompt) == (5.0, 1.5, "")
    assert np.allclose(request.timesteps, timesteps(20, 120 * 120, True), atol=1e-6)  # where the model's own shift is 3 as well
    assert shifted_timesteps(4, 1.0) == (0, 0.25, 0.5, 0.75)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_steps_and_other_settings_can_be_changed(name: str) -> None:
    fields = BENCHMARKS[name].drawing_fields({"steps": 3, "seed": 5})
    request = Request(prompt="", **fields)
    assert (request.steps, request.seed) == (3, 5) and len(request.timesteps or (0, 0, 0)) == 3


@pytest.mark.parametrize(("size", "judged"), [((100, 50), (96, 48)), ((2048, 1024), (1440, 720)), ((1024, 1024), (1024, 1024))])
def test_judge_sees_inputs_of_at_most_a_megapixel_and_sides_of_sixteens(
    size: tuple[int, int], judged: tuple[int, int], tmp_path: Path
) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    with Image.open(io.BytesIO(judged_input(tmp_path / "a.png"))) as picture:
        assert (picture.format, picture.size) == ("JPEG", judged)
