"""Write the classes that a model sees in images, as pictures and as class indices."""

import contextlib
import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Callable, Iterator, Optional, Sequence, Tuple

import cv2
import numpy as np
import paddle
import paddle.nn as nn
from tqdm import tqdm

from paddleseg.core.infer import LARGE_PX, InferOptions, predict_classes, warn_large_image
from paddleseg.core.val import evaluation_mode
from paddleseg.cvlibs.errors import RunError
from paddleseg.datasets.listing import result_names
from paddleseg.transforms import Compose
from paddleseg.transforms.image_io import has_exif_rotation, write_png
from paddleseg.utils import distributed, logger
from paddleseg.utils.files import atomic_path

OUTPUTS = ("added_prediction", "pseudo_color_prediction", "label")
LABEL_IDS_OUTPUT = "label_ids"
_READ_AHEAD = 2  # images


@dataclass
class ResultWriter:
    """Writes overlay, colour map and class indices of a prediction, each file whole or not at all.

    Attributes:
        save_dir: the directory that they are written below.
        palette: uint8 (classes, 3), RGB.
        label_ids: another id of each class, uint8 (classes,), which is written too; None writes none.
        label_ids_name: the name of that file by the image's.
    """

    save_dir: str
    palette: np.ndarray
    label_ids: Optional[np.ndarray] = None
    label_ids_name: Callable[[str], str] = os.path.basename

    def write(self, image: np.ndarray, name: str, pred: np.ndarray) -> None:
        """Write the results of one image, uint8 (H, W, 3) RGB, whose class indices are `pred`.

        Raises:
            RunError: one can't be written.
        """
        overlay = cv2.addWeighted(image, 0.6, self.palette[pred], 0.4, 0)
        files = [os.path.join(output, name) for output in OUTPUTS]
        pictures = list(zip(files, (overlay, pred, pred), (None, self.palette, None)))
        if self.label_ids is not None:
            pictures.append((os.path.join(LABEL_IDS_OUTPUT, self.label_ids_name(name)), self.label_ids[pred], None))
        for file, picture, colors in pictures:
            target = os.path.join(self.save_dir, file)
            try:
                with atomic_path(target) as temporary:
                    write_png(temporary, picture, palette=colors)
            except (OSError, RunError) as error:
                cause = error.__cause__ or error
                reason = getattr(cause, "strerror", None) or cause
                raise RunError(f"{target} can't be written: {reason}; make room there, or name another "
                               f"--save_dir") from error


def predict(model: nn.Layer, images: Sequence[str], root: str, transforms: Compose, writer: ResultWriter,
            options: Optional[InferOptions] = None, num_writers: int = 1) -> None:
    """Write the results of each image; processes share the images.

    One thread reads ahead and others write behind, while this one computes; PNG files take longer than anything else
    where a GPU computes.

    Args:
        root: the directory that the results' paths are relative to.
        num_writers: threads that write.

    Raises:
        SegError: an image can't be read, or a result can't be written, which names the file; the results of all images
            before it are written.
    """
    options = options or InferOptions()
    path_of = dict(zip(result_names(images, root), images))  # a list may name an image twice
    jobs, writing = list(path_of.items())[distributed.rank()::distributed.world_size()], deque()
    with evaluation_mode(model), ThreadPoolExecutor(num_writers) as writers, \
            contextlib.closing(_read_ahead([path for _, path in jobs], transforms)) as samples:
        largest_px, has_warned = LARGE_PX, False
        for (name, path), (picture, sample) in zip(tqdm(jobs, desc="predicting", unit="image", file=sys.stderr),
                                                   samples):
            largest_px = warn_large_image(path, sample["img"].shape[1:], largest_px, options)
            if not has_warned and has_exif_rotation(path):
                has_warned = True
                logger.warning(f"{path} has an EXIF orientation, which isn't applied, to this image or another: the "
                               "model sees it as it is stored; if that isn't upright, save the image turned")
            tensor = paddle.to_tensor(sample["img"][np.newaxis])
            pred = predict_classes(model, tensor, sample["trans_info"], options).numpy().astype(np.uint8)
            writing.append(writers.submit(writer.write, picture, name, pred))
            if len(writing) > num_writers:
                writing.popleft().result()
        while writing:
            writing.popleft().result()


def _read_ahead(images: Sequence[str], transforms: Compose) -> Iterator[Tuple[np.ndarray, dict]]:
    """Each image as uint8 (H, W, 3) RGB and as the transforms make it, read by a thread while others are used."""

    def read(path: str) -> Tuple[np.ndarray, dict]:
        data = transforms.read({"img": path, "path": path, "gt_fields": [], "trans_info": []})
        picture = data["img"].copy()  # a transform of one's own may write to it
        return picture if transforms.to_rgb else picture[:, :, ::-1], transforms.run(data)

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
