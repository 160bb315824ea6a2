"""Rewriting: what is drawn, what is refused and why, templates, the bundle's own model and an endpoint."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import omnigen2_rt as og
from omnigen2_rt.evaluation.endpoint import Endpoint, EndpointError, EndpointUnusable
from omnigen2_rt.rewriting.objections import cleaned, objection
from omnigen2_rt.rewriting.plan import RewritePlan
from omnigen2_rt.rewriting.rewriter import Rewriter, Written
from omnigen2_rt.rewriting.templates import MAX_TEMPLATE_BYTES, Templates, read_templates
from omnigen2_rt.runtime.chat.exchange import ChatResult
from omnigen2_rt.runtime.errors import RequestError
from tests.evaluation.endpoint_double import Reply, endpoint_double, fails, says

PROMPT = 'three red apples and a sign "FRESH"'
LONG = 'On a worn oak table lie 3 glossy red apples in soft morning light; behind them stands a sign that says "FRESH".'


def rewriter_of(*answers: str) -> Rewriter:
    """A rewriter whose model gives these answers in turn, the last one from then on."""
    left = [*answers]
    return Rewriter(lambda question: Written(text=left.pop(0) if len(left) > 1 else left[0]), "stub", Templates())


def test_rewrite_that_keeps_everything_is_drawn() -> None:
    done = rewriter_of(LONG).rewrite(PROMPT)
    assert (done.prompt, done.original, done.refused) == (LONG, PROMPT, None)
    assert done.parameters == {"rewrite": {"prompt": PROMPT, "text": LONG, "refused": None, "writer": "stub"}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        (" \n\n", "it is empty"),
        (LONG.replace("3 glossy", "some glossy"), "it lost 'three'"),
        (LONG.replace("red", "ripe"), "it lost 'red'"),
        (LONG.replace("FRESH", "fresh"), "it lost 'FRESH'"),
        ('3 red "FRESH" things', "it is no longer than the prompt"),
        (f"{LONG} {'very ' * 300}", "it has 322 words; at most 300 are taken"),
        (f"{LONG} {'and more and more ' * 20}", "it repeats itself"),
        (f"{LONG}<|im_end|>", "it holds a special token"),
        (f"{LONG}\0", "control character U+0000"),
        (f"{LONG}\x1b[31m", "control character U+001B"),
        (f"{LONG}\u202e", "control character U+202E"),
        (f"```text\n{LONG}\n```", "a code fence or HTML"),
        (f"<p>{LONG}</p>", "a code fence or HTML"),
        (f'{LONG} <br class="x"/>', "a code fence or HTML"),
    ],
)
def test_rewrite_that_loses_something_or_rambles_is_refused(text: str, reason: str) -> None:
    done = rewriter_of(text).rewrite(PROMPT)
    assert done.prompt == PROMPT and done.refused is not None and reason in done.refused
    assert done.parameters["rewrite"]["refused"] == done.refused


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (" a fox\n in the  snow ", "a fox in the snow"),
        ('"a fox"', "a fox"),
        ("“a fox”", "a fox"),
        ('Here is the description:\n\n"a fox"', "a fox"),
        ('"OPEN" above, below "CLOSED"', '"OPEN" above, below "CLOSED"'),
        ("Colours:", "Colours:"),
        ('"', '"'),
    ],
)
def test_answer_is_taken_without_what_surrounds_it(answer: str, text: str) -> None:
    assert cleaned(answer) == text


def test_refused_answer_is_not_stored_whole() -> None:
    done = rewriter_of("word " * 10**6).rewrite(PROMPT)
    assert done.prompt == PROMPT and len(done.text) == 2000


def test_objection_to_a_prompt_with_a_special_token_of_its_own_is_none() -> None:
    assert objection("a fox <|im_end|>", "a fox <|im_end|> in deep snow") is None


def test_prompt_that_comes_again_is_not_asked_for_again() -> None:
    rewriter = rewriter_of(LONG, "another")
    assert rewriter.rewrite(PROMPT) is rewriter.rewrite(PROMPT)
    assert rewriter.rewrite(PROMPT, images=1).text == "another"


def test_question_of_an_edit_is_another_one_and_tells_the_number_of_images() -> None:
    templates = Templates(drawing="draw {prompt} {images}", editing="edit {images} {prompt}")
    assert templates.question("a {images} {prompt}", 0) == "draw a {images} {prompt} 0"
    assert templates.question("x", 2) == "edit 2 x"
    assert PROMPT in Templates().question(PROMPT, 0) and " 2." in Templates().question(PROMPT, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"make it long", "does not hold {prompt}"), (b"\xff{prompt}", "no UTF-8"), (b" " * (MAX_TEMPLATE_BYTES + 1), "larger")],
)
def test_template_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(RequestError, match=said):
        read_templates(tmp_path / "t.txt")


class ChattingPipeline:
    """Its language model gives one answer, and says how it ended."""

    def __init__(self, text: str, finish_reason: Any = "stop", error: Exception | None = None) -> None:
        self.language_model = type("Model", (), {"chat": object()})()
        self._answer = ChatResult(text=text, token_ids=(), images=[], result=None, finish_reason=finish_reason)
        self._error = error
        self.settings: dict[str, Any] = {}

    def chat(self, prompt: str, **settings: Any) -> ChatResult:
        self.settings = settings
        if self._error is not None:
            raise self._error
        return self._answer


def test_bundle_writes_in_words_only_and_without_chance() -> None:
    pipeline = ChattingPipeline(LONG)
    assert RewritePlan().open(pipeline).rewrite(PROMPT).prompt == LONG  # type: ignore[arg-type]
    assert pipeline.settings["may_draw"] is False and pipeline.settings["temperature"] == 0


@pytest.mark.parametrize("reason", ["length", "context", "cancelled"])
def test_rewrite_that_did_not_end_is_refused(reason: str) -> None:
    done = RewritePlan().open(ChattingPipeline(LONG, reason)).rewrite(PROMPT)  # type: ignore[arg-type]
    assert done.prompt == PROMPT and "did not come to its end" in str(done.refused)


def test_prompt_that_the_bundle_cannot_read_stays_as_it_is() -> None:
    pipeline = ChattingPipeline("", error=RequestError("the prompt has 99999 tokens"))
    done = RewritePlan().open(pipeline).rewrite(PROMPT)  # type: ignore[arg-type]
    assert done.prompt == PROMPT and "99999 tokens" in str(done.refused)


@pytest.fixture(scope="module")
def pipeline() -> Iterator[og.Pipeline]:
    with og.load(backend="ort-cpu", precision="fp32", threads=1) as opened:
        yield opened


def test_nano_rewrites_to_something_that_is_refused_and_the_prompt_stays(pipeline: og.Pipeline) -> None:
    first, second = (RewritePlan().open(pipeline).rewrite("two red circles on a blue background") for _ in range(2))
    assert first == second
    assert first.prompt == "two red circles on a blue background" and first.refused is not None


def test_rewriting_by_the_bundle_can_be_cancelled_at_each_token(pipeline: og.Pipeline) -> None:
    tokens: list[str] = []
    done = RewritePlan().open(pipeline, on_token=lambda text: bool(tokens.append(text))).rewrite("two red circles")
    assert len(tokens) == 1 and "did not come to its end" in str(done.refused)


@pytest.mark.parametrize("answer", [LONG, f"<think>\nthree, red\n</think>\n\n{LONG}"])
def test_endpoint_gets_the_template_and_its_rewrite_is_drawn(pipeline: og.Pipeline, answer: str) -> None:
    with endpoint_double(lambda asked, number: says(answer)) as double:
        plan = RewritePlan(endpoint=Endpoint(url=double.url, model="writer", key="sk-1"))
        assert plan.open(pipeline).rewrite(PROMPT).prompt == LONG
        [asked] = double.asked
    assert asked.body["model"] == "writer" and asked.text == Templates().question(PROMPT, 0)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (says(LONG, finish_reason="length"), "did not come to its end"),
        (says(None, refusal="I can't do that"), "refused to rewrite"),
        (says(""), "it is empty"),
        (fails(400, "content_policy_violation"), "content_policy_violation"),
    ],
)
def test_endpoint_that_gives_no_rewrite_leaves_the_prompt(pipeline: og.Pipeline, reply: Reply, reason: str) -> None:
    with endpoint_double(lambda asked, number: reply) as double:
        plan = RewritePlan(endpoint=Endpoint(url=double.url, model="m", tries=1))
        done = plan.open(pipeline).rewrite(PROMPT)
    assert done.prompt == PROMPT and reason in str(done.refused)


@pytest.mark.parametrize(("reply", "kind"), [(fails(500), EndpointError), (fails(401), EndpointUnusable)])
def test_endpoint_that_is_down_is_an_error_not_a_refusal(
    pipeline: og.Pipeline, reply: Reply, kind: type[Exception]
) -> None:
    with endpoint_double(lambda asked, number: reply) as double:
        plan = RewritePlan(endpoint=Endpoint(url=double.url, model="m", tries=1))
        with pytest.raises(kind):
            plan.open(pipeline).rewrite(PROMPT)


def test_plan_can_be_sent_and_its_digest_tells_what_decides_a_rewrite() -> None:
    plan = RewritePlan(endpoint=Endpoint(url="http://host/v1", model="m", key="sk-1"))
    assert pickle.loads(pickle.dumps(plan)) == plan
    others = [
        RewritePlan(),
        RewritePlan(templates=Templates(drawing="x {prompt}")),
        RewritePlan(endpoint=Endpoint(url="http://host/v1", model="n")),
    ]
    assert len({each.digest("b") for each in (plan, *others)}) == 4
    assert RewritePlan(endpoint=Endpoint(url="http://host/v1", model="m")).digest("b") == plan.digest("b")
    assert plan.digest("c") != plan.digest("b")


