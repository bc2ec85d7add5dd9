"""Check the results of Cityscapes' test images and zip them for its evaluation server.

    python predict.py --config FILE --model_path FILE --image_path data/cityscapes/leftImg8bit/test \\
        --save_dir output/test --save_label_ids
    python tools/make_submission.py output/test/label_ids --dataset_root data/cityscapes

Every file must be a grey PNG of 1024x2048 label ids, and there must be one for each test image. One line for each
error; with any, no archive is written and the exit code is 1. Submit at www.cityscapes-dataset.com/submit.
"""

import argparse
import os
import sys
import zipfile
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError, DataError, RunError
from paddleseg.datasets.cityscapes import cityscapes_images
from paddleseg.datasets.cityscapes_server import SIZE, TEST_IMAGES, check_frames, class_label_ids, frame_of
from paddleseg.datasets.listing import files_below
from paddleseg.transforms.image_io import read_label
from paddleseg.utils.cli import add_debug_flag, add_processes_flag, printable, run_main
from paddleseg.utils.files import atomic_path
from paddleseg.utils.parallel import map_parallel

_SHOWN = 5  # frames named in a message


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="the folder of label ids that predict.py --save_label_ids has written")
    parser.add_argument("--output", metavar="FILE", help="the archive (default: submission.zip beside the folder)")
    parser.add_argument("--dataset_root", metavar="DIR",
                        help="Cityscapes: compare the names with its images (default: count them)")
    parser.add_argument("--split", choices=["test", "val"], default="test",
                        help="whose images those are; val for a rehearsal (default: %(default)s)")
    add_processes_flag(parser)
    add_debug_flag(parser)
    return parser.parse_args(argv)


def find_results(folder: str) -> List[str]:
    """The paths of all PNG files, by name.

    Raises:
        DataError: there is none.
    """
    if not os.path.isdir(folder):
        raise DataError(f"{folder} is not a folder; write it by predict.py --save_label_ids")
    results = files_below(folder, [".png"])
    if not results:
        raise DataError(f"{folder} holds no *.png; write them by predict.py --save_label_ids")
    return results


def name_errors(results: Sequence[str], expected: Optional[Sequence[str]]) -> List[str]:
    """Return the errors of the names, one a line.

    Args:
        expected: the frames there must be, or None to count them alone.
    """
    errors: List[str] = []
    result_of: Dict[Optional[str], str] = {}
    for path in results:
        frame = frame_of(path)
        if frame is None:
            errors.append(f"{path} is not named <city>_<sequence>_<frame>*.png, by which the server knows a result")
        elif frame in result_of:
            errors.append(f"{path} and {result_of[frame]} are both of {frame}; the server takes one")
        result_of.setdefault(frame, path)
    frames = set(result_of) - {None}
    if expected is None:
        if len(frames) != TEST_IMAGES:
            errors.append(f"there are results of {len(frames)} images; the test split has {TEST_IMAGES}")
        return errors
    for what, some in (("has no result", set(expected) - frames), ("is no image of the split", frames - set(expected))):
        if some:
            more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
            errors.append(f"{', '.join(sorted(some)[:_SHOWN])}{more} {what}")
    return errors


def file_error(path: str) -> Optional[str]:
    """Return the error of one file, or None."""
    try:
        label = read_label(path)
    except DataError as error:
        return str(error)
    if label.shape != SIZE:
        return f"{path} is {label.shape[0]}x{label.shape[1]} (height x width), not {SIZE[0]}x{SIZE[1]}"
    values = np.unique(label)
    strange = values[~np.isin(values, class_label_ids())]
    if len(strange) == 0:
        return None
    hint = "; these are train ids: take the files that predict.py --save_label_ids writes" if max(values) < 19 else ""
    return (f"{path} holds {{{', '.join(map(str, strange.tolist()))}}}; the label ids of the 19 classes are "
            f"{', '.join(map(str, class_label_ids().tolist()))}{hint}")


def expected_frames(root: Optional[str], split: str) -> Optional[List[str]]:
    """The frames of a split's images; None without a root."""
    if root is None:
        if split != "test":
            raise ConfigError(f"--split {split} needs --dataset_root, whose images are compared")
        return None
    images = cityscapes_images(root, split)
    if not images:
        raise DataError(f"{root} holds no image of {split}; name the folder that holds leftImg8bit")
    check_frames(images)
    return [frame_of(image) for image in images]


def write_archive(results: Sequence[str], output: str) -> None:
    """Zip the files by their names alone, whole or not at all; PNG files are compressed already.

    Raises:
        RunError: the archive can't be written.
    """
    try:
        with atomic_path(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for path in results:
                archive.write(path, os.path.basename(path))
    except OSError as error:
        raise RunError(f"{output} can't be written: {error.strerror or error}; name another --output") from error


def submit(args: argparse.Namespace) -> int:
    results = find_results(args.results)
    errors = name_errors(results, expected_frames(args.dataset_root, args.split))
    errors += filter(None, map_parallel(file_error, results, args.num_workers, "checking"))
    for error in errors:
        print(printable(error), file=sys.stderr)
    if errors:
        raise DataError(f"{args.results}: {len(errors)} errors, see above; no archive was written")
    output = args.output or os.path.join(os.path.dirname(os.path.abspath(args.results)), "submission.zip")
    write_archive(results, output)
    print(f"{output}: {len(results)} results, {os.path.getsize(output) / 2 ** 20:.3g} MiB")
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(submit, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
