"""The node that draws from words, edits a picture, or combines several."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from omnigen2_rt import Pipeline, Result

from .images import image_of
from .inputs import TOOLTIPS, drawing_inputs, image_inputs, options_input, pictures_in, prompt_input, request_of
from .open_bundles import OpenBundle
from .progress import Watch
from .sockets import BUNDLE


class Generate(io.ComfyNode):
    """Draws; with input images it edits or combines them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="OmniGen2RTGenerate",
            display_name="OmniGen2 Generate",
            category="OmniGen2",
            description="Draws a picture from words. With one image it edits it, with several it combines them.",
            inputs=[
                BUNDLE.Input("bundle"),
                prompt_input(TOOLTIPS.get("prompt", "")),
                *drawing_inputs(),
                *image_inputs(),
                options_input(),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                io.String.Output(display_name="details", tooltip="Size, steps, backend and seconds; also what was not read."),
            ],
        )

    @classmethod
    def execute(cls, bundle: OpenBundle, **inputs: Any) -> io.NodeOutput:
        """Draw. Raises RequestError, BackendError, or ComfyUI's exception where its user interrupts."""
        request = request_of(inputs, images=pictures_in(inputs))
        with bundle.pipeline() as pipeline:
            drawing = pipeline.start(request)
            watch = Watch(pipeline.bundle.manifest.vae, drawing.total_steps)
            result = drawing.finish(watch.on_step)
            return io.NodeOutput(image_of(result.images), _details(pipeline, result))


def _details(pipeline: Pipeline, result: Result) -> str:
    """A line about a drawing."""
    picture, engine = result.images[0], pipeline.backend
    seconds = sum(result.timings.values())
    facts = [
        f"{picture.width}×{picture.height}",
        f"{len(result.steps)} steps",
        f"seed {result.request.seed}",
        f"{engine.precision} on {engine.name}",
        f"{seconds:.1f} s",
    ]
    cut = [
        f"the last {tokens} tokens of the {field} were not read: raise max_prompt_tokens in OmniGen2 Drawing Options"
        for field, tokens in result.cut_tokens.items()
    ]
    return "; ".join([", ".join(facts), *cut])
