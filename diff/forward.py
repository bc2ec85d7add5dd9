"""Forward pass: every stage of the network, in training and in evaluation, at two sizes.

    python diff/forward.py --side paddle --reference mmseg --dtype float64

Weights and running statistics are random; keys are <height>x<width>/<mode>/<stage>.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import inputs, step


def log_stages(log: step.Log, side, sizes=inputs.SIZES) -> None:
    for size in sizes:
        images = inputs.images(size, log.dtype)
        for mode in ("train", "eval"):
            log.add_all(f"{size[0]}x{size[1]}/{mode}", side.forward(images, train=mode == "train"))


if __name__ == "__main__":
    step.run(__doc__, "forward", log_stages, lambda args: inputs.Setup(depth=args.depth))
