"""python -m omnigen2_rt.nano.training PART --seconds S: one session of training. The same command again resumes it.

Parts: `tokenizer`; `episodes`, the data of the others; `vae`, `vision_encoder`, `mllm`, `transformer`, in this order; `graphs`,
the exported graphs; `all`: episodes, vae, mllm and transformer within the time, side by side where they may be.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import torch

from . import checkpoint, schedule
from .episodes import Encoder
from .loop import Options
from .shards import write_shards

TRAINED = ("vae", "vision_encoder", "mllm", "transformer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("tokenizer", "episodes", *TRAINED, "graphs", "all"))
    parser.add_argument("--seconds", type=float, default=3600.0, help="the time of the session")
    parser.add_argument("--work", type=Path, default=Path("nano-training"), help="the folder of states, logs and data")
    parser.add_argument("--checkpoint", type=Path, default=checkpoint.CHECKPOINT, help="the checkpoint to train")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", type=int, default=8 if torch.cuda.is_available() else 1, help="a factor of batch sizes")
    parser.add_argument("--rate", type=float, default=1.0, help="a factor of the learning rates")
    parser.add_argument("--shards", type=int, default=8, help="shards of 2,048 episodes")
    parser.add_argument("--keep-latents", action="store_true", help="train only the autoencoder's decoder")
    parser.add_argument("--workers", type=int, default=2, help="processes that write shards")
    arguments = parser.parse_args()
    options = Options(
        work=arguments.work,
        checkpoint=arguments.checkpoint,
        seconds=arguments.seconds,
        device=torch.device(arguments.device),
        scale=arguments.scale,
        shards=arguments.shards,
        rate=arguments.rate,
        keep_latents=arguments.keep_latents,
    )
    if arguments.part == "all":
        schedule.run(options, arguments.workers)
    elif arguments.part == "graphs":
        checkpoint.write_graphs(options.checkpoint)
    elif arguments.part == "episodes":
        write_shards(options.episodes, Encoder(options.checkpoint), options.shards, arguments.workers)
    elif arguments.part == "tokenizer":
        import_module(".tokenizer", __package__).train(options.checkpoint)
    else:
        import_module(f".{arguments.part}", __package__).train(options)


if __name__ == "__main__":
    main()
