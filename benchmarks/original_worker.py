"""A worker that runs the original's pipeline, for `against_original.py`, in an interpreter with the original's requirements.

    python benchmarks/original_worker.py '{"original": …, "checkpoint": …, "precision": …, "threads": …, "compiled": false}'

Imports nothing of ours. The original's code and arithmetic are unchanged, with three exceptions: the turn ends after each step,
the decoder's input latents are saved, and the VAE's encoder returns its distribution's mode instead of an unseeded sample, so
that runs are comparable.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

from turns import Turns


def main() -> None:
    settings = json.loads(sys.argv[1])
    turns = Turns()
    pipeline, torch = load(**{key: settings[key] for key in ("original", "checkpoint", "precision", "threads")})
    if settings["compiled"]:
        pipeline.transformer = torch.compile(pipeline.transformer)
    turns.introduce({"versions": {name: version(name) for name in ("torch", "transformers", "diffusers")}})
    for job in turns.jobs():
        draw(pipeline, torch, job, turns)
        turns.end_job({})


def load(original: str, checkpoint: str, precision: str, threads: int) -> tuple[Any, Any]:
    """The pipeline as in the original's inference script, on the CPU, and torch. precision: fp32 or bf16, of every network."""
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
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    pipeline = OmniGen2Pipeline(
        transformer=OmniGen2Transformer2DModel.from_pretrained(checkpoint, subfolder="transformer", torch_dtype=dtype),
        vae=AutoencoderKL.from_pretrained(checkpoint, subfolder="vae", torch_dtype=dtype),
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(checkpoint, subfolder="scheduler"),
        mllm=Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, subfolder="mllm", torch_dtype=dtype),
        processor=AutoProcessor.from_pretrained(f"{checkpoint}/processor"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, torch


def draw(pipeline: Any, torch: Any, job: dict[str, Any], turns: Turns) -> None:
    """One drawing, one step per turn. job: see `against_original.Job.message`."""
    import numpy as np
    from PIL import Image

    decode = pipeline.vae.decode

    def decode_and_save(latents: Any, **options: Any) -> Any:
        config = pipeline.vae.config
        np.save(job["latents"], ((latents - config.shift_factor) * config.scaling_factor).float().numpy())
        return decode(latents, **options)

    images = [Image.open(path).convert("RGB") for path in job["images"]]
    pipeline.enable_taylorseer = job["taylorseer"]
    for module in (pipeline.transformer, *pipeline.transformer.layers):
        module.enable_taylorseer = False  # the pipeline enables it where needed and never disables it
    pipeline.vae.decode = decode_and_save
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
            latents=torch.from_numpy(np.load(job["noise"])).to(pipeline.transformer.dtype),
            step_func=lambda index, count: turns.end_step(),
        )
    finally:
        pipeline.vae.decode = decode


if __name__ == "__main__":
    main()
