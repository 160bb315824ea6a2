"""Bundles that are newer, changed, incomplete or damaged: each gets its line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnigen2_rt.runtime.bundle import Bundle, Manifest
from omnigen2_rt.runtime.errors import BundleError

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
GRAPH = "blend.fp32.onnx"


@pytest.fixture
def bundle(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """A bundle of its own bytes, to damage."""
    return Path(shutil.copytree(bundles["A"], tmp_path / "bundle"))


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A damage that changes the manifest."""

    def damage(bundle: Path) -> None:
        file = bundle / "bundle.json"
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))

    return damage


def flip(file: Path, at: int) -> None:
    """Invert one byte in place."""
    with file.open("r+b") as opened:
        opened.seek(at, 2 if at < 0 else 0)
        byte = opened.read(1)[0]
        opened.seek(-1, 1)
        opened.write(bytes([byte ^ 255]))


def grow(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "newer": (edit(lambda m: m.update(format_version=99)), "has format version 99; this release reads up to 1: upgrade"),
    "no version": (edit(lambda m: m.pop("format_version")), "has no format_version: it is not a bundle's manifest"),
    "unknown key": (edit(lambda m: m.update(colour="red")), r"unknown \['colour'\]"),
    "missing key": (edit(lambda m: m.pop("vae")), r"missing \['vae'\]"),
    "inner key": (edit(lambda m: m["vae"].pop("downscale")), r"\.vae: missing \['downscale'\]"),
    "wrong type": (edit(lambda m: m["vae"].update(downscale="8")), r"\.vae\.downscale is '8', not int"),
    "no JSON": (lambda b: (b / "bundle.json").write_text("{"), "is not JSON"),
    "no text": (lambda b: (b / "bundle.json").write_bytes(b"\xff\xfe"), "can't be read"),
    "changed graph": (lambda b: flip(b / GRAPH, 40), f"{GRAPH}' has changed since the export"),
    "missing graph": (lambda b: (b / GRAPH).unlink(), f"{GRAPH}' is missing: the bundle is incomplete"),
    "missing weights": (lambda b: (b / WEIGHTS).unlink(), "safetensors' is missing"),
    "other size": (lambda b: grow(b / WEIGHTS), "bytes where the bundle says"),
    "other header": (lambda b: flip(b / WEIGHTS, 12), "the header of .* has changed since the export"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_bundle_that_is_damaged_gives_one_line(damage: Callable[[Path], object], message: str, bundle: Path) -> None:
    damage(bundle)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(bundle)
    assert "\n" not in str(caught.value)


def test_bundle_with_a_flipped_weight_opens_and_fails_verification(bundle: Path) -> None:
    Bundle.open(bundle).verify()
    flip(bundle / WEIGHTS, -1)
    opened = Bundle.open(bundle)
    seen: list[str] = []
    with pytest.raises(BundleError, match=f"{WEIGHTS}' has changed since the export"):
        opened.verify(seen.append)
    assert seen[-1] == WEIGHTS


def test_folder_that_is_no_bundle_is_told_apart_from_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle \(no bundle.json\)$"):
        Bundle.open(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(BundleError, match="it is a checkpoint; run `omnigen2 export` on it first"):
        Bundle.open(tmp_path)


def test_manifest_survives_its_text(bundles: dict[str, Path]) -> None:
    manifest = Bundle.open(bundles["A"]).manifest
    assert Manifest.from_json(manifest.to_json(), "here") == manifest


def test_graph_that_the_bundle_lacks_says_what_it_holds(bundles: dict[str, Path]) -> None:
    with pytest.raises(BundleError, match="has no transformer graph in fp16; it holds fp32: export it with --precision fp16"):
        Bundle.open(bundles["B"]).graph("transformer", "fp16")
