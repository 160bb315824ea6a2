"""The judge at work: whatever it answers, nothing is guessed and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnigen2_rt.evaluation.answer_cache import AnswerCache
from omnigen2_rt.evaluation.benchmarks import GEDIT, IMGEDIT, OMNICONTEXT
from omnigen2_rt.evaluation.endpoint import Answer, Endpoint, EndpointClient, EndpointError, EndpointUnusable, Question
from omnigen2_rt.evaluation.judging import Judge, judge_samples
from omnigen2_rt.evaluation.pictures import picture_path
from omnigen2_rt.evaluation.results import score_row
from omnigen2_rt.evaluation.rubrics import shipped_rubrics
from omnigen2_rt.evaluation.samples import Sample
from omnigen2_rt.evaluation.scores import (
    SampleScore,
    averages,
    completeness_of,
    reported_models,
    score_samples,
    used_tokens,
)
from tests.evaluation.endpoint_double import CUT, Asked, EndpointDouble, Reply, endpoint_double, fails, says


def good(score: float, **more: float) -> Reply:
    return says(json.dumps({"reasoning": "I see it", "score": score, **more}))


def metric_of(asked: Asked) -> str:
    return "PF" if "does the result show" in asked.text else "SC"


def instruction_of(asked: Asked) -> str:
    return asked.text.partition("The instruction:\n")[2].partition("\n")[0]


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Six samples of two subtasks, each with two inputs and a picture of its own colour."""
    made = []
    for number in range(6):
        files = tuple(tmp_path / f"{number}-{k}.png" for k in range(2))
        for file in files:
            Image.new("RGB", (40, 24), (number * 40, 10, 10)).save(file)
        task = "scene_object" if number % 2 else "multi_object"
        sample = Sample(key=str(number), task=task, instruction=f"task {number}", inputs=files)
        output = picture_path(tmp_path / "out" / "model", sample)
        output.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (10, number * 40, 10)).save(output)
        made.append(sample)
    return made


class Bench:
    """Judges the samples of a folder with a judge that a function decides."""

    def __init__(self, folder: Path, samples: list[Sample]) -> None:
        self.folder, self.samples = folder, samples

    def __call__(self, double: EndpointDouble, **settings: Any) -> tuple[SampleScore, ...]:
        endpoint = Endpoint(url=double.url, model="judge", timeout_s=1, tries=3)
        judge = Judge(
            asker=EndpointClient(endpoint, sleep=lambda seconds: None),
            model="judge",
            cache=AnswerCache(self.folder / "answers"),
            rubrics=shipped_rubrics("omnicontext", OMNICONTEXT.grades),
            **{"threads": 1, **settings},
        )
        return score_samples(OMNICONTEXT, self.samples, judge_samples(judge, OMNICONTEXT, self.samples, self.folder / "model"))


@pytest.fixture
def bench(tmp_path: Path, samples: list[Sample]) -> Bench:
    return Bench(tmp_path / "out", samples)


def test_question_shows_the_rubric_the_inputs_in_order_and_the_output_last(bench: Bench) -> None:
    with endpoint_double(lambda asked, number: good(4 if metric_of(asked) == "PF" else 9)) as double:
        scores = bench(double, max_tokens=1400)
    assert len(double.asked) == 12 and [score.overall for score in scores] == [6.0] * 6
    asked = double.asked[0]
    assert asked.body["max_tokens"] == 1400 and "temperature" not in asked.body and len(asked.pictures) == 3
    assert [part["type"] for part in asked.body["messages"][0]["content"]] == ["text", "image_url", "image_url", "image_url"]
    assert {instruction_of(each) for each in double.asked} == {f"task {number}" for number in range(6)}
    scenes = {instruction_of(each) for each in double.asked if "One of the inputs shows a scene" in each.text}
    assert scenes == {"task 1", "task 3", "task 5"}


BROKEN = {
    "bad JSON": says('{"reasoning": "x", "score": 7'),
    "a list": says('{"reasoning": "x", "score": [7, 7]}'),
    "11": good(11),
    "a string": says('{"reasoning": "x", "score": "seven"}'),
    "nothing": says(None),
    "cut off": says('{"reasoning": "x", "score": 7}', finish_reason="length"),
    "refused": says(None, refusal="no"),
    "400": fails(400, "content_policy"),
    "429": fails(429),
    "429 with Retry-After": fails(429, Retry_After="1"),
    "429 for hours": fails(429, Retry_After="7200"),
    "500": fails(500),
    "timeout": Reply(body=good(7).body, delay_s=1.3),
    "cut": CUT,
    "cut midway": Reply(body=good(7).body, cut_after=50),
    "a page": Reply(body=b"<html>"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_answer_that_stays_broken_is_missing_and_nothing_else_is(kind: str, bench: Bench) -> None:
    def reply(asked: Asked, number: int) -> Reply:
        return BROKEN[kind] if (instruction_of(asked), metric_of(asked)) == ("task 2", "SC") else good(7)

    with endpoint_double(reply) as double:
        scores = bench(double)
    broken = [score for score in scores if score.overall is None]
    assert [(score.sample.key, score.metrics["PF"], score.metrics["SC"]) for score in broken] == [("2", 7, None)]
    assert [score.overall for score in scores if score not in broken] == [7] * 5
    (problem,) = broken[0].problems
    assert problem.startswith("SC: the ") and len(problem) > 15
    row = score_row(OMNICONTEXT, broken[0], bench.folder / "model")
    assert (row["SC_score"], row["SC_score_reason"], row["overall_score"], row["problems"]) == (None, None, None, [problem])
    assert completeness_of(OMNICONTEXT, scores).missing_answers == 1
    assert averages(OMNICONTEXT, scores, has_total=False)["overall"].all is None
    assert averages(OMNICONTEXT, scores, has_total=True)["overall"].tasks == {"multi_object": 7, "scene_object": 7}


@pytest.mark.parametrize("kind", ["429", "429 with Retry-After", "500", "timeout", "cut", "cut midway", "a page"])
def test_failure_that_passes_leaves_no_trace(kind: str, bench: Bench) -> None:
    with endpoint_double(lambda asked, number: BROKEN[kind] if number in (3, 4) else good(7)) as double:
        scores = bench(double)
    assert [score.overall for score in scores] == [7] * 6 and not any(score.problems for score in scores)


def test_judge_that_stopped_answering_ends_the_run_and_the_next_one_goes_on(bench: Bench) -> None:
    with endpoint_double(lambda asked, number: good(7) if number < 5 else fails(503)) as double:
        with pytest.raises(EndpointError, match="answered 503"):
            bench(double)
        assert len(double.asked) == 5 + 3 * 3
    with endpoint_double(lambda asked, number: good(7)) as double:
        assert [score.overall for score in bench(double)] == [7] * 6
    assert len(double.asked) == 12 - 5


def test_wrong_key_ends_the_run_at_once(bench: Bench) -> None:
    with endpoint_double(lambda asked, number: fails(401)) as double, pytest.raises(EndpointUnusable):
        bench(double)
    assert len(double.asked) == 1


def test_kept_answers_are_not_asked_for_again_unless_they_cannot_be_read_and_that_is_wanted(bench: Bench) -> None:
    with endpoint_double(lambda asked, number: good(7) if number else says("seven")) as double:
        first = bench(double)
    with endpoint_double(lambda asked, number: good(8)) as double:
        assert bench(double) == first and not double.asked
        mended = bench(double, asks_again=True)
        assert (len(double.asked), mended[0].metrics) == (1, {"PF": 8, "SC": 7}) and bench(double) == mended


def test_several_judgings_are_averaged_and_a_missing_one_is_counted(bench: Bench) -> None:
    replies = {0: good(6), 1: good(9), 2: says("nine")}
    with endpoint_double(lambda asked, number: replies[number % 3]) as double:
        scores = bench(double, judgings=3, seed=10)
    assert [asked.body["seed"] for asked in double.asked[:6]] == [10, 11, 12, 10, 11, 12]
    assert [score.overall for score in scores] == [7.5] * 6
    completeness = completeness_of(OMNICONTEXT, scores)
    assert (completeness.unscored, completeness.missing_answers, completeness.is_complete) == (0, 12, False)
    with endpoint_double(lambda asked, number: good(1)) as double:
        bench(double, judgings=4, seed=10)
    assert [asked.body["seed"] for asked in double.asked] == [13] * 12


def test_picture_that_is_missing_or_broken_is_counted(bench: Bench) -> None:
    picture_path(bench.folder / "model", bench.samples[0]).unlink()
    picture_path(bench.folder / "model", bench.samples[1]).write_bytes(b"no picture")
    bench.samples[2] = replace(bench.samples[2], problem="the input picture 'x.png' is missing")
    picture_path(bench.folder / "model", bench.samples[2]).unlink()
    with endpoint_double(lambda asked, number: good(7)) as double:
        scores = bench(double)
    assert [scores[k].problems for k in (0, 2, 3)] == [
        ("there is no picture",), ("the input picture 'x.png' is missing",), ()
    ]  # fmt: skip
    assert [problem.partition(": ")[0] for problem in scores[1].problems] == ["PF", "SC"]
    assert all("scene_object/1.png" in problem for problem in scores[1].problems)
    assert completeness_of(OMNICONTEXT, scores).unscored == 3 and len(double.asked) == 6


def test_sample_with_a_problem_is_missing_though_an_earlier_picture_lies_there(bench: Bench) -> None:
    bench.samples[2] = replace(bench.samples[2], problem="the input picture 'x.png' is missing")
    assert picture_path(bench.folder / "model", bench.samples[2]).is_file()
    with endpoint_double(lambda asked, number: good(7)) as double:
        scores = bench(double)
    assert (scores[2].overall, scores[2].problems) == (None, ("the input picture 'x.png' is missing",))
    assert completeness_of(OMNICONTEXT, scores).unscored == 1 and len(double.asked) == 10


def test_models_and_tokens_are_those_that_the_endpoint_reported(bench: Bench) -> None:
    def reply(asked: Asked, number: int) -> Reply:
        text = json.dumps({"reasoning": "", "score": 7})
        return says(text, model="judge-2026-01-01" if number % 4 else "judge-2026-02-02")

    with endpoint_double(reply) as double:
        scores = bench(double)
    assert reported_models(scores) == {"judge-2026-01-01": 9, "judge-2026-02-02": 3}
    assert used_tokens(scores) == {"completion_tokens": 84, "prompt_tokens": 132, "total_tokens": 216}


def test_threads_give_the_scores_that_one_gives(bench: Bench) -> None:
    def reply(asked: Asked, number: int) -> Reply:
        return good(int(instruction_of(asked)[-1]) + (metric_of(asked) == "PF"))

    with endpoint_double(reply) as double:
        scores = bench(double, threads=8)
    assert len(double.asked) == 12
    assert [score.metrics for score in scores] == [{"PF": k + 1, "SC": k} for k in range(6)]


class Fixed:
    """Answers every question by a function of its parts."""

    def __init__(self, answer: Callable[[Question], dict[str, Any]]) -> None:
        self._answer = answer
        self.asked: list[Question] = []

    def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        return Answer(text=json.dumps({"reasoning": "", **self._answer(question)}))


def judged_by(benchmark: Any, asker: Fixed, samples: list[Sample], folder: Path) -> tuple[SampleScore, ...]:
    rubrics = shipped_rubrics(benchmark.name, benchmark.grades)
    judge = Judge(asker=asker, model="judge", cache=AnswerCache(folder / "answers"), rubrics=rubrics, threads=1)
    return score_samples(benchmark, samples, judge_samples(judge, benchmark, samples, folder / "model"))


def test_gedit_takes_the_lower_grade_of_each_pair_and_shows_quality_the_edit_alone(samples: list[Sample], tmp_path: Path) -> None:
    def answer(question: Question) -> dict[str, Any]:
        assert isinstance(question.parts[0], str)
        is_quality = "artifacts" in question.parts[0]
        return {"naturalness": 10, "artifacts": 9} if is_quality else {"success": 4, "preservation": 8}

    asker = Fixed(answer)
    (score,) = judged_by(GEDIT, asker, samples[:1], tmp_path / "out")
    assert (score.metrics, score.overall) == ({"SC": 4, "PQ": 9}, 6)
    assert [len(question.parts) for question in asker.asked] == [4, 2]


def test_imgedit_is_the_mean_of_three_grades_from_1_to_5(samples: list[Sample], tmp_path: Path) -> None:
    def score(compliance: int, sample: Sample) -> SampleScore:
        asker = Fixed(lambda question: {"compliance": compliance, "quality": 4, "fidelity": 2})
        return judged_by(IMGEDIT, asker, [sample], tmp_path / "out")[0]

    assert score(5, samples[0]).overall == pytest.approx(11 / 3)
    zero = score(0, samples[1])
    assert zero.overall is None and "has the grade 0; allowed is 1 to 5" in zero.problems[0]
