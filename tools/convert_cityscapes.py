"""Make Cityscapes' *_gtFine_labelTrainIds.png of its polygons, by the official cityscapesscripts.

    python tools/convert_cityscapes.py --cityscapes_path data/cityscapes --num_workers 8

A label that is newer than its polygons stays as it is.
"""

import argparse
import contextlib
import io
import os
import sys
from pathlib import Path
from typing import List, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import DataError
from paddleseg.datasets.cityscapes import LABEL_FOLDER, TRAIN_IDS_ENDING, check_folders
from paddleseg.utils.cli import add_debug_flag, add_processes_flag, run_main
from paddleseg.utils.parallel import map_parallel

POLYGONS_ENDING = "_gtFine_polygons.json"


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cityscapes_path", required=True, help="the folder that holds gtFine")
    add_processes_flag(parser)
    parser.add_argument("--overwrite", action="store_true", help="make labels anew that exist already")
    add_debug_flag(parser)
    return parser.parse_args(argv)


def label_of(polygons: Path) -> Path:
    return polygons.with_name(polygons.name[:-len(POLYGONS_ENDING)] + TRAIN_IDS_ENDING)


def is_done(polygons: Path) -> bool:
    label = label_of(polygons)
    return label.is_file() and label.stat().st_mtime >= polygons.stat().st_mtime


def convert_file(polygons: Path) -> Optional[str]:
    """Write the label of one polygons file, whole or not at all; returns what went wrong, if anything."""
    from cityscapesscripts.preparation.json2labelImg import json2labelImg

    label = label_of(polygons)
    part = label.with_name(f".{os.getpid()}.{label.name}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            json2labelImg(str(polygons), str(part), "trainIds")
        os.replace(part, label)
    except SystemExit:
        # cityscapesscripts' way to refuse: a line that starts so, its usage, and exit.
        return f"{polygons}: {said.getvalue().partition(chr(10))[0].replace('ERROR: ', '', 1)}"
    except Exception as error:
        return f"{polygons}: {type(error).__name__}: {error}"
    finally:
        part.unlink(missing_ok=True)
    return None


def find_polygons(root: str) -> List[Path]:
    """All polygons files.

    Raises:
        DataError: there are none.
    """
    check_folders(root, [LABEL_FOLDER])
    found = sorted(Path(root, LABEL_FOLDER).glob("*/*/*" + POLYGONS_ENDING))
    if not found:
        raise DataError(f"{os.path.join(root, LABEL_FOLDER)} holds no <split>/<city>/*{POLYGONS_ENDING}; "
                        "they come in gtFine_trainvaltest.zip")
    return found


def convert(args: argparse.Namespace) -> int:
    found = find_polygons(args.cityscapes_path)
    tasks = [path for path in found if args.overwrite or not is_done(path)]
    results = list(map_parallel(convert_file, tasks, args.num_workers, "converting polygons"))
    errors = [error for error in results if error]
    for error in errors:
        print(error, file=sys.stderr)
    made, kept = len(tasks) - len(errors), len(found) - len(tasks)
    print(f"{args.cityscapes_path}: {made} labels made, {kept} were there")
    if errors:
        raise DataError(f"{len(errors)} of {len(tasks)} polygons files could not be converted, see above")
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(convert, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
