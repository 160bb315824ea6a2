"""`doctor`'s memory plan against drawings under the same limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt import Request, load
from omnigen2_rt.commands.memory_plan import memory_plan, size_text
from omnigen2_rt.runtime.bundle import Bundle

EDIT = Request(prompt="a cat", images=(Image.new("RGB", (32, 32), "teal"),), steps=3, height_px=32, width_px=32)


@pytest.fixture(scope="module")
def sizes(bundles: dict[str, Path]) -> dict[str, int]:
    bundle = Bundle.open(bundles["A"])
    return {graph.component: graph.resident_bytes for graph in bundle.manifest.graphs if graph.precision == "fp32"}


@pytest.mark.parametrize("room_for", [None, ("language_model",), ("transformer", "velocity_head", "latent_embedder")])
def test_plan_lists_the_components_that_a_drawing_under_the_limit_opens(
    bundles: dict[str, Path], sizes: dict[str, int], room_for: tuple[str, ...] | None
) -> None:
    limit = None if room_for is None else max(max(sizes.values()), sum(sizes[name] for name in room_for))
    with load(bundles["A"], backend="ort-cpu", precision="fp32", threads=1, memory_limit_bytes=limit) as pipeline:
        pipeline.generate(EDIT)
        openings, most = pipeline.components.sessions.openings, pipeline.components.sessions.most_bytes
    plan = memory_plan(Bundle.open(bundles["A"]), "fp32", "fp32", limit, EDIT.steps)
    stages = plan["opened in order"]
    listed = [*(part for stage in list(stages)[:-2] for part in stages[stage].split("; ")), *stages["picture"].split("; ")]
    names = [part.split()[0] for part in listed if part != "nothing"]
    each = [part.split()[0] for part in stages["each further step"].split("; ") if part != "nothing"]
    opened = [opening.component for opening in openings]
    assert len(opened) == len(names) + len(each) * (EDIT.steps - 1)
    assert opened[: len(names) - 1] == names[:-1] and opened[-1] == names[-1]
    assert plan["most open at once"] == size_text(most)
    again = sum(opening.resident_bytes for opening in openings) - sum(sizes[name] for name in set(opened))
    assert plan["read again"].startswith(f"{size_text(again)} in {len(opened) - len(set(opened))} openings")


def test_limit_costs_openings_and_changes_no_picture(bundles: dict[str, Path], sizes: dict[str, int]) -> None:
    limit = max(sizes.values())
    latents, opened = [], []
    for bytes_ in (None, limit):
        with load(bundles["A"], backend="ort-cpu", precision="fp32", threads=1, memory_limit_bytes=bytes_) as pipeline:
            latents.append(pipeline.generate(EDIT).latents)
            opened.append(len(pipeline.components.sessions.openings))
            assert bytes_ is None or pipeline.components.sessions.most_bytes <= limit
    assert np.array_equal(*latents) and opened[0] < opened[1]


def test_plan_of_a_limit_below_the_largest_component_streams(bundles: dict[str, Path]) -> None:
    assert memory_plan(Bundle.open(bundles["A"]), "fp32", "fp32", 1000, 2)["streamed"].startswith("yes")


def test_plan_of_many_steps_counts_each_and_takes_no_longer(bundles: dict[str, Path], sizes: dict[str, int]) -> None:
    """`doctor --steps 1000000000` simulated each of them."""
    bundle, limit = Bundle.open(bundles["A"]), max(sizes.values())

    def again(steps: int) -> tuple[float, int]:
        words = memory_plan(bundle, "fp32", "fp32", limit, steps)["read again"].replace(",", "").split()
        return float(words[0]), int(words[3])

    (few_mb, few), (more_mb, more), (_, many) = again(6), again(7), again(10**9)
    assert more > few and more_mb > few_mb
    assert many == few + (10**9 - 6) * (more - few)
