"""python -m omnigen2_rt.nano.training PART --minutes M: one session of training. The same command again resumes it.

Parts, in this order: tokenizer, vae, vision_encoder, mllm, transformer, graphs. State and logs are written to --work, weights
to nano/checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("tokenizer", "vae", "vision_encoder", "mllm", "transformer", "graphs"))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--work", type=Path, default=Path("nano-training"))
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    if arguments.part == "tokenizer":
        from . import tokenizer

        tokenizer.train(checkpoint.CHECKPOINT)
    elif arguments.part == "graphs":
        checkpoint.write_graphs()
    elif arguments.part == "vae":
        from . import vae

        vae.train(arguments.work, seconds)
    elif arguments.part == "vision_encoder":
        from . import vision_encoder

        vision_encoder.train(arguments.work, seconds)
    elif arguments.part == "mllm":
        from . import mllm

        mllm.train(arguments.work, seconds)
    else:
        from . import transformer

        transformer.train(arguments.work, seconds)


if __name__ == "__main__":
    main()
