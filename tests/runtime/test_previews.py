"""Previews of a drawing: the bundle's linear map on the clean estimate of a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt import Request, load
from omnigen2_rt.runtime.errors import BundleError
from omnigen2_rt.runtime.manifest import MANIFEST, Manifest
from omnigen2_rt.runtime.pipeline import NANO, Pipeline
from omnigen2_rt.runtime.previews import preview_images


@pytest.fixture(scope="module")
def nano() -> Iterator[Pipeline]:
    with load(backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        yield pipeline


def test_preview_of_a_steps_estimate_shows_the_picture_and_its_noisy_latents_do_not(nano: Pipeline) -> None:
    result = nano.generate(Request(prompt="a large red circle on a blue background", steps=12, seed=3))
    step, vae = result.steps[4], nano.bundle.manifest.vae
    small = np.asarray(result.images[0].resize((8, 8), Image.Resampling.BOX), float) / 255

    def error(latents: np.ndarray) -> float:
        (preview,) = preview_images(vae, latents)
        return float(np.abs(np.asarray(preview, float) / 255 - small).mean())

    assert error(step.estimate) < 0.1 < error(step.latents)


def test_preview_of_a_batch_is_a_picture_each(nano: Pipeline) -> None:
    latents = np.zeros((3, 32, 4, 6), np.float32)
    latents[1] = np.nan
    previews = preview_images(nano.bundle.manifest.vae, latents)
    assert [preview.size for preview in previews] == [(6, 4)] * 3
    offsets = np.rint(np.array(nano.bundle.manifest.vae.latent_rgb[-1]) * 255)
    np.testing.assert_array_equal(np.asarray(previews[0])[0, 0], offsets)


def test_bundle_without_a_map_has_no_previews(nano: Pipeline) -> None:
    assert preview_images(replace(nano.bundle.manifest.vae, latent_rgb=()), np.zeros((1, 32, 4, 4), np.float32)) == []


def test_manifest_refuses_a_map_of_other_channels() -> None:
    manifest = Manifest.from_json((NANO / MANIFEST).read_text(encoding="utf-8"), MANIFEST)
    wrong = replace(manifest, vae=replace(manifest.vae, latent_rgb=manifest.vae.latent_rgb[1:])).to_json()
    with pytest.raises(BundleError, match=r"vae.latent_rgb has 32 entries; allowed are none, or 33"):
        Manifest.from_json(wrong, MANIFEST)
