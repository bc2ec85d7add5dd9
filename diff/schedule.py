"""Learning rate of each of the recipe's iterations.

    python diff/schedule.py --side paddle --reference mmseg

The reference's own scheduler is stepped that often. The one key is lr, in float64 whatever --dtype.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import inputs, step


def our_rates(reference: str, setup: inputs.Setup) -> np.ndarray:
    from paddleseg import builder

    schedule = builder.build_schedule(inputs.recipe(reference, setup))
    return np.array([schedule(iteration) for iteration in range(setup.iters)])


def main() -> None:
    args = step.parse_args(__doc__)
    log = step.Log(args, "schedule")
    setup = inputs.Setup(depth=max(args.depth, inputs.REFERENCES[args.reference].small_depth))
    if args.side == "paddle":
        rates = our_rates(args.reference, setup)
    else:
        rates = step.reference_module(args.reference).learning_rates(setup)
    log.add("lr", rates)
    log.save()


if __name__ == "__main__":
    main()
