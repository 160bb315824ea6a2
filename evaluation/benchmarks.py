"""The benchmarks that pictures are drawn and judged for: OmniContext, GEdit and ImgEdit.

Another one is a `Benchmark` here, a line in `BENCHMARKS` and a file in `texts/`. Formats and protocols were read in the public
repositories of OmniGen2, Step1X-Edit and ImgEdit; no text of theirs is here.
"""

from __future__ import annotations

from typing import Any

from ..runtime.errors import RequestError
from .benchmark import LANGUAGE, NEGATIVE_PROMPT, Benchmark, Metric, geometric_mean, mean
from .data_files import PictureStore, text_cell
from .samples import Sample

SIZE_PX = 1024
SHIFT = 3.0
STEPS = 50


def _inputs(cells: Any, store: PictureStore) -> dict[str, Any]:
    """A sample's `inputs`, and `problem` where one is missing, or there are none."""
    try:
        files = store.files(cells)
    except RequestError as error:
        return {"problem": str(error)}
    return {"inputs": files} if files else {"problem": "there are no input pictures"}


def _omnicontext_sample(row: dict[str, Any], place: str, store: PictureStore) -> Sample:
    return Sample(
        key=text_cell(row, "key", place),
        task=text_cell(row, "task_type", place),
        instruction=text_cell(row, "instruction", place),
        language=text_cell(row, LANGUAGE, place),
        **_inputs(row.get("input_images"), store),
    )


def _gedit_sample(row: dict[str, Any], place: str, store: PictureStore) -> Sample:
    """The picture is the raw one, where a row has both."""
    picture = row.get("input_image_raw")
    if isinstance(picture, dict) and not any(picture.values()):  # parquet's form of no picture
        picture = None
    return Sample(
        key=text_cell(row, "key", place),
        task=text_cell(row, "task_type", place),
        instruction=text_cell(row, "instruction", place),
        language=text_cell(row, LANGUAGE, place),
        is_shared=row.get("Intersection_exist") is True,
        has_language_folder=True,
        **_inputs(row.get("input_image") if picture is None else picture, store),
    )


def _imgedit_sample(row: dict[str, Any], place: str, store: PictureStore) -> Sample:
    return Sample(
        key=text_cell(row, "key", place),
        task=text_cell(row, "edit_type", place),
        instruction=text_cell(row, "prompt", place),
        **_inputs(row.get("id"), store),
    )


def _with_scene(name: str, sample: Sample) -> tuple[str, ...]:
    """A rubric's section for subtasks with a scene, or without one."""
    return (f"{name}_scene",) if "scene" in sample.task else (name,)


OMNICONTEXT = Benchmark(
    name="omnicontext",
    title="OmniContext",
    metrics=(
        Metric(name="PF", title="prompt following", sections=lambda sample: _with_scene("prompt_following", sample)),
        Metric(name="SC", title="subject consistency", sections=lambda sample: _with_scene("subject_consistency", sample)),
    ),
    combine=geometric_mean,
    drawing={
        "height_px": SIZE_PX,
        "width_px": SIZE_PX,
        "steps": STEPS,
        "text_guidance": 5.0,
        "image_guidance": 2.0,
        "align_size": False,
        "negative_prompt": NEGATIVE_PROMPT,
    },
    columns=("key", "task_type", "instruction", LANGUAGE, "input_images"),
    sample=_omnicontext_sample,
    subtasks=8,
    samples=400,
    judge="gpt-4.1",
)

GEDIT = Benchmark(
    name="gedit",
    title="GEdit",
    metrics=(
        Metric(name="SC", title="semantic consistency", sections=lambda sample: ("semantic_consistency",), join=min),
        Metric(
            name="PQ",
            title="perceptual quality",
            sections=lambda sample: ("perceptual_quality",),
            join=min,
            shows_inputs=False,
        ),
    ),
    grades=("success", "preservation"),
    overall="O",
    combine=geometric_mean,
    drawing={"steps": STEPS, "text_guidance": 5.0, "image_guidance": 1.5, "align_size": True},
    shift=SHIFT,
    columns=("key", "task_type", "instruction", LANGUAGE, "input_image", "input_image_raw", "Intersection_exist"),
    sample=_gedit_sample,
    subtasks=11,
    samples=606,
    judge="gpt-4.1",
    languages=("en", "cn"),
)

IMGEDIT = Benchmark(
    name="imgedit",
    title="ImgEdit",
    metrics=(Metric(name="edit", title="edit", sections=lambda sample: (sample.task, "default"), join=mean),),
    grades=("compliance", "quality", "fidelity"),
    lowest=1,
    highest=5,
    combine=mean,
    drawing=GEDIT.drawing,
    shift=GEDIT.shift,
    columns=("key", "id", "prompt", "edit_type"),
    sample=_imgedit_sample,
    subtasks=9,
    samples=737,
    judge="gpt-4o",
    text_form="lines",
)

BENCHMARKS = {benchmark.name: benchmark for benchmark in (OMNICONTEXT, GEDIT, IMGEDIT)}
