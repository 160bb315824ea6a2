"""The node that asks the model a question about pictures, or for a picture."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from omnigen2_rt import ChatResult, ChatSettings

from .images import image_of
from .inputs import drawing_inputs, field_docs, image_inputs, options_input, pictures_in, prompt_input, request_of
from .open_bundles import OpenBundle
from .progress import Watch
from .sockets import ANSWER_OPTIONS, BUNDLE, CONVERSATION, History

TOOLTIPS = field_docs(ChatSettings)


class Chat(io.ComfyNode):
    """One turn of a conversation, answered in words or with a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="OmniGen2RTChat",
            display_name="OmniGen2 Chat",
            category="OmniGen2",
            description="Asks about pictures, or for one. Connect `conversation` to the next Chat node to go on talking.",
            inputs=[
                BUNDLE.Input("bundle"),
                prompt_input("The question, or what to draw."),
                io.Boolean.Input("may_draw", default=ChatSettings.may_draw, tooltip=TOOLTIPS.get("may_draw")),
                io.Int.Input(
                    "max_new_tokens",
                    default=ChatSettings.max_new_tokens, min=1, max=2**20,
                    tooltip=TOOLTIPS.get("max_new_tokens"),
                ),  # fmt: skip
                *drawing_inputs(with_batch=False),
                CONVERSATION.Input("conversation", optional=True, tooltip="From the Chat node whose answer this follows."),
                *image_inputs(),
                options_input(),
                ANSWER_OPTIONS.Input("answer_options", optional=True, tooltip="From the node OmniGen2 Answer Options."),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="The answer's words; empty if it is a picture."),
                io.Image.Output(display_name="images", tooltip="The answer's picture. Without one, nodes here don't run."),
                CONVERSATION.Output(display_name="conversation", tooltip="For the next Chat node."),
                io.String.Output(
                    display_name="finish_reason",
                    tooltip="stop; length if max_new_tokens cut the answer; context if the model's context is full.",
                ),
            ],
        )

    @classmethod
    def execute(cls, bundle: OpenBundle, conversation: History | None = None, **inputs: Any) -> io.NodeOutput:
        """Ask. Raises RequestError, BundleError, BackendError, or ComfyUI's exception where its user interrupts."""
        pictures, settings, digest = pictures_in(inputs), _settings(inputs), bundle.settings.digest
        with bundle.pipeline() as pipeline:
            chat = pipeline.start_chat(conversation.turns_for(digest) if conversation else ())
            watch = Watch(pipeline.bundle.manifest.vae, inputs["steps"])
            answer = chat.ask(inputs["prompt"], pictures, settings, on_token=watch.on_token, on_step=watch.on_step)
            history = History(turns=chat.turns, digest=digest)
        return io.NodeOutput(answer.text, _image(answer), history, answer.finish_reason)


def _settings(inputs: dict[str, Any]) -> ChatSettings:
    """The settings of the answer. One seed chooses its words and its picture's noise."""
    request = request_of(inputs, prompt="")
    given = {name: inputs[name] for name in ("may_draw", "max_new_tokens", "seed")}
    return ChatSettings(request=request, **given, **(inputs.get("answer_options") or {}))


def _image(answer: ChatResult) -> torch.Tensor | ExecutionBlocker:
    """The answer's picture, or what keeps the nodes that want one from running, without an error."""
    return image_of(answer.images) if answer.images else ExecutionBlocker(None)
