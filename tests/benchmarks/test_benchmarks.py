"""The benchmark programs run end to end at a tiny size."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from omnigen2_rt.exporter.checkpoint import Checkpoint
from omnigen2_rt.exporter.quantize.bundle import quantize_bundle
from omnigen2_rt.exporter.quantize.calibration import Calibration
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.manifest import GraphSpec

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/data/goldens/A/checkpoint"


def _program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


def _configuration(folder: Path) -> Path:
    for file in TINY.rglob("*.json"):
        if file.parent.name != "processor":
            target = folder / file.relative_to(TINY)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_random_checkpoint_in_shards_opens_strictly(tmp_path: Path, dtype: str) -> None:
    program = _program("random_checkpoint")
    configuration = _configuration(tmp_path / "configuration")
    parameters = program.write_checkpoint(configuration, tmp_path / "checkpoint", dtype=dtype, shard_bytes=500_000)
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    shapes = [location.shape for part in checkpoint.locations.values() for location in part.values()]
    assert sum(int(np.prod(shape)) for shape in shapes) == parameters
    assert len(list((tmp_path / "checkpoint/transformer").glob("*.safetensors"))) > 1


def test_random_checkpoint_smaller_vocabulary_than_the_tokenizer_is_refused(tmp_path: Path) -> None:
    configuration = _configuration(tmp_path / "configuration")
    config = json.loads((configuration / "mllm/config.json").read_text())
    (configuration / "mllm/config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    with pytest.raises(ValueError, match="vocab_size=100"):
        _program("random_checkpoint").write_checkpoint(configuration, tmp_path / "checkpoint")


def test_committed_configuration_is_the_one_the_claims_name() -> None:
    shapes = _program("random_checkpoint").tensor_shapes(ROOT / "benchmarks/configuration")
    assert shapes["transformer"]["layers.11.attn.to_k.weight"] == (240, 720)
    assert "layers.12.attn.to_k.weight" not in shapes["transformer"]
    assert shapes["mllm"]["model.layers.3.mlp.down_proj.weight"][0] == 512
    assert shapes["vae"]["encoder.conv_in.weight"][0] == 64


def test_cold_start_on_the_tiny_bundle_measures_both_times(bundles: dict[str, Path]) -> None:
    results = _program("cold_start").measure(bundles["A"], size_px=32, steps=1, repeats=1)
    assert 0 < results["import_s"] < results["first_picture_s"]


WORKER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from turns import Turns

name, pause_s = sys.argv[2], float(sys.argv[3])
turns = Turns()
turns.introduce({"versions": {}})
for job in turns.jobs():
    for step in range(job["steps"]):
        print("what a library prints")
        with open(sys.argv[4], "a") as log:
            log.write(name)
        time.sleep(pause_s)
        turns.end_step()
    np.save(job["latents"], np.full(3, 1 + pause_s))
    turns.end_job({"transformer_s": pause_s})
"""


def test_against_original_takes_turns_and_sums_each_workers_time(tmp_path: Path) -> None:
    """Fake workers stand in for the original, which isn't installed."""
    program, log = _program("against_original"), tmp_path / "log"
    (tmp_path / "worker.py").write_text(WORKER)
    workers = []
    for variant, name, pause_s in (("original fp32", "a", 0.5), (program.BARE, "b", 0.25), ("OpenVINO bf16", "c", 0.125)):
        command = [sys.executable, str(tmp_path / "worker.py"), str(ROOT / "benchmarks"), name, str(pause_s), str(log)]
        workers.append(program.Worker(program.VARIANTS[variant], command, 1))
    job = program.make_job("editing", 32, 3, tmp_path)
    program.race(workers, job, tmp_path)
    for worker in workers:
        worker.close()
    assert log.read_text() == "abc" + "bca" + "cab"  # one step each; every round starts with another worker
    results = program.summary(workers, tmp_path)
    assert all(len(entry["turns_s"]) == 4 for entry in results.values())
    original, ours = results["original fp32"], results["OpenVINO bf16"]
    assert original["seconds"] == pytest.approx(sum(original["turns_s"]), abs=1e-3) and original["seconds"] >= 1.5
    assert ours["times_faster_than"] == {"original fp32": pytest.approx(original["seconds"] / ours["seconds"], rel=0.05)}
    assert ours["transformer_over_bare"] == 0.5
    assert ours["relative_error"] == pytest.approx(0.25)
    table = program.table({"editing": results})
    assert f"{ours['times_faster_than']['original fp32']:.2f} x" in table and "x the time of bare OpenVINO" in table


def test_against_original_names_the_worker_that_ended(tmp_path: Path) -> None:
    program = _program("against_original")
    with pytest.raises(RuntimeError, match="original bf16 ended with 3"):
        program.Worker(program.VARIANTS["original bf16"], [sys.executable, "-c", "raise SystemExit(3)"], 1)


def test_our_worker_draws_and_runs_the_bare_graph(bundles: dict[str, Path], tmp_path: Path) -> None:
    program = _program("against_original")
    workers = []
    for name, precision in (("OpenVINO bf16 TaylorSeer", "fp32"), (program.BARE, "fp32")):
        variant = dataclasses.replace(program.VARIANTS[name], precision=precision)
        arguments = argparse.Namespace(threads=1)
        command = program.command(variant, arguments, tmp_path, {None: bundles["A"]})
        workers.append(program.Worker(variant, command, 1))
    program.race(workers, program.make_job("text_to_image", 32, 2, tmp_path), tmp_path)
    for worker in workers:
        worker.close()
    ours, bare = (worker.result for worker in workers)
    assert ours is not None and bare is not None and 0 < ours["transformer_s"] and 0 < bare["transformer_s"]
    assert np.isfinite(np.load(program.latents_file(tmp_path, workers[0].variant.name))).all()
    assert workers[0].description["versions"]["numpy"] == np.__version__


def test_transformer_ways_run_what_they_name(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Calibration(prompts=("a red cube",), size_px=32, steps=1, threads=1)
    made = {"bundle": bundles["A"]}
    for name, scheme in (("int8", "int8"), ("int8_weights", "int8-weights")):
        made[name] = tmp_path / name
        quantize_bundle(bundles["A"], made[name], scheme, calibration=small)
    program = _program("transformer_ways")
    names = ("rotate_by_products", "split_feed_forward", "align_products", "take_products_apart")
    rewrites = {name: getattr(program.rewrites, name) for name in names}
    read_rewritten, session_options = program.rewrites.read_rewritten, program.session_options
    compiled, entries = [], []

    def noted_read(bundle: Bundle, spec: GraphSpec, *options: Any) -> Any:
        left_out = [name for name, rewrite in rewrites.items() if getattr(program.rewrites, name) is not rewrite]
        compiled.append(tuple(left_out))
        return read_rewritten(bundle, spec, *options)

    def noted_options(given: dict[str, str]) -> Any:
        entries.append(given)
        return session_options(given)

    monkeypatch.setattr("omnigen2_rt.runtime.backends.openvino.backend.read_rewritten", noted_read)
    monkeypatch.setattr(program, "session_options", noted_options)
    measured = program.measure(made, size_px=32, threads=2, rounds=1)
    assert compiled == [(), *((name,) for name in names[:3]), (), names[3:]]
    assert entries == [{}, {}, {}, {}, {"session.qdq_matmulnbits_accuracy_level": "1"}]
    assert list(measured) == list(program.WAYS)
    assert all(row["median_s"] > 0 for row in measured.values())
    away = {name: row["relative_difference"] for name, row in measured.items() if not name.endswith(("int8", "joined", "token"))}
    assert all(error < 0.2 for error in away.values()), away  # int8 was calibrated on other inputs than random ones
    assert not list(made["int8"].glob("*.tmp.onnx"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux says how much of a process is resident")
def test_memory_measures_a_drawing_and_a_step(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    arguments = ["--precision", "fp32", "--sizes", "32", "--steps", "2", "--forward", "64", "--references", "1"]
    monkeypatch.setattr("sys.argv", ["memory", str(bundles["A"]), *arguments, "--json", str(report)])
    _program("memory").main()
    report_read = json.loads(report.read_text())
    drawing, step = report_read["drawing 32"], report_read["step 64 with 1 references"]
    assert drawing["finite"] and drawing["step_s"] > 0
    assert drawing["peak_resident_bytes"] > step["resident_bytes_before"] / 2 > 0
    tokens = 2 * (64 // 8 // 2) ** 2
    assert step["bytes_above"] > tokens * 64 * 4  # at least the hidden states
    assert [line.split(" {")[0] for line in capsys.readouterr().out.splitlines()] == ["drawing 32", "step 64 with 1 references"]
