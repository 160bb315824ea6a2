"""The settings of an answer. Every default, and every rule that needs no model, stands here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..checks import check_integer, check_number, check_type, reporting
from ..errors import BundleError, RequestError, shown
from ..manifest import ChatParameters
from ..request import Request
from .arguments import check_texts
from .sampling import Sampler, Sampling

SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")
"""Settings that are the checkpoint's own (its generation_config.json) where they are None."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChatSettings:
    """The settings of an answer's generation. Raises RequestError for a value that is not allowed.

    request: how to draw, if the answer is a picture; its prompt and images are the conversation's. None: `Request`'s defaults.
    max_new_tokens: the most tokens of an answer, 1 or more; the model's context ends it too.
    temperature: 0 or more; 0 is greedy, higher is more random.
    top_p: sample among the likeliest tokens whose probabilities sum to this, above 0 and at most 1.
    top_k: sample among this many of the likeliest tokens; 0 takes all.
    repetition_penalty: 0.01 to 100; above 1 it makes tokens that occurred less likely.
    seed: of the sampling, 0 <= seed < 2**64. The picture's seed is the request's.
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
        if self.request is not None:
            check_type("request", self.request, Request, "a Request")
        self._keep("max_new_tokens", check_integer("max_new_tokens", self.max_new_tokens, 1, "the fewest", 2**63 - 1))
        for name in ("temperature", "top_p", "repetition_penalty"):
            if getattr(self, name) is not None:
                self._keep(name, check_number(name, getattr(self, name)))
        self._keep("seed", check_integer("seed", self.seed))
        if self.top_k is not None:
            self._keep("top_k", check_integer("top_k", self.top_k))
        with reporting("may_draw"):
            if not isinstance(self.may_draw, bool):
                raise RequestError(f"may_draw={shown(self.may_draw)} is not True or False")
        self._keep("stop", _stop_texts(self.stop))
        Sampling(**self._sampling())

    def _keep(self, name: str, value: object) -> None:
        """Stores a field in its normal form, which a frozen dataclass allows only this way."""
        object.__setattr__(self, name, value)

    @classmethod
    def chosen(cls, settings: ChatSettings | None, changes: Mapping[str, Any]) -> ChatSettings:
        """The settings, or the defaults for None, with some fields changed. Raises RequestError for a name that is no field."""
        if settings is not None:
            check_type("settings", settings, ChatSettings, "ChatSettings or None")
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := changes.keys() - names:
            raise RequestError(f"a chat has no setting {min(unknown)!r}; it has {', '.join(names)}")
        return dataclasses.replace(cls() if settings is None else settings, **changes)

    def sampler(self, chat: ChatParameters) -> Sampler:
        """A sampler for one answer, with the bundle's own parameters where these are None. Raises BundleError for wrong ones."""
        own = {name: getattr(chat, name) for name in SAMPLING}
        banned = [] if self.may_draw or chat.draw_token_id is None else [chat.draw_token_id]
        try:
            return Sampler(Sampling(**{**own, **self._sampling()}), banned)
        except RequestError as error:
            raise BundleError(f"the bundle's own {error}: set it in the question, or export the checkpoint again") from error

    def _sampling(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in SAMPLING if getattr(self, name) is not None}
        return {**values, "seed": self.seed}


def _stop_texts(texts: object) -> tuple[str, ...]:
    try:
        checked = check_texts("stop", texts)
    except RequestError as error:
        raise RequestError(f"stop={shown(texts)} is not a list of texts, each of at least a character: {error}") from error
    if not all(checked):
        raise RequestError(f"stop={shown(texts)} is not a list of texts, each of at least a character")
    return checked
