"""Draw the first samples of a training run, augmented and labelled as the trainer sees them, on one sheet.

    python tools/browse_data.py --config configs/quick_start/encnet_resnet18_scenes.yml
    python tools/browse_data.py --config configs/encnet/encnet_cityscapes.yml --count 32 --save_path output/sheet.png
    … --opts seed=7

Each sample is shown twice: as it is, and with the colors of its classes over it; ignored pixels are hatched.
"""

import argparse
import sys
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError, RunError, SizeMismatchError
from paddleseg.utils.cli import add_config_flags, run_main

CELL_PX = 300  # width of a sample on the sheet
GAP_PX, LINE_PX, MARGIN_PX = 6, 16, 12
NAME_PX = 160  # width of a class in the legend
MOST_ACROSS = 6
INK, PAPER = (32, 32, 32), (250, 250, 250)


class Sample(NamedTuple):
    """RGB uint8 (H, W, 3) as the network gets it, its label (H, W) or None, and the file."""

    image: np.ndarray
    label: Optional[np.ndarray]
    path: str


def parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_flags(parser)
    parser.add_argument("--save_path", default="output/samples.png", metavar="FILE",
                        help="the sheet, a PNG file (default: %(default)s)")
    parser.add_argument("--count", type=int, default=16, metavar="N", help="samples to draw (default: %(default)s)")
    parser.add_argument("--num_workers", type=int, metavar="N",
                        help="processes that read data (default: by the cores)")
    return parser.parse_args(argv)


def first_samples(dataset, count: int, seed: int, repeats: int, num_workers: int) -> List[Sample]:
    """The samples of a run of this seed, in its order; no more than an epoch has."""
    from paddleseg.datasets.loader import epoch_order, preview_batches

    if not len(dataset):
        raise ConfigError("train_dataset has no samples, so there is nothing to draw")
    indices = epoch_order(len(dataset) * repeats, seed, epoch=0)[:count]
    batches = preview_batches(dataset, [[int(index)] for index in indices], seed, num_workers)
    return [Sample(shown(batch["img"][0], dataset), batch["label"][0] if "label" in batch else None, batch["path"][0])
            for batch in batches]


def shown(image: np.ndarray, dataset) -> np.ndarray:
    """The network's input (3, H, W) as a picture: what Normalize did is undone, or values are spread over 0..255."""
    from paddleseg.transforms import Normalize

    pixels = image.transpose(1, 2, 0)
    done = [each for each in getattr(getattr(dataset, "transforms", None), "transforms", ())
            if isinstance(each, Normalize)]
    if done:
        pixels = (pixels * np.array(done[-1].std, np.float32) + np.array(done[-1].mean, np.float32)) * 255
    elif pixels.min() < 0 or pixels.max() <= 1:
        pixels = (pixels - pixels.min()) / max(np.ptp(pixels), 1e-6) * 255
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def refuse_mismatch(sample: Sample) -> None:
    """Raise a SizeMismatchError if the transforms have given the label another size than the image."""
    if sample.label is not None and sample.label.shape != sample.image.shape[:2]:
        sizes = " and its label ".join("x".join(map(str, array.shape[:2])) for array in (sample.image, sample.label))
        raise SizeMismatchError(f"{sample.path} becomes {sizes} (height x width); a transform that changes the size "
                                "of 'img' must change the fields of 'gt_fields' too")


def with_label(image: np.ndarray, label: np.ndarray, palette: np.ndarray, ignore_index: int) -> np.ndarray:
    """The image with half of each class's color over it, and hatched where the label is ignored."""
    colors = np.zeros((256, 3), np.uint8)
    colors[:len(palette)] = palette
    mixed = cv2.addWeighted(image, 0.5, colors[label], 0.5, 0)
    rows, columns = np.indices(label.shape, np.int32)
    pitch = max(4, label.shape[1] // 40)
    hatched = np.where(((rows + columns) // pitch % 2)[..., None], image // 2, image)
    return np.where((label == ignore_index)[..., None], hatched, mixed).astype(np.uint8)


def cell(picture: np.ndarray) -> np.ndarray:
    """The picture at the width of a cell."""
    height = max(1, round(picture.shape[0] * CELL_PX / picture.shape[1]))
    way = cv2.INTER_AREA if picture.shape[1] > CELL_PX else cv2.INTER_NEAREST
    return cv2.resize(picture, (CELL_PX, height), interpolation=way)


def contact_sheet(samples: Sequence[Sample], dataset) -> np.ndarray:
    """All samples in rows of pairs, and which color is which class; RGB uint8."""
    from paddleseg.report.pictures import dataset_colors

    for sample in samples:
        refuse_mismatch(sample)
    palette = dataset_colors(dataset)
    pairs = [[cell(sample.image)] + ([] if sample.label is None else [
        cell(with_label(sample.image, sample.label, palette, dataset.ignore_index))]) for sample in samples]
    across = min(MOST_ACROSS, round(len(samples) ** 0.5))
    tile_width = len(pairs[0]) * (CELL_PX + GAP_PX)
    tile_height = max(len(pair[0]) for pair in pairs) + LINE_PX + 2 * GAP_PX
    legend = class_legend(samples, dataset, palette)
    columns = max(1, across * tile_width // NAME_PX)
    width = 2 * MARGIN_PX + across * tile_width
    top = MARGIN_PX + -(-len(samples) // across) * tile_height
    sheet = Image.new("RGB", (width, top + -(-len(legend) // columns) * LINE_PX + MARGIN_PX), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (sample, pair) in enumerate(zip(samples, pairs)):
        left, upper = MARGIN_PX + number % across * tile_width, MARGIN_PX + number // across * tile_height
        for place, picture in enumerate(pair):
            sheet.paste(Image.fromarray(picture), (left + place * (CELL_PX + GAP_PX), upper))
        height, width_px = sample.image.shape[:2]
        caption = f"{Path(sample.path).name}  {height}x{width_px}"
        pen.text((left, upper + len(pair[0]) + 2), printable_latin(caption)[-tile_width // 6:], fill=INK)
    for number, (name, color) in enumerate(legend):
        left, upper = MARGIN_PX + number % columns * NAME_PX, top + number // columns * LINE_PX
        pen.rectangle((left, upper, left + 11, upper + 11), fill=color, outline=INK)
        pen.text((left + 16, upper), printable_latin(name)[:23], fill=INK)
    return np.asarray(sheet)


def printable_latin(text: str) -> str:
    """Replace letters that Pillow's own font can't draw on every version by question marks."""
    return text.encode("latin-1", "replace").decode("latin-1")


def class_legend(samples: Sequence[Sample], dataset,
                 palette: np.ndarray) -> List[Tuple[str, Tuple[int, int, int]]]:
    """(name, color) of each class that occurs."""
    held = set().union(*(np.unique(sample.label).tolist() for sample in samples if sample.label is not None))
    return [(name, tuple(palette[index].tolist()))
            for index, name in enumerate(dataset.class_names) if index in held and index != dataset.ignore_index]


def browse(args: argparse.Namespace) -> int:
    from paddleseg import builder
    from paddleseg.transforms.image_io import write_png

    if args.count < 1:
        raise ConfigError(f"--count {args.count} is below 1")
    if not args.save_path.lower().endswith(".png"):
        raise ConfigError(f"--save_path {args.save_path}: the sheet is a PNG file; let the name end with .png")
    config = builder.read_config(args, ("train_dataset", "model"))
    options = builder.build_train_options(config)
    dataset = builder.build_dataset(config, "train_dataset")
    samples = first_samples(dataset, args.count, options.seed, options.repeats, options.num_workers)
    try:
        Path(args.save_path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"--save_path {args.save_path} can't be written ({error.strerror})") from error
    write_png(args.save_path, contact_sheet(samples, dataset))
    print(f"{len(samples)} samples of {len(dataset)}, seed {options.seed}: {args.save_path}")
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    return run_main(browse, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
