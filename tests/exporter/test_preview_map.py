"""The map from latents to colours that an export fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from omnigen2_rt.exporter.preview_map import area_means, fit_latent_rgb, solve, training_pictures
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.pipeline import NANO


def test_solve_finds_the_map_that_made_the_colours() -> None:
    random = np.random.default_rng(1)
    latents = random.normal(size=(4, 5, 6, 6)).astype(np.float32)
    weights = random.normal(size=(6, 3))
    colours = np.moveaxis(np.tensordot(latents, weights[:-1], axes=(1, 0)) + weights[-1], -1, 1).astype(np.float32)
    np.testing.assert_allclose(solve(latents, colours), weights, atol=5e-3)


def test_area_means_are_those_of_squares() -> None:
    picture = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
    assert area_means(picture, 2)[0, 1].tolist() == [[18.5, 20.5], [26.5, 28.5]]


def test_training_pictures_are_colours_and_always_the_same() -> None:
    pictures = training_pictures(32)
    assert pictures.min() >= 0 and pictures.max() <= 1 and pictures.std() > 0.15
    np.testing.assert_array_equal(pictures, training_pictures(32))


def test_nanos_bundle_holds_the_map_that_its_checkpoint_gives() -> None:
    fitted = np.array(fit_latent_rgb(NANO))
    np.testing.assert_allclose(fitted, Bundle.open(NANO).manifest.vae.latent_rgb, atol=2e-3)


def test_export_stores_the_map(bundles: dict[str, Path]) -> None:
    manifest = Bundle.open(bundles["A"]).manifest
    assert len(manifest.vae.latent_rgb) == manifest.transformer.latent_channels + 1
