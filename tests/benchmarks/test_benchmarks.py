"""The benchmark programs run end to end at a tiny size; what they measure is theirs to say."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from omnigen2_rt.exporter.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests/data/goldens/A/checkpoint"


def _program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
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
    parameters = program.write_checkpoint(configuration, tmp_path / "made", dtype=dtype, shard_bytes=500_000)
    opened = Checkpoint.open(tmp_path / "made")
    places = [place for part in opened.locations.values() for place in part.values()]
    assert sum(int(np.prod(place.shape)) for place in places) == parameters
    assert len(list((tmp_path / "made/transformer").glob("*.safetensors"))) > 1


def test_random_checkpoint_smaller_vocabulary_than_the_tokenizer_is_refused(tmp_path: Path) -> None:
    configuration = _configuration(tmp_path / "configuration")
    config = json.loads((configuration / "mllm/config.json").read_text())
    (configuration / "mllm/config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    with pytest.raises(ValueError, match="vocab_size=100"):
        _program("random_checkpoint").write_checkpoint(configuration, tmp_path / "made")


def test_committed_configuration_is_the_one_the_claims_name() -> None:
    shapes = _program("random_checkpoint").tensor_shapes(ROOT / "benchmarks/configuration")
    assert shapes["transformer"]["layers.11.attn.to_k.weight"] == (240, 720)
    assert "layers.12.attn.to_k.weight" not in shapes["transformer"]
    assert shapes["mllm"]["model.layers.3.mlp.down_proj.weight"][0] == 512
    assert shapes["vae"]["encoder.conv_in.weight"][0] == 64


def test_cold_start_on_the_tiny_bundle_measures_both_times(bundles: dict[str, Path]) -> None:
    found = _program("cold_start").measure(bundles["A"], size_px=32, steps=1, repeats=1)
    assert 0 < found["import_s"] < found["first_picture_s"]


def test_against_original_counts_what_both_sides_gave(tmp_path: Path) -> None:
    """The worker's side is played by a stand-in: the original isn't here."""
    program = _program("against_original")
    job = program.make_job("editing", 32, 2, tmp_path)

    class StandIn:
        def draw(self, message: dict[str, object]) -> dict[str, object]:
            np.save(str(message["latents"]), np.ones(3))
            return {"seconds": 2.0, "steps_s": [1.0]}

    def ours(pipeline: object, job: object, taylorseer: bool, latents: Path) -> dict[str, object]:
        np.save(latents, np.full(3, 1.5 if pipeline is None else 1.25))
        return {"seconds": 0.5 if taylorseer else 1.0, "steps_s": [0.5], "stages_s": {"denoising": 1.0}}

    program.draw_ours = ours
    found = program.measure({"ours": None, "openvino-bf16": object()}, StandIn(), job, 3, tmp_path)
    others = {"openvino-bf16_exact": 2.0, "openvino-bf16_taylorseer": 4.0}
    assert found["ratios"] == {"exact": 2.0, "taylorseer": 4.0, "taylorseer_against_its_own": 4.0, **others}
    assert found["latents_relative_error"]["openvino-bf16_exact"] == 0.25
    assert found["latents_max_difference"] == {"exact": 0.5, "taylorseer": 0.5}
    assert "2.00 x faster" in program.table({"editing": found})
