"""Train a retrieval model: `accelerate launch train_accelerate.py --recipe splip_mini --dataset D`.

It is `splip train`, in a file of its own for launchers that take one; modeling_splip/training/train.py is the loop.
"""

import sys

from modeling_splip.training.train import STOP, main, run_to_the_end

__all__ = ["STOP", "main"]

if __name__ == "__main__":
    sys.exit(run_to_the_end("train_accelerate"))
