"""Paint the classes that a model sees in images."""

import os
import sys
from collections import Counter
from typing import List, Optional, Sequence, Tuple

import cv2
import numpy as np
import paddle
import paddle.nn as nn
from tqdm import tqdm

from paddleseg.core.infer import InferOptions, predict_classes
from paddleseg.core.val import evaluation_mode
from paddleseg.cvlibs.errors import DataError
from paddleseg.transforms import Compose
from paddleseg.transforms.image_io import read_image, write_png
from paddleseg.utils import distributed

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
OUTPUTS = ("added_prediction", "pseudo_color_prediction", "label")


def list_images(path: str) -> Tuple[List[str], str]:
    """The images that `--image_path` means, and the directory that their results' paths are relative to.

    Args:
        path: an image, a directory (with all below it), or a list file with an image a line, relative to
            the list's directory; what follows the first blank or comma of a line (a label) is ignored.

    Raises:
        DataError: nothing is there.
    """
    if os.path.isdir(path):
        images = sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names
                        if name.lower().endswith(IMAGE_SUFFIXES))
        if not images:
            raise DataError(f"{path}: no image below it (looked for {', '.join(IMAGE_SUFFIXES)})")
        return images, path
    if not os.path.exists(path):
        raise DataError(f"--image_path {path}: no such image, directory or list file")
    if path.lower().endswith(IMAGE_SUFFIXES):
        return [path], os.path.dirname(path)
    images = _read_list(path)
    folders = [os.path.dirname(os.path.abspath(name)) for name in (path, *images)]
    root = folders[0]
    if os.path.commonpath(folders) != root:  # a list may lie elsewhere than its images
        root = os.path.commonpath(folders[1:])
    return images, root


def _read_list(path: str) -> List[str]:
    root, images = os.path.dirname(path), []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            candidates = [line.strip(), line.split(",")[0].strip(), *line.split()[:1]]
            if not candidates[0]:
                continue
            found = next((name for name in candidates if name and os.path.isfile(os.path.join(root, name))), None)
            if found is None:
                raise DataError(f"{path}:{number}: {candidates[-1]} is not an image below {root or '.'}")
            images.append(os.path.join(root, found))
    if not images:
        raise DataError(f"{path}: the list names no image")
    return images


def result_names(images: Sequence[str], root: str) -> List[str]:
    """Where each image's results go below an output directory: its path below `root`, as PNG.

    a.jpg becomes a.png; where a.jpg and a.bmp stand side by side, a.jpg.png and a.bmp.png.
    """
    relative = [os.path.relpath(image, root or ".") for image in images]
    stems = Counter(os.path.splitext(path)[0] for path in relative)
    return [(os.path.splitext(path)[0] if stems[os.path.splitext(path)[0]] == 1 else path) + ".png"
            for path in relative]


def predict(model: nn.Layer, images: Sequence[str], root: str, transforms: Compose, palette: np.ndarray,
            save_dir: str, options: Optional[InferOptions] = None) -> None:
    """Write overlay, colour map and class indices of each image below `save_dir`; processes share the images.

    Args:
        palette: uint8 (classes, 3), RGB.
    """
    options = options or InferOptions()
    jobs = list(zip(images, result_names(images, root)))[distributed.rank()::distributed.world_size()]
    with evaluation_mode(model):
        for path, name in tqdm(jobs, desc="predicting", unit="image", file=sys.stderr):
            sample = transforms({"img": path, "path": path, "gt_fields": [], "trans_info": []})
            tensor = paddle.to_tensor(sample["img"][np.newaxis])
            pred = predict_classes(model, tensor, sample["trans_info"], options).numpy().astype(np.uint8)
            save_result(path, name, pred, palette, save_dir)


def save_result(image: str, name: str, pred: np.ndarray, palette: np.ndarray, save_dir: str) -> None:
    """Write the three pictures of one prediction."""
    overlay = cv2.addWeighted(read_image(image), 0.6, palette[pred], 0.4, 0)
    for output, picture, colors in zip(OUTPUTS, (overlay, pred, pred), (None, palette, None)):
        target = os.path.join(save_dir, output, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        write_png(target, picture, palette=colors)
