"""Forward pass: every stage of the network, in training and in evaluation, at two sizes.

    python diff/forward.py --side paddle --reference mmseg --dtype float64

Weights and running statistics are random; keys are <height>x<width>/<mode>/<stage>.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import inputs, step


def main() -> None:
    args = step.parse_args(__doc__)
    step.set_threads(args)
    log = step.Log(args, "forward")
    setup = inputs.Setup(depth=args.depth)
    side = step.open_side(args, setup, step.random_weights(args, setup))
    for size in inputs.SIZES:
        images = inputs.images(size, args.dtype)
        for mode in ("train", "eval"):
            stages = side.forward(images, train=mode == "train")
            log.add_all(f"{size[0]}x{size[1]}/{mode}", stages)
    log.save()


if __name__ == "__main__":
    main()
