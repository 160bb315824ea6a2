"""The bundle's own vision encoder and language model as the model that looks at frames."""

from __future__ import annotations

from collections.abc import Sequence

from ..runtime.files.hashes import file_hash
from ..runtime.manifest import MANIFEST
from ..runtime.pipeline import Pipeline
from .frame_pairs import FrameModel
from .frames import Frame
from .words import CAPTION_QUESTION, Questions


def bundle_model(pipeline: Pipeline, caption_question: str = CAPTION_QUESTION, pair_question: str = "") -> FrameModel:
    """The model of a pipeline, greedy. Raises BundleError where the bundle can't look at pictures."""
    _ = pipeline.language_model.vision
    backend = pipeline.backend
    name = f"{file_hash(pipeline.bundle.path / MANIFEST)[:16]} {backend.name} {backend.precision}"
    reflection = pipeline.language_model.chat.reflection

    def ask(question: str, frames: Sequence[Frame]) -> str:
        pictures = [frame.load() for frame in frames]
        return pipeline.chat(question, pictures, may_draw=False, temperature=0.0).text

    return FrameModel(
        encode=lambda frame: pipeline.language_model.encode_image(frame.load()),
        encoder=name,
        ask=ask,
        writer=name,
        questions=Questions(caption=caption_question, reflection=reflection, pair=pair_question),
    )
