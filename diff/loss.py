"""Losses: each term and their sum, given equal logits, over every kind of label.

    python diff/loss.py --side paddle --reference mmseg --dtype float64

Keys are <height>x<width>/<label>/<term>; a term comes with its coefficient.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import inputs, step

# The recipe's own size, at which the epsilon in mmsegmentation's divisor drowns (see show.py mmseg_epsilon).
CROP = (512, 1024)


def log_losses(log: step.Log, side, sizes=(*inputs.SIZES, CROP)) -> None:
    for size in sizes:
        logits = inputs.logits(size, log.dtype)
        for name, label in inputs.loss_cases(size)[:1 if size == CROP else None]:
            log.add_all(f"{size[0]}x{size[1]}/{name}", side.losses(logits, label))


if __name__ == "__main__":
    step.run(__doc__, "loss", log_losses, lambda args: inputs.Setup(
        depth=inputs.REFERENCES[args.reference].small_depth, base_channels=8, mid_channels=16))
