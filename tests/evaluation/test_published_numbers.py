"""The published results' arithmetic: from the scores of subtasks that are published to the averages that are.

Source: the papers and repositories of OmniGen2, Step1X-Edit, ImgEdit and GenEval. The scores themselves were given by others'
judges on others' pictures; nothing here was drawn or judged.
"""

from __future__ import annotations

import math

import pytest

from omnigen2_rt.evaluation.benchmark import Benchmark
from omnigen2_rt.evaluation.benchmarks import GEDIT, IMGEDIT, OMNICONTEXT
from omnigen2_rt.evaluation.geneval import PICTURES, PROMPTS, TAGS, Detection, Picture, Wanted, score_pictures
from omnigen2_rt.evaluation.grades import Grades
from omnigen2_rt.evaluation.judging import Judging, Judgings
from omnigen2_rt.evaluation.samples import Sample
from omnigen2_rt.evaluation.scores import SampleScore, averages, completeness_of, score_samples

HALF_A_DIGIT = 0.005 + 1e-9
"""Published numbers have two digits, and so have those that they are averages of."""
OMNICONTEXT_SCORES = {
    "single_character": 8.05,
    "single_object": 7.58,
    "multi_character": 7.11,
    "multi_object": 7.13,
    "multi_character_object": 7.45,
    "scene_character": 6.38,
    "scene_object": 6.71,
    "scene_character_object": 7.04,
}
IMGEDIT_SCORES = {
    "add": 3.57,
    "adjust": 3.06,
    "extract": 1.77,
    "replace": 3.74,
    "remove": 3.20,
    "background": 3.57,
    "style": 4.81,
    "compose": 2.52,
    "action": 4.68,
}


def whole_set(benchmark: Benchmark, tasks: list[str]) -> list[Sample]:
    """A set of the published size, spread over the subtasks."""
    return [Sample(key=str(k), task=tasks[k % len(tasks)], instruction="") for k in range(benchmark.samples)]


def judged(benchmark: Benchmark, samples: list[Sample], values: dict[str, tuple[float, ...]]) -> tuple[SampleScore, ...]:
    """The scores of samples whose metrics have the values of their subtask."""
    names = [metric.name for metric in benchmark.metrics]
    judgings: Judgings = {
        sample.name: {
            name: (Judging(value=value, grades=Grades()),) for name, value in zip(names, values[sample.task], strict=True)
        }
        for sample in samples
    }
    return score_samples(benchmark, samples, judgings)


def test_omnicontext_average_and_groups_are_the_published_ones() -> None:
    samples = whole_set(OMNICONTEXT, [*OMNICONTEXT_SCORES])
    scores = judged(OMNICONTEXT, samples, {task: (value, value) for task, value in OMNICONTEXT_SCORES.items()})
    assert completeness_of(OMNICONTEXT, scores).is_complete
    average = averages(OMNICONTEXT, scores, has_total=True)["overall"]
    assert average.all is not None and average.all.value == pytest.approx(7.18, abs=HALF_A_DIGIT)
    for group, published in {"single": 7.81, "multi": 7.23, "scene": 6.71}.items():
        means = [value for task, value in average.tasks.items() if task.startswith(group)]
        assert sum(means) / len(means) == pytest.approx(published, abs=HALF_A_DIGIT), group


def test_omnicontext_score_is_the_geometric_mean_of_each_sample_before_any_average() -> None:
    samples = whole_set(OMNICONTEXT, [*OMNICONTEXT_SCORES])
    judgings: Judgings = {
        sample.name: {
            "PF": (Judging(value=10 if k % 2 else 1, grades=Grades()),),
            "SC": (Judging(value=1 if k % 2 else 10, grades=Grades()),),
        }
        for k, sample in enumerate(samples)
    }
    result = averages(OMNICONTEXT, score_samples(OMNICONTEXT, samples, judgings), has_total=True)
    assert {name: average.all and round(average.all.value, 2) for name, average in result.items()} == {
        "PF": 5.5,
        "SC": 5.5,
        "overall": round(math.sqrt(10), 2),
    }


def test_gedit_published_overall_lies_below_the_root_of_the_published_parts() -> None:
    """SC 7.16 and PQ 6.77, and O 6.41: a mean of roots, which the parts' means bound and don't determine."""
    samples = whole_set(GEDIT, [f"task{k}" for k in range(11)])
    scores = judged(GEDIT, samples, {sample.task: (7.16, 6.77) for sample in samples})
    overall = averages(GEDIT, scores, has_total=True)["O"].all
    assert overall is not None and 6.41 < overall.value == pytest.approx(6.96, abs=HALF_A_DIGIT)


def test_imgedit_overall_is_the_published_one() -> None:
    samples = whole_set(IMGEDIT, [*IMGEDIT_SCORES])
    scores = judged(IMGEDIT, samples, {task: (value,) for task, value in IMGEDIT_SCORES.items()})
    assert completeness_of(IMGEDIT, scores).is_complete
    overall = averages(IMGEDIT, scores, has_total=True)["overall"].all
    assert overall is not None and overall.value == pytest.approx(3.44, abs=HALF_A_DIGIT)


@pytest.mark.parametrize(
    ("accuracies", "published"),
    [((1.00, 0.95, 0.64, 0.88, 0.55, 0.76), 0.80), ((0.99, 0.96, 0.74, 0.98, 0.71, 0.75), 0.86)],
    ids=["as it is", "rewritten prompts"],
)
def test_geneval_average_is_the_published_one(accuracies: tuple[float, ...], published: float) -> None:
    cup = Detection(name="cup", score=0.95, box=(0, 0, 10, 10))
    pictures = [
        Picture(tag=tag, prompt=f"{tag} {k // PICTURES}", include=(Wanted(name="cup"),), detections=(cup,) if k < right else ())
        for tag, accuracy, count in zip(TAGS, accuracies, (400, 400, 400, 400, 400, 212), strict=True)
        for right in [round(accuracy * count)]
        for k in range(count)
    ]
    scores = score_pictures(pictures, allow_incomplete=False)
    assert len(pictures) == PROMPTS * PICTURES and scores.is_complete
    assert scores.average.all is not None
    assert scores.average.all.value == pytest.approx(published, abs=HALF_A_DIGIT + 0.001)
    assert [round(value, 2) for value in scores.average.tasks.values()] == [*accuracies]
