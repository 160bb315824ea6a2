"""OpenAI's own client, in strict mode, chats: questions about pictures, drawings, several turns, streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from omnigen2_rt import Request
from omnigen2_rt.runtime.pipeline import Pipeline
from tests.serving.running import Running, picture_of, url_of

DRAW = "a small blue star on a white background"
QUICK: dict[str, Any] = {"num_inference_steps": 4, "seed": 3}
LOOK = "what colour is the background?"
TOOL = {"type": "function", "function": {"name": "x", "parameters": {}}}


@pytest.fixture(scope="module")
def picture(nano: Pipeline) -> Image.Image:
    request = Request(prompt="a large red circle on a blue background", steps=20, seed=7)
    return nano.generate(request).images[0]


def asked(text: str, *images: Image.Image) -> dict[str, Any]:
    """A user's message."""
    shown = [{"type": "image_url", "image_url": {"url": url_of(image)}} for image in images]
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


def ask(server: Running, messages: list[Any], **options: Any) -> Any:
    return server.client().chat.completions.create(model="nano", messages=messages, extra_body=QUICK, **options)


def test_question_about_a_picture_is_answered_as_in_process(server: Running, nano: Pipeline, picture: Image.Image) -> None:
    answer = ask(server, [asked(LOOK, picture)])
    expected = nano.chat(LOOK, [picture])
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == (expected.text, "stop") and expected.text
    assert answer.usage.completion_tokens == len(expected.token_ids)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_third_turn_over_the_whole_history_is_that_of_a_conversation(
    server: Running, nano: Pipeline, picture: Image.Image
) -> None:
    questions = [asked(LOOK, picture), asked(DRAW), asked("what shape is it?")]
    messages: list[Any] = []
    answers = []
    for question in questions:
        messages.append(question)
        message = ask(server, messages).choices[0].message
        answers.append(message)
        messages.append(message.model_dump())
    chat, settings = nano.start_chat(), {"request": Request(prompt="", steps=4, seed=3), "seed": 3}
    words = chat.ask(LOOK, [picture], **settings)
    drawn = chat.ask(DRAW, **settings)
    last = chat.ask("what shape is it?", **settings)
    assert [answer.content for answer in answers] == [words.text, None, last.text] and last.text
    (image,) = answers[1].model_extra["images"]
    data = image["image_url"]["url"].removeprefix("data:image/png;base64,")
    difference = np.asarray(picture_of(data), int) - np.asarray(drawn.images[0], int)
    assert np.abs(difference).max() <= 2  # a history that is read at once rounds differently


def test_streamed_words_are_the_unstreamed(server: Running, picture: Image.Image) -> None:
    whole = ask(server, [asked(LOOK, picture)])
    chunks = list(ask(server, [asked(LOOK, picture)], stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage


def test_streamed_picture_comes_in_the_last_but_one_chunk(server: Running) -> None:
    chunks = list(ask(server, [asked(DRAW)], stream=True))
    (whole,) = ask(server, [asked(DRAW)]).choices[0].message.model_extra["images"]
    assert chunks[-2].choices[0].delta.model_extra["images"] == [whole]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_text_modality_never_draws(server: Running) -> None:
    message = ask(server, [asked(DRAW)], modalities=["text"], max_completion_tokens=4).choices[0].message
    assert message.content is not None and message.model_extra["images"] == []


def test_answer_cut_at_its_length_says_so(server: Running, picture: Image.Image) -> None:
    choice = ask(server, [asked(LOOK, picture)], max_completion_tokens=1).choices[0]
    assert choice.finish_reason == "length"


def test_system_message_stands_before_the_first_question(server: Running, nano: Pipeline, picture: Image.Image) -> None:
    message = ask(server, [{"role": "system", "content": "what colour"}, asked("is the circle?", picture)]).choices[0].message
    assert message.content == nano.chat("what colour\n\nis the circle?", [picture], seed=3).text


def test_fields_that_chat_programs_send_empty_are_accepted(server: Running) -> None:
    empty = {"tools": [], "tool_choice": "none", "parallel_tool_calls": True, "logit_bias": {}, "service_tier": "auto"}
    plain = ask(server, [{"role": "user", "content": "hello"}]).choices[0].message.content
    history = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": plain, "tool_calls": []}]
    assert ask(server, [{"role": "user", "content": "hello"}], **empty).choices[0].message.content == plain
    assert ask(server, [*history, {"role": "user", "content": "hello"}], tools=[]).choices[0].message.role == "assistant"


def test_messages_of_one_role_in_a_row_are_one_question(server: Running) -> None:
    apart = ask(server, [{"role": "user", "content": "what"}, {"role": "user", "content": "are you?"}])
    together = ask(server, [{"role": "user", "content": "what\n\nare you?"}])
    assert apart.choices[0].message.content == together.choices[0].message.content


@pytest.mark.parametrize(
    ("messages", "options", "code", "param"),
    [
        ([], {}, "invalid_value", "messages"),
        ([{"role": "tool", "content": "x", "tool_call_id": "1"}], {}, "unsupported_value", "messages[0].role"),
        ([{"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}], {}, "invalid_value", "messages"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}], {}, "invalid_value", "messages"),
        ([{"role": "user", "content": [{"type": "file", "file": {}}]}], {}, "unsupported_value", "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], {}, "invalid_value", "messages[0].content[0].text"),
        ([{"role": "system", "content": "x"}], {}, "invalid_value", "messages"),
        ([{"role": "user", "content": "x"}], {"tools": [TOOL]}, "invalid_value", "tools"),
        ([{"role": "user", "content": "x"}], {"n": 2}, "unsupported_value", "n"),
        ([{"role": "user", "content": "x"}], {"logprobs": True}, "unsupported_value", "logprobs"),
        ([{"role": "user", "content": "x"}], {"frequency_penalty": 0.5}, "unsupported_value", "frequency_penalty"),
        ([{"role": "user", "content": "x"}], {"temperature": -1}, "invalid_value", "temperature"),
        (
            [{"role": "user", "content": "x"}],
            {"response_format": {"type": "json_object"}},
            "unsupported_value",
            "response_format.type",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://example.com/a.png"}}]}],
            {},
            "image_url_not_allowed",
            "messages[0].content[0].image_url",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}],
            {},
            "image_unreadable",
            "messages[0].content[0].image_url",
        ),
    ],
)
def test_chat_refuses_what_is_not_allowed(
    server: Running, messages: list[Any], options: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(server, messages, **options)
    assert (refused.value.code, refused.value.param) == (code, param)
