"""Input pictures are shrunk when a request arrives, and drawings stay as they were."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.runtime.pipeline import Pipeline
from omnigen2_rt.serving.requests.bodies import TASK
from omnigen2_rt.serving.requests.inputs import input_images, picture_places, shrink_pictures
from omnigen2_rt.serving.settings import MAX_CHAT_PIXELS
from tests.serving.running import url_of


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [(700, 500), (128, 96), (131, 128)])
def test_shrunk_picture_draws_the_same(nano: Pipeline, size: tuple[int, int]) -> None:
    """A drawing's pictures took the memory of photographs until it ended."""
    picture, manifest = noise(*size), nano.bundle.manifest
    body = TASK.validate_python({"kind": "draw", "prompt": "make it red", "images": [url_of(picture)], "num_inference_steps": 2})
    body = body.model_copy(update={"max_pixels": manifest.vae.sample_px**2})
    (shrunk,) = shrink_pictures(body, manifest)
    assert max(shrunk) <= 192
    assert body.kind == "draw"
    (read,) = input_images(body)
    assert read.size == shrunk
    ours = nano.generate(body.request(body.prompt, [read])).images[0]
    assert ours == nano.generate(body.request(body.prompt, [picture])).images[0]


def test_large_picture_of_a_chat_is_scaled_down_and_a_small_one_stays(nano: Pipeline) -> None:
    urls = [url_of(noise(3000, 2000)), url_of(noise(64, 64))]
    content = [{"type": "image_url", "image_url": url} for url in urls]
    body = TASK.validate_python({"kind": "chat", "messages": [{"role": "user", "content": content}]})
    large, small = shrink_pictures(body, nano.bundle.manifest)
    assert large[0] * large[1] <= MAX_CHAT_PIXELS < 1.01 * large[0] * large[1] and small == (64, 64)
    kept = [url for url, _ in picture_places(body)]
    assert kept[0] != urls[0] and kept[1] == urls[1]
