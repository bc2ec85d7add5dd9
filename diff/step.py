"""Common parts of the steps: arguments, the two sides, and the log that a side writes."""

import argparse
import importlib
import time
from pathlib import Path
from typing import Callable, Dict, Mapping, Sequence, Tuple

import numpy as np

from diff import inputs

DTYPES = ("float32", "float64")


def parse_args(description: str, own: Sequence[Tuple[str, Dict]] = (), dtypes: Sequence[str] = DTYPES[::-1],
               references: Sequence[str] = tuple(inputs.REFERENCES)) -> argparse.Namespace:
    """The arguments that every step has and `own` ones, as add_argument takes them; `output` is filled in."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", required=True, choices=("paddle", "torch"),
                        help="paddle: this toolkit; torch: the reference")
    parser.add_argument("--reference", default="mmseg", choices=references, help="default: mmseg")
    parser.add_argument("--dtype", default=dtypes[0], choices=dtypes, help="default: %(default)s")
    parser.add_argument("--depth", type=int, default=101, choices=(18, 50, 101),
                        help="of the ResNet; a small one makes a quick run. Default: 101")
    parser.add_argument("--output", help="folder of the logs; default: diff/output/<reference>_<dtype>")
    parser.add_argument("--threads", type=int, help="CPU threads; default: all cores that the process may use")
    for flag, options in own:
        parser.add_argument(flag, **options)
    args = parser.parse_args()
    args.output = Path(args.output or inputs.OUTPUT / f"{args.reference}_{args.dtype}")
    return args


def set_threads(args: argparse.Namespace) -> None:
    """Give the side's framework its threads."""
    from paddleseg.utils import device

    threads = args.threads or device.default_threads()
    device.set_threads(threads)
    if args.side == "torch" and args.reference != "paddleseg":
        import torch
        torch.set_num_threads(threads)


def reference_module(reference: str):
    """Import the file of a reference, which has a `Side` and `learning_rates`."""
    return importlib.import_module(f"diff.{reference}_reference")


def open_side(args: argparse.Namespace, setup: inputs.Setup, weights: Mapping[str, np.ndarray]):
    """The side that the arguments ask for, holding the given weights of ours."""
    if args.side == "paddle":
        from diff.ours import PaddleSide
        return PaddleSide(inputs.recipe(args.reference, setup), weights, args.dtype)
    threads = {"threads": args.threads} if args.reference == "paddleseg" else {}
    return reference_module(args.reference).Side(setup, weights, args.dtype, **threads)


class Log:
    """The arrays of one side of one step, saved as reprod_log saves them."""

    def __init__(self, args: argparse.Namespace, step: str):
        from reprod_log import ReprodLogger
        self._logger = ReprodLogger()
        self._path = args.output / f"{step}_{args.side}.npy"
        self.dtype = args.dtype
        self._start = time.perf_counter()

    def add(self, key: str, value) -> None:
        """An array, or a number in the run's dtype."""
        self._logger.add(key, value if isinstance(value, np.ndarray) else np.asarray(value, self.dtype))

    def add_all(self, prefix: str, values: Dict) -> None:
        for name, value in values.items():
            self.add(f"{prefix}/{name}", value)

    def save(self) -> None:
        self._logger.save(str(self._path))
        print(f"{self._path}: {len(self._logger.data)} arrays, {time.perf_counter() - self._start:.1f} s")


def random_weights(args: argparse.Namespace, setup: inputs.Setup) -> Dict[str, np.ndarray]:
    """The same random weights for both sides."""
    from diff import ours
    return ours.random_weights(inputs.recipe(args.reference, setup))


def run(doc: str, name: str, fill: Callable, setup: Callable[[argparse.Namespace], inputs.Setup]) -> None:
    """The whole of a step: `fill`(log, side) logs what the asked side computes on random weights."""
    args = parse_args(doc)
    set_threads(args)
    log = Log(args, name)
    network = setup(args)
    fill(log, open_side(args, network, random_weights(args, network)))
    log.save()
