"""Trains nano's tokenizer: byte-level BPE on the world's language in lower case, followed by Qwen2.5-VL's special tokens.

The system prompt, which is the same in every template, is one token. Knows the world's tasks and no network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ...exporter.chat_template import SYSTEM_PROMPT
from ..tasks.chat_tasks import answer_question, decide
from ..tasks.drawing_tasks import combine, draw_count, draw_one, draw_two
from ..tasks.edits import edit
from ..tasks.landscape_tasks import draw_landscape
from ..tasks.reflection_tasks import reflect
from ..world.scenes import Sampler

WORD_PATTERN = r"\s?[A-Za-z]+|\s?\d|\s?[^\sA-Za-z\d]+|\s"
VOCABULARY_SIZE = 600
"""Bytes and merges. The special tokens' ids follow, as listed in the checkpoint's tokenizer_config.json."""
SAMPLES = 20_000
EXTRA_WORDS = (
    "please could you show me with in at it this that big tiny huge little colour color shape pictures images drawing "
    "want would like move to other new same different very some any only side next between"
)
"""Words of no task, which users may use; they fill the vocabulary."""


def corpus(seed: int = 0, samples: int = SAMPLES) -> Iterator[str]:
    """Random requests, questions and answers."""
    sampler = Sampler(seed)
    yield from ["system", "user", "assistant", "<img1>: <img2>: <img3>: "] * (samples // 10)
    yield f" {EXTRA_WORDS}"
    for _ in range(samples):
        yield sampler.choice((draw_one, draw_two, draw_count, draw_landscape, edit, combine))(sampler).prompt
        task = sampler.choice((answer_question, decide, reflect))(sampler)
        yield from (task.question, task.answer.replace("<|img|>", ""))


def train(checkpoint: Path) -> Tokenizer:
    """Write `processor/tokenizer.json`. Raises ValueError if the special tokens' ids don't follow the vocabulary."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    _add_special(tokenizer, checkpoint)
    tokenizer.save(str(checkpoint / "processor" / "tokenizer.json"))
    return tokenizer


def _add_special(tokenizer: Tokenizer, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "processor" / "tokenizer_config.json").read_text(encoding="utf-8"))
    if tokenizer.get_vocab_size() != VOCABULARY_SIZE:
        raise ValueError(f"the language gives {tokenizer.get_vocab_size()} tokens; {VOCABULARY_SIZE} are wanted")
    for number, token in sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0])):
        add = tokenizer.add_special_tokens if token["special"] else tokenizer.add_tokens
        add([AddedToken(token["content"], special=token["special"], normalized=False)])
        if tokenizer.token_to_id(token["content"]) != int(number):
            raise ValueError(
                f"{token['content']} has the id {number} in tokenizer_config.json; {VOCABULARY_SIZE} tokens precede it"
            )
    tokenizer.add_tokens([AddedToken(SYSTEM_PROMPT, normalized=False)])
