"""A client of chat completions at any OpenAI-compatible endpoint: text and pictures go in, text comes out.

Busy servers, server errors, cut connections and timeouts are tried again. Knows nothing of scores or of what is asked. Neither
prompts nor the key ever stand in a message.
"""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from json import dumps
from typing import Any, NoReturn

from PIL import Image

from ..runtime.checks import check_integer, check_number, check_text
from ..runtime.errors import OmniGen2Error, RequestError
from ..runtime.files.json_text import parse_object
from .http_post import HttpAnswer, NotAnswered, check_url, post_json

COMPLETIONS = "/chat/completions"
JPEG_QUALITY = 95
FIRST_WAIT_S = 1.0
LONGEST_BACK_OFF_S = 60.0
LONGEST_WAIT_S = 600.0
"""A server that asks for a longer wait ends the call."""
_BUSY = (408, 409, 425, 429)
_REFUSED = (400, 413, 415, 422)
_WORD = re.compile(r"[\w.-]{1,60}")

OnWait = Callable[[str], object]
"""Called before each wait with its reason and length, in words."""


class EndpointError(OmniGen2Error):
    """No answer came, although every try was made. Later the same question may be answered."""


class QuestionRefused(EndpointError):
    """The endpoint refuses this question. Others may be answered."""


class EndpointUnusable(EndpointError):
    """No question will be answered: the address, the model or the key is wrong, or the account is empty."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint and how patiently it is asked.

    url: its base, such as https://host/v1, or the whole address of its chat completions.
    model: the model's name there.
    key: sent as a bearer token; None for none.
    timeout_s: for each try, 1 to 3,600.
    tries: 1 to 100. Waits between them double from 1 s to 60 s, unless the server says how long to wait.

    Raises RequestError for other values.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 180.0
    tries: int = 6

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", check_url("url", check_text("url", self.url)))
        if not check_text("model", self.model).strip():
            raise RequestError("model is empty: name a model of the endpoint")
        if self.key is not None and (not self.key.isascii() or not self.key.isprintable() or not self.key.strip()):
            raise RequestError("the key must be printable ASCII text; it is empty, or holds a line end or another character")
        if not 1 <= check_number("timeout_s", self.timeout_s) <= 3600:
            raise RequestError(f"timeout_s={self.timeout_s:g} is out of range; 1 to 3600 are allowed")
        check_integer("tries", self.tries, 1, "the fewest", 100)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A message for the model.

    parts: texts and pictures in their order; a picture is the bytes of a JPEG file, see `jpeg_bytes`.
    system: an instruction before the message; "" for none.
    schema: the JSON schema of the answer, sent where the endpoint takes one; None for plain text.
    max_tokens, temperature, seed: None leaves it to the endpoint.
    """

    parts: tuple[str | bytes, ...]
    system: str = ""
    schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The model's answer.

    text: "" where the model gave none.
    model: the name that the endpoint reported, or "".
    tokens: by kind ("prompt_tokens", "completion_tokens"), as far as the endpoint counted them.
    is_cut_off: whether it ended at `max_tokens`.
    refusal: the words in which the model refused to answer, or "".
    """

    text: str
    model: str = ""
    tokens: Mapping[str, int] = field(default_factory=dict)
    is_cut_off: bool = False
    refusal: str = ""


def jpeg_bytes(picture: Image.Image, quality: int = JPEG_QUALITY) -> bytes:
    """The picture as a JPEG file, its colours in full resolution."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="JPEG", quality=quality, subsampling=0)
    return file.getvalue()


class EndpointClient:
    """Asks an endpoint. Several threads may use one client.

    endpoint: the endpoint.
    """

    def __init__(
        self, endpoint: Endpoint, on_wait: OnWait | None = None, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        """sleep: waits that many seconds between two tries."""
        self.endpoint = endpoint
        self._on_wait = on_wait
        self._sleep = sleep
        self._takes_schema = True
        self._limit_name = "max_tokens"

    def ask(self, question: Question) -> Answer:
        """The answer to a question. Raises EndpointError, QuestionRefused or EndpointUnusable."""
        while True:
            has_schema, limit_name = question.schema is not None and self._takes_schema, self._limit_name
            answer = self._post(_body(self.endpoint.model, question, has_schema, limit_name))
            if isinstance(answer, Answer):
                return answer
            if limit_name == "max_tokens" and question.max_tokens is not None and b"max_completion_tokens" in answer.body:
                self._limit_name = "max_completion_tokens"
            elif has_schema:
                plain = self._post(_body(self.endpoint.model, question, False, limit_name))
                if isinstance(plain, Answer):
                    self._takes_schema = False
                    return plain
                raise QuestionRefused(_refusal(plain))
            else:
                raise QuestionRefused(_refusal(answer))

    def _post(self, body: bytes) -> Answer | HttpAnswer:
        """The answer, or the server's refusal of the question. Tries again where that may help. Raises EndpointError."""
        for tries_left in range(self.endpoint.tries - 1, -1, -1):
            wait_s = None
            try:
                answer = post_json(_address(self.endpoint.url), body, self._headers(), self.endpoint.timeout_s)
                if answer.status in _REFUSED:
                    return answer
                if answer.status == 200 and (completion := _completion(answer.body)) is not None:
                    return completion
                problem, wait_s = _failure(answer), _retry_after_s(answer.headers.get("retry-after", ""))
            except NotAnswered as error:
                problem = f"could not be asked: {error}"
            if not tries_left:
                break
            self._wait(problem, wait_s, self.endpoint.tries - 1 - tries_left)
        raise EndpointError(f"the endpoint {problem}; {self.endpoint.tries} tries were made")

    def _headers(self) -> dict[str, str]:
        key = self.endpoint.key
        return {"User-Agent": "omnigen2-rt", **({} if key is None else {"Authorization": f"Bearer {key.strip()}"})}

    def _wait(self, problem: str, wait_s: float | None, number: int) -> None:
        """Wait after try `number`. wait_s: as long as the server wants, or None."""
        if wait_s is not None and wait_s > LONGEST_WAIT_S:
            raise EndpointError(f"the endpoint {problem} and asks to wait {wait_s:.0f} s: run the same command again then")
        seconds = min(FIRST_WAIT_S * 2**number, LONGEST_BACK_OFF_S) if wait_s is None else wait_s
        if self._on_wait is not None:
            self._on_wait(f"the endpoint {problem}; next try in {seconds:.0f} s")
        self._sleep(seconds)


def _address(url: str) -> str:
    """The address of the chat completions, whether the base or the whole address is given; a query stays."""
    path, mark, query = url.partition("?")
    path = path.rstrip("/")
    return f"{path if path.endswith(COMPLETIONS) else path + COMPLETIONS}{mark}{query}"


def _body(model: str, question: Question, has_schema: bool, limit_name: str) -> bytes:
    """The request's JSON. A message of one text is plain text, which every server takes."""
    parts = question.parts
    content: Any = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else [_part(part) for part in parts]
    system = [{"role": "system", "content": question.system}] if question.system else []
    body: dict[str, Any] = {"model": model, "messages": [*system, {"role": "user", "content": content}]}
    options = {limit_name: question.max_tokens, "temperature": question.temperature, "seed": question.seed}
    body |= {name: value for name, value in options.items() if value is not None}
    if has_schema:
        schema = {"name": "answer", "strict": True, "schema": question.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return dumps(body).encode()


def _part(part: str | bytes) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    url = f"data:image/jpeg;base64,{base64.b64encode(part).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _completion(body: bytes) -> Answer | None:
    """The answer in a chat completion; None for anything else."""
    try:
        data = parse_object(body)
    except ValueError:
        return None
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    if not isinstance(message, dict) or not isinstance(message.get("content"), str | None):
        return None
    usage, model, refusal = data.get("usage"), data.get("model"), message.get("refusal")
    counts = usage.items() if isinstance(usage, dict) else ()
    is_filtered = choice.get("finish_reason") == "content_filter"
    return Answer(
        text=message.get("content") or "",
        model=model if isinstance(model, str) else "",
        tokens={name: count for name, count in counts if name.endswith("_tokens") and type(count) is int},
        is_cut_off=choice.get("finish_reason") == "length",
        refusal=refusal if isinstance(refusal, str) and refusal else "filtered" if is_filtered else "",
    )


def _failure(answer: HttpAnswer) -> str:
    """The reason to try again, in words. Raises EndpointUnusable where that can't help."""
    words = _error_words(answer.body)
    said = f"answered {answer.status}{f' ({words})' if words else ''}"
    if answer.status == 200:
        return "answered something that is no chat completion"
    if answer.status == 429 and "insufficient_quota" in words:
        raise EndpointUnusable(f"the endpoint {said}: the account has no credit left")
    if answer.status in _BUSY or answer.status >= 500:
        return said
    _unusable(answer.status, said)


def _unusable(status: int, said: str) -> NoReturn:
    advice = {
        401: "the key is missing or wrong",
        402: "the account has no credit left",
        403: "the key may not use this model",
        404: "there is no such model, or no chat completions at this address",
    }.get(status, "redirects are not followed: give the final address" if 300 <= status < 400 else "check the address")
    raise EndpointUnusable(f"the endpoint {said}: {advice}")


def _refusal(answer: HttpAnswer) -> str:
    words = _error_words(answer.body)
    return f"the endpoint refused the question with {answer.status}{f' ({words})' if words else ''}"


def _error_words(body: bytes) -> str:
    """The code, type and parameter of a server's error. Its message is left out, because it may repeat the prompt or the key."""
    try:
        error = parse_object(body).get("error")
    except ValueError:
        return ""
    values: Sequence[object] = [error.get(name) for name in ("code", "type", "param")] if isinstance(error, dict) else ()
    return ", ".join(value for value in values if isinstance(value, str) and _WORD.fullmatch(value))


def _retry_after_s(value: str) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; None where it holds neither."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value.strip()):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):  # not a date, or one without a zone
        return None
