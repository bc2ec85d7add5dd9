"""Paint the classes that a model sees in images."""

import contextlib
import os
import sys
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from typing import Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import paddle
import paddle.nn as nn
from tqdm import tqdm

from paddleseg.core.infer import LARGE_PX, InferOptions, predict_classes, warn_large_image
from paddleseg.core.val import evaluation_mode
from paddleseg.cvlibs.errors import DataError, RunError
from paddleseg.datasets.cityscapes_server import server_name
from paddleseg.transforms import Compose
from paddleseg.transforms.image_io import is_turned, write_png
from paddleseg.utils import distributed, logger
from paddleseg.utils.files import atomic_path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
OUTPUTS = ("added_prediction", "pseudo_color_prediction", "label")
SERVER_OUTPUT = "label_ids"
_READ_AHEAD = 2  # images


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
    with open(path, encoding="utf-8-sig", errors="replace") as file:
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

    a.jpg becomes a.png; where a.jpg and a.bmp stand side by side, a.jpg.png and a.bmp.png. If a.jpg.png stands there
    too, every name is made so.
    """
    relative = [os.path.relpath(image, root or ".") for image in images]
    files = set(relative)  # a list may name an image twice
    stems = Counter(os.path.splitext(path)[0] for path in files)
    name_of = {path: (os.path.splitext(path)[0] if stems[os.path.splitext(path)[0]] == 1 else path) + ".png"
               for path in files}
    if len(set(name_of.values())) < len(files):
        name_of = {path: path + ".png" for path in files}
    return [name_of[path] for path in relative]


def predict(model: nn.Layer, images: Sequence[str], root: str, transforms: Compose, palette: np.ndarray,
            save_dir: str, options: Optional[InferOptions] = None, num_writers: int = 1,
            label_ids: Optional[np.ndarray] = None) -> None:
    """Write overlay, colour map and class indices of each image below `save_dir`; processes share the images.

    One thread reads ahead and others write behind, while this one computes; PNG files take longer than anything else
    where a GPU computes.

    Args:
        palette: uint8 (classes, 3), RGB.
        num_writers: threads that write.
        label_ids: the id of each class at Cityscapes' server, uint8 (classes,); writes the ids too, by the names that
            the server knows. None writes none.

    Raises:
        SegError: an image can't be read, or a result can't be written, which names the file; the results of all images
            before it are written.
    """
    options = options or InferOptions()
    path_of = dict(zip(result_names(images, root), images))  # a list may name an image twice
    jobs, writing = list(path_of.items())[distributed.rank()::distributed.world_size()], deque()
    with evaluation_mode(model), ThreadPoolExecutor(num_writers) as writers, \
            contextlib.closing(_read_ahead([path for _, path in jobs], transforms)) as samples:
        largest_px, knows_of_exif = LARGE_PX, False
        for (name, path), (picture, sample) in zip(tqdm(jobs, desc="predicting", unit="image", file=sys.stderr),
                                                   samples):
            largest_px = warn_large_image(path, sample["img"].shape[1:], largest_px, options)
            if not knows_of_exif and is_turned(path):
                knows_of_exif = True
                logger.warning(f"{path} has an EXIF orientation, which isn't applied, to this image or another: the "
                               "model sees it as it is stored; if that isn't upright, save the image turned")
            tensor = paddle.to_tensor(sample["img"][np.newaxis])
            pred = predict_classes(model, tensor, sample["trans_info"], options).numpy().astype(np.uint8)
            writing.append(writers.submit(save_result, picture, name, pred, palette, save_dir, label_ids))
            if len(writing) > num_writers:
                writing.popleft().result()
        while writing:
            writing.popleft().result()


def _read_ahead(images: Sequence[str], transforms: Compose) -> Iterator[Tuple[np.ndarray, dict]]:
    """Each image as uint8 (H, W, 3) RGB and as the transforms make it, read by a thread while others are used."""

    def read(path: str) -> Tuple[np.ndarray, dict]:
        data = transforms.read({"img": path, "path": path, "gt_fields": [], "trans_info": []})
        picture = data["img"].copy()  # a transform of one's own may write to it
        return picture if transforms.to_rgb else picture[:, :, ::-1], transforms(data)

    reader, reading = ThreadPoolExecutor(1), deque()
    try:
        for path in images:
            reading.append(reader.submit(read, path))
            if len(reading) > _READ_AHEAD:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
    finally:
        reader.shutdown(cancel_futures=True)


def save_result(image: np.ndarray, name: str, pred: np.ndarray, palette: np.ndarray, save_dir: str,
                label_ids: Optional[np.ndarray] = None) -> None:
    """Write the pictures of one prediction, each whole or not at all.

    Args:
        image: uint8 (H, W, 3), RGB.
        label_ids: of each class, uint8 (classes,); None writes none.

    Raises:
        RunError: one can't be written.
    """
    overlay = cv2.addWeighted(image, 0.6, palette[pred], 0.4, 0)
    files = [os.path.join(output, name) for output in OUTPUTS]
    pictures = list(zip(files, (overlay, pred, pred), (None, palette, None)))
    if label_ids is not None:
        pictures.append((os.path.join(SERVER_OUTPUT, server_name(name)), label_ids[pred], None))
    for file, picture, colors in pictures:
        target = os.path.join(save_dir, file)
        try:
            with atomic_path(target) as temporary:
                write_png(temporary, picture, palette=colors)
        except (OSError, RunError) as error:
            cause = error.__cause__ or error
            reason = getattr(cause, "strerror", None) or cause
            raise RunError(f"{target} can't be written: {reason}; make room there, or name another "
                           f"--save_dir") from error
