"""Training: optimizer steps at the recipe's hyperparameters.

    python diff/bp_align.py --side paddle --reference mmseg --dtype float64

Keys are step<number>/<loss term> and step<number>/lr, gradient/<parameter> at the first step, and
state/<parameter or buffer> after the last; names are ours.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import inputs, step

STEPS = 10
SIZE = inputs.SIZES[0]


def log_steps(log: step.Log, side, steps: int = STEPS) -> None:
    for number in range(steps):
        losses = side.backward(inputs.images(SIZE, log.dtype, seed=number), inputs.label(SIZE, seed=number))
        log.add_all(f"step{number}", losses)
        if number == 0:
            log.add_all("gradient", side.gradients())
        log.add(f"step{number}/lr", side.update())
    log.add_all("state", side.state())


if __name__ == "__main__":
    step.run(__doc__, "bp_align", log_steps, lambda args: inputs.Setup(depth=args.depth))
