"""The GPU benchmark of the graphs, end to end on the CPU with a tiny bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.exporting import GOLDENS
from tests.tensorrt_stubs import ROOT


def test_benchmark_of_graphs_on_a_cpu_prints_its_result(bundles: dict[str, Path]) -> None:
    folders = [str(GOLDENS / "A" / "checkpoint"), str(bundles["A"])]
    sizes = ["--device", "cpu", "--size", "64", "--text-tokens", "16", "--repeat", "1"]
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / "graphs_on_cuda.py"), *folders, *sizes]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert result["matmul_tflops"] > 0
    assert {name: case["joint_tokens"] for name, case in result["cases"].items()} == {"text": 32, "+1 image": 48}
    for case in result["cases"].values():
        assert min(case["graphs"]["median_ms"], case["floor_ms"]) > 0
