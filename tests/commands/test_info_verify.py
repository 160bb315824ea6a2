"""`omnigen2 info --verify` holds a bundle's weights to the checkpoint that its manifest names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from omnigen2_rt.exporter.bundle_writer import file_spec
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.manifest import MANIFEST, Manifest
from tests.commands.command import Command


@pytest.fixture
def mixed(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """A bundle with the name of one checkpoint, other weights of the same sizes, and a manifest with the hashes of those."""
    folder = Path(shutil.copytree(bundles["B"], tmp_path / "bundle"))
    weights = max(folder.glob("vae/*.safetensors"))
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.unlink()
    weights.write_bytes(changed)
    files = tuple(file_spec(folder, spec.file) for spec in Bundle.open(bundles["B"]).manifest.files)
    edit_manifest(folder, lambda manifest: replace(manifest, files=files))
    return folder


def edit_manifest(folder: Path, change: Callable[[Manifest], Manifest]) -> None:
    manifest = Manifest.from_json((folder / MANIFEST).read_text(encoding="utf-8"), MANIFEST)
    (folder / MANIFEST).write_text(change(manifest).to_json(), encoding="utf-8")


def test_weights_of_another_checkpoint_are_found(command: Command, mixed: Path) -> None:
    """Such a bundle passed: its files had the hashes that its manifest gave."""
    manifest = Bundle.open(mixed).manifest
    (weights,) = [spec.file for spec in manifest.files if spec.file.startswith("vae/")]
    said = command.fails("info", mixed, "--verify")
    assert f"{weights!r} is not the weight file that {manifest.source!r} was exported with: export it again" in said


def test_source_weights_that_the_bundle_lacks_are_found(command: Command, mixed: Path) -> None:
    edit_manifest(mixed, lambda manifest: replace(manifest, source_weights={"vae/other.safetensors": "0" * 64}))
    assert "'vae/other.safetensors' is not the weight file" in command.fails("info", mixed, "--verify")


def test_bundle_of_an_older_release_passes_and_says_what_was_not_compared(command: Command, mixed: Path) -> None:
    edit_manifest(mixed, lambda manifest: replace(manifest, source_weights={}))
    finished = command("info", mixed, "--verify")
    assert finished.code == 0 and "not compared with checkpoint: bundle.json has no hashes of its weights" in finished.out


def test_whole_bundle_passes_and_says_whose_weights_it_has(command: Command, bundles: dict[str, Path]) -> None:
    finished = command("info", bundles["B"], "--verify")
    assert finished.code == 0 and "weights: the same as in checkpoint when it was exported" in finished.out
