"""The bodies of requests: which parameters there are, and which values they take. Each rule that needs no model stands here.

A body is also what a job keeps of its request: pictures are data URLs in it, the seed is a number. What isn't listed is refused,
never ignored.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    Tag,
    TypeAdapter,
    model_validator,
)
from pydantic.types import Discriminator
from typing_extensions import TypeAliasType

from ...runtime.chat.settings import ChatSettings
from ...runtime.images.loading import ImageSource
from ...runtime.request import Request
from ...runtime.step_caches import CACHES
from ..settings import MAX_IMAGES, MAX_MESSAGES, MAX_PROMPT_CHARACTERS, MAX_ROUNDS, MAX_STEPS

QUALITY_STEPS = {"auto": 50, "low": 20, "medium": 35, "high": 50, "standard": 35, "hd": 50}
"""Steps by quality; the last two are names of older models."""
MAX_SEED = 2**63 - 1
"""The largest seed: what a JSON reader of 64 bits takes. The noise depends on the low 32 bits."""
MAX_STOPS = MAX_METADATA = 16
MAX_PARTS = 100
MAX_STOP_CHARACTERS = 1000
MAX_UNUSED_CHARACTERS = 1000
"""The longest text of a parameter that has no effect."""
_SIZE = re.compile(r"([0-9]{2,5})x([0-9]{2,5})")


def _pair(value: Any) -> Any:
    """The two numbers of a form's text: "0,0.6" or "[0, 0.6]"."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value if value.startswith("[") else f"[{value}]")
    except (ValueError, RecursionError):
        return value


def _address(value: Any) -> Any:
    """A picture's address where it is wrapped in an object, as in OpenAI's JSON edits."""
    return value["image_url"] if isinstance(value, dict) and value.keys() == {"image_url"} else value


def _wrapped(value: Any) -> Any:
    """The object of a picture's address that stands alone."""
    return {"url": value} if isinstance(value, str) else value


def _few(value: Any) -> Any:
    """An object of few entries. Counted before they are read, because each wrong one has an error of its own."""
    if isinstance(value, dict) and len(value) > MAX_METADATA:
        raise ValueError(f"it has {len(value)} entries; at most {MAX_METADATA} are taken")
    return value


Prompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]
Unused = Annotated[str | None, Field(max_length=MAX_UNUSED_CHARACTERS, description="Without effect.")]
PictureURL = Annotated[
    str, BeforeValidator(_address), Field(description="A data URL, or the address of a picture on an allowed host.")
]


class _Object(BaseModel):
    """A JSON object. A null is a parameter that is left out."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _left_out(cls, values: Any) -> Any:
        return {name: value for name, value in values.items() if value is not None} if isinstance(values, dict) else values


class Body(_Object):
    """The parameters of every body. `priority` "low" gives way to all others."""

    priority: Literal["normal", "low"] = "normal"
    user: Unused = None
    safety_identifier: Unused = None


class DrawingBody(Body):
    """The parameters of a drawing: OpenAI's and those of the model."""

    negative_prompt: Prompt = ""
    size: str = Field("auto", pattern=r"^(auto|[0-9]{2,5}x[0-9]{2,5})$", description="`auto`, or width x height in pixels.")
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] = Field(
        "auto", description="20 steps (low), 35 (medium, standard) or 50 (high, hd, auto)."
    )
    num_inference_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    guidance_scale: float = Field(4.0, ge=0, le=1000)
    image_guidance_scale: float = Field(
        1.0, ge=0, le=1000, validation_alias=AliasChoices("image_guidance_scale", "guidance_scale_2")
    )
    cfg_range: Annotated[tuple[float, float], BeforeValidator(_pair)] = (0.0, 1.0)
    scheduler: Literal["euler", "dpmsolver++"] = "euler"
    cache: Literal["none", "teacache", "taylorseer"] = "none"
    max_pixels: int | None = Field(
        None, ge=256, le=4 * 1024 * 1024, description="The largest area that is drawn, then resized; by default the model's own."
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Random by default; the answer says which.")

    @property
    def steps(self) -> int:
        """Evaluations of the model."""
        return self.num_inference_steps or QUALITY_STEPS[self.quality]

    @property
    def size_px(self) -> tuple[int | None, int | None]:
        """Width and height; None is the model's own."""
        match = _SIZE.fullmatch(self.size)
        return (int(match[1]), int(match[2])) if match else (None, None)

    def request(self, prompt: str, images: Sequence[ImageSource] = ()) -> Request:
        """The drawing of one picture. Raises RequestError for values that the runtime refuses."""
        width, height = self.size_px
        return Request(
            prompt=prompt,
            negative_prompt=self.negative_prompt,
            images=images,
            width_px=width,
            height_px=height,
            steps=self.steps,
            text_guidance=self.guidance_scale,
            image_guidance=self.image_guidance_scale,
            cfg_range=self.cfg_range,
            scheduler=self.scheduler,
            cache=None if self.cache == "none" else CACHES[self.cache](),
            max_pixels=self.max_pixels or Request.max_pixels,
            seed=self.seed or 0,
        )


class DrawBody(DrawingBody):
    """Pictures from a text, or from a text and pictures."""

    kind: Literal["draw"] = "draw"
    model: str | None = None
    prompt: Prompt
    images: Annotated[list[PictureURL], FailFast()] = Field(default_factory=list, max_length=MAX_IMAGES)
    rewrite: bool = Field(
        False, description="Lets the bundle's language model make the prompt long; one that loses something is refused."
    )
    n: int = Field(1, ge=1, le=10, description="Pictures; the seed of each is one more than that of the one before.")
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: int = Field(100, ge=0, le=100, description="The quality of jpeg and webp.")
    response_format: Literal["b64_json"] = "b64_json"
    background: Literal["auto", "opaque"] = "auto"
    stream: bool = False
    partial_images: int = Field(0, ge=0, le=3, description="Previews in a stream.")
    moderation: Unused = None
    style: Unused = None
    input_fidelity: Unused = None

    @property
    def seeds(self) -> list[int]:
        """The seed of each picture."""
        return [((self.seed or 0) + index) % (MAX_SEED + 1) for index in range(self.n)]


class ReflectBody(DrawingBody):
    """A picture that the model criticises and corrects."""

    kind: Literal["reflect"]
    model: str | None = None
    prompt: Prompt
    images: Annotated[list[PictureURL], FailFast()] = Field(default_factory=list, max_length=MAX_IMAGES)
    rounds: int = Field(2, ge=1, le=MAX_ROUNDS, description="Corrections at most.")


class TextPart(_Object):
    """A text of a message."""

    type: Literal["text"]
    text: str


class ImageURL(_Object):
    """A picture's address."""

    url: PictureURL
    detail: Unused = None


class ImagePart(_Object):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: Annotated[ImageURL, BeforeValidator(_wrapped)]


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Parts = TypeAliasType("Parts", Annotated[list[Part], FailFast(), Field(max_length=MAX_PARTS)])
Stop = Annotated[str, Field(max_length=MAX_STOP_CHARACTERS)]
Stops = TypeAliasType("Stops", Annotated[list[Stop], FailFast(), Field(max_length=MAX_STOPS)])
"""Lists end at their first wrong item: an error for each would take a hundred times the body's memory."""


class Message(_Object):
    """A message. images: an answer's pictures, as the server returned them. Fields that answers carry besides are accepted."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Parts | None = None
    images: list[ImagePart] | None = Field(None, max_length=10)
    name: Unused = None
    refusal: None = None
    annotations: list[Any] | None = Field(None, max_length=0)
    audio: None = None
    function_call: None = None
    tool_calls: list[Any] | None = Field(None, max_length=0)


class StreamOptions(_Object):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = Field(False, description="Without effect.")


class ResponseFormat(_Object):
    """The form of an answer: text."""

    type: Literal["text"] = "text"


class ChatBody(DrawingBody):
    """A conversation, to be answered in words or with a picture. The drawing's parameters hold for the picture."""

    kind: Literal["chat"] = "chat"
    model: str | None = None
    messages: Annotated[list[Message], FailFast()] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    stop: Stop | Stops | None = Field(None)
    modalities: list[Literal["text", "image"]] | None = Field(None, description="[\"text\"] lets it answer in words only.")
    n: Literal[1] = 1
    frequency_penalty: Literal[0] = 0
    presence_penalty: Literal[0] = 0
    logprobs: Literal[False] = False
    response_format: ResponseFormat | None = None
    store: Literal[False] | None = None
    tools: list[Any] | None = Field(None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = Field(None, description="Without effect: there are no tools.")
    parallel_tool_calls: bool | None = Field(None, description="Without effect.")
    logit_bias: Annotated[dict[str, float] | None, BeforeValidator(_few)] = Field(None, max_length=0)
    top_logprobs: Literal[0] | None = None
    metadata: Annotated[dict[str, Unused] | None, BeforeValidator(_few)] = Field(None, description="Without effect.")
    service_tier: Unused = None
    reasoning_effort: Unused = None
    verbosity: Unused = None
    prompt_cache_key: Unused = None

    @property
    def may_draw(self) -> bool:
        return self.modalities is None or "image" in self.modalities

    def settings(self) -> ChatSettings:
        """The answer's settings. Raises RequestError for values that the runtime refuses."""
        return ChatSettings(
            request=self.request(""),
            max_new_tokens=self.max_completion_tokens or self.max_tokens or ChatSettings.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed or 0,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            may_draw=self.may_draw,
        )


TaskBody = DrawBody | ReflectBody | ChatBody


def _kind(value: Any) -> str | None:
    return value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)


TASK: TypeAdapter[TaskBody] = TypeAdapter(
    Annotated[
        Annotated[DrawBody, Tag("draw")] | Annotated[ReflectBody, Tag("reflect")] | Annotated[ChatBody, Tag("chat")],
        Discriminator(_kind),
    ],
    config=ConfigDict(hide_input_in_errors=True),
)
"""Reads the body of a job, by its kind."""


def without_inputs(body: TaskBody) -> TaskBody:
    """The body without its pictures and messages: what is kept of it once its job has ended."""
    if isinstance(body, ChatBody):
        return body.model_copy(update={"messages": [Message.model_validate({"role": "user", "content": ""})]})
    return body.model_copy(update={"images": []})


def random_seed() -> int:
    """A seed for a request without one. Of 32 bits: all that the noise depends on."""
    return secrets.randbelow(2**32)
