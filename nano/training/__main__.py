"""python -m omnigen2_rt.nano.training PART --minutes M: one session of training. The same command again resumes it.

Parts, in this order: tokenizer, vae, vision_encoder, mllm, transformer, graphs. State and logs are written to --work, weights
to nano/checkpoint.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from . import checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("tokenizer", "vae", "vision_encoder", "mllm", "transformer", "graphs"))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--work", type=Path, default=Path("nano-training"))
    arguments = parser.parse_args()
    if arguments.part == "graphs":
        checkpoint.write_graphs()
        return
    part = import_module(f".{arguments.part}", __package__)  # only this part's libraries
    if arguments.part == "tokenizer":
        part.train(checkpoint.CHECKPOINT)
    else:
        part.train(arguments.work, 60 * arguments.minutes)


if __name__ == "__main__":
    main()
