"""Decode the images and labels of a config's data set once, into files that training maps into memory.

    python tools/cache_dataset.py --config configs/encnet/encnet_cityscapes.yml --cache_dir /fast/cityscapes
    python train.py --config configs/encnet/encnet_cityscapes.yml --opts train_dataset.cache=/fast/cityscapes

Cityscapes' 2975 training images take 23 GiB. A cache that is there and fits the data set is kept, one that doesn't is
replaced: run the same command again when files have changed.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError, DataError
from paddleseg.utils.cli import add_config_flags, add_processes_flag, run_main


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_flags(parser)
    parser.add_argument("--split", choices=["train", "val", "test"], default="train",
                        help="train_dataset, val_dataset or test_dataset of the config (default: %(default)s)")
    parser.add_argument("--cache_dir", required=True, metavar="DIR",
                        help="where to write; each split has a folder in it")
    add_processes_flag(parser)
    parser.add_argument("--verify", action="store_true",
                        help="write nothing; compare every byte of the cache that is there with its checksum")
    return parser.parse_args(argv)


def build_dataset(args: argparse.Namespace):
    """The data set of the split, read from its files, and its root."""
    from paddleseg import builder

    key = f"{args.split}_dataset"
    config = builder.read_config(args, (key, "model"))
    if "cache" not in config[key]:
        raise ConfigError(f"{config.path}: {key}: {config[key]['type']} has no argument `cache`, so it can't use one")
    config.set(f"{key}.cache", None, "tools/cache_dataset.py")
    return builder.build_dataset(config, key), config[key]["dataset_root"]


def verify(args: argparse.Namespace, dataset, root: str) -> None:
    """Raise a DataError if the cache doesn't fit the data set or has changed since it was written."""
    from paddleseg.datasets.cache import INDEX, PIXELS, Cache
    from paddleseg.utils.files import damage

    cache = Cache(args.cache_dir, dataset, root)
    error = damage(cache.folder, [INDEX, PIXELS])
    if error:
        raise DataError(f"cache: {cache.folder}: {error}; {cache.remedy}")
    for place in range(len(dataset)):
        cache.read(place)  # SHA256SUMS is of what the file held then; only these sums are of what was decoded


def cache_dataset(args: argparse.Namespace) -> int:
    from paddleseg.datasets.cache import write_cache

    started = time.perf_counter()
    dataset, root = build_dataset(args)
    where = f"{os.path.join(args.cache_dir, dataset.mode)}: {len(dataset)} samples"
    use = f"{args.split}_dataset.cache: {args.cache_dir}"
    try:
        verify(args, dataset, root)
        print(f"{where}, whole and up to date; use them by {use}")
        return 0
    except DataError:
        if args.verify:
            raise
    size = write_cache(dataset, args.cache_dir, root, args.num_workers)
    print(f"{where}, {size / 2 ** 30:.3g} GiB, written in {time.perf_counter() - started:.1f} s; use them by {use}")
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(cache_dataset, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
