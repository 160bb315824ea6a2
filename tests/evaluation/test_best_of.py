"""The best of several seeds: right and broken judgements, and `generate --best-of`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import omnigen2_rt as og
from omnigen2_rt.evaluation.best_of import BestOf, Judgement, check_best_of, draw_best, picture_judge
from omnigen2_rt.evaluation.endpoint import Endpoint, EndpointClient, EndpointError, EndpointUnusable
from omnigen2_rt.evaluation.rubrics import shipped_rubrics
from omnigen2_rt.nano.tasks.task_types import ExpectedPicture
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.images.png import read_parameters
from omnigen2_rt.runtime.request import Request, Result
from tests.commands.command import Command
from tests.evaluation.endpoint_double import CUT, Asked, Reply, endpoint_double, fails, in_turn, says
from tests.evaluation.reading_judge import picture_of, score_of, scoring

RUBRICS = shipped_rubrics("best_of", ("score",))
ENGINE = ("--backend", "ort-cpu", "--precision", "fp32", "--threads", 1)
PROMPT = "a small red star to the left of a large blue circle on a white background"
EXPECTED = ExpectedPicture(background="white", things=(("small", "red", "star"), ("large", "blue", "circle")), relation="left")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def drawn(request: Request) -> Result:
    image = Image.new("RGB", (16, 16), (request.seed % 256, 0, 0))
    return Result(images=[image], latents=np.zeros(1, np.float32), steps=(), timings={}, request=request)


def best_of(scores: list[float | None | Exception], seed: int = 5) -> BestOf:
    left = [*scores]

    def judge(image: Image.Image) -> Judgement:
        score = left.pop(0)
        if isinstance(score, Exception):
            raise score
        return Judgement(score=score, problem=None if score is not None else "unreadable")

    return draw_best(Request(prompt="x", seed=seed), len(scores), drawn, judge)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([3.0, 9.0, 4.0], 1),
        ([7.0, 7.0], 0),
        ([None, 0.0], 1),
        ([None, None], None),
        ([EndpointError("timeout"), 2.0], 1),
    ],
)
def test_best_is_the_highest_score_and_missing_ones_are_never_guessed(scores: list[Any], best: int | None) -> None:
    done = best_of(scores)
    assert done.best == best
    assert [each.seed for each in done.candidates] == list(range(5, 5 + len(scores)))
    assert [each.result.request.seed for each in done.candidates] == [each.seed for each in done.candidates]


def test_judge_that_will_answer_nothing_ends_the_drawing_and_keeps_what_there_is() -> None:
    done = best_of([4.0, EndpointUnusable("the key is wrong"), 9.0])
    assert [each.judgement.score for each in done.candidates] == [4.0, None] and done.best == 0


def test_all_scores_and_reasons_are_in_the_parameters() -> None:
    facts = best_of([3.0, None]).parameters["best_of"]["candidates"]
    assert [(each["seed"], each["score"], each["problem"], each["best"]) for each in facts] == [
        (5, 3.0, None, True),
        (6, None, "unreadable", False),
    ]


@pytest.mark.parametrize(
    ("request_", "count", "said"),
    [
        (Request(prompt="x"), 1, "best_of=1 is below the fewest, 2"),
        (Request(prompt="x"), 101, "best_of=101 is above"),
        (Request(prompt="x", images_per_prompt=2), 2, "images_per_prompt=2"),
        (Request(prompt="x", seed=2**64 - 2), 3, "no room for 3 seeds"),
        (Request(prompt="x", latents=np.zeros((1, 4, 8, 8), np.float32)), 2, "given latents"),
    ],
)
def test_request_without_seeds_to_choose_from_is_refused(request_: Request, count: int, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_best_of(request_, count)


BROKEN = {
    "no JSON": says("I'd say 8 out of 10"),
    "half of it": says('{"reasoning": "good", "score": 8'),
    "a list": says("[8]"),
    "a list as the score": says('{"reasoning": "good", "score": [8]}'),
    "a text as the score": says('{"reasoning": "good", "score": "8"}'),
    "out of range": says('{"reasoning": "good", "score": 11}'),
    "below": says('{"reasoning": "good", "score": -1}'),
    "no number": says('{"reasoning": "good", "score": NaN}'),
    "true": says('{"reasoning": "good", "score": true}'),
    "no score": says('{"reasoning": "good"}'),
    "empty": says(""),
    "null": says(None),
    "cut off": says('{"reasoning": "good", "score": 8}', finish_reason="length"),
    "refused": says(None, refusal="no"),
    "not taken": fails(400),
    "busy": fails(429),
    "down": fails(500),
    "cut": CUT,
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_broken_judgement_is_missing_and_the_others_count(reply: Reply) -> None:
    right = says('{"reasoning": "fits", "score": 6.5}')
    with endpoint_double(in_turn(right, reply, right)) as double:
        # The second picture gets the broken answer; a refused question is asked once more without a schema.
        client = EndpointClient(Endpoint(url=double.url, model="m", tries=1))
        request = Request(prompt="x")
        judged: list[Callable[[Asked, int], Reply]] = [lambda asked, number: right, lambda asked, number: reply]

        def draw(each: Request) -> Result:
            double.reply = judged[min(each.seed, 1)] if each.seed < 2 else judged[0]
            return drawn(each)

        done = draw_best(request, 3, draw, picture_judge(client, RUBRICS, request))
    assert [each.judgement.score for each in done.candidates] == [6.5, None, 6.5]
    assert done.candidates[1].judgement.problem and done.best == 0


def test_judge_sees_the_inputs_before_the_picture_and_the_section_for_edits() -> None:
    with endpoint_double(in_turn(says('{"reasoning": "fits", "score": 6}'))) as double:
        request = Request(prompt="make it red", images=[Image.new("RGB", (8, 8)), Image.new("RGB", (9, 9))])
        judge = picture_judge(EndpointClient(Endpoint(url=double.url, model="m")), RUBRICS, request)
        assert judge(Image.new("RGB", (16, 16))) == Judgement(score=6, reason="fits", model="judge-of-today")
        [asked] = double.asked
    assert len(asked.pictures) == 3 and "The instruction: make it red" in asked.text
    assert asked.body["response_format"]["type"] == "json_schema"


def test_rubric_without_the_section_is_refused() -> None:
    client = EndpointClient(Endpoint(url="http://127.0.0.1:1/v1", model="m"))
    with pytest.raises(RequestError, match="no section 'draw'; it has 'edit'"):
        picture_judge(client, {"edit": RUBRICS["edit"]}, Request(prompt="x"))


def words_of(double_url: str, out: Path, *more: object) -> tuple[object, ...]:
    judge = ("--best-of", 3, "--judge", double_url, "--judge-model", "eyes")
    return ("generate", PROMPT, *judge, "--steps", 2, "--out", out, *ENGINE, *more)


def test_generate_keeps_the_candidate_that_nanos_reader_likes_best(command: Command, tmp_path: Path) -> None:
    with endpoint_double(scoring(EXPECTED)) as double:
        finished = command(*words_of(double.url, tmp_path / "x.png", "--seed", 5))
    assert finished.code == 0, finished.err
    parameters = read_parameters(tmp_path / "x.png")
    candidates = parameters["best_of"]["candidates"]
    assert parameters["best_of"]["judge"] == "judge-of-today"
    scores = []
    for number, (facts, asked) in enumerate(zip(candidates, double.asked, strict=True)):
        seen = picture_of(asked.pictures[-1])  # a JPEG
        with Image.open(tmp_path / f"x-{number}.png") as picture:
            assert np.abs(np.asarray(picture, np.int16) - np.asarray(seen, np.int16)).mean() < 4
        assert facts["score"] == score_of(seen, EXPECTED)
        scores.append(facts["score"])
        assert read_parameters(tmp_path / f"x-{number}.png")["seed"] == facts["seed"] == 5 + number
    best = scores.index(max(scores))
    assert len({*scores}) > 1 and parameters["seed"] == 5 + best
    assert [each["best"] for each in candidates] == [k == best for k in range(3)]
    with Image.open(tmp_path / "x.png") as kept, Image.open(tmp_path / f"x-{best}.png") as candidate:
        assert kept.tobytes() == candidate.tobytes()
    assert f"seed {5 + best} is the best" in finished.err


def test_generate_whose_judge_scores_nothing_keeps_all_pictures_and_says_so(command: Command, tmp_path: Path) -> None:
    with endpoint_double(lambda asked, number: says("lovely")) as double:
        finished = command(*words_of(double.url, tmp_path / "x.png"))
    assert finished.code == 1 and "the judge scored none of 3 pictures (the answer is not JSON" in finished.error_lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-0.png", "x-1.png", "x-2.png"]
    assert read_parameters(tmp_path / "x-2.png")["best_of"]["candidates"][2]["score"] is None


def test_generate_whose_judge_refuses_the_key_draws_no_more(command: Command, tmp_path: Path) -> None:
    with endpoint_double(lambda asked, number: fails(401)) as double:
        finished = command(*words_of(double.url, tmp_path / "x.png"))
        assert len(double.asked) == 1
    assert finished.code == 1 and "the key is missing or wrong" in finished.error_lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["x-0.png"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("the engine died")])
def test_generate_that_ends_early_keeps_the_candidates_and_the_best_so_far(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    (tmp_path / "x-2.png").write_bytes(b"of an earlier run")
    generate = og.Pipeline.generate

    def dies(self: og.Pipeline, request: Request, **more: Any) -> Result:
        if request.seed == 2:
            raise error
        return generate(self, request, **more)

    monkeypatch.setattr(og.Pipeline, "generate", dies)
    scores = (says('{"reasoning": "", "score": 3}'), says('{"reasoning": "", "score": 6}'))
    with endpoint_double(in_turn(*scores)) as double:
        finished = command(*words_of(double.url, tmp_path / "x.png"))
    assert finished.code != 0 and "2 of 3 pictures were drawn and judged" in finished.err
    assert f"'{tmp_path / 'x-2.png'}' was there before and is not of this run" in finished.err
    assert (tmp_path / "x-2.png").read_bytes() == b"of an earlier run"
    assert [read_parameters(tmp_path / name)["seed"] for name in ("x-0.png", "x-1.png", "x.png")] == [0, 1, 1]


def test_generate_without_a_best_picture_says_that_an_earlier_one_is_not_its_own(command: Command, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"of an earlier run")
    with endpoint_double(lambda asked, number: says("lovely")) as double:
        finished = command(*words_of(double.url, tmp_path / "x.png"))
    assert finished.code == 1 and f"'{tmp_path / 'x.png'}' was there before and is not of this run" in finished.err


def test_long_reason_of_a_judge_is_stored_cut() -> None:
    with endpoint_double(lambda asked, number: says(json.dumps({"reasoning": "x" * 10**6, "score": 6}))) as double:
        judge = picture_judge(EndpointClient(Endpoint(url=double.url, model="m")), RUBRICS, Request(prompt="x"))
        assert len(judge(Image.new("RGB", (16, 16))).reason) == 2000


def test_generate_judges_a_rewritten_picture_by_the_request_as_it_was_given(command: Command, tmp_path: Path) -> None:
    def reply(asked: Asked, number: int) -> Reply:
        if asked.pictures:
            return says(json.dumps({"reasoning": "", "score": 5}))
        return says(f"A picture of {PROMPT}, in even light and with sharp edges.")

    with endpoint_double(reply) as double:
        rewriter = ("--rewrite", "--rewriter", double.url, "--rewriter-model", "w")
        assert command(*words_of(double.url, tmp_path / "x.png", *rewriter)).code == 0
        judged = [asked.text for asked in double.asked if asked.pictures]
    assert len(judged) == 3 and all(f"The request: {PROMPT}\n" in text for text in judged)
    assert read_parameters(tmp_path / "x.png")["rewrite"]["prompt"] == PROMPT


def test_generate_takes_a_rubric(command: Command, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('draw = "Count the stars: {instruction}"\n')
    with endpoint_double(in_turn(says('{"reasoning": "", "score": 5}'))) as double:
        assert command(*words_of(double.url, tmp_path / "x.png", "--rubric", tmp_path / "r.toml")).code == 0
        assert all(asked.text.startswith(f"Count the stars: {PROMPT}") for asked in double.asked)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--best-of", 2), "--best-of needs --judge URL and --judge-model NAME"),
        (("--judge", "http://127.0.0.1:1/v1"), "belong to --best-of N"),
        (("--best-of", 2, "--judge", "http://127.0.0.1:1/v1"), "--judge URL and --judge-model NAME belong together"),
        (("--best-of", 2, "--judge", "nowhere", "--judge-model", "m"), "is not an address"),
        (("--best-of", 2, "--judge", "http://127.0.0.1:1", "--judge-model", "m", "--count", 2), "images_per_prompt=2"),
    ],
)
def test_best_of_options_that_do_not_fit_are_refused(
    command: Command, tmp_path: Path, words: tuple[object, ...], said: str
) -> None:
    assert said in command.fails("generate", PROMPT, *words, "--out", tmp_path / "x.png", *ENGINE)
    assert not list(tmp_path.iterdir())
