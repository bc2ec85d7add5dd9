"""Images beside their ground truth, prediction and errors; for reports and for VisualDL.

Arrays are uint8 (H, W, 3) RGB.
"""

import os
from typing import Dict, NamedTuple, Sequence

import cv2
import numpy as np
import paddle

from paddleseg.core.infer import InferOptions, predict_classes
from paddleseg.core.val import evaluation_mode
from paddleseg.transforms.image_io import read_image
from paddleseg.utils.palette import color_map

IGNORED, WRONG = (224, 224, 192), (213, 94, 0)  # of no class in the usual palettes; distinct for colour-blind eyes
REPORT_WIDTH_PX, VISUALDL_WIDTH_PX = 640, 320  # of a picture at most


class Shown(NamedTuple):
    """An image, its label and its prediction (H, W)."""

    path: str
    image: np.ndarray
    label: np.ndarray
    pred: np.ndarray


def predict_sample(model, dataset, index: int, options: InferOptions) -> Shown:
    """Read and predict one sample of a data set again."""
    sample = dataset.sample(index, np.random.default_rng(index))
    with evaluation_mode(model):
        pred = predict_classes(model, paddle.to_tensor(sample["img"][np.newaxis]), sample["trans_info"], options)
    label = np.asarray(sample["label"])
    return Shown(sample["path"], _picture(sample, label.shape), label, pred.numpy())


def _picture(sample: Dict, size: Sequence[int]) -> np.ndarray:
    """Return the image at the label's size; where its path is no file, the network's input stretched to 0..255."""
    if os.path.isfile(sample["path"]):
        image = read_image(sample["path"])
    else:
        image = cv2.normalize(sample["img"].transpose(1, 2, 0), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return image if image.shape[:2] == tuple(size) else cv2.resize(image, tuple(size[::-1]))


def dataset_colors(dataset) -> np.ndarray:
    """Return the data set's palette, or PASCAL VOC's, (C, 3)."""
    palette = getattr(dataset, "palette", None)
    return color_map(dataset.num_classes) if palette is None else np.asarray(palette, np.uint8)


def panels(shown: Shown, palette: np.ndarray, ignore_index: int, max_width_px: int) -> Dict[str, np.ndarray]:
    """Draw the pictures of one sample, by name."""
    table = np.full([max(256, len(palette)), 3], IGNORED, np.uint8)
    table[:len(palette)] = palette
    ignored = shown.label == ignore_index
    ground_truth = table[shown.label]
    ground_truth[ignored] = IGNORED
    grey = cv2.cvtColor(cv2.cvtColor(shown.image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    errors = grey // 2 + 110
    errors[shown.pred != shown.label] = WRONG
    errors[ignored] = IGNORED
    size = shown.label.shape[::-1]
    if size[0] > max_width_px:
        size = max_width_px, max(1, round(size[1] * max_width_px / size[0]))
    pictures = {"image": shown.image, "ground truth": ground_truth, "prediction": table[shown.pred], "errors": errors}
    return {name: cv2.resize(picture, size, interpolation=cv2.INTER_AREA if name == "image" else cv2.INTER_NEAREST)
            for name, picture in pictures.items()}


def encoded(picture: np.ndarray, suffix: str) -> bytes:
    """Encode a picture as a file, ".png" or ".jpg"."""
    return cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def evaluation_pictures(model, dataset, options: InferOptions, count: int = 4) -> Dict[str, np.ndarray]:
    """Draw samples spread evenly over a data set: image and ground truth, prediction and errors below them."""
    indices = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int)).tolist()
    colors, found = dataset_colors(dataset), {}
    for index in indices:
        shown = predict_sample(model, dataset, index, options)
        image, ground_truth, pred, errors = panels(shown, colors, dataset.ignore_index, VISUALDL_WIDTH_PX).values()
        rows = [np.concatenate(pair, axis=1) for pair in ((image, ground_truth), (pred, errors))]
        found[f"{index} {os.path.basename(shown.path)}"] = np.concatenate(rows)
    return found
