"""python -m omnigen2_rt.nano.training PART --minutes M: one sitting of training. Go on with the same command.

Parts, in this order: tokenizer, vae, sight, mllm, transformer, graphs. State and logs lie in --work, weights in nano/checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("tokenizer", "vae", "sight", "mllm", "transformer", "graphs"))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--work", type=Path, default=Path("nano-training"))
    given = parser.parse_args()
    seconds = 60 * given.minutes
    if given.part == "tokenizer":
        from . import tokenizer

        tokenizer.train(checkpoint.CHECKPOINT)
    elif given.part == "graphs":
        checkpoint.write_graphs()
    elif given.part == "vae":
        from . import vae

        vae.train(given.work, seconds)
    elif given.part == "sight":
        from . import sight

        sight.train(given.work, seconds)
    elif given.part == "mllm":
        from . import mllm

        mllm.train(given.work, seconds)
    else:
        from . import transformer

        transformer.train(given.work, seconds)


if __name__ == "__main__":
    main()
