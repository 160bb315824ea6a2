"""Reflection by a judge behind an endpoint: its grades, critiques and edits, and what happens where it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from omnigen2_rt.evaluation.asking import OutsideJudge
from omnigen2_rt.evaluation.endpoint import Endpoint, EndpointClient
from omnigen2_rt.nano.tasks.task_types import ExpectedPicture
from omnigen2_rt.runtime.images.png import read_parameters
from tests.commands.command import Command
from tests.evaluation.endpoint_double import Asked, Reply, endpoint_double, fails, in_turn, says
from tests.evaluation.reading_judge import reflecting

ENGINE = ("--backend", "ort-cpu", "--precision", "fp32", "--threads", 1)
PROMPT = "a large red circle on a blue background"
EXPECTED = ExpectedPicture(background="green", things=(("large", "red", "circle"),))
"""The picture that the judge takes for right: another background than nano draws, so that there is something to correct."""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def words_of(url: str, out: Path, *more: object) -> tuple[object, ...]:
    return ("reflect", PROMPT, "--judge", url, "--judge-model", "eyes", "--steps", 8, "--out", out, *ENGINE, *more)


def test_reflect_with_an_outside_judge_follows_its_grades_and_edits(command: Command, tmp_path: Path) -> None:
    with endpoint_double(reflecting(EXPECTED, "change the background to green")) as double:
        words = words_of(double.url, tmp_path / "x.png", "--rounds", 1, "--record", tmp_path / "r.jsonl", "--json")
        printed = json.loads(command(*words).out)
    assert printed["judge"] == "judge-of-today"
    first, second = printed["rounds"]
    assert (first["grade"], first["edit"]) == (7, "change the background to green")
    assert "the background is blue, not green" in first["critique"]
    assert second["grade"] == 10 and second["best"]
    assert read_parameters(tmp_path / "x.png")["judge"] == "judge-of-today"
    [row] = [json.loads(line) for line in (tmp_path / "r-training.jsonl").read_text().splitlines()]
    assert row["instruction"] == "change the background to green"
    records = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [each["judge"] for each in records] == ["judge-of-today"] * 2


def test_reflect_with_an_outside_judge_ends_where_it_finds_nothing_wrong(command: Command, tmp_path: Path) -> None:
    with endpoint_double(in_turn(says("8"), says("Nothing."))) as double:
        printed = json.loads(command(*words_of(double.url, tmp_path / "x.png", "--json")).out)
        assert len(double.asked) == 2
    assert [each["grade"] for each in printed["rounds"]] == [8]


def test_grade_that_cannot_be_read_is_missing_and_said(command: Command, tmp_path: Path) -> None:
    with endpoint_double(in_turn(says("lovely, 3 stars"), says("nothing"))) as double:
        finished = command(*words_of(double.url, tmp_path / "x.png", "--json"))
    assert json.loads(finished.out)["rounds"][0]["grade"] is None
    assert finished.code == 0 and "the judge gave no grade that can be read" in finished.err


def test_judge_that_fails_midway_ends_the_reflection_and_keeps_its_pictures(command: Command, tmp_path: Path) -> None:
    with endpoint_double(in_turn(says("5"), says("it is blue"), says("make it green"), fails(401))) as double:
        finished = command(*words_of(double.url, tmp_path / "x.png", "--record", tmp_path / "r.jsonl"))
        assert len(double.asked) == 4
    assert finished.code == 1
    assert "the reflection ended early: the endpoint answered 401" in finished.error_lines[0]
    assert "2 of them graded" not in finished.error_lines[0] and "1 of them graded" in finished.error_lines[0]
    assert {"x.png", "x-0.png", "x-1.png"} <= {path.name for path in tmp_path.iterdir()}
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "r-training.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("reply", "failed"),
    [
        (says(" fine \n"), False),
        (says("<think>9? no</think>fine"), False),
        (says("9? no</THINK>fine"), False),
        (says("<Thinking>9? no</thinking>fine"), False),
        (says("<think>9? no"), False),
        (says("half", finish_reason="length"), False),
        (says(None, refusal="no"), False),
        (fails(400), False),
        (fails(500), True),
    ],
)
def test_answer_that_is_none_is_empty_and_only_a_failure_ends_the_questions(reply: Reply, failed: bool) -> None:
    def answer(asked: Asked, number: int) -> Reply:
        return reply

    with endpoint_double(answer) as double:
        judge = OutsideJudge(EndpointClient(Endpoint(url=double.url, model="m", tries=1)), "m")
        answers = [judge.ask("what?", Image.new("RGB", (8, 8))) for _ in range(2)]
        assert len(double.asked) == (1 if failed else 2)
    assert (judge.failure is not None) == failed
    assert answers == (["fine", "fine"] if b"fine" in reply.body else ["", ""])
