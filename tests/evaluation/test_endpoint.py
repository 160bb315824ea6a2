"""The client of endpoints: what it sends, what it reads, and what it does about every kind of failure."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from PIL import Image

from omnigen2_rt.evaluation.endpoint import (
    Answer,
    Endpoint,
    EndpointClient,
    EndpointError,
    EndpointUnusable,
    Question,
    QuestionRefused,
    jpeg_bytes,
)
from omnigen2_rt.runtime.errors import RequestError
from tests.evaluation.endpoint_double import CUT, EndpointDouble, Reply, endpoint_double, fails, in_turn, says

SCHEMA = {"type": "object", "properties": {"score": {"type": "number"}}, "required": ["score"], "additionalProperties": False}
SECRET = "the-secret-key"
PROMPT = "a prompt that nobody else may read"


def client_of(double: EndpointDouble, waits: list[float] | None = None, **settings: object) -> EndpointClient:
    endpoint = Endpoint(url=double.url, model="judge", key=SECRET, **{"timeout_s": 5, **settings})
    return EndpointClient(endpoint, sleep=(waits if waits is not None else []).append)


def test_question_of_text_and_pictures_is_sent_as_openai_takes_it() -> None:
    picture = jpeg_bytes(Image.new("RGB", (32, 16), (220, 40, 40)))
    parts = "look", picture, "and judge"
    question = Question(parts=parts, system="be strict", schema=SCHEMA, max_tokens=1400, temperature=0, seed=3)
    with endpoint_double(in_turn(says("fine"))) as double:
        answer = client_of(double).ask(question)
    (asked,) = double.asked
    assert (asked.path, asked.headers["authorization"]) == ("/v1/chat/completions", f"Bearer {SECRET}")
    system, user = asked.body["messages"]
    assert system == {"role": "system", "content": "be strict"} and user["role"] == "user"
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text"]
    head, _, data = asked.pictures[0].partition(",")
    assert head == "data:image/jpeg;base64" and base64.b64decode(data) == picture
    with Image.open(io.BytesIO(picture)) as opened:
        assert (opened.format, opened.size) == ("JPEG", (32, 16))
    assert asked.body["response_format"]["json_schema"] == {"name": "answer", "strict": True, "schema": SCHEMA}
    assert (asked.body["model"], asked.body["max_tokens"], asked.body["temperature"], asked.body["seed"]) == ("judge", 1400, 0, 3)
    tokens = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    assert answer == Answer(text="fine", model="judge-of-today", tokens=tokens)


def test_question_without_settings_sends_none_of_them() -> None:
    with endpoint_double(in_turn(says("fine"))) as double:
        EndpointClient(Endpoint(url=f"{double.url}/chat/completions?version=1", model="judge")).ask(Question(parts=("hello",)))
    (asked,) = double.asked
    assert asked.path == "/v1/chat/completions?version=1" and "authorization" not in asked.headers
    assert asked.body == {"model": "judge", "messages": [{"role": "user", "content": "hello"}]}


def test_schema_that_is_refused_is_left_out_from_then_on() -> None:
    def reply(asked: object, number: int) -> Reply:
        return fails(400, "unknown_parameter") if "response_format" in double.asked[-1].body else says("plain")

    with endpoint_double(reply) as double:
        client = client_of(double)
        answers = [client.ask(Question(parts=("hello",), schema=SCHEMA)).text for _ in range(2)]
    assert answers == ["plain", "plain"]
    assert ["response_format" in asked.body for asked in double.asked] == [True, False, False]


def test_question_refused_with_and_without_its_schema_keeps_the_schema_for_others() -> None:
    with endpoint_double(in_turn(fails(400, "content_policy"), fails(400, "content_policy"), says("fine"))) as double:
        client = client_of(double)
        with pytest.raises(QuestionRefused, match=r"refused the question with 400 \(content_policy, an_error\)"):
            client.ask(Question(parts=(PROMPT,), schema=SCHEMA))
        assert client.ask(Question(parts=("other",), schema=SCHEMA)).text == "fine"
    assert ["response_format" in asked.body for asked in double.asked] == [True, False, True]


def test_limit_of_tokens_gets_the_name_that_newer_models_want() -> None:
    refusal = fails(400, "unsupported_parameter", message="use 'max_completion_tokens' instead")
    with endpoint_double(in_turn(refusal, says("fine"))) as double:
        client = client_of(double)
        for _ in range(2):
            client.ask(Question(parts=("hello",), max_tokens=5))
    assert ["max_tokens" in asked.body for asked in double.asked] == [True, False, False]
    assert [asked.body.get("max_completion_tokens") for asked in double.asked] == [None, 5, 5]


@pytest.mark.parametrize(
    "failure",
    [
        fails(429, "rate_limit_exceeded"),
        fails(500),
        fails(503),
        Reply(body=b"<html>a proxy's page</html>"),
        Reply(body=b'{"error": {"message": "upstream"}}'),
        Reply(body=b'{"choices": []}'),
        CUT,
        Reply(body=says("fine").body, cut_after=40),
    ],
    ids=["429", "500", "503", "page", "error in 200", "no choice", "cut", "cut midway"],
)
def test_passing_failure_is_tried_again_with_growing_waits(failure: Reply) -> None:
    waits: list[float] = []
    with endpoint_double(in_turn(failure, failure, failure, says("fine"))) as double:
        assert client_of(double, waits).ask(Question(parts=("hello",))).text == "fine"
    assert waits == [1, 2, 4]


def test_timeout_is_tried_again() -> None:
    slow = Reply(body=says("late").body, delay_s=1.5)
    with endpoint_double(in_turn(slow, says("fine"))) as double:
        assert client_of(double, timeout_s=1).ask(Question(parts=("hello",))).text == "fine"


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 7),
        ("0.5", 0.5, 0.5),
        (300, 100, 300),
        (-300, 0, 0),
        ("soon", 1, 1),
    ],
    ids=["seconds", "parts of seconds", "date", "date that is past", "word"],
)
def test_wait_that_the_server_asks_for_is_kept(header: str | int, least: float, most: float) -> None:
    """A number is a date so many seconds from now."""
    if isinstance(header, int):
        header = format_datetime(datetime.now(UTC) + timedelta(seconds=header))
    waits: list[float] = []
    with endpoint_double(in_turn(fails(429, Retry_After=header), says("fine"))) as double:
        client_of(double, waits).ask(Question(parts=("hello",)))
    assert len(waits) == 1 and least <= waits[0] <= most


def test_wait_of_hours_ends_the_call() -> None:
    with endpoint_double(in_turn(fails(429, Retry_After="7200"))) as double:
        with pytest.raises(EndpointError, match="asks to wait 7200 s: run the same command again then"):
            client_of(double).ask(Question(parts=("hello",)))
    assert len(double.asked) == 1


def test_failure_that_stays_ends_after_the_tries() -> None:
    waits: list[float] = []
    with endpoint_double(in_turn(fails(500, "overloaded"))) as double:
        with pytest.raises(EndpointError, match=r"answered 500 \(overloaded, an_error\); 3 tries were made") as raised:
            client_of(double, waits, tries=3).ask(Question(parts=("hello",)))
    assert (len(double.asked), waits) == (3, [1, 2]) and type(raised.value) is EndpointError


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (fails(401, "invalid_api_key", message=f"wrong key {SECRET} for {PROMPT}"), "the key is missing or wrong"),
        (fails(404, "model_not_found"), "no such model"),
        (fails(429, "insufficient_quota"), "no credit left"),
        (Reply(status=302, headers={"Location": "http://127.0.0.1:1/"}), "redirects are not followed"),
    ],
)
def test_failure_that_no_try_can_mend_ends_at_once_and_tells_no_secret(reply: Reply, said: str) -> None:
    with endpoint_double(in_turn(reply)) as double:
        with pytest.raises(EndpointUnusable) as raised:
            client_of(double).ask(Question(parts=(PROMPT,)))
    assert len(double.asked) == 1
    assert said in str(raised.value) and SECRET not in str(raised.value) and PROMPT not in str(raised.value)


def test_endpoint_that_nobody_serves_is_named_by_its_reason() -> None:
    with endpoint_double(in_turn(CUT)) as double:
        url = double.url
    waits: list[str] = []
    client = EndpointClient(Endpoint(url=url, model="judge", tries=2), waits.append, sleep=lambda seconds: None)
    with pytest.raises(EndpointError, match="could not be asked: Connection refused; 2 tries were made"):
        client.ask(Question(parts=("hello",)))
    assert waits == ["the endpoint could not be asked: Connection refused; next try in 1 s"]


def test_answer_that_is_cut_off_or_a_refusal_says_so() -> None:
    filtered = says("half", finish_reason="content_filter")
    with endpoint_double(in_turn(says("half an", finish_reason="length"), says(None, refusal="I won't"), filtered)) as double:
        client = client_of(double)
        cut_off, refused, filtered_out = (client.ask(Question(parts=("hello",))) for _ in range(3))
    assert filtered_out.refusal == "filtered"
    assert (cut_off.text, cut_off.is_cut_off) == ("half an", True)
    assert (refused.text, refused.refusal, refused.is_cut_off) == ("", "I won't", False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "file:///etc/passwd"}, "is not an address such as"),
        ({"url": "host/v1"}, "is not an address such as"),
        ({"url": "http://user:word@host/v1"}, "holds a user name or a password"),
        ({"model": " "}, "model is empty"),
        ({"key": "two\r\nlines"}, "must be printable ASCII"),
        ({"timeout_s": 0}, "timeout_s=0 is out of range"),
        ({"tries": 0}, "tries=0 is below"),
    ],
)
def test_endpoint_with_a_bad_value_says_so(settings: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Endpoint(**{"url": "http://host/v1", "model": "judge", **settings})


def test_endpoint_shows_no_key() -> None:
    assert SECRET not in repr(Endpoint(url="http://host/v1", model="judge", key=SECRET))
