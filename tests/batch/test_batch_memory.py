"""The memory of a batch doesn't grow with its rows."""

from __future__ import annotations

import csv
import tracemalloc
from pathlib import Path

from omnigen2_rt.batch.driver import draw_here, run_batch
from omnigen2_rt.batch.manifest import Record
from omnigen2_rt.batch.progress import Progress
from omnigen2_rt.batch.rows import RowFile
from tests.batch.doubles import BUNDLE, FakePipeline

ROWS = 5000
MOST_GROWTH_BYTES = 200_000
"""A row's prompt has 200 characters: all of them would take five times as much."""


class Sink:
    """An output that keeps nothing but counts."""

    manifest, keeps_whole = "nowhere", False
    files = lines_written = 0

    def size(self, name: str) -> int | None:
        return None

    def read(self, name: str) -> bytes | None:
        return None

    def write(self, name: str, content: bytes) -> None:
        self.files += 1

    def lines(self) -> list[bytes]:
        return []

    def append(self, line: bytes) -> None:
        self.lines_written += 1

    def close(self) -> None:
        pass


def test_memory_of_a_batch_is_flat_over_its_rows(tmp_path: Path) -> None:
    path, output = tmp_path / "rows.csv", Sink()
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "prompt"])
        table.writerows([f"row-{number}", f"{number:0200d}"] for number in range(ROWS))
    sizes: dict[int, int] = {}

    def note(record: Record, place: str, progress: Progress) -> None:
        if progress.done % 1000 == 0:
            sizes[progress.done] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        run_batch(RowFile.open(path), BUNDLE, output, draw_here(FakePipeline(keeps_prompts=False), "nano"), note)
    finally:
        tracemalloc.stop()
    assert (output.files, output.lines_written) == (ROWS, ROWS)
    assert sizes[ROWS] - sizes[1000] < MOST_GROWTH_BYTES, sizes
