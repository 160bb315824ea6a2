"""Folders that a bundle may not become, each refused with its reason before any work."""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from omnigen2_rt.exporter.export import export_bundle
from omnigen2_rt.exporter.quantize.bundle import quantize_bundle
from omnigen2_rt.exporter.staging import prepare_target
from omnigen2_rt.exporter.target import check_replaceable
from omnigen2_rt.runtime.errors import ExportError
from omnigen2_rt.runtime.manifest import MANIFEST, FileSpec, Manifest
from tests.exporter.checkpoints import TRANSFORMER, A
from tests.exporter.staged_work import MANIFEST_TEXT, empty_bundle


def read_only_folder(tmp_path: Path) -> Path:
    """A folder that takes no entry, whoever asks."""
    if os.geteuid() == 0:
        return Path("/proc")
    tmp_path.chmod(0o555)
    return tmp_path


@pytest.mark.parametrize("force", [None, False, True])
def test_target_in_a_read_only_folder_is_refused(tmp_path: Path, force: bool | None) -> None:
    folder = read_only_folder(tmp_path)
    with pytest.raises(ExportError, match=rf"^can't write to '{folder}': .*: choose another folder$"):
        prepare_target(folder / "m" / "n", force)


def test_target_of_a_name_that_no_filesystem_takes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    reasons = {
        "x" * 256: "File name too long",
        "file/m": "Not a directory",
        "loop": "",
        "null\0": "null",
    }
    for name, reason in reasons.items():
        with pytest.raises(ExportError, match=rf"can't be made: .*{reason}.*: choose another name"):
            prepare_target(tmp_path / name, False)
    with pytest.raises(ExportError, match="'3' can't be made: "):
        prepare_target(3, False)  # type: ignore[arg-type]
    assert prepare_target(tmp_path / ("x" * 255), False).name == "x" * 255
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


def test_target_whose_parents_are_missing_is_allowed(tmp_path: Path) -> None:
    assert prepare_target(tmp_path / "a" / "b" / "m", False) == tmp_path / "a" / "b" / "m"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ["", "{}", '{"name": "a web page"}', "\udcff", None], ids=ascii)
def test_force_replaces_no_folder_that_is_not_a_bundle(tmp_path: Path, content: str | None) -> None:
    """Any file of the name bundle.json was enough."""
    folder = tmp_path / "m"
    folder.mkdir()
    if content is not None:
        (folder / MANIFEST).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ExportError, match="exists and is not a bundle, so --force won't replace it"):
        prepare_target(folder, True)


def test_force_replaces_no_file(tmp_path: Path) -> None:
    (tmp_path / "m").touch()
    with pytest.raises(ExportError, match="exists and is not a bundle"):
        prepare_target(tmp_path / "m", True)


def test_force_replaces_no_bundle_that_holds_other_files(tmp_path: Path) -> None:
    """Pictures and notes that lay there went with it."""
    bundle = empty_bundle(tmp_path / "m", "old")
    digits = "0123456789abcdef"
    for name in (f"compiled/vae_decoder.fp32.{digits}.blob", f"engines/vae_decoder.bf16.{digits}.plan", f".partial-{digits}"):
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).touch()
    assert prepare_target(bundle, True) == bundle
    for name in ("pictures/fox.png", "engines/thesis.txt", "compiled/photo.jpg", ".partial-keep", "calibration.txt"):
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).touch()
        with pytest.raises(ExportError, match=rf"holds '{name}', which is not part of that bundle: move it away"):
            prepare_target(bundle, True)
        (bundle / name).unlink()
    (bundle / "album").symlink_to(tmp_path)
    with pytest.raises(ExportError, match="holds 'album'"):
        prepare_target(bundle, True)


def test_force_replaces_a_bundle_with_files_missing(tmp_path: Path) -> None:
    manifest = Manifest.from_json(MANIFEST_TEXT, MANIFEST)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / MANIFEST).write_text(replace(manifest, source="damaged").to_json(), encoding="utf-8")
    assert prepare_target(tmp_path / "m", True) == tmp_path / "m"


def test_target_that_holds_or_lies_in_what_is_read_is_not_replaceable(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    (tmp_path / "link").symlink_to(inner)
    for target, source in [
        (inner, inner), (tmp_path / "outer", inner), (inner, inner / "file"), (inner, tmp_path / "link"),
        (tmp_path / "link", inner), (tmp_path / "outer", tmp_path / "link" / "file"),
    ]:  # fmt: skip
        with pytest.raises(ExportError, match=r"holds '.*', which is read: choose another name"):
            check_replaceable(target.resolve(), [source])
    with pytest.raises(ExportError, match=r"lies in '.*outer', which is read: choose another name"):
        check_replaceable(inner, [tmp_path / "outer"])
    check_replaceable(tmp_path / "outer" / "new", [tmp_path / "outer"])


def test_export_onto_its_own_checkpoint_is_refused(tmp_path: Path) -> None:
    """`export s s --force` destroyed a checkpoint that was its own bundle, as nano is."""
    own = tmp_path / "s"
    shutil.copytree(A, own)
    names = [path.relative_to(own).as_posix() for path in own.rglob("*") if path.is_file()]
    specs = tuple(FileSpec(file=name, size_bytes=0, sha256="0" * 64) for name in names)
    manifest = replace(Manifest.from_json(MANIFEST_TEXT, MANIFEST), graphs=(), files=specs)
    (own / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    (tmp_path / "link").symlink_to(own)
    for checkpoint, target in itertools.product([own, tmp_path / "link"], repeat=2):
        with pytest.raises(ExportError, match="which is read: choose another name"):
            export_bundle(checkpoint, target, force=True)
    assert (own / TRANSFORMER).exists() and sorted(os.listdir(tmp_path)) == ["link", "s"]


def test_quantize_into_an_impossible_place_is_refused_before_the_work(bundles: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="File name too long"):
        quantize_bundle(bundles["B"], tmp_path / ("x" * 256), "int8-weights")


def test_force_says_at_once_that_a_bundle_is_write_protected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be renamed away, which showed at the end of the work."""
    bundle = empty_bundle(tmp_path / "m", "old")
    bundle.chmod(0o555)
    if os.access(bundle, os.W_OK):  # root may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != bundle)
    with pytest.raises(ExportError, match="is write-protected, so --force won't replace it"):
        prepare_target(bundle, True)
    bundle.chmod(0o755)
