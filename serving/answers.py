"""The form of answers, for the API's description; the endpoints fill it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Error(BaseModel):
    """The reason why a request failed."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """An error."""

    error: Error


class InputTokens(BaseModel):
    """Tokens that were read."""

    text_tokens: int
    image_tokens: int


class ImagesUsage(BaseModel):
    """Tokens of a drawing."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputTokens


class ImageData(BaseModel):
    """A picture. seed: draws it again. revised_prompt: what was drawn, where rewriting was asked for."""

    b64_json: str
    seed: int
    revised_prompt: str | None = None


class ImagesAnswer(BaseModel):
    """Pictures.

    seconds: of the drawing, without waiting.
    cut_tokens: by field, tokens that were too many to be read.
    rewrite_refused: why a rewritten prompt was not drawn.
    """

    created: int
    data: list[ImageData]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png", "jpeg", "webp"]
    quality: Literal["low", "medium", "high"]
    size: str
    usage: ImagesUsage
    seconds: float
    cut_tokens: dict[str, int]
    rewrite_refused: str | None = None


class PictureURL(BaseModel):
    """A data URL."""

    url: str


class ChatPicture(BaseModel):
    """A picture of an answer."""

    type: Literal["image_url"] = "image_url"
    image_url: PictureURL


class ChatMessage(BaseModel):
    """An answer: words, or pictures."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    images: list[ChatPicture] = []


class ChatChoice(BaseModel):
    """The one choice."""

    index: Literal[0] = 0
    message: ChatMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatUsage(BaseModel):
    """Tokens of an answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(BaseModel):
    """A completion. seed: of the words and of the picture."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    seed: int


class ModelAnswer(BaseModel):
    """A bundle that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelsAnswer(BaseModel):
    """All bundles."""

    object: Literal["list"] = "list"
    data: list[ModelAnswer]


class JobAnswer(BaseModel):
    """A job. position: in the queue, 1 being next. result: once it is done."""

    model_config = ConfigDict(extra="forbid")

    id: str
    object: Literal["job"] = "job"
    kind: Literal["draw", "chat", "reflect"]
    model: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    priority: Literal["normal", "low"]
    position: int | None
    progress: dict[str, Any]
    created_at: int
    finished_at: int | None
    expires_at: int | None
    seed: int
    error: Error | None
    result: dict[str, Any] | None


class Status(BaseModel):
    """The server's state."""

    status: str


class Capabilities(BaseModel):
    """The abilities of each bundle, and the server's limits."""

    version: str
    is_durable: bool
    models: dict[str, dict[str, Any]]
    limits: dict[str, Any]
    parameters: dict[str, dict[str, Any]]
