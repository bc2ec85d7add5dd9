"""Tiny data sets on disk for tests: noise images whose values tell which file they are."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (16, 32)  # (height, width)


def write_image(path: Path, value: int = 0, size=SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (*size, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_label(path: Path, values=(0,), size=SIZE) -> None:
    """A label of vertical stripes, one for each value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stripes = np.array(values, dtype=np.uint8)[np.arange(size[1]) * len(values) // size[1]]
    Image.fromarray(np.tile(stripes, (size[0], 1))).save(path)


def image_path(root: Path, split: str, city: str, name: str) -> Path:
    return root / "leftImg8bit" / split / city / f"{city}_{name}_leftImg8bit.png"


def label_path(root: Path, split: str, city: str, name: str, kind: str = "labelTrainIds") -> Path:
    return root / "gtFine" / split / city / f"{city}_{name}_gtFine_{kind}.png"


def polygons_path(root: Path, split: str, city: str, name: str) -> Path:
    return label_path(root, split, city, name, "polygons").with_suffix(".json")


def write_polygons(path: Path, label: str = "road", size=SIZE) -> None:
    """One object that fills the left half of the image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    polygon = [[0, 0], [width // 2 - 1, 0], [width // 2 - 1, height - 1], [0, height - 1]]
    path.write_text(json.dumps({"imgHeight": height, "imgWidth": width,
                                "objects": [{"label": label, "polygon": polygon}]}))


def make_cityscapes(root: Path, train: int = 4, val: int = 2, test: int = 1) -> Path:
    """A Cityscapes of two train cities, one val and one test city; test has images only."""
    cities = {"train": ("aachen", "zurich"), "val": ("lindau",), "test": ("berlin",)}
    for split, count in (("train", train), ("val", val), ("test", test)):
        for number in range(count):
            city, name = cities[split][number % len(cities[split])], f"{number:06d}_000019"
            write_image(image_path(root, split, city, name), number)
            if split != "test":
                write_label(label_path(root, split, city, name), (number, number + 1, 255))
    return root


def make_lists(root: Path, count: int = 4, separator: str = " ") -> Path:
    """A data set of images/<i>.png and annotations/<i>.png named by train.txt; label i holds class i % 3."""
    lines = []
    for index in range(count):
        write_image(root / "images" / f"{index}.png", index)
        write_label(root / "annotations" / f"{index}.png", (index % 3,))
        lines.append(f"images/{index}.png{separator}annotations/{index}.png")
    (root / "train.txt").write_text("\n".join(lines) + "\n")
    return root
