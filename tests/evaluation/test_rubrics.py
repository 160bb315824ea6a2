"""Rubrics: those that ship fit their benchmarks, and a user's file replaces them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from omnigen2_rt.evaluation.benchmark import Benchmark
from omnigen2_rt.evaluation.benchmarks import BENCHMARKS, GEDIT, IMGEDIT, OMNICONTEXT
from omnigen2_rt.evaluation.rubrics import read_rubrics, rubrics_hash, shipped_rubrics
from omnigen2_rt.evaluation.samples import Sample
from omnigen2_rt.runtime.errors import RequestError

TASKS = {
    "omnicontext": ("single_character", "multi_object", "scene_object"),
    "gedit": ("background_change", "tone_transfer"),
    "imgedit": ("add", "style", "extract", "remove", "action", "compose", "adjust"),
}


def sample_of(task: str) -> Sample:
    return Sample(key="1", task=task, instruction="put {it} there")


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)
def test_shipped_rubrics_fit_their_benchmark(benchmark: Benchmark) -> None:
    rubrics = shipped_rubrics(benchmark.name, benchmark.grades)
    used = {metric.rubric(sample_of(task), rubrics).text for task in TASKS[benchmark.name] for metric in benchmark.metrics}
    assert used == {rubric.text for rubric in rubrics.values()}
    for rubric in rubrics.values():
        prompt = rubric.prompt("put {it} there", benchmark.lowest, benchmark.highest)
        assert ("put {it} there" in prompt) == ("{instruction}" in rubric.text) and "{instruction}" not in prompt
        assert prompt.endswith(f"Each N is a number from {benchmark.lowest} to {benchmark.highest}.")
        assert all(f'"{name}": N' in prompt for name in rubric.scores)
        assert rubric.schema is not None and set(rubric.schema["required"]) == {"reasoning", *rubric.scores}


def test_hash_of_rubrics_changes_with_their_text() -> None:
    rubrics = shipped_rubrics("gedit", GEDIT.grades)
    changed = {**rubrics, "perceptual_quality": replace(rubrics["perceptual_quality"], text="look")}
    assert rubrics_hash(rubrics) == rubrics_hash(dict(reversed(rubrics.items()))) != rubrics_hash(changed)


def test_scene_subtasks_have_rubrics_of_their_own() -> None:
    rubrics = shipped_rubrics("omnicontext", OMNICONTEXT.grades)
    for metric in OMNICONTEXT.metrics:
        assert metric.rubric(sample_of("scene_object"), rubrics) != metric.rubric(sample_of("single_object"), rubrics)


def test_perceptual_quality_is_judged_without_the_instruction_and_the_input() -> None:
    rubrics = shipped_rubrics("gedit", GEDIT.grades)
    assert "there" not in rubrics["perceptual_quality"].prompt("put {it} there", 0, 10).split("\n")[0]
    assert [metric.shows_inputs for metric in GEDIT.metrics] == [True, False]


def test_json_of_texts_by_kind_of_edit_is_taken_as_published(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"add": "grade: <edit_prompt>", "style": "grade the style: <edit_prompt>"}))
    rubrics = read_rubrics(path, IMGEDIT.grades, IMGEDIT.text_form)
    rubric = IMGEDIT.metrics[0].rubric(sample_of("style"), rubrics)
    assert (rubric.form, rubric.prompt("as ink", 1, 5), rubric.schema) == ("lines", "grade the style: as ink", None)
    with pytest.raises(RequestError, match="the rubric has no section 'remove' or 'default'; it has add, style"):
        IMGEDIT.metrics[0].rubric(sample_of("remove"), rubrics)


def test_toml_names_scores_and_form(tmp_path: Path) -> None:
    path = tmp_path / "rubric.toml"
    path.write_text('[a]\ntext = "see <instruction>"\nscores = ["x", "y"]\nform = "list"\n')
    (rubric,) = read_rubrics(path, ("score",)).values()
    assert (rubric.scores, rubric.form, rubric.prompt("it", 0, 10)) == (("x", "y"), "list", "see it")
    assert rubric.schema is not None and rubric.schema["properties"]["score"]["type"] == "array"


def test_rubric_with_two_grades_for_a_metric_of_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rubric.toml"
    path.write_text('[prompt_following]\ntext = "{instruction}"\nscores = ["x", "y"]\n')
    with pytest.raises(RequestError, match="prompt following is one grade; the rubric's section for it names x, y"):
        OMNICONTEXT.metrics[0].rubric(sample_of("multi_object"), read_rubrics(path, ("score",)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("[a", "can't be read"),
        ('[a]\ntext = "no place"\n', "lacks the place of the instruction"),
        ('[a]\ntext = "{instruction}"\nform = "poem"\n', "form='poem' is unknown; choose one of object, list, lines"),
        ('[a]\ntext = "{instruction}"\nscores = []\n', "scores must be a list of names"),
        ('[a]\ntext = "{instruction}"\ncolour = "red"\n', "must be a text, or a table with text"),
        ("a = 3\n", "must be a text, or a table with text"),
    ],
)
def test_broken_rubric_says_what_is_wrong(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rubric.toml"
    path.write_text(content)
    with pytest.raises(RequestError) as raised:
        read_rubrics(path, ("score",))
    assert said in str(raised.value)


def test_missing_rubric_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No such file"):
        read_rubrics(tmp_path / "none.toml", ("score",))
