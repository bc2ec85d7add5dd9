"""Draw street scenes in the layout of Cityscapes, to try everything without its licence.

    python tools/make_scenes.py data/cityscapes --train 40 --val 10 --test 4 --size 512 1024 --seed 1

Pictures are drawn from the very polygons that go into the annotation files; the label
pictures are then made of those by the official cityscapesscripts.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError, DataError
from paddleseg.utils.cli import add_debug_flag, run_main
from paddleseg.utils.cores import usable_cores
from paddleseg.utils.parallel import map_parallel
from scenes.layout import draw_scene
from tools.convert_cityscapes import POLYGONS_ENDING, convert_file

VERSION = 1  # of the drawings; raise it when they change
MARKER = "scenes.json"
CITIES = {"train": ("aachen", "bochum", "hamburg", "zurich"), "val": ("frankfurt", "lindau"),
          "test": ("berlin", "bonn")}
FRAME = 0  # no picture of the real data set bears this frame number
LABELS = ("labelIds", "labelTrainIds", "instanceIds")


class Job(NamedTuple):
    """One scene to draw."""

    root: str
    seed: int
    split: str
    index: int
    height: int
    width: int
    labels: bool

    @property
    def stem(self) -> str:
        """split/city/city_sequence_frame; it depends on split and index alone."""
        cities = CITIES[self.split]
        city = cities[self.index % len(cities)]
        return f"{self.split}/{city}/{city}_{self.index // len(cities):06d}_{FRAME:06d}"

    @property
    def image(self) -> Path:
        return Path(self.root, "leftImg8bit", f"{self.stem}_leftImg8bit.png")

    @property
    def polygons(self) -> Path:
        return Path(self.root, "gtFine", self.stem + POLYGONS_ENDING)

    @property
    def files(self) -> List[Path]:
        labels = [beside(self.polygons, name) for name in LABELS] if self.labels else []
        return [self.image, self.polygons, *labels]


def beside(polygons: Path, name: str) -> Path:
    return polygons.with_name(polygons.name.replace("_polygons.json", f"_{name}.png"))


def write_png(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 2]):
        raise DataError(f"{path} can't be written; is the disk full?")


def write_labels(polygons: Path) -> None:
    """Write labelTrainIds, labelIds and instanceIds beside a polygons file, by cityscapesscripts."""
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
    from cityscapesscripts.preparation.json2labelImg import json2labelImg

    error = convert_file(polygons)
    if error:
        raise DataError(error)
    json2labelImg(str(polygons), str(beside(polygons, "labelIds")), "ids")
    annotation = Annotation()
    annotation.fromJsonFile(str(polygons))
    # json2instanceImg would save this picture itself, in a mode that Pillow 13 can't save any more.
    write_png(beside(polygons, "instanceIds"), np.asarray(createInstanceImage(annotation, "ids")).astype(np.uint16))


def make_scene(job: Job) -> None:
    """Draw one scene and write its files."""
    cv2.setNumThreads(1)
    canvas = draw_scene(job.seed, list(CITIES).index(job.split), job.index, job.height, job.width)
    objects = canvas.objects
    if job.split == "test":  # its labels are withheld: in the real files too, all of the picture is void
        right, bottom = job.width - 1, job.height - 1
        objects = [{"label": "out of roi", "polygon": [[0, 0], [right, 0], [right, bottom], [0, bottom]]}]
    for path in (job.image, job.polygons):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_png(job.image, cv2.cvtColor(canvas.image, cv2.COLOR_RGB2BGR))
    job.polygons.write_text(json.dumps({"imgHeight": job.height, "imgWidth": job.width, "objects": objects}))
    if job.labels:
        write_labels(job.polygons)


def list_jobs(root: Path, settings: Dict) -> List[Job]:
    height, width = settings["size"]
    return [Job(str(root), settings["seed"], split, index, height, width, settings["labels"])
            for split in CITIES for index in range(settings[split])]


def read_marker(root: Path) -> Optional[Dict]:
    """The settings of the scenes that are there, or None.

    Raises:
        DataError: pictures are there that this tool didn't draw.
    """
    marker = root / MARKER
    try:
        found = json.loads(marker.read_text()) if marker.exists() else None
        drawn = {job.image for job in list_jobs(root, found)} if marker.exists() else set()
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{marker} is damaged ({type(error).__name__}: {error}); move {root} away or choose another "
                        "directory") from error
    foreign = {path for path in (root / "leftImg8bit").rglob("*") if path.is_file()} - drawn
    if foreign:
        raise DataError(f"{root} holds pictures that make_scenes.py didn't draw, such as {min(foreign)}; choose "
                        "another directory")
    return found


def make_room(root: Path, settings: Dict, overwrite: bool) -> bool:
    """Remove the scenes that are to be replaced; False if those of these settings are there already.

    Raises:
        DataError: others are there and may not be replaced.
    """
    found = read_marker(root)
    if found is None:
        return True
    differing = ", ".join(f"{key} {found.get(key)}" for key in settings if found.get(key) != settings[key])
    if differing and not overwrite:
        raise DataError(f"{root} holds other scenes ({differing}); add --overwrite to replace them, or choose another "
                        "directory")
    old = [path for job in list_jobs(root, found) for path in job.files]
    if not overwrite and found.get("complete") and all(path.exists() for path in old):
        return False
    for path in old:
        path.unlink(missing_ok=True)
    return True


def make_scenes(args: argparse.Namespace) -> int:
    started, root, (height, width) = time.perf_counter(), Path(args.root), args.size
    if not (64 <= height <= 1024 and 128 <= width <= 2048):
        raise ConfigError(f"--size {height} {width}: HEIGHT must be 64 to 1024 and WIDTH 128 to 2048")
    for name in ("train", "val", "test", "seed", "num_workers"):
        if getattr(args, name) < 0:
            raise ConfigError(f"--{name} {getattr(args, name)} is below 0")
    settings = {"version": VERSION, "seed": args.seed, "size": [height, width], "labels": not args.no_labels,
                **{split: getattr(args, split) for split in CITIES}}
    said = ", ".join(f"{settings[split]} {split}" for split in CITIES) + f" scenes of {height}x{width}"
    try:
        if not make_room(root, settings, args.overwrite):
            print(f"{root}: {said} are there already")
            return 0
        root.mkdir(parents=True, exist_ok=True)
        (root / MARKER).write_text(json.dumps(settings))
        for _ in map_parallel(make_scene, list_jobs(root, settings), args.num_workers, "drawing scenes"):
            pass
        (root / MARKER).write_text(json.dumps({**settings, "complete": True}, indent=2) + "\n")
    except OSError as error:
        raise DataError(f"{error.filename or root} can't be written ({error.strerror}); "
                        "choose another directory or make room") from error
    print(f"{root}: {said} drawn in {time.perf_counter() - started:.1f} s")
    return 0


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="the folder to write, such as data/cityscapes")
    parser.add_argument("--train", type=int, default=40, metavar="N", help="scenes to train on (default: %(default)s)")
    parser.add_argument("--val", type=int, default=10, metavar="N", help="scenes to validate on (default: %(default)s)")
    parser.add_argument("--test", type=int, default=4, metavar="N",
                        help="scenes whose labels are withheld (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), default=[512, 1024],
                        help="pixels, from 64 128 to 1024 2048 (default: 512 1024)")
    parser.add_argument("--seed", type=int, default=1, help="chooses the scenes (default: %(default)s)")
    parser.add_argument("--num_workers", type=int, default=usable_cores(), metavar="N",
                        help="processes; the files don't depend on it (default: %(default)s, the cores)")
    parser.add_argument("--no_labels", action="store_true", help="write pictures and polygons, no label pictures")
    parser.add_argument("--overwrite", action="store_true", help="draw anew over scenes that are there")
    add_debug_flag(parser)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(make_scenes, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
