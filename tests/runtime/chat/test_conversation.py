"""Conversations: turns that follow each other, stream, are cancelled, fail, are resumed, and are answered together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt import Conversation, Turn, load
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.chat.exchange import draw_from_states
from omnigen2_rt.runtime.chat.sampling import Sampler, Sampling
from omnigen2_rt.runtime.errors import BundleError, RequestError
from omnigen2_rt.runtime.manifest import ChatParameters
from omnigen2_rt.runtime.mllm.language_model import Tokens
from omnigen2_rt.runtime.pipeline import Pipeline
from omnigen2_rt.runtime.request import Request
from tests.runtime.goldens import GOLDENS

DRAW = "Draw a red cube on a wooden table."
SMALL = Request(prompt="", width_px=64, height_px=64, steps=1)


@pytest.fixture(scope="module")
def talkers(bundles: dict[str, Path]) -> dict[str, Pipeline]:
    return {name: load(bundle, backend="ort-cpu", precision="fp32", threads=1) for name, bundle in bundles.items()}


def runs_of(pipeline: Pipeline, component: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The new tokens of every run from now on."""
    lengths: list[int] = []
    sessions = pipeline.components.sessions
    run = sessions.run

    def counting(name: str, feeds: Any) -> Any:
        if name == component:
            lengths.append(feeds["cos"].shape[1])
        return run(name, feeds)

    monkeypatch.setattr(sessions, "run", counting)
    return lengths


def test_picture_is_made_without_reading_the_prompt_again(
    talkers: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = runs_of(talkers["A"], "language_model", monkeypatch)
    assert talkers["A"].chat(DRAW, request=SMALL).images
    assert lengths == [49, 37]  # the turn, and the negative turn


def test_second_turn_computes_only_its_own_tokens(
    talkers: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its states are those of reading the whole conversation at once."""
    pipeline = talkers["A"]
    chat = pipeline.start_chat()
    answer = chat.ask("What is in the picture?", max_new_tokens=4)
    before = len(chat.token_ids)
    lengths = runs_of(pipeline, "language_model", monkeypatch)
    second = chat.ask("And now?", max_new_tokens=1, may_draw=False)
    model = pipeline.language_model
    templates, tokenizer = model.chat, pipeline.prompt_encoder.tokenizer
    ids = [
        *tokenizer.encode(templates.first_turn.replace("{prompt}", "What is in the picture?")),
        *answer.token_ids,
        *tokenizer.encode(templates.next_turn.replace("{prompt}", "And now?")),
    ]
    assert lengths == [len(ids) - before]
    hidden, _ = model.read(Tokens.text(ids))
    assert second.token_ids == (in_words(templates).sample(model.logits(hidden[-1]), ids),)


def test_picture_of_a_later_turn_is_guided_by_the_states_of_the_whole_conversation(
    talkers: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = talkers["A"]
    chat = pipeline.start_chat()
    chat.ask("What is in the picture?", max_new_tokens=4)
    always_draws(pipeline, monkeypatch)
    drawn = chat.ask("Draw it.", request=SMALL)
    whole, _ = pipeline.language_model.read(Tokens.text(chat.token_ids))
    turn = pipeline.prompt_encoder.tokenizer.encode(
        pipeline.language_model.chat.next_turn.replace("{prompt}", "Draw it.")
    )
    states = whole[-len(turn) - 1 :]  # the last answer's last token was not read before
    expected = draw_from_states(pipeline.prompt_encoder, replace(SMALL, prompt="Draw it."), states)
    assert drawn.result is not None
    np.testing.assert_allclose(drawn.result.latents, expected.latents, rtol=0, atol=1e-4)


def in_words(chat: ChatParameters) -> Sampler:
    """A greedy sampler that never answers with a picture."""
    assert chat.draw_token_id is not None
    return Sampler(Sampling(repetition_penalty=chat.repetition_penalty), [chat.draw_token_id])


def always_draws(talker: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_token = talker.language_model.chat.draw_token_id
    monkeypatch.setattr(Sampler, "sample", lambda self, logits, ids: draw_token)


def test_picture_that_was_made_is_edited_in_the_next_turn(
    talkers: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    always_draws(talkers["A"], monkeypatch)
    chat = talkers["A"].start_chat()
    first = chat.ask("Draw a red cube.", request=SMALL)
    second = chat.ask("Make it blue.", request=SMALL)
    assert first.result is not None and second.result is not None
    assert (first.result.request.images, second.result.request.images) == ((), tuple(first.images))
    assert chat.images == [*first.images, *second.images]


def test_drawing_after_words_starts_from_the_last_picture_of_the_conversation(
    talkers: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It started from none: an edit after a question lost the picture that was asked about."""
    always_draws(talkers["A"], monkeypatch)
    drawn, shown = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    question = Turn(prompt="What colour is it?", answer="Red.")
    for turns, expected in (
        ([Turn(prompt="Draw.", answer_images=[drawn]), question], drawn),
        ([Turn(prompt="Look.", images=[shown], answer="Yes."), question], shown),
    ):
        edited = talkers["A"].start_chat(turns=turns).ask("Make it green.", request=SMALL)
        assert edited.result is not None
        (reference,) = edited.result.request.images
        assert np.array_equal(np.asarray(reference), np.asarray(expected))


def test_drawing_from_pictures_of_its_turn_leaves_out_the_one_that_was_made(
    talkers: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture before was the first one that it combined: "the object from the first image" was not the turn's first."""
    always_draws(talkers["A"], monkeypatch)
    drawn, given = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    made, question = Turn(prompt="Draw.", answer_images=[drawn]), Turn(prompt="Which?", images=[given], answer="Blue.")
    at_once = talkers["A"].start_chat(turns=[made]).ask("Put it on green.", [given], request=SMALL)
    later = talkers["A"].start_chat(turns=[made, question]).ask("Make it green.", request=SMALL)
    for answer in (at_once, later):
        assert answer.result is not None
        (reference,) = answer.result.request.images
        assert np.array_equal(np.asarray(reference), np.asarray(given))


def test_picture_that_was_made_is_shown_in_the_next_turn(talkers: dict[str, Pipeline]) -> None:
    chat = talkers["A"].start_chat()
    drawn = chat.ask(DRAW, request=SMALL)
    assert len(drawn.images) == 1 and chat.images == drawn.images
    before = len(chat.token_ids)
    chat.ask("What is in the picture?", max_new_tokens=1)
    assert chat.token_ids[before:].count(612) == 4  # 64 px are 2×2 tokens of 28 px


def conversation(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Conversation:
    """Words, a picture, words about it that are cut off, and a cancelled answer."""
    chat = pipeline.start_chat()
    chat.ask("What is in the picture?", [GOLDENS / "A" / "golden" / "inputs" / "chat_edit.png"], max_new_tokens=30)
    with monkeypatch.context() as patch:
        always_draws(pipeline, patch)
        chat.ask("Draw a red cube.", request=SMALL)
    chat.ask("And now?", max_new_tokens=5, may_draw=False)
    chat.ask("Please describe this image briefly.", on_token=lambda text: False, may_draw=False)
    return chat


def assert_draw_alike(
    living: Conversation, resumed: Conversation, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_draws(pipeline, monkeypatch)
    drawn = [chat.ask("Make it blue.", request=SMALL).result for chat in (living, resumed)]
    assert drawn[0] is not None and drawn[1] is not None
    np.testing.assert_allclose(drawn[0].latents, drawn[1].latents, rtol=0, atol=1e-4)


def test_conversation_resumed_from_its_turns_answers_as_the_living_one(
    talkers: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = talkers["A"]
    living = conversation(pipeline, monkeypatch)
    resumed = pipeline.start_chat(living.turns)
    assert [np.asarray(image).tobytes() for image in resumed.images] == [
        np.asarray(image).tobytes() for image in living.images
    ]
    for chat in (living, resumed):
        chat.ask("What else?", max_new_tokens=12, may_draw=False)
    assert living.turns[-1].token_ids == resumed.turns[-1].token_ids and living.token_ids == resumed.token_ids
    assert_draw_alike(living, resumed, pipeline, monkeypatch)


def test_picture_right_after_resuming_is_guided_as_in_the_living_conversation(
    talkers: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The states of past turns guide no picture."""
    pipeline = talkers["A"]
    living = conversation(pipeline, monkeypatch)
    resumed = pipeline.start_chat(living.turns)
    assert_draw_alike(living, resumed, pipeline, monkeypatch)


def test_picture_after_words_alone_is_guided_by_its_own_question(
    talkers: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last word of an answer that came without token ids once guided the picture too."""
    pipeline = talkers["A"]
    ids = (*pipeline.prompt_encoder.tokenizer.encode("A cat."), pipeline.language_model.chat.stop_token_ids[0])
    turns = [Turn(prompt="What is it?", answer="A cat.", token_ids=token_ids) for token_ids in (ids, ())]
    living, resumed = (pipeline.start_chat([turn]) for turn in turns)
    assert_draw_alike(living, resumed, pipeline, monkeypatch)


def test_conversation_resumed_from_texts_and_files_goes_on(talkers: dict[str, Pipeline]) -> None:
    """A server that kept words and pictures alone has no token ids."""
    pipeline, picture = talkers["A"], GOLDENS / "A" / "golden" / "inputs" / "chat_edit.png"
    turns = [
        Turn(prompt="What is in the picture?", images=[picture], answer="A cat."),
        Turn(prompt=DRAW, answer_images=[picture]),
    ]
    chat = pipeline.start_chat(turns)
    assert len(chat.images) == 2 and chat.token_ids == ()  # nothing is read before it is asked
    chat.ask("And now?", max_new_tokens=1, may_draw=False)
    read = pipeline.prompt_encoder.tokenizer.decode(chat.token_ids, skip_special=False)
    assert "A cat.<|im_end|>" in read and read.count("<|img|>") == 1 and "<img2>" in read
    assert [turn.prompt for turn in chat.turns] == ["What is in the picture?", DRAW, "And now?"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": None}, r"prompt must be text \(str\), not NoneType"),
        ({"answer": 5}, r"answer must be text \(str\), not int"),
        ({"images": None}, "images must be a sequence of images, not NoneType"),
        ({"answer_images": [3]}, r"answer_images\[0\] is a int"),
        ({"token_ids": None}, "token_ids must be a sequence of token ids, not NoneType"),
        ({"token_ids": b"ab"}, "token_ids must be a sequence of token ids, not bytes"),
        ({"token_ids": [-1]}, r"token_ids\[0\]=-1 is below the first id, 0"),
        ({"token_ids": [1.5]}, r"token_ids\[0\]=1.5 is not a whole number"),
        ({"token_ids": [True]}, r"token_ids\[0\]=True is not a whole number"),
        ({"answer": "blue", "answer_images": ["x.png"]}, "in words .* or with pictures .*, not both"),
    ],
)
def test_turn_with_a_wrong_field_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Turn(**{"prompt": "x", **fields})


def test_turn_keeps_a_single_picture_and_ids_of_an_array_in_their_normal_form() -> None:
    """An array's rows were once taken for pictures; numpy's integers are none of JSON's."""
    picture = np.zeros((8, 8, 3), np.uint8)
    turn = Turn(prompt="x", images=picture, answer="y", token_ids=np.array([64, 602]))  # type: ignore[arg-type]
    assert len(turn.images) == 1 and turn.images[0] is picture
    assert json.loads(json.dumps(turn.token_ids)) == [64, 602]


@pytest.mark.parametrize("turns", [None, "hi", [("q", "a")], Turn(prompt="x")], ids=["none", "text", "pairs", "turn"])
def test_conversation_resumes_from_turns_alone(talkers: dict[str, Pipeline], turns: Any) -> None:
    with pytest.raises(RequestError, match="turns must be a sequence of Turn"):
        talkers["A"].start_chat(turns)


def test_token_id_beyond_the_vocabulary_is_refused_when_resuming(talkers: dict[str, Pipeline]) -> None:
    with pytest.raises(RequestError, match=r"a turn has token id 1000000; this model's vocabulary has \d+ tokens"):
        talkers["A"].start_chat([Turn(prompt="x", answer="y", token_ids=[10**6, 602])])


def test_single_picture_need_not_be_wrapped(talkers: dict[str, Pipeline]) -> None:
    picture = np.full((32, 32, 3), 200, np.uint8)
    asked = "What is in the picture?"
    wrapped = talkers["A"].chat(asked, [picture], max_new_tokens=2, may_draw=False)
    assert talkers["A"].chat(asked, picture, max_new_tokens=2, may_draw=False).token_ids == wrapped.token_ids  # type: ignore[arg-type]


def test_turn_whose_caller_fails_is_not_kept(talkers: dict[str, Pipeline]) -> None:
    """It once joined the conversation with the next question."""
    chat = talkers["A"].start_chat()
    with pytest.raises(ZeroDivisionError):
        chat.ask("What is in the picture?", [Image.new("RGB", (32, 32))], on_token=lambda text: 1 / 0, may_draw=False)
    chat.ask("And now?", max_new_tokens=1, may_draw=False)
    assert [turn.prompt for turn in chat.turns] == ["And now?"] and chat.images == []


def test_image_token_that_the_model_generates_stands_for_no_picture(
    talkers: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it once looked for a picture: "generator raised StopIteration"."""
    pipeline = talkers["A"]
    chat, image_token = pipeline.start_chat(), pipeline.language_model.chat.image_token_id
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "sample", lambda self, logits, ids: image_token)
        answer = chat.ask("What is in the picture?", max_new_tokens=4)
    assert answer.token_ids == (image_token,) * 4
    assert chat.ask("And now?", max_new_tokens=2, may_draw=False).token_ids
    resumed = pipeline.start_chat(chat.turns)
    assert resumed.ask("And then?", max_new_tokens=2, may_draw=False).token_ids


def test_cancelled_answer_leaves_a_conversation_that_goes_on(talkers: dict[str, Pipeline]) -> None:
    chat = talkers["A"].start_chat()
    cancelled = chat.ask("What is in the picture?", on_token=lambda text: False)
    whole = talkers["A"].chat("What is in the picture?")
    assert len(cancelled.token_ids) < len(whole.token_ids)
    assert whole.text.startswith(cancelled.text) and cancelled.text
    assert chat.ask("Please describe this image briefly.", max_new_tokens=3).token_ids


def test_streamed_pieces_make_up_the_answer(talkers: dict[str, Pipeline]) -> None:
    heard: list[str] = []
    answer = talkers["A"].chat("What is in the picture?", on_token=heard.append)
    assert "".join(heard) == answer.text and len(heard) > 1
    stream = talkers["A"].start_chat().stream("What is in the picture?")
    assert list(stream) == heard
    assert (stream.finish().text, stream.finish().token_ids) == (answer.text, answer.token_ids)


def test_streamed_answer_ends_with_its_picture(talkers: dict[str, Pipeline]) -> None:
    """A stream could once only speak."""
    chat, steps = talkers["A"].start_chat(), list[int]()
    stream = chat.stream(DRAW, request=SMALL, on_step=lambda step: steps.append(step.index))
    assert list(stream) == []
    assert len(stream.finish().images) == 1 and chat.images == stream.finish().images and steps == [0]


def test_finish_of_a_stream_generates_the_rest(talkers: dict[str, Pipeline]) -> None:
    stream = talkers["A"].start_chat().stream("What is in the picture?")
    first = next(stream)
    assert stream.finish().text.startswith(first)
    assert list(stream) == [] and len(stream.finish().token_ids) > 2


@pytest.mark.parametrize("closes", [True, False])
def test_stream_that_is_left_early_keeps_what_was_said(talkers: dict[str, Pipeline], closes: bool) -> None:
    """Without a close, the turn after it once built on a conversation that the stream then overwrote."""
    pipeline = talkers["A"]
    chat = pipeline.start_chat()
    stream = chat.stream("What is in the picture?")
    said = next(stream) + next(stream)
    if closes:
        stream.close()
    second = chat.ask("And now?", max_new_tokens=1, may_draw=False)
    assert stream.finish().text == said and list(stream) == []
    templates, tokenizer = pipeline.language_model.chat, pipeline.prompt_encoder.tokenizer
    token_ids = [
        *tokenizer.encode(templates.first_turn.replace("{prompt}", "What is in the picture?")),
        *stream.finish().token_ids,
        *tokenizer.encode(templates.next_turn.replace("{prompt}", "And now?")),
    ]
    assert list(chat.token_ids) == token_ids
    hidden, _ = pipeline.language_model.read(Tokens.text(token_ids))
    logits = pipeline.language_model.logits(hidden[-1])
    assert second.token_ids == (in_words(templates).sample(logits, token_ids),)


@pytest.mark.parametrize("prompt", ["What is in the picture?", "Draw a red cube on a wooden table."])
def test_interrupted_answer_keeps_what_was_said(
    talkers: dict[str, Pipeline], prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = talkers["A"].start_chat()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("omnigen2_rt.runtime.chat.exchange.start_drawing", interrupt)
        with pytest.raises(KeyboardInterrupt):
            chat.ask(prompt, request=SMALL, on_token=interrupt)
    assert chat.ask("And now?", max_new_tokens=1, may_draw=False).token_ids
    assert chat.images == [] and len(chat.token_ids) > 50


def test_turn_that_fails_leaves_the_conversation_as_it_was(
    talkers: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = talkers["A"].start_chat()
    chat.ask("What is in the picture?", max_new_tokens=2)
    before = len(chat.token_ids)
    always_draws(talkers["A"], monkeypatch)
    stream = chat.stream("Put all of these together.", [Image.new("RGB", (32, 32))] * 6, request=SMALL)
    with pytest.raises(RequestError, match="6 images were given"):
        next(stream)
    with pytest.raises(RequestError, match="this answer failed"):
        stream.finish()
    assert (len(chat.token_ids), chat.images) == (before, [])
    monkeypatch.undo()
    assert chat.ask("And now?", max_new_tokens=1, may_draw=False).token_ids


def test_questions_answered_together_get_the_answers_of_each_alone(talkers: dict[str, Pipeline]) -> None:
    """Words, words about a picture, a drawing and an edit, of different lengths."""
    picture = GOLDENS / "A" / "golden" / "inputs" / "chat_edit.png"
    asked = [
        ("What is in the picture?", []),
        (DRAW, []),
        ("Please describe this image briefly.", [picture.with_name("chat_desc.png")]),
        ("Change the background to a classroom.", [picture]),
    ]
    prompts, images = [prompt for prompt, _ in asked], [shown for _, shown in asked]
    request = replace(SMALL, image_guidance=2.0)
    together = talkers["A"].chat_batch(prompts, images, request=request, max_new_tokens=20)
    for (prompt, shown), answer in zip(asked, together, strict=True):
        alone = talkers["A"].chat(prompt, shown, request=request, max_new_tokens=20)
        assert (answer.text, answer.token_ids, len(answer.images)) == (alone.text, alone.token_ids, len(alone.images))
        if alone.result is not None and answer.result is not None:
            np.testing.assert_allclose(answer.result.latents, alone.result.latents, rtol=0, atol=1e-5)
    assert [len(answer.images) for answer in together] == [0, 1, 0, 1]


def test_stop_texts_end_each_answer_of_several(talkers: dict[str, Pipeline]) -> None:
    prompts = ["What is in the picture?", "Please describe this image briefly."]
    whole = talkers["A"].chat(prompts[0]).text
    settings: Any = {"stop": [whole[3:6]], "max_new_tokens": 12, "may_draw": False}
    together = talkers["A"].chat_batch(prompts, **settings)
    assert [answer.text for answer in together] == [talkers["A"].chat(prompt, **settings).text for prompt in prompts]
    assert together[0].text == whole[: whole.index(whole[3:6])]


def test_no_questions_get_no_answers_and_missing_images_are_named(talkers: dict[str, Pipeline]) -> None:
    assert talkers["A"].chat_batch([]) == []
    with pytest.raises(RequestError, match="1 lists of images were given for 2 prompts"):
        talkers["A"].chat_batch(["a", "b"], [[]])


def test_stop_text_ends_the_answer_before_it(talkers: dict[str, Pipeline]) -> None:
    whole = talkers["A"].chat("What is in the picture?").text
    chat = talkers["A"].start_chat()
    assert chat.ask("What is in the picture?", stop=[whole[3:6]]).text == whole[: whole.index(whole[3:6])]


def test_image_token_without_an_image_is_refused_and_the_conversation_goes_on(talkers: dict[str, Pipeline]) -> None:
    chat = talkers["A"].start_chat()
    with pytest.raises(RequestError, match="holds 1 image tokens, without an image"):
        chat.ask("<|image_pad|> what?")
    assert chat.ask("What is in the picture?", max_new_tokens=1).token_ids


def test_conversation_beyond_the_context_is_refused(bundles: dict[str, Path]) -> None:
    bundle = Bundle.open(bundles["A"])
    assert bundle.manifest.chat is not None
    short = replace(bundle.manifest, chat=replace(bundle.manifest.chat, max_context_tokens=40))
    with load(bundles["A"], backend="ort-cpu", precision="fp32", threads=1) as opened:
        pipeline = Pipeline(replace(bundle, manifest=short), opened.backend)
        with pytest.raises(RequestError, match="has 44 tokens; this model reads at most 40"):
            pipeline.chat("What is in the picture?")


@pytest.mark.parametrize(("field", "message"), [("vision", "can't look at pictures"), ("chat", "can only draw")])
def test_bundle_without_eyes_or_voice_says_so(bundles: dict[str, Path], field: str, message: str) -> None:
    bundle = Bundle.open(bundles["A"])
    manifest = replace(bundle.manifest, **{field: None})
    with (
        load(bundles["A"], backend="ort-cpu", precision="fp32", threads=1) as opened,
        pytest.raises(BundleError, match=message),
    ):
        image = GOLDENS / "A" / "golden" / "inputs" / "chat_edit.png"
        Pipeline(replace(bundle, manifest=manifest), opened.backend).chat("What?", [image])


def test_setting_that_is_not_allowed_is_refused_before_anything_is_read(talkers: dict[str, Pipeline]) -> None:
    chat = talkers["A"].start_chat()
    with pytest.raises(RequestError, match="max_new_tokens=0 is below"):
        chat.ask("What?", max_new_tokens=0)
    with pytest.raises(RequestError, match="a chat has no setting 'max_tokens'"):
        talkers["A"].chat_batch(["What?"], max_tokens=3)
    assert chat.token_ids == ()
