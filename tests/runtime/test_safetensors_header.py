"""Headers of safetensors files: the tensors' locations, and the files that are refused."""

from __future__ import annotations

import ast
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from omnigen2_rt.runtime.files import safetensors_header
from omnigen2_rt.runtime.files.safetensors_header import read_header, tensor_locations
from tests.runtime.goldens import CONFIGS, GOLDENS

Header = dict[str, Any]
FOUR_FLOATS: Header = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def write(path: Path, header: Header | str, data_bytes: int = 16) -> Path:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data_bytes))
    return path


def write_shards(folder: Path, weight_map: dict[str, str], **shards: list[str]) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for stem, names in shards.items():
        save_file({name: np.zeros(2, np.float32) for name in names}, folder / f"{stem}.safetensors")
    return folder


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("part", ["vae", "transformer", "mllm"])
def test_locations_cover_each_file_of_a_checkpoint(config: str, part: str) -> None:
    folder = GOLDENS / config / "checkpoint" / part
    locations = tensor_locations(folder)
    files = sorted(folder.glob("*.safetensors"))
    assert {location.path for location in locations.values()} == set(files)
    for file in files:
        ends = sorted((p.offset, p.offset + p.nbytes) for p in locations.values() if p.path == file)
        assert all(end == start for (_, end), (start, _) in zip(ends, ends[1:], strict=False))
        assert ends[-1][1] == file.stat().st_size


def test_location_points_at_the_bytes_of_the_tensor(tmp_path: Path) -> None:
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.int64), "c": np.float16(7)}
    save_file({name: np.asarray(value) for name, value in tensors.items()}, tmp_path / "model.safetensors")
    locations = tensor_locations(tmp_path)
    raw = (tmp_path / "model.safetensors").read_bytes()
    for name, value in load_file(tmp_path / "model.safetensors").items():
        location = locations[name]
        assert raw[location.offset : location.offset + location.nbytes] == value.tobytes()
        assert location.shape == value.shape
    assert {name: location.dtype for name, location in locations.items()} == {"a": "F32", "b": "I64", "c": "F16"}


def test_locations_of_empty_tensors_and_metadata_are_sound(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "none": {"dtype": "BF16", "shape": [0, 4], "data_offsets": [0, 0]}}
    locations = read_header(write(tmp_path / "x.safetensors", header | {"w": FOUR_FLOATS}))
    assert list(locations) == ["none", "w"]
    assert locations["none"].nbytes == 0


def test_module_imports_the_standard_library_alone() -> None:
    tree = ast.parse(Path(safetensors_header.__file__).read_text(encoding="utf-8"))
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported = [module for module in imported if module not in ("errors", "json_text", "reading", "schema")]  # of the same kind
    imported += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert {str(name).partition(".")[0] for name in imported} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("header", "data_bytes", "message"),
    [
        ({"w": FOUR_FLOATS}, 15, "is truncated: tensor 'w' ends at byte"),
        ("{", 0, "has a header that is not JSON"),
        ("[]", 0, "has a header that is not a JSON object"),
        ({"w": {"dtype": "F32", "shape": [2]}}, 8, "tensor 'w' lacks dtype, shape or data_offsets"),
        ({"w": 3}, 8, "tensor 'w' lacks dtype, shape or data_offsets"),
        ({"w": {**FOUR_FLOATS, "dtype": "C64"}}, 16, "tensor 'w' has dtype 'C64'; known are"),
        ({"w": {**FOUR_FLOATS, "dtype": ["F32"]}}, 16, r"tensor 'w' has dtype \['F32'\]; known are"),
        ({"w": {**FOUR_FLOATS, "shape": [-2, -2]}}, 16, "integers from 0 up"),
        ({"w": {**FOUR_FLOATS, "shape": [2, 3]}}, 16, "tensor 'w' takes 16 bytes, its shape and dtype 24"),
        ({"w": {**FOUR_FLOATS, "data_offsets": [-16, 0]}}, 16, "integers from 0 up"),
        ({"v": FOUR_FLOATS, "w": {**FOUR_FLOATS, "data_offsets": [8, 24]}}, 24, "tensors 'v' and 'w' overlap"),
        ('{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "w": {}}', 16, "names 'w' twice"),
    ],
)
def test_malformed_file_is_refused_by_name(tmp_path: Path, header: Any, data_bytes: int, message: str) -> None:
    path = write(tmp_path / "broken.safetensors", header, data_bytes)
    with pytest.raises(ValueError, match=message) as error:
        read_header(path)
    assert "broken.safetensors" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"1234567", struct.pack("<Q", 100) + b"{}", b"\xff" * 40])
def test_file_without_a_whole_header_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="model.safetensors is truncated or no safetensors file"):
        tensor_locations(tmp_path)


def shard_missing(folder: Path) -> None:
    write_shards(folder, {"a": "one.safetensors", "b": "two.safetensors"}, one=["a"])


def tensor_missing(folder: Path) -> None:
    write_shards(folder, {"a": "one.safetensors", "b": "one.safetensors"}, one=["a"])


def tensor_twice(folder: Path) -> None:
    write_shards(folder, {"a": "one.safetensors", "b": "two.safetensors"}, one=["a"], two=["a", "b"])


def tensor_unnamed(folder: Path) -> None:
    write_shards(folder, {"a": "one.safetensors"}, one=["a", "b"])


def shard_outside(folder: Path) -> None:
    write_shards(folder, {"a": "../one.safetensors"})


def index_empty(folder: Path) -> None:
    write_shards(folder, {})


def index_broken(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{")


def file_and_index(folder: Path) -> None:
    write_shards(folder, {"a": "model.safetensors"}, model=["a"])


def several_files(folder: Path) -> None:
    write(folder / "one.safetensors", {"a": FOUR_FLOATS})
    write(folder / "two.safetensors", {"a": FOUR_FLOATS})


def nothing(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (shard_missing, r"two\.safetensors is missing; model\.safetensors\.index\.json names it"),
        (tensor_missing, r"one\.safetensors lacks tensors that .* places there: b"),
        (tensor_twice, r"two\.safetensors holds tensors that another shard holds too: a"),
        (tensor_unnamed, r"index\.json does not name tensors that its shards hold: b"),
        (shard_outside, r"names the shard '\.\./one\.safetensors'; a \.safetensors file in its own folder"),
        (index_empty, "has no weight_map"),
        (index_broken, "that is not JSON"),
        (file_and_index, "keep the one that is meant"),
        (several_files, r"holds \['one\.safetensors', 'two\.safetensors'\]; keep the one that is meant"),
        (nothing, "holds no weights; expected one of"),
    ],
)
def test_folder_that_is_not_whole_is_refused(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        tensor_locations(tmp_path)


def test_only_file_of_another_name_is_taken(tmp_path: Path) -> None:
    write(tmp_path / "diffusion_pytorch_model.fp16.safetensors", {"w": FOUR_FLOATS})
    assert list(tensor_locations(tmp_path)) == ["w"]


def test_git_lfs_pointer_says_so(tmp_path: Path) -> None:
    pointer = tmp_path / "model.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3169968\n")
    with pytest.raises(ValueError, match=r"model\.safetensors is a git-lfs pointer: fetch the file itself"):
        read_header(pointer)


def test_message_about_a_long_value_is_one_line(tmp_path: Path) -> None:
    header = json.dumps({"w\n\x1b[2J" * 500: {"dtype": "x" * 5000, "shape": [], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="model.safetensors: tensor") as caught:
        read_header(tmp_path / "model.safetensors")
    assert len(str(caught.value)) <= 300 and str(caught.value).isprintable()
