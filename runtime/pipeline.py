"""The pipeline: a request goes in, pictures come out. Torch-free; what other applications embed.

Knows of the model only the bundle's manifest, and of the engine only the backend's protocol.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from .backends import Backend, Sessions, check_limits, exchange_arrays, open_backend
from .bundle import Bundle
from .chat.conversation import Conversation, OnToken
from .chat.exchange import ChatResult, Exchange, answer_together, first_question
from .chat.reflection import OnRound, Reflection, reflect
from .chat.settings import ChatSettings
from .chat.turns import Turn
from .checks import check_callback, check_text
from .components import Components
from .drawing import Drawing, start_drawing
from .errors import BackendError, BundleError, shown
from .files.locking import hold_folder
from .guidance import has_negative_prompt
from .images.loading import ImageSource, load_images
from .manifest import MANIFEST
from .mllm.language_model import LanguageModel, States
from .mllm.prompt_encoder import PromptEncoder
from .request import OnStep, Request, Result

NANO = Path(__file__).parent.parent / "nano" / "checkpoint"


def load(
    bundle: str | os.PathLike[str] = "nano",
    *,
    backend: str = "auto",
    precision: str = "auto",
    memory_limit_bytes: int | None = None,
    threads: int | None = None,
    trust_engines: bool = False,
    specialization: str = "lazy",
    shares: Pipeline | None = None,
) -> Pipeline:
    """Open a bundle: its folder, or "nano" for the small model that ships. Components are loaded when they are first needed.

    backend: "auto" or a backend's name (`omnigen2 doctor` lists them). precision: "auto", "fp32", "fp16" or "bf16".
    memory_limit_bytes: keep open weights below this, closing components that aren't in use; slower, with the same pictures. A
    component that is larger alone is streamed; then pictures are the same up to the precision's rounding.
    threads: CPU threads, by default as many as the engine sees fit.
    trust_engines: run TensorRT engines that this user neither built nor trusts; an engine is a program.
    specialization: TensorRT for RTX only. "lazy": a new shape runs on general kernels until its own are compiled; "eager": it
    waits for its own; "none": general kernels only.
    shares: a pipeline that runs the components which both bundles have alike, such as that of the bundle which LoRAs were merged
    into; each is then loaded once. It must stay open. TensorRT's pipelines share none.
    Raises BundleError or BackendError.
    """
    check_limits(memory_limit_bytes=memory_limit_bytes, threads=threads)  # before a bundle is read
    for name, value in (("backend", backend), ("precision", precision), ("specialization", specialization)):
        if not isinstance(value, str):
            raise BackendError(f"{name} must be text (str), not {type(value).__name__}")
    if shares is not None and not isinstance(shares, Pipeline):
        raise BackendError(f"shares must be a Pipeline, as load gives it, not {type(shares).__name__}")
    opened = Bundle.open(bundle_path(bundle))
    engine = open_backend(opened, backend, precision, threads, memory_limit_bytes, trust_engines, specialization)
    lender = None if shares is None or not exchange_arrays(engine, shares.backend) else shares.components.sessions
    return Pipeline(opened, engine, memory_limit_bytes, lender)


def bundle_path(bundle: str | os.PathLike[str]) -> Path:
    """The folder of a bundle. "nano" is the one that ships; a folder of that name is "./nano". Raises BundleError without it."""
    if not isinstance(bundle, str | os.PathLike):
        raise BundleError(f"bundle must be the name of a folder (str or path), not {type(bundle).__name__}")
    if not isinstance(bundle, str) or bundle != "nano":
        return _path(bundle)
    if not (NANO / MANIFEST).is_file():
        raise BundleError("this release ships no model: give the folder of a bundle made by `omnigen2 export`")
    return NANO


def _path(bundle: str | os.PathLike[str]) -> Path:
    try:
        path = Path(bundle)
        path.is_dir()  # raises OSError for a name that is too long
    except Exception as error:  # also whatever a path object of the caller's own raises
        raise BundleError(f"bundle {shown(bundle)} is not the name of a folder: {error}") from error
    if "\0" in str(path):
        raise BundleError(f"bundle {str(path)!r} is not the name of a folder: it holds a null character")
    return path


class Pipeline:
    """An opened bundle on a backend. Not for several threads at once; use it in a `with` block to free it at the end.

    bundle: the opened bundle.
    backend: the engine.
    components: the model's components, for their openings and memory.
    language_model, prompt_encoder: the MLLM, for callers that work with hidden states.
    """

    def __init__(
        self, bundle: Bundle, backend: Backend, memory_limit_bytes: int | None = None, lender: Sessions | None = None
    ) -> None:
        self.bundle = bundle
        self.backend = backend
        self._hold = _held(self, bundle)
        self.components = Components(bundle, backend, memory_limit_bytes, lender)
        self.language_model = LanguageModel(self.components)
        self.prompt_encoder = PromptEncoder(self.language_model)

    def generate(self, request: Request, on_step: OnStep | None = None) -> Result:
        """Draw a request. `on_step(step)` is called after each step; if it returns False, drawing stops.

        Returns the pictures with their latents and steps; a drawing that was stopped has its steps and no pictures. Raises
        RequestError where the request doesn't fit the bundle, BackendError where the engine fails.
        """
        check_callback("on_step", on_step)
        return self.start(request).finish(on_step)

    def start(self, request: Request) -> Drawing:
        """Start a drawing that is held between two steps; several may be stepped in turn. Raises as `generate`."""

        cut_tokens: dict[str, int] = {}

        def encode_branch(branch: str) -> States:
            field = "negative_prompt" if has_negative_prompt(branch) else "prompt"
            ids, most = self.prompt_encoder.token_ids(getattr(request, field)), request.max_prompt_tokens
            if len(ids) > most:
                cut_tokens[field] = len(ids) - most
            return self.prompt_encoder.encode(ids[:most])

        return start_drawing(self.components, request, encode_branch, cut_tokens)

    def chat(
        self,
        prompt: str,
        images: Sequence[ImageSource] = (),
        settings: ChatSettings | None = None,
        *,
        on_token: OnToken | None = None,
        on_step: OnStep | None = None,
        **changes: Any,
    ) -> ChatResult:
        """One question, answered in words or with a picture. See `Conversation.ask`, and `ChatSettings` for the settings."""
        return self.start_chat().ask(prompt, images, settings, on_token=on_token, on_step=on_step, **changes)

    def chat_batch(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[ImageSource]] = (),
        settings: ChatSettings | None = None,
        *,
        on_step: OnStep | None = None,
        **changes: Any,
    ) -> list[ChatResult]:
        """Several questions answered together, each as `chat` answers it alone. images: each question's, or empty."""
        chosen = ChatSettings.chosen(settings, changes)
        return answer_together(self.prompt_encoder, prompts, images, chosen, on_step)

    def start_chat(self, turns: Sequence[Turn] = ()) -> Conversation:
        """A conversation: new, or resumed after `turns`, as `Conversation.turns` gives them.

        Raises BundleError where the bundle can only draw: at the first turn, or here if there are turns.
        """
        return Conversation(self.prompt_encoder, turns)

    def reflect(
        self, request: Request, rounds: int = 2, on_step: OnStep | None = None, on_round: OnRound | None = None
    ) -> Reflection:
        """Draw, then criticize and correct the picture up to `rounds` times, and keep the best. See `reflection.reflect`.

        Raises BundleError, before anything is drawn, where the bundle can't look at pictures.
        """
        check_callback("on_step", on_step)
        prompts = self.language_model.chat.reflection
        _ = self.language_model.vision  # raises before anything is drawn

        def ask(question: str, picture: Image.Image) -> str:
            return self.chat(question, [picture], may_draw=False).text.strip()

        return reflect(
            request,
            rounds,
            prompts,
            draw=lambda drawn: self.generate(drawn, on_step),
            ask=ask,
            on_round=on_round,
        )

    def encode_prompt(self, text: str, images: Sequence[ImageSource] = ()) -> States:
        """The language model's hidden states of a prompt: (T, Dt) float32.

        Without images in the drawing template; with them in the chat template, the image tokens left out. Raises RequestError
        for what is no text or no image, and for more than the model reads.
        """
        text = check_text("text", text)
        pictures = load_images("images", images)
        if not pictures:
            return self.prompt_encoder.encode(self.prompt_encoder.token_ids(text)).copy()
        return Exchange(self.prompt_encoder, [first_question(self.prompt_encoder, text, pictures)], ChatSettings()).states[0]

    def close(self) -> None:
        """Free the engine's memory. The pipeline may be used again; its components are then opened anew.

        The end of a `with` block closes it for good: what runs a component then raises RequestError.
        """
        self.components.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.components.close(for_good=True)
        self._hold()


def _held(pipeline: Pipeline, bundle: Bundle) -> Callable[[], object]:
    """Keep a merged bundle from `omnigen2 lora --prune` while the pipeline lives. Returns the function that releases it.

    Raises BundleError where the bundle was removed since it was opened.
    """
    if bundle.manifest.merged_from is None:
        return _nothing
    try:
        descriptor = hold_folder(bundle.path)
    except OSError as error:
        raise BundleError(f"{str(bundle.path)!r} is not a bundle: {error.strerror or error}") from error
    return _nothing if descriptor is None else weakref.finalize(pipeline, os.close, descriptor)


def _nothing() -> None:
    """Do nothing."""
