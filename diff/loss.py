"""Losses: each term and their sum, given equal logits, over every kind of label.

    python diff/loss.py --side paddle --reference mmseg --dtype float64

Keys are <height>x<width>/<label>/<term>; a term comes with its coefficient.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import inputs, step

# The recipe's own size, at which the epsilon in mmsegmentation's divisor drowns (see show_mmseg_epsilon.py).
CROP = (512, 1024)


def main() -> None:
    args = step.parse_args(__doc__)
    step.set_threads(args)
    log = step.Log(args, "loss")
    setup = inputs.Setup(depth=inputs.REFERENCES[args.reference].small_depth, base_channels=8, mid_channels=16)
    side = step.open_side(args, setup, step.random_weights(args, setup))
    for size in (*inputs.SIZES, CROP):
        logits = inputs.logits(size, args.dtype)
        for name, label in inputs.loss_cases(size)[:1 if size == CROP else None]:
            log.add_all(f"{size[0]}x{size[1]}/{name}", side.losses(logits, label))
    log.save()


if __name__ == "__main__":
    main()
