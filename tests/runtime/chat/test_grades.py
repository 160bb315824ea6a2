"""Grades in the answers of a judge: which number is one, and which is not."""

from __future__ import annotations

import pytest

from omnigen2_rt.exporter.processor import REFLECTION
from omnigen2_rt.nano.tasks.reflection_tasks import GRADE_TEMPLATE
from omnigen2_rt.runtime.chat.grades import Scale, grade_in, scale_in

TEN = Scale(0, 10)


@pytest.mark.parametrize(
    ("answer", "grade"),
    [
        ("8", 8),
        ("8.", 8),
        ("10", 10),
        ("0", 0),
        ("**7.5**", 7.5),
        ("About 8.", 8),
        ("ten", 10),
        ("Ten points!", 10),
        ("8/10", 8),
        ("8 / 10", 8),
        ("8 out of 10", 8),
        ("eight out of ten", 8),
        ("About 7.5 of 10", 7.5),
        ("8/10, because 3/4 of the objects are right", 8),
        ("8/10. There are 3 birds.", 8),
        ("Score: 7.5", 7.5),
        ("**Grade:** 9", 9),
        ("Grade:\n9", 9),
        ("Grade (0-10): 8", 8),
        ("The grade is 8.", 8),
        ("A score of 8 out of 10.", 8),
        ("I'd rate this picture a solid 8 because the circle is red.", 8),
        ("From 0 to 10 I'd give an 8", 8),
        ("On a scale from 0 to 10, I would give it an 8.", 8),
        ("On a scale of 1 to 10: 6", 6),
        ("On a scale of 10, I'd give 6", 6),
        ("1. The circle is red.\nGrade: 9", 9),
        ("1) red\n2) round\nScore: 4", 4),
        ("2-3 birds are missing. Grade: 6", 6),
    ],
)
def test_grade_is_the_number_that_can_be_nothing_else(answer: str, grade: float) -> None:
    """The first number of "from 0 to 10 I'd give an 8" was once the grade."""
    assert grade_in(answer, TEN) == grade


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "good",
        "-3",
        "−3",
        "Grade: -3",
        "minus 3",
        "11",
        "Grade: 42",
        "7-8",
        "Grade: 7-8",
        "between 7 and 8",
        "4/5",
        "Grade: 4/5",
        "On a scale from 1 to 5, I'd give it a 4",
        "80%",
        "7,5",
        "1e3",
        "8th",
        "8.5.1",
        "There are 3 birds.",
        "1. The circle is red.",
        "I'd give it 3 more birds",
        "Colours get a score of 8, shapes get a score of 6",
        "8 9",
        "8/10 or 9/10",
        "Grade: A",
        "twenty-one",
        "٨",
        "9" * 5000,
        "Grade: " + "9" * 400,
    ],
    ids=lambda answer: answer[:20],
)
def test_answer_in_doubt_has_no_grade(answer: str) -> None:
    assert grade_in(answer, TEN) is None


@pytest.mark.parametrize(
    ("question", "scale"),
    [
        (REFLECTION.judge, TEN),
        (GRADE_TEMPLATE, TEN),
        ("{prompt}: a grade between 1 and 5", Scale(1, 5)),
        ("{prompt}: score it 0-100", Scale(0, 100)),
        ("{prompt}: how good is it?", None),
    ],
)
def test_scale_is_what_the_question_asks_for(question: str, scale: Scale | None) -> None:
    assert scale_in(question) == scale


def test_grade_lies_on_the_scale_of_the_question() -> None:
    assert grade_in("80", Scale(0, 100)) == grade_in("80 of 100", Scale(0, 100)) == 80
    assert grade_in("4", Scale(1, 5)) == 4 and grade_in("0", Scale(1, 5)) is None
    assert grade_in("80") == 80


def test_long_answer_is_searched_in_a_moment() -> None:
    """Patterns that try every split of a text would never come back."""
    for piece in ("grade the picture is of ", "1 (", "8 of ", "( 1.", "an an ", "1. ", " \n", "a" * 9, "9", "- "):
        assert grade_in(piece * 20_000, TEN) is None
