"""The settings of an answer. Every default, and every rule that needs no model, stands here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RequestError
from ..manifest import ChatParameters
from ..request import Request, check_integer, check_number
from .sampling import Sampler, Sampling

SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")
"""Settings that are the checkpoint's own (its generation_config.json) where they are None."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChatSettings:
    """The settings of an answer's generation. Raises RequestError for a value that is not allowed.

    request: how to draw, if the answer is a picture; its prompt and images are the conversation's. None: `Request`'s defaults.
    max_new_tokens: the most tokens of an answer, 1 or more.
    temperature: 0 or more; 0 is greedy, higher is more random.
    top_p: sample among the likeliest tokens whose probabilities sum to this, above 0 and at most 1.
    top_k: sample among this many of the likeliest tokens; 0 takes all.
    repetition_penalty: above 0; above 1 it makes tokens that occurred less likely.
    seed: of the sampling, 0 or more. The picture's seed is the request's.
    stop: texts that end the answer and are not part of it, each of at least a character.
    may_draw: False lets the model answer in words only.
    """

    request: Request | None = None
    max_new_tokens: int = 256
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int = 0
    stop: Sequence[str] = ()
    may_draw: bool = True

    def __post_init__(self) -> None:
        if self.request is not None and not isinstance(self.request, Request):
            raise RequestError(f"request must be a Request, not {type(self.request).__name__}")
        check_integer("max_new_tokens", self.max_new_tokens, 1, "the fewest")
        for name in ("temperature", "top_p", "repetition_penalty"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        check_integer("seed", self.seed)
        if self.top_k is not None:
            check_integer("top_k", self.top_k)
        if not isinstance(self.may_draw, bool):
            raise RequestError(f"may_draw={self.may_draw!r} is not True or False")
        is_list = isinstance(self.stop, Sequence) and not isinstance(self.stop, str)
        if not is_list or not all(isinstance(text, str) and text for text in self.stop):
            raise RequestError(f"stop={self.stop!r} is not a list of texts, each of at least a character")
        object.__setattr__(self, "stop", tuple(self.stop))
        Sampling(**self._sampling())

    @classmethod
    def chosen(cls, settings: ChatSettings | None, changes: Mapping[str, Any]) -> ChatSettings:
        """The settings, or the defaults for None, with some fields changed. Raises RequestError for a name that is no field."""
        if settings is not None and not isinstance(settings, ChatSettings):
            raise RequestError(f"settings must be ChatSettings or None, not {type(settings).__name__}")
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := changes.keys() - names:
            raise RequestError(f"a chat has no setting {min(unknown)!r}; it has {', '.join(names)}")
        return dataclasses.replace(settings or cls(), **changes)

    def sampler(self, chat: ChatParameters) -> Sampler:
        """A sampler for one answer, with the bundle's own parameters where these are None."""
        own = {name: getattr(chat, name) for name in SAMPLING}
        banned = [] if self.may_draw or chat.draw_token_id is None else [chat.draw_token_id]
        return Sampler(Sampling(**{**own, **self._sampling()}), banned)

    def _sampling(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in SAMPLING if getattr(self, name) is not None}
        return {**values, "seed": self.seed}
