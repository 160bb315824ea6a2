"""The export as a whole: what it refuses, what it leaves behind when it is killed, where it finds checkpoints."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from omnigen2_rt.exporter import graphs
from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.exporter.export import export_bundle
from omnigen2_rt.exporter.weights import placement
from omnigen2_rt.runtime.bundle import CALIBRATION, Bundle
from omnigen2_rt.runtime.errors import BundleError, ExportError
from omnigen2_rt.runtime.files.writing import PARTIAL
from omnigen2_rt.runtime.manifest import MANIFEST
from tests.commands.processes import SHARED_GRAPHS
from tests.exporter.checkpoints import FEW, TRANSFORMER, A, B

KILLED = SHARED_GRAPHS + """
import os, signal, sys
from omnigen2_rt.exporter.export import export_bundle
def progress(done, total, what):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
export_bundle(sys.argv[1], sys.argv[2], precisions=("fp32",), progress=progress)
"""


def refuse(*_: Any) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_export_to_an_existing_bundle_needs_force(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export_bundle(A, bundle, precisions=("fp32",), components=FEW)
    with pytest.raises(ExportError, match="exists: choose another name, or replace it with --force"):
        export_bundle(B, bundle, precisions=("fp32",), components=FEW)
    assert Bundle.open(bundle).manifest.source == A.name
    export_bundle(B, bundle, precisions=("fp16",), force=True, components=FEW)
    assert Bundle.open(bundle).precisions == ("fp16",)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_export_never_replaces_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    with pytest.raises(ExportError, match="is not a bundle, so --force won't replace it"):
        export_bundle(A, tmp_path / "letters", force=True, components=FEW)


def test_export_to_a_name_with_a_slash_at_its_end_makes_the_bundle(tmp_path: Path) -> None:
    """The staging folder once lay inside the bundle then, and could not become it."""
    export_bundle(A, f"{tmp_path}/bundle/", precisions=("fp32",), components=FEW)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_export_carries_the_checkpoints_own_calibration_prompts(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(B, checkpoint)
    (checkpoint / CALIBRATION).write_text("a red circle\n", encoding="utf-8")
    export_bundle(checkpoint, tmp_path / "bundle", precisions=("fp32",), components=FEW)
    assert (tmp_path / "bundle" / CALIBRATION).read_text(encoding="utf-8") == "a red circle\n"
    assert CALIBRATION in Bundle.open(tmp_path / "bundle").hashes


@pytest.mark.parametrize("precisions", [("fp8",), ()])
def test_export_of_unknown_precision_names_the_known(precisions: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="choose from fp32, fp16, bf16"):
        export_bundle(A, tmp_path / "bundle", precisions=precisions, components=FEW)


def test_export_across_filesystems_copies_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.os, "link", refuse)
    monkeypatch.setattr(placement.fcntl, "ioctl", refuse)
    report = export_bundle(A, tmp_path / "bundle", precisions=("fp32",), components=FEW)
    size = sum(path.stat().st_size for path in (tmp_path / "bundle").rglob("*.safetensors"))
    assert (report.copied.count, report.copied.size_bytes) == (3, size) and len(report.copied.reasons) == 1
    assert (tmp_path / "bundle" / TRANSFORMER).read_bytes() == (A / TRANSFORMER).read_bytes()


def test_export_to_a_full_disk_says_so_and_leaves_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, model: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(graphs, "write_graph", full)
    with pytest.raises(ExportError, match="can't write .*: No space left on device"):
        export_bundle(A, tmp_path / "bundle", precisions=("fp32",), components=FEW)
    assert not (tmp_path / "bundle").exists()


def test_export_with_no_room_for_a_copy_leaves_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(placement.os, "link", refuse)
    monkeypatch.setattr(placement.fcntl, "ioctl", refuse)
    monkeypatch.setattr(placement.shutil, "copyfile", full)
    with pytest.raises(ExportError, match="No space left on device"):
        placement.place(A / TRANSFORMER, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_killed_export_leaves_nothing_valid_and_resumes(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    killed = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED, A, bundle], capture_output=True, timeout=600)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not bundle.exists()
    (unfinished,) = tmp_path.iterdir()
    with pytest.raises(BundleError, match="it is an unfinished bundle; run the same `omnigen2 export`"):
        Bundle.open(unfinished)
    (unfinished / "new" / "mllm" / f"{PARTIAL}{'0123' * 4}").touch()  # as left by a run that is killed while it writes
    report = export_bundle(A, bundle, precisions=("fp32",), components=COMPONENTS[:3])
    assert (report.graphs, report.resumed_graphs) == (3, 2)
    Bundle.open(bundle).verify()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert not list(bundle.rglob(f"{PARTIAL}*"))


def test_materialized_weights_are_in_the_graphs_own_type(tmp_path: Path) -> None:
    import onnx

    export_bundle(A, tmp_path / "bundle", precisions=("fp16",), materialized=True, components=FEW)
    model = onnx.load(tmp_path / "bundle" / "timestep_embedding.fp16.onnx", load_external_data=False)
    external = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert external and {tensor.data_type for tensor in external} == {onnx.TensorProto.FLOAT16}
    assert (tmp_path / "bundle" / "transformer" / "fp16.safetensors").is_file()


def test_export_at_the_same_time_as_another_is_refused_and_says_who_is_at_work(tmp_path: Path) -> None:
    """Both wrote into one folder: the bundle had the name of one checkpoint and the weights of the other."""
    bundle = tmp_path / "bundle"
    errors = []

    def second(done: int, total: int, what: str) -> None:
        with pytest.raises(ExportError) as caught:
            export_bundle(B, bundle, precisions=("fp32",), components=FEW)
        errors.append(str(caught.value))

    export_bundle(A, bundle, precisions=("fp32",), components=FEW, progress=second)
    assert len(errors) == 4 and all(error.startswith(f"process {os.getpid()}, since ") for error in errors)
    assert Bundle.open(bundle).manifest.source == A.name and (bundle / TRANSFORMER).samefile(A / TRANSFORMER)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_export_of_a_folder_named_partial_leaves_it_whole(tmp_path: Path) -> None:
    """`<target>.partial` was taken for an unfinished bundle and deleted: the very checkpoint."""
    checkpoint = tmp_path / "model.partial"
    shutil.copytree(A, checkpoint)
    export_bundle(checkpoint, tmp_path / "model", precisions=("fp32",), components=FEW)
    assert (checkpoint / TRANSFORMER).read_bytes() == (A / TRANSFORMER).read_bytes()


def flip_a_byte(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        last = opened.read(1)[0]
        opened.seek(-1, os.SEEK_END)
        opened.write(bytes([last ^ 1]))


def replace_by_another(file: Path) -> None:
    shutil.copyfile(file, file.with_suffix(".new"))
    flip_a_byte(file.with_suffix(".new"))
    os.replace(file.with_suffix(".new"), file)


@pytest.mark.parametrize("change", [flip_a_byte, replace_by_another, Path.unlink], ids=lambda change: change.__name__)
def test_export_of_a_checkpoint_that_changes_meanwhile_makes_no_bundle(tmp_path: Path, change: Any) -> None:
    """It ended as a whole bundle of neither the checkpoint before nor the one after."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(A, checkpoint)

    def meanwhile(done: int, total: int, what: str) -> None:
        if done == 1:
            change(checkpoint / TRANSFORMER)

    with pytest.raises(ExportError, match="has changed while it was exported: export it again"):
        export_bundle(checkpoint, tmp_path / "bundle", precisions=("fp32",), components=FEW, progress=meanwhile)
    assert not (tmp_path / "bundle").exists() and not list(tmp_path.rglob(MANIFEST))


def test_copy_of_weights_that_differs_from_the_original_makes_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaging(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes())
        flip_a_byte(Path(target))

    monkeypatch.setattr(placement.os, "link", refuse)
    monkeypatch.setattr(placement, "_reflink", lambda *_: False)
    monkeypatch.setattr(placement.shutil, "copyfile", damaging)
    with pytest.raises(ExportError, match=r"safetensors' has changed while it was exported"):
        export_bundle(A, tmp_path / "bundle", precisions=("fp32",), components=FEW)
    assert not (tmp_path / "bundle").exists()
