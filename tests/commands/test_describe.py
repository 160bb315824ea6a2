"""`omnigen2 info` on anything: a report, or one line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from omnigen2_rt.commands.describe import describe
from omnigen2_rt.runtime.errors import BundleError, OmniGen2Error
from omnigen2_rt.runtime.manifest import MANIFEST
from omnigen2_rt.runtime.pipeline import NANO

STRANGE: dict[str, Callable[[Path], object]] = {
    "absent": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "random bytes": lambda path: path.write_bytes(bytes(range(256)) * 10),
    "FIFO": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path),
    "deep JSON": lambda path: path.write_text("[" * 100_000),
    "truncated PNG": lambda path: path.write_bytes((NANO / "sheet.png").read_bytes()[:50]),
    "a FIFO for a manifest": lambda path: (path.mkdir(), os.mkfifo(path / MANIFEST)),
    "a folder for a manifest": lambda path: (path / MANIFEST).mkdir(parents=True),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_info_on_anything_gives_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    STRANGE[kind](path)
    with pytest.raises(OmniGen2Error, match="file"):
        describe(path)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800"], ids=ascii)
def test_info_on_a_name_that_cannot_be_one_gives_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(OmniGen2Error) as caught:
        describe(tmp_path / name)
    assert str(caught.value).isprintable()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """nano's checkpoint without what makes it a bundle."""
    folder = tmp_path / "checkpoint"
    for part in ("transformer", "vae", "mllm"):
        (folder / part).mkdir(parents=True)
        for file in (NANO / part).glob("*.safetensors"):
            shutil.copyfile(file, folder / part / file.name)
    (folder / "model_index.json").write_text("{}")
    return folder


def test_info_on_a_checkpoint_counts_its_parameters(checkpoint: Path) -> None:
    report = describe(checkpoint)
    assert report["kind"] == "checkpoint"
    assert report["mllm"].endswith("tensors, BF16, 1 files") and "parameters in" in report["mllm"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 100, (2**40).to_bytes(8, "little"), (100).to_bytes(8, "little") + b"{}", (9).to_bytes(8, "little") + b"[" * 9,
     (26).to_bytes(8, "little") + b'{"w": {"shape": [9]}}     ', (18).to_bytes(8, "little") + b'{"w": "not a dict"'],
)  # fmt: skip
def test_info_on_a_checkpoint_with_a_broken_weight_file_names_it(checkpoint: Path, content: bytes) -> None:
    """`info` had a reader of its own, which believed a header's length and looked at no tensor."""
    (checkpoint / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match=r"vae/diffusion_pytorch_model\.safetensors"):
        describe(checkpoint)


def test_info_shows_small_files_in_kilobytes() -> None:
    """They were "0.0 MB"."""
    report = describe(NANO)
    assert report["files"]["calibration.txt"] == f"{(NANO / 'calibration.txt').stat().st_size / 1e3:.1f} kB"
    assert report["files"]["mllm/model.safetensors"].endswith(" MB")
