"""The kernel's benchmark, end to end in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.tensorrt_stubs import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is built for Linux only")
def test_benchmark_of_omni_rope_on_a_cpu_prints_its_result() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / "omni_rope.py"), "--device", "cpu", "--tiny"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr + finished.stdout
    result = json.loads(finished.stdout)
    assert result["machine"]["triton"] and result["copy_gigabytes_per_second"] > 0
    for entry in result["shapes"]:
        assert set(entry["microseconds"]) > {"kernel rows=2 warps=8", "torch eager", "copy of x"}
        assert all(errors["max_steps"] <= 1 for errors in entry["difference_from_meaning"].values())
