"""The cold start: a new process imports the package, opens a bundle and draws a picture.

    python benchmarks/cold_start.py BUNDLE [--size 128] [--steps 8] [--repeats 5]

Prints a JSON document with medians: `import_s` is the time of `import omnigen2_rt`, `first_picture_s` that of a whole process
with Python's own start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

IMPORT = "import time; t = time.perf_counter(); import omnigen2_rt; print(time.perf_counter() - t)"
DRAW = """
import sys, time
import omnigen2_rt as og
bundle, size, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
request = og.Request(prompt="a red square", height_px=size, width_px=size, steps=steps)
assert og.load(bundle, backend="ort-cpu").generate(request).images
"""


def measure(bundle: Path, size_px: int, steps: int, repeats: int) -> dict[str, Any]:
    """Medians over new processes. Raises CalledProcessError if one of them fails."""
    imports, pictures = [], []
    for _ in range(repeats):
        imports.append(float(_python(IMPORT)))
        started = time.perf_counter()
        _python(DRAW, str(bundle), str(size_px), str(steps))
        pictures.append(time.perf_counter() - started)
    return {
        "import_s": round(statistics.median(imports), 3),
        "first_picture_s": round(statistics.median(pictures), 3),
        "runs": {"import_s": imports, "first_picture_s": pictures},
        "settings": {"bundle": bundle.as_posix(), "size_px": size_px, "steps": steps, "repeats": repeats},
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_average": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("omnigen2-rt", "onnxruntime", "numpy")},
    }


def _python(code: str, *arguments: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.bundle, arguments.size, arguments.steps, arguments.repeats), indent=2))


if __name__ == "__main__":
    main()
