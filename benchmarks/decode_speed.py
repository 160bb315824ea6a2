"""Our language model compared with transformers' `generate` with its KV cache: prefill seconds and decode tokens per second.

    python benchmarks/decode_speed.py [--prompts 64 512] [--new-tokens 64] [--repeats 5] [--work DIR] [--json FILE]

Both run the same random Qwen2.5-VL text model (375 M parameters in float32, the published vocabulary) alternately in one process
with the same threads; ours also with 8-bit weights. Prints a table and a JSON document. A ratio is that of our median speed to
theirs. `same_tokens` counts the tokens before the first difference. `load_averages` show whether the machine was idle: before a
run they should be near 0.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.generation.streamers import BaseStreamer

import omnigen2_rt as og
from omnigen2_rt.runtime.chat.sampling import Sampler, Sampling
from omnigen2_rt.runtime.chat.token_generation import GenerationState, generate_tokens
from omnigen2_rt.runtime.mllm.language_model import Tokens
from omnigen2_rt.runtime.pipeline import Pipeline

HERE = Path(__file__).parent
TINY = HERE.parent / "tests/data/goldens/A/checkpoint"
LANGUAGE_MODEL = {
    "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 16, "num_attention_heads": 14,
    "num_key_value_heads": 2, "rope_scaling": {"mrope_section": [8, 12, 12], "type": "default"},
}  # fmt: skip
"""Qwen2.5-0.5B with 16 of its 24 layers. The other networks have a golden checkpoint's size and aren't run."""
PACKAGES = ("omnigen2-rt", "onnxruntime", "numpy", "torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One answer.

    prefill_s: seconds up to the first token.
    decode_s: seconds from the first token to the last.
    """

    prefill_s: float
    decode_s: float
    tokens: list[int]

    @property
    def tokens_per_s(self) -> float:
        return (len(self.tokens) - 1) / self.decode_s


class TokenTimes(BaseStreamer):
    """Records the times of the prompt and of every token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        return


class Transformers:
    """transformers' model of the checkpoint."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint / "mllm", dtype=torch.float32).eval()

    def write(self, ids: Sequence[int], new_tokens: int) -> Run:
        prompt = torch.tensor([list(ids)])
        streamer = TokenTimes()
        started = time.perf_counter()
        output = self._model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, min_new_tokens=new_tokens,
            do_sample=False, repetition_penalty=1.0, use_cache=True, pad_token_id=0, streamer=streamer,
        )  # fmt: skip
        times = streamer.times[1:]
        return Run(prefill_s=times[0] - started, decode_s=times[-1] - times[0], tokens=output[0, len(ids) :].tolist())


class Ours:
    """Our runtime on a bundle."""

    def __init__(self, bundle: Path, threads: int) -> None:
        self._pipeline: Pipeline = og.load(bundle, backend="ort-cpu", precision="fp32", threads=threads)

    def write(self, ids: Sequence[int], new_tokens: int) -> Run:
        model = self._pipeline.language_model
        sampler = Sampler(Sampling(), model.chat.stop_token_ids)
        started = time.perf_counter()
        hidden, cache = model.read(Tokens.text(ids))
        state, times = GenerationState(cache), []
        for _ in generate_tokens(model, state, hidden[-1:], [sampler], (), new_tokens):
            times.append(time.perf_counter())
        return Run(prefill_s=times[0] - started, decode_s=times[-1] - times[0], tokens=state.answers[0])


def make_checkpoint(folder: Path, language_model: dict[str, Any] = LANGUAGE_MODEL) -> Path:
    """The random checkpoint in the official layout, written unless it exists. language_model: overrides of its config."""
    checkpoint, configuration = folder / "checkpoint", folder / "configuration"
    if checkpoint.exists():
        return checkpoint
    from random_checkpoint import write_checkpoint

    for file in TINY.rglob("*.json"):
        if file.parent.name != "processor":
            target = configuration / file.relative_to(TINY)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    config = configuration / "mllm/config.json"
    stored = json.loads(config.read_text(encoding="utf-8"))
    stored["vision_config"]["out_hidden_size"] = language_model["hidden_size"]
    config.write_text(json.dumps({**stored, **language_model}), encoding="utf-8")
    write_checkpoint(configuration, checkpoint, dtype="fp32")
    return checkpoint


def make_bundle(checkpoint: Path, bundle: Path) -> Path:
    """The checkpoint's bundle, exported unless it exists."""
    from omnigen2_rt.exporter.export import export_bundle

    if not bundle.exists():
        export_bundle(checkpoint, bundle, precisions=("fp32",))
    return bundle


def make_8_bit(bundle: Path, target: Path) -> Path:
    """The bundle with 8-bit weights in its language model, quantized unless it exists."""
    from omnigen2_rt.exporter.quantize.bundle import quantize_bundle
    from omnigen2_rt.exporter.quantize.schemes import INT8_BLOCKS, LANGUAGE, Scheme

    if not target.exists():
        scheme = Scheme(name="int8-weights of language", help="", components=dict.fromkeys(LANGUAGE, INT8_BLOCKS))
        quantize_bundle(bundle, target, scheme)
    return target


def measure(sides: dict[str, Any], prompt_tokens: int, new_tokens: int, repeats: int) -> dict[str, Any]:
    """Run every side in turn, `repeats` times. Returns medians, and ratios to the first side."""
    rng = np.random.default_rng(prompt_tokens)
    ids = rng.integers(700, 150_000, prompt_tokens).tolist()
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            runs[name].append(side.write(ids, new_tokens))
    first, *others = runs
    prefill = {name: statistics.median(run.prefill_s for run in done) for name, done in runs.items()}
    speed = {name: statistics.median(run.tokens_per_s for run in done) for name, done in runs.items()}
    return {
        "prefill_s": _rounded(prefill),
        "decode_tokens_per_s": _rounded(speed),
        "prefill_ratio": _rounded({name: prefill[first] / prefill[name] for name in others}),
        "decode_ratio": _rounded({name: speed[name] / speed[first] for name in others}),
        "same_tokens": {name: _common_prefix(runs[first][0].tokens, runs[name][0].tokens) for name in others},
        "runs": {
            name: [[round(run.prefill_s, 4), round(run.tokens_per_s, 2)] for run in done] for name, done in runs.items()
        },
    }


def _common_prefix(expected: list[int], actual: list[int]) -> int:
    """The number of tokens before the first difference."""
    pairs = zip(expected, actual, strict=True)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), len(expected))


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def table(prompts: dict[str, Any]) -> str:
    lines = [f"{'prompt tokens':14}{'':14}{'prefill s':>10}{'tokens/s':>10}{'prefill x':>11}{'decode x':>10}"]
    for prompt, results in prompts.items():
        for name, seconds in results["prefill_s"].items():
            ratios = [results[kind].get(name) for kind in ("prefill_ratio", "decode_ratio")]
            texts = [f"{ratio:.2f}" if ratio else "" for ratio in ratios]
            speed = results["decode_tokens_per_s"][name]
            lines.append(f"{prompt:14}{name:14}{seconds:10.3f}{speed:10.2f}{texts[0]:>11}{texts[1]:>10}")
    return "\n".join(lines)


def run(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run the whole benchmark, after a short unmeasured warm-up of each side."""
    checkpoint = make_checkpoint(work)
    bundle = make_bundle(checkpoint, work / "bundle")
    before = os.getloadavg()
    sides = {
        "transformers": Transformers(checkpoint, arguments.threads),
        "ours": Ours(bundle, arguments.threads),
        "ours, 8 bit": Ours(make_8_bit(bundle, work / "bundle-8-bit"), arguments.threads),
    }
    for side in sides.values():
        side.write([1000, 2000, 3000, 4000], 4)
    prompts = {str(tokens): measure(sides, tokens, arguments.new_tokens, arguments.repeats) for tokens in arguments.prompts}
    return {
        "machine": machine(),
        "load_averages": {"before": before, "after": os.getloadavg()},
        "settings": {"new_tokens": arguments.new_tokens, "repeats": arguments.repeats, "threads": arguments.threads},
        "model": LANGUAGE_MODEL,
        "prompts": prompts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 512], help="tokens of each measured prompt")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keep the checkpoint and the bundles in this folder")
    parser.add_argument("--json", type=Path, help="also write the JSON document here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report = run(arguments, arguments.work or Path(temporary))
    print(table(report["prompts"]))
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
