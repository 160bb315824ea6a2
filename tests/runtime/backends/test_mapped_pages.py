"""Released pages of mapped files: only unchanged ones, and read from the file again."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from omnigen2_rt.runtime.backends import open_backend
from omnigen2_rt.runtime.backends.openvino import mapped_pages
from omnigen2_rt.runtime.backends.openvino.mapped_pages import release_pages
from omnigen2_rt.runtime.bundle import Bundle

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="release_pages works on Linux only")

BYTES = 64 * mmap.PAGESIZE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * (BYTES // 256))
    return path


def resident(path: Path) -> int:
    """Bytes of a file's mappings in this process that lie in memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [index for index, line in enumerate(lines) if line.endswith(f" {path}")]
    sizes = [next(line for line in lines[start:] if line.startswith("Rss:")) for start in starts]
    return sum(int(size.split()[1]) * 1024 for size in sizes)


def test_pages_of_a_read_file_are_released_and_read_again(file: Path) -> None:
    array = np.memmap(file, np.uint8, "r")
    total = int(array.sum())
    assert resident(file) == BYTES
    assert release_pages([array.ctypes.data + 5000]) == 1
    assert resident(file) == 0
    assert int(array.sum()) == total


def test_pages_that_may_have_changed_stay(file: Path) -> None:
    """A private copy of a file, and memory without one: releasing these would lose their contents."""
    own = np.ones(BYTES, np.uint8)
    array = np.memmap(file, np.uint8, "c")
    array[:] = 7
    assert release_pages([array.ctypes.data, own.ctypes.data, 0]) == 0
    assert (array == 7).all() and own.all()


def test_nothing_is_released_where_the_system_lists_no_mappings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.memmap(file, np.uint8, "r")
    monkeypatch.setattr(mapped_pages, "MAPS", file.parent / "missing")
    assert release_pages([array.ctypes.data]) == 0


def test_openvino_releases_weights_after_compiling_and_after_the_first_run(
    storeless_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle is a copy because other tests may have mapped the original."""
    file = next(storeless_bundle.path.joinpath("transformer").glob("*.safetensors"))
    sizes: list[tuple[int, int]] = []

    def recorded(addresses: Iterable[int]) -> int:
        before, count = resident(file), release_pages(addresses)
        sizes.append((before, resident(file)))
        return count

    monkeypatch.setattr("omnigen2_rt.runtime.backends.openvino.backend.release_pages", recorded)
    backend = open_backend(storeless_bundle, "openvino", "fp32", threads=1)
    rng = np.random.default_rng(0)

    def feeds(tokens: int) -> dict[str, np.ndarray]:
        tables = {name: rng.standard_normal((tokens, 12), np.float32) for name in ("cos", "sin")}
        return {"prompt_embeds": rng.standard_normal((1, tokens, 64), np.float32), **tables}

    first, other = feeds(5), feeds(9)
    session = backend.open("context_refiner")
    contexts = [backend.to_host(session.run(one)["context"]) for one in (first, other, first)]
    assert len(sizes) == 2 and all(before > after == 0 for before, after in sizes)
    np.testing.assert_array_equal(contexts[0], contexts[2])
    again = backend.open("context_refiner").run(other)["context"]
    np.testing.assert_array_equal(contexts[1], backend.to_host(again))
