"""Grades read from answers: the right ones, and every broken one, which gives none."""

from __future__ import annotations

import pytest

from omnigen2_rt.evaluation.endpoint import Answer
from omnigen2_rt.evaluation.grades import Grades, read_grades
from omnigen2_rt.evaluation.rubrics import Rubric

ONE = Rubric(text="{instruction}", scores=("score",))
TWO = Rubric(text="{instruction}", scores=("success", "preservation"))
LIST = Rubric(text="{instruction}", scores=("success", "preservation"), form="list")
LINES = Rubric(text="{instruction}", scores=("compliance", "quality", "fidelity"), form="lines")


def grades_of(text: str, rubric: Rubric = ONE, low: int = 0, high: int = 10) -> Grades:
    return read_grades(Answer(text=text), rubric, low, high)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"score": 7, "reasoning": "good"}', 7),
        (' {"reasoning": "good", "score": 0}\n', 0),
        ('{"score": 7.5, "reasoning": "good"}', 7.5),
        ('```json\n{"score": 10, "reasoning": "good"}\n```', 10),
        ('```\n{"score": 10, "reasoning": "good"}\n```\n', 10),
    ],
)
def test_answer_in_its_form_gives_its_grade(text: str, score: float) -> None:
    assert grades_of(text) == Grades(scores={"score": score}, reason="good")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("7", "is not a JSON object"),
        ("Score: 7", "is not JSON"),
        ('{"score": 7, "reasoning": "cut of', "is not JSON"),
        ('Here it is: {"score": 7, "reasoning": ""}', "is not JSON"),
        ('[{"score": 7, "reasoning": ""}]', "is not a JSON object"),
        ('{"score": [7, 8], "reasoning": ""}', "has the grade [7, 8], not a number"),
        ('{"score": "7", "reasoning": ""}', "has the grade '7', not a number"),
        ('{"score": "7/10", "reasoning": ""}', "has the grade '7/10', not a number"),
        ('{"score": true, "reasoning": ""}', "has the grade True, not a number"),
        ('{"score": null, "reasoning": ""}', "has the grade None, not a number"),
        ('{"score": 11, "reasoning": ""}', "has the grade 11; allowed is 0 to 10"),
        ('{"score": -1, "reasoning": ""}', "has the grade -1; allowed is 0 to 10"),
        ('{"score": 1e999, "reasoning": ""}', "beyond float64"),
        ('{"score": NaN, "reasoning": ""}', "holds NaN"),
        ('{"score": 7, "score": 8, "reasoning": ""}', "names 'score' twice"),
        ('{"score": 7}', "has the keys 'score'; allowed are score, reasoning"),
        ('{"score": 7, "reasoning": "", "score2": 9}', "has the keys"),
        ('{"score": 7, "reasoning": ["good"]}', "has the reasoning ['good'], not a text"),
        ("[" * 100_000, "is nested too deeply"),
        ('```json\n{"score": 7, "reasoning": ""}\n```\n```json\n{"score": 8, "reasoning": ""}\n```', "is not JSON"),
    ],
)
def test_answer_of_another_form_gives_no_grade(text: str, said: str) -> None:
    grades = grades_of(text)
    assert grades.scores == {} and grades.problem is not None and said in grades.problem
    assert len(grades.problem) <= 160 and grades.reason == text


def test_answer_that_was_cut_off_gives_no_grade_even_if_it_can_be_read() -> None:
    grades = read_grades(Answer(text='{"score": 7, "reasoning": ""}', is_cut_off=True), ONE, 0, 10)
    assert (grades.scores, grades.problem) == ({}, "the answer was cut off at the limit of tokens")


def test_refusal_gives_no_grade() -> None:
    assert read_grades(Answer(text="", refusal="I won't"), ONE, 0, 10).problem == "the judge refused"


def test_answer_with_two_grades_gives_both() -> None:
    assert grades_of('{"reasoning": "", "success": 3, "preservation": 9}', TWO).scores == {"success": 3, "preservation": 9}
    assert grades_of('{"reasoning": "", "success": 3}', TWO).problem is not None


def test_answer_with_a_list_gives_as_many_grades_as_the_rubric_names() -> None:
    assert grades_of('{"score": [3, 9], "reasoning": ""}', LIST).scores == {"success": 3, "preservation": 9}
    for broken in ("[3]", "[3, 9, 1]", "3", '[3, "9"]', "[3, 11]", "[3, [9]]"):
        assert grades_of(f'{{"score": {broken}, "reasoning": ""}}', LIST).problem is not None, broken


def test_answer_in_lines_gives_the_grades_in_their_order() -> None:
    lines = "Brief reasoning: the shell is smooth.", "Prompt Compliance: 5", "**Visual Seamlessness:** 4", "Fidelity: 3/5", ""
    grades = grades_of("\n".join(lines), LINES, 1, 5)
    assert grades.scores == {"compliance": 5, "quality": 4, "fidelity": 3}
    assert grades.reason == "Brief reasoning: the shell is smooth."


@pytest.mark.parametrize(
    "text",
    [
        "A: 5\nB: 4",
        "A: 5\nB: 4\nC: 3\nD: 2",
        "A: 5\nB: 4\nC: 6",
        "A: 5\nB: 4\nC: 0",
        "A: 5\nB: 4\nC: three",
        "5\n4\n3",
        "A: 4/10\nB: 4/5\nC: 3",
    ],
)
def test_answer_in_other_lines_gives_no_grade(text: str) -> None:
    assert grades_of(text, LINES, 1, 5).problem is not None
