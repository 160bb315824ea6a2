"""Optimisation profiles: every dynamic size of every exported graph, and shapes that agree with each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.exporter.engines.options import Limits
from omnigen2_rt.exporter.engines.profiles import EngineProfile, engine_profiles
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import ExportError
from omnigen2_rt.runtime.manifest import GraphSpec
from tests.exporter.engines.small_bundle import make_bundle


@pytest.fixture(scope="module")
def bundle(bundles: dict[str, Path]) -> Bundle:
    return Bundle.open(bundles["A"])


def profiles_of(bundle: Bundle, component: str, **limits: int) -> dict[str, EngineProfile]:
    profiles = engine_profiles(bundle.graph(component, "bf16"), bundle.manifest, Limits(**limits))
    return {profile.name: profile for profile in profiles}


def sizes_at(graph: GraphSpec, profile: EngineProfile, end: int) -> dict[str, set[int]]:
    sizes: dict[str, set[int]] = {}
    for name, spec in graph.inputs.items():
        for dim, size in zip(spec.shape, profile.shapes[name][end], strict=True):
            if isinstance(dim, str):
                sizes.setdefault(dim, set()).add(size)
    return sizes


@pytest.mark.parametrize("component", [component.name for component in COMPONENTS])
def test_profiles_of_every_component_are_ordered_and_one_size_per_name(bundle: Bundle, component: str) -> None:
    graph = bundle.graph(component, "bf16")
    profiles = profiles_of(bundle, component)
    assert profiles
    for profile in profiles.values():
        for smallest, typical, largest in profile.shapes.values():
            assert all(a <= b <= c for a, b, c in zip(smallest, typical, largest, strict=True))
        for end in range(3):
            assert all(len(values) == 1 for values in sizes_at(graph, profile, end).values())


@pytest.mark.parametrize("component", ["transformer", "cache_signal"])
@pytest.mark.parametrize("end", range(3))
def test_profile_of_joint_tokens_is_the_sum_of_its_parts(bundle: Bundle, component: str, end: int) -> None:
    """TensorRT infers shapes at each end of a profile: the parts must add up there."""
    for profile in profiles_of(bundle, component).values():
        sizes = {name: min(values) for name, values in sizes_at(bundle.graph(component, "bf16"), profile, end).items()}
        assert sizes["joint_tokens"] == sizes["text_tokens"] + sizes["reference_tokens"] + sizes["image_tokens"]


@pytest.mark.parametrize("end", range(3))
def test_profile_of_language_model_totals_past_and_new(bundle: Bundle, end: int) -> None:
    profiles = profiles_of(bundle, "language_model")
    assert list(profiles) == ["prefill", "turn", "decode"]
    for profile in profiles.values():
        sizes = {
            name: min(values) for name, values in sizes_at(bundle.graph("language_model", "bf16"), profile, end).items()
        }
        assert sizes["total_tokens"] == sizes["past_tokens"] + sizes["text_tokens"]


def test_profile_of_a_generated_token_allows_for_two(bundle: Bundle) -> None:
    """For exactly one, TensorRT for RTX stored two thirds of the language model's weights twice."""
    profiles = profiles_of(bundle, "language_model")
    assert [shape[1] for shape in profiles["decode"].shapes["inputs_embeds"]] == [1, 1, 2]


def test_profile_of_1024_px_has_the_full_model_token_counts(bundle: Bundle) -> None:
    text, references = profiles_of(bundle, "transformer").values()
    assert [shape[1] for shape in text.shapes["image_tokens"]] == [1, 4096, 4096]
    assert [shape[1] for shape in text.shapes["references"]] == [0, 0, 0]
    assert [shape[1] for shape in references.shapes["references"]] == [1, 4096, 3 * 4096]
    assert [shape[0] for shape in references.shapes["cos"]] == [3, 128 + 2 * 4096, 1024 + 4 * 4096]


def test_profile_without_references_leaves_their_engine_out(bundle: Bundle) -> None:
    assert list(profiles_of(bundle, "transformer", max_references=0)) == ["text"]
    assert profiles_of(bundle, "reference_embedder", max_references=0) == {}


def test_profile_of_an_unknown_size_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    graph = bundle.manifest.graphs[0]
    graph.inputs["references"] = type(graph.inputs["references"])(dtype="float16", shape=(1, "moons", 32))
    with pytest.raises(ExportError, match="transformer's input references has the size 'moons'"):
        engine_profiles(graph, bundle.manifest, Limits())


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_size_px": 8}, "max_size_px=8 is below the smallest size, 16"),
        ({"max_size_px": 512}, "typical_size_px=1024 is above max_size_px=512"),
        ({"max_images": 0}, "max_images=0 is below 1"),
    ],
)
def test_limits_out_of_range_are_refused(limits: dict[str, int], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        Limits(**limits)


def test_limits_above_the_checkpoint_are_refused(bundle: Bundle) -> None:
    most = bundle.manifest.transformer.max_references
    with pytest.raises(ExportError, match=f"at most {most}"):
        profiles_of(bundle, "transformer", max_references=most + 1)
