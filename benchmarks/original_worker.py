"""The original's own pipeline behind a pipe: one JSON request a line in, one JSON answer a line out.

Run by `against_original.py` with an interpreter that has the original's requirements; imports nothing of ours. It leaves the
original's code and arithmetic alone: it times the call, keeps the latents that go into the decoder, and makes the
VAE's encoder give its distribution's mode instead of an unseeded sample, so that two runs can be compared.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any


def main() -> None:
    original, checkpoint, threads = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print must not mix with the answers
    pipeline, torch = load(original, checkpoint, int(threads))
    versions = {name: version(name) for name in ("torch", "transformers", "diffusers")}
    print(json.dumps({"versions": versions, "threads": torch.get_num_threads()}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(draw(pipeline, torch, json.loads(line))), file=answers, flush=True)


def load(original: str, checkpoint: str, threads: int) -> tuple[Any, Any]:
    """The pipeline as the original's inference script makes it, in float32 on the CPU."""
    import torch

    torch.set_num_threads(threads)
    sys.path.insert(0, original)
    from diffusers import AutoencoderKL
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    from omnigen2.models.transformers.transformer_omnigen2 import OmniGen2Transformer2DModel
    from omnigen2.pipelines.omnigen2.pipeline_omnigen2 import OmniGen2Pipeline
    from omnigen2.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mode()
    dtype = torch.float32
    pipeline = OmniGen2Pipeline(
        transformer=OmniGen2Transformer2DModel.from_pretrained(checkpoint, subfolder="transformer", torch_dtype=dtype),
        vae=AutoencoderKL.from_pretrained(checkpoint, subfolder="vae", torch_dtype=dtype),
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(checkpoint, subfolder="scheduler"),
        mllm=Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, subfolder="mllm", torch_dtype=dtype),
        processor=AutoProcessor.from_pretrained(f"{checkpoint}/processor"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, torch


def draw(pipeline: Any, torch: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Draw once. job: the request's numbers, the files of prompt image and noise, and where the last latents go."""
    import numpy as np
    from PIL import Image

    kept: list[Any] = []
    marks: list[float] = []
    decode = pipeline.vae.decode

    def decode_and_keep(latents: Any, **options: Any) -> Any:
        config = pipeline.vae.config
        kept.append(((latents - config.shift_factor) * config.scaling_factor).numpy())
        return decode(latents, **options)

    images = [Image.open(path).convert("RGB") for path in job["images"]]
    pipeline.enable_taylorseer = job["taylorseer"]
    for module in (pipeline.transformer, *pipeline.transformer.layers):
        module.enable_taylorseer = False  # the pipeline sets it where it is wanted, and never back
    pipeline.vae.decode = decode_and_keep
    started = time.perf_counter()
    try:
        pipeline(
            prompt=job["prompt"],
            negative_prompt="",
            input_images=images or None,
            height=job["size_px"],
            width=job["size_px"],
            max_sequence_length=1024,
            num_inference_steps=job["steps"],
            text_guidance_scale=job["text_guidance"],
            image_guidance_scale=job["image_guidance"],
            cfg_range=(0.0, 1.0),
            latents=torch.from_numpy(np.load(job["noise"])),
            step_func=lambda index, count: marks.append(time.perf_counter()),
        )
    finally:
        pipeline.vae.decode = decode
    seconds = time.perf_counter() - started
    np.save(job["latents"], kept[-1])
    return {"seconds": seconds, "steps_s": [after - before for before, after in zip(marks, marks[1:], strict=False)]}


if __name__ == "__main__":
    main()
