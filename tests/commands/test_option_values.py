"""Sizes of memory on the command line."""

from __future__ import annotations

import pytest

from omnigen2_rt.commands.option_values import memory_bytes
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
