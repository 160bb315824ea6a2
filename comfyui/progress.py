"""A node's progress, previews and interruption, as ComfyUI has them. Knows no node.

The V3 API's way would be `ComfyAPISync().execution.set_progress`, but in ComfyUI 0.3.64 the attribute is missing: it is made
from an annotation, which is a text there. The progress bar of ComfyUI's own samplers works in every version.
"""

from __future__ import annotations

from comfy.cli_args import args
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar

from omnigen2_rt import Step
from omnigen2_rt.runtime.manifest import VAEParameters
from omnigen2_rt.runtime.previews import preview_images


class Watch:
    """Callbacks for the runtime that report to ComfyUI and stop the node when its user interrupts.

    ComfyUI's exception passes through the runtime, which cancels the drawing or the answer.
    """

    def __init__(self, vae: VAEParameters, total_steps: int) -> None:
        self._vae = vae
        self._done = 0
        self._bar = ProgressBar(total_steps)

    def on_step(self, step: Step) -> None:
        """Report a step with a preview of the first picture. Raises ComfyUI's exception where its user interrupts."""
        throw_exception_if_processing_interrupted()
        self._done += 1
        previews = preview_images(self._vae, step.estimate[:1])
        preview = ("JPEG", previews[0], args.preview_size) if previews else None
        self._bar.update_absolute(self._done, preview=preview)

    def on_token(self, piece: str) -> None:
        """Raises ComfyUI's exception where its user interrupts. Reports nothing: the length of an answer is not known."""
        throw_exception_if_processing_interrupted()
