"""The memory and the speed of `omnigen2 batch` itself, without a model: rows of plain pictures into a temporary folder, on Linux.

    python benchmarks/batch_memory.py [--rows 5000] [--format jsonl] [--json FILE]

A pipeline's double draws a 16×16 picture at once, so that the figures are those of reading rows and of writing pictures and the
manifest. Then the same batch is run again, which draws nothing. Resident memory is read at ten places of each run.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from omnigen2_rt.batch.driver import draw_here, run_batch
from omnigen2_rt.batch.manifest import Record
from omnigen2_rt.batch.outputs import FolderOutput
from omnigen2_rt.batch.progress import Progress
from omnigen2_rt.batch.rows import RowFile
from omnigen2_rt.commands.bench import machine_facts
from omnigen2_rt.runtime.request import Request, Result


class PlainPipeline:
    """Draws a plain picture, whose colour is the seed's."""

    backend = SimpleNamespace(name="none", precision="fp32")
    bundle = SimpleNamespace(manifest=SimpleNamespace(loras=()))

    def generate(self, request: Request) -> Result:
        image = Image.new("RGB", (16, 16), (request.seed % 256, 0, 0))
        return Result(images=[image], latents=np.zeros((1, 1, 1, 1), np.float32), steps=(), timings={}, request=request)

    def close(self) -> None:
        """There is nothing to free."""


def rows(count: int) -> Iterator[dict[str, Any]]:
    return ({"id": f"row-{number}", "prompt": f"a picture of {number:0180d}", "seed": number} for number in range(count))


def write_rows(path: Path, count: int) -> None:
    """A file of so many rows, of the format that its name ends with."""
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(rows(count))), path)
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            table = csv.DictWriter(file, ("id", "prompt", "seed"))
            table.writeheader()
            table.writerows(rows(count))
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows(count))


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def measure(path: Path, folder: Path) -> dict[str, Any]:
    """One run: its seconds, what became of the rows, and resident memory by rows done."""
    started, resident = time.perf_counter(), {0: resident_bytes()}
    file, output = RowFile.open(path), FolderOutput(folder)

    def note(record: Record, place: str, progress: Progress) -> None:
        if progress.done % max(1, progress.total // 10) == 0:
            resident[progress.done] = resident_bytes()

    try:
        progress = run_batch(file, "0" * 64, output, draw_here(PlainPipeline(), "none"), note)  # type: ignore[arg-type]
    finally:
        output.close()
    seconds = round(time.perf_counter() - started, 2)
    return {"seconds": seconds, "drawn": progress.drawn, "kept": progress.kept, "resident_bytes": resident}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--format", choices=("jsonl", "csv", "parquet"), default="jsonl")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{options.format}"
        write_rows(path, options.rows)
        runs = {name: measure(path, Path(folder) / "out") for name in ("first", "again")}
    text = json.dumps({**machine_facts(), "rows": options.rows, "format": options.format, "runs": runs}, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
