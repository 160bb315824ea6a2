"""Nano's tokenizer: byte-level BPE over the world's language, with Qwen2.5-VL's special tokens after it.

The system prompt, the same in every template, is one token. Knows the world's tasks and no network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ...exporter.chat_template import SYSTEM_PROMPT
from ..drawing_tasks import combine, draw_count, draw_one, draw_two, edit
from ..talking_tasks import decide, look, reflect
from ..world import Sampler

WORDS = r"\s?[A-Za-z]+|\s?\d|\s?[^\sA-Za-z\d]+|\s"
VOCABULARY = 600
"""Of bytes and merges; the special tokens' ids follow, as the checkpoint's tokenizer_config.json lists them."""
SAMPLES = 20_000
MORE_WORDS = (
    "please could you show me with in at it this that big tiny huge little colour color shape pictures images drawing "
    "want would like move to other new same different very some any only side next between"
)
"""What people may also say; they fill the vocabulary."""


def corpus(seed: int = 0, samples: int = SAMPLES) -> Iterator[str]:
    """Requests, questions and answers."""
    sampler = Sampler(seed)
    yield from ["system", "user", "assistant", "<img1>: <img2>: <img3>: "] * (samples // 10)
    yield f" {MORE_WORDS}"
    for _ in range(samples):
        yield sampler.choice((draw_one, draw_two, draw_count, edit, combine))(sampler).prompt
        task = sampler.choice((look, decide, reflect))(sampler)
        yield from (task.question, task.answer.replace("<|img|>", ""))


def train(checkpoint: Path) -> Tokenizer:
    """Write `processor/tokenizer.json`. Raises ValueError where the special tokens' ids don't follow the vocabulary."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    _add_special(tokenizer, checkpoint)
    tokenizer.save(str(checkpoint / "processor" / "tokenizer.json"))
    return tokenizer


def _add_special(tokenizer: Tokenizer, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "processor" / "tokenizer_config.json").read_text(encoding="utf-8"))
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise ValueError(f"the language gives {tokenizer.get_vocab_size()} tokens; {VOCABULARY} are wanted")
    for number, token in sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0])):
        make = tokenizer.add_special_tokens if token["special"] else tokenizer.add_tokens
        make([AddedToken(token["content"], special=token["special"], normalized=False)])
        if tokenizer.token_to_id(token["content"]) != int(number):
            raise ValueError(
                f"{token['content']} has the id {number} in tokenizer_config.json; {VOCABULARY} tokens precede it"
            )
    tokenizer.add_tokens([AddedToken(SYSTEM_PROMPT, normalized=False)])
