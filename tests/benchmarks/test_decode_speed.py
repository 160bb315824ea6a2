"""The decode benchmark's arithmetic, and that both sides open its checkpoint."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from omnigen2_rt.exporter.checkpoint import Checkpoint

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = {
    "vocab_size": 700, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rope_scaling": {"mrope_section": [2, 3, 3], "type": "default"},
}  # fmt: skip


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("benchmark_decode_speed", BENCHMARKS / "decode_speed.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


def test_checkpoint_opens_strictly_on_both_sides(program: ModuleType, tmp_path: Path) -> None:
    checkpoint = program.make_checkpoint(tmp_path, TINY)
    assert Checkpoint.open(checkpoint).mllm.num_hidden_layers == 2
    run = program.Transformers(checkpoint, 1).write([5, 6, 7], 4)
    assert len(run.tokens) == 4 and run.prefill_s > 0 and run.tokens_per_s > 0


def test_ratios_are_of_medians_in_tokens_per_second(program: ModuleType) -> None:
    class Side:
        def __init__(self, tokens: list[int], *seconds: float) -> None:
            self._tokens, self._seconds = tokens, list(seconds)

        def write(self, ids: Sequence[int], new_tokens: int) -> Any:
            assert len(ids) == 8 and new_tokens == 3
            seconds = self._seconds.pop(0)
            return program.Run(prefill_s=seconds, decode_s=2 * seconds, tokens=self._tokens)

    sides = {"transformers": Side([1, 2, 3], 4.0, 2.0, 99.0), "ours": Side([1, 2, 9], 1.0, 2.0, 0.5)}
    results = program.measure(sides, 8, 3, 3)
    assert results["prefill_s"] == {"transformers": 4.0, "ours": 1.0}
    assert results["decode_tokens_per_s"] == {"transformers": 0.25, "ours": 1.0}
    assert (results["prefill_ratio"], results["decode_ratio"]) == ({"ours": 4.0}, {"ours": 4.0})
    assert results["same_tokens"] == {"ours": 2}
    assert "4.00" in program.table({"8": results})
