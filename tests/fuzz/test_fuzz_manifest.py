"""Mutated manifests: the bundle opens and draws, or gives one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from omnigen2_rt import Request
from omnigen2_rt.runtime.backends import choose_graphs, choose_precision, needs_streaming
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import OmniGen2Error
from omnigen2_rt.runtime.manifest import MANIFEST, Manifest
from omnigen2_rt.runtime.pipeline import Pipeline
from tests.fuzz.mutations import mutate_json
from tests.fuzz.suite import CASES, Suite, check_message, record_counts, scratch_folder
from tests.fuzz.tiny_bundle import make_tiny_bundle, shape_checking_backend

PICTURE = Image.new("RGB", (70, 40), "red")


@cache
def _bundle() -> tuple[Path, dict[str, Any]]:
    """The folder of the tiny bundle and its manifest."""
    folder = scratch_folder() / "bundle"
    folder.mkdir()
    return folder, make_tiny_bundle(folder)


def run_case(random: Random | None) -> str:
    """Open the bundle with a mutated manifest, or without a mutation for None; draw and chat with it."""
    folder, manifest = _bundle()
    text = json.dumps(manifest).encode() if random is None else mutate_json(random, manifest)
    (folder / MANIFEST).write_bytes(text)
    try:
        opened = Bundle.open(folder)
    except OmniGen2Error as error:
        check_message(error)
        return "refused"
    try:
        _use(opened)
    except OmniGen2Error as error:
        check_message(error)
        return "opened, then refused"
    return "opened and used"


def _use(bundle: Bundle) -> None:
    precision = choose_precision(bundle, "ort-cpu", "auto")
    needs_streaming(bundle, precision, 1000, choose_graphs(bundle, "ort-cpu", precision))
    right = Manifest.from_json(json.dumps(_bundle()[1]), MANIFEST)
    with Pipeline(bundle, shape_checking_backend(right), memory_limit_bytes=100_000) as pipeline:
        request = Request(prompt="a red circle", images=(PICTURE,), width_px=64, height_px=64, steps=2, text_guidance=2.0)
        pipeline.generate(request)
        pipeline.chat("what is it?", [PICTURE], max_new_tokens=2, may_draw=False)


SUITE = Suite("manifest", run_case)


def test_manifest_without_a_mutation_opens_and_draws() -> None:
    assert run_case(None) == "opened and used"


def test_mutated_manifests_open_or_give_one_line(record_property: Callable[[str, object], None]) -> None:
    outcomes = record_counts(SUITE, record_property)
    assert sum(outcomes.values()) == CASES
    assert min(outcomes["refused"], outcomes["opened and used"]) > CASES // 20, "the mutations are too coarse or too fine"
