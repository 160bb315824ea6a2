"""Several questions answered together: their tokens are the rows of one batch, so the weights are read once for all.

Each question is a conversation of its own and gets the answer that it would get alone; pictures are drawn one after
another. Knows templates and drawing only through `chat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from ..errors import RequestError
from ..images.loading import ImageSource, load_image
from ..mllm.language_model import Context, LanguageModel
from ..mllm.tokenizer import Tokenizer
from .conversation import ChatResult, ChatSettings, Painter, Question, draw_answer, longest, new_chooser, question_ids
from .detokenizer import Words
from .generation import Writing, write


def ask_together(
    model: LanguageModel,
    tokenizer: Tokenizer,
    painter: Painter,
    prompts: Sequence[str],
    images: Sequence[Sequence[ImageSource]] = (),
    **settings: Unpack[ChatSettings],
) -> list[ChatResult]:
    """The answers in the order of the prompts. images: each prompt's, or none at all.

    Every answer has the same settings, the seed too. Raises RequestError or BundleError, for all of them at once.
    """
    if isinstance(prompts, str) or (images and len(images) != len(prompts)):
        raise RequestError(f"{len(images)} lists of images were given for {len(prompts)} prompts: give a list for each, or none")
    most, facts = longest(settings), model.chat_facts
    choosers = [new_chooser(facts, settings) for _ in prompts]
    words = [Words(tokenizer, settings.get("stop", ())) for _ in prompts]
    if not prompts:
        return []
    questions, context = _read(model, tokenizer, prompts, images or [()] * len(prompts))
    texts = ["" for _ in prompts]
    writing = Writing(context)
    last_states = np.stack([question.states[-1] for question in questions])
    for row, token in write(model, writing, last_states, choosers, facts.stop_token_ids, most):
        texts[row] += words[row].add(token)
        if words[row].stopped:
            writing.unfinished.discard(row)
    results = []
    for question, text, spoken, ids in zip(questions, texts, words, writing.answers, strict=True):
        drawn = draw_answer(painter, question, settings) if ids[:1] == [facts.draw_token_id] else None
        made = drawn.images if drawn else []
        results.append(ChatResult(text=text + spoken.end(), token_ids=tuple(ids), images=made, result=drawn))
    return results


def _read(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], images: Sequence[Sequence[ImageSource]]
) -> tuple[list[Question], Context]:
    facts = model.chat_facts
    pictures = [[load_image(image) for image in given] for given in images]
    ids = [
        question_ids(facts, tokenizer, facts.first_turn, prompt, range(1, len(given) + 1))
        for prompt, given in zip(prompts, pictures, strict=True)
    ]
    seen = [[model.look(image) for image in given] for given in pictures]
    rows = [model.expand(row, shown) for row, shown in zip(ids, seen, strict=True)]
    states, context = model.read_rows(Context.of_rows(len(rows)), rows, seen)
    questions = [
        Question(prompt=prompt, images=given, states=read[np.array(row) != facts.image_token_id])
        for prompt, given, read, row in zip(prompts, pictures, states, rows, strict=True)
    ]
    return questions, context
