"""Sizes of memory and files of noise on the command line."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from omnigen2_rt.commands.option_values import memory_bytes, read_latents
from omnigen2_rt.runtime.errors import RequestError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("4GiB", 4 * 2**30),
        ("512MiB", 2**29),
        ("1.5GB", 1_500_000_000),
        ("0.1GiB", 107_374_182),
        ("500 mb", 5 * 10**8),
        ("4G", 4 * 10**9),
        ("4Gi", 4 * 2**30),
        ("100KB", 10**5),
        ("1TB", 10**12),
        ("8B", 8),
        (" 7kib ", 7168),
    ],
)
def test_memory_limit_with_a_unit_is_that_many_bytes(text: str, size: int) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["8", "4096", "1.5"])
def test_memory_limit_without_a_unit_is_refused_with_advice(text: str) -> None:
    """`--memory-limit 8` was 8 bytes: drawing took minutes."""
    advice = f"lacks a unit: say {text}GB, {text}GiB or {text}MB; B is bytes"
    with pytest.raises(RequestError, match=f"--memory-limit '{text}' {advice}"):
        memory_bytes(text)


@pytest.mark.parametrize(
    "text", ["", "GB", "-4GB", "4 G B", "4XB", "4GBB", "nan", "infGB", "1e9B", "4iB", "٤GB", "1_000MB", "9" * 99 + "GB", "4GB\n5"]
)
def test_memory_limit_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is not a size such as 4GB, 4GiB or 512MiB"):
        memory_bytes(text)


@pytest.mark.parametrize("text", ["0GB", "0.4B"])
def test_memory_limit_below_a_byte_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="below the smallest size, 1 byte"):
        memory_bytes(text)


def test_latents_with_a_header_of_gigabytes_are_refused_before_it_is_read(tmp_path: Path) -> None:
    """numpy takes memory for all of an announced header."""
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(b"\x93NUMPY\x02\0" + struct.pack("<I", 1_500_000_000))
        file.truncate(1_500_000_012)
    with pytest.raises(RequestError, match="can't be read: its header is longer than 65536 bytes"):
        read_latents(tmp_path / "a.npy")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_latents_of_any_version_are_read_without_a_warning(tmp_path: Path, version: tuple[int, int]) -> None:
    latents = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, latents, version)
    np.testing.assert_array_equal(read_latents(tmp_path / "a.npy"), latents)


def test_latents_saved_by_python_2_are_read_without_a_warning(tmp_path: Path) -> None:
    """numpy's warning appeared before the command's own line."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1L, 1L, 1L, 2L), }\n"
    data = np.array([1, 2], "<f4").tobytes()
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + data)
    assert read_latents(tmp_path / "a.npy").tolist() == [[[[1.0, 2.0]]]]
