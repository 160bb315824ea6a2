"""The node that draws, lets the model criticize and correct the picture, and keeps the best."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from PIL import Image

from omnigen2_rt import Pipeline, Reflection, Request
from omnigen2_rt.runtime.chat.reflection import MAX_ROUNDS, reflect

from .images import image_of
from .inputs import TOOLTIPS, drawing_inputs, image_inputs, options_input, pictures_in, prompt_input, request_of
from .open_bundles import OpenBundle
from .progress import Watch
from .sockets import BUNDLE


class Reflect(io.ComfyNode):
    """Draws and corrects."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="OmniGen2RTReflect",
            display_name="OmniGen2 Reflect",
            category="OmniGen2",
            description="Draws a picture, lets the model criticize and correct it, and keeps the one that it grades highest.",
            inputs=[
                BUNDLE.Input("bundle"),
                prompt_input(TOOLTIPS.get("prompt", "")),
                io.Int.Input(
                    "rounds",
                    default=2, min=1, max=MAX_ROUNDS,
                    tooltip="Corrections at most; it ends earlier if the model finds nothing wrong.",
                ),  # fmt: skip
                *drawing_inputs(with_batch=False),
                *image_inputs(),
                options_input(),
            ],
            outputs=[
                io.Image.Output(display_name="best", tooltip="The picture with the highest grade; of equals the latest."),
                io.Image.Output(display_name="all", is_output_list=True, tooltip="Every picture, the first drawing included."),
                io.String.Output(display_name="critiques", tooltip="A line for each picture: grade, critique, correction."),
            ],
        )

    @classmethod
    def execute(cls, bundle: OpenBundle, rounds: int, **inputs: Any) -> io.NodeOutput:
        """Reflect. Raises RequestError, BundleError, BackendError, or ComfyUI's exception where its user interrupts."""
        request = request_of(inputs, images=pictures_in(inputs))
        with bundle.pipeline() as pipeline:
            reflection = _reflect(pipeline, request, rounds)
        pictures = [image_of(judged.result.images) for judged in reflection.rounds]
        return io.NodeOutput(pictures[reflection.best], pictures, _critiques(reflection))


def _reflect(pipeline: Pipeline, request: Request, rounds: int) -> Reflection:
    """Does what `Pipeline.reflect` does, and ends the model's answers too where the user interrupts."""
    steps = request.steps if request.timesteps is None else len(request.timesteps)
    watch = Watch(pipeline.bundle.manifest.vae, steps * (rounds + 1))
    prompts = pipeline.language_model.chat.reflection
    _ = pipeline.language_model.vision  # raises before anything is drawn where the bundle can't look at pictures

    def ask(question: str, picture: Image.Image) -> str:
        return pipeline.chat(question, [picture], may_draw=False, on_token=watch.on_token).text.strip()

    return reflect(request, rounds, prompts, draw=lambda drawn: pipeline.generate(drawn, watch.on_step), ask=ask)


def _critiques(reflection: Reflection) -> str:
    """A line for each round."""
    lines = []
    for index, judged in enumerate(reflection.rounds):
        grade = "no grade" if judged.grade is None else f"grade {judged.grade:g}"
        texts = [text for text in (judged.critique, judged.edit and f"correction: {judged.edit}") if text]
        best = ", the best" if index == reflection.best else ""
        lines.append(f"picture {index + 1} ({grade}{best}): {'; '.join(texts) or 'no critique'}")
    return "\n".join(lines)
