"""Bundles that are newer, changed, incomplete or damaged: each gets its line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BundleError
from omnigen2_rt.runtime.manifest import MANIFEST, Manifest
from tests.damages import BUNDLE_DAMAGES, flip
from tests.exporter.checkpoints import TRANSFORMER

TRAITS = ("keeps_float32", "picture_rows", "repeats_shapes")


@pytest.fixture
def bundle(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """A bundle of its own bytes, to damage."""
    return Path(shutil.copytree(bundles["A"], tmp_path / "bundle"))


@pytest.mark.parametrize(("damage", "message"), BUNDLE_DAMAGES.values(), ids=BUNDLE_DAMAGES)
def test_bundle_that_is_damaged_gives_one_line(damage: Callable[[Path], object], message: str, bundle: Path) -> None:
    damage(bundle)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(bundle)
    assert "\n" not in str(caught.value)


def test_bundle_with_a_flipped_weight_opens_and_fails_verification(bundle: Path) -> None:
    Bundle.open(bundle).verify()
    flip(bundle / TRANSFORMER, -1)
    opened = Bundle.open(bundle)
    seen: list[str] = []
    with pytest.raises(BundleError, match=f"{TRANSFORMER}' has changed since the export"):
        opened.verify(seen.append)
    assert seen[-1] == TRANSFORMER.as_posix()


def test_folder_that_is_no_bundle_is_told_apart_from_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle \(no bundle.json\)$"):
        Bundle.open(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(BundleError, match="it is a checkpoint; run `omnigen2 export` on it first"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="there is no such folder"):
        Bundle.open(tmp_path / "absent")


def test_manifest_survives_its_text(bundles: dict[str, Path]) -> None:
    manifest = Bundle.open(bundles["A"]).manifest
    assert Manifest.from_json(manifest.to_json(), "here") == manifest


def test_bundle_of_format_1_opens_with_the_traits_that_it_left_out(bundle: Path) -> None:
    """Format 1 had no such fields: the backends knew components by name."""
    newest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    graphs = [{name: value for name, value in graph.items() if name not in TRAITS} for graph in newest["graphs"]]
    older = {**newest, "format_version": 1, "graphs": graphs}
    (bundle / MANIFEST).write_text(json.dumps(older), encoding="utf-8")
    assert Bundle.open(bundle).manifest == Manifest.from_json(json.dumps(newest), "here")


@pytest.mark.parametrize("version", [0, -1, True, "2", 2.0], ids=repr)
def test_format_version_that_never_was_is_refused(bundle: Path, version: object) -> None:
    older = {**json.loads((bundle / MANIFEST).read_text(encoding="utf-8")), "format_version": version}
    (bundle / MANIFEST).write_text(json.dumps(older), encoding="utf-8")
    with pytest.raises(BundleError, match=re.escape(f"has format_version {version!r}, not a whole number of 1 or more")):
        Bundle.open(bundle)


def test_graph_that_the_bundle_lacks_says_what_it_holds(bundles: dict[str, Path]) -> None:
    with pytest.raises(BundleError, match="has no transformer graph in fp16; it holds fp32: export it with --precision fp16"):
        Bundle.open(bundles["B"]).graph("transformer", "fp16")
