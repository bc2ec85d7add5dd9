"""Format of Cityscapes' evaluation server: for each test image a PNG file of label ids, of the image's size.

It knows a file by its name, <city>_<sequence>_<frame>*.png, wherever in the archive; see `getPrediction` in
cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling.
"""

import os
import re
from typing import Optional, Sequence

import numpy as np

from paddleseg.cvlibs.errors import DataError
from paddleseg.datasets.cityscapes import train_labels

TEST_IMAGES = 1525
SIZE = (1024, 2048)  # (height, width)
_FRAME = re.compile(r"[^_]+_\d{6}_\d{6}(?=[_.])")


def class_label_ids() -> np.ndarray:
    """The label id of each of the 19 classes, by train id, as (19,) uint8."""
    return np.array([label.id for label in train_labels()], dtype=np.uint8)


def frame_of(path: str) -> Optional[str]:
    """<city>_<sequence>_<frame> of a file named as Cityscapes' are; None for another one."""
    match = _FRAME.match(os.path.basename(path))
    return match.group() if match else None


def server_name(path: str) -> str:
    """The name under which the server knows the result of an image."""
    return f"{frame_of(path)}_labelIds.png"


def check_frames(images: Sequence[str]) -> None:
    """Refuse images whose results the server couldn't tell.

    Raises:
        DataError: the name of one doesn't say its frame, or two are of one frame.
    """
    image_of = {}
    for image in images:
        frame = frame_of(image)
        if frame is None:
            raise DataError(f"{image} is not named <city>_<sequence>_<frame>_leftImg8bit.png, by which Cityscapes' "
                            "server knows an image; predict it without --save_label_ids")
        other = image_of.setdefault(frame, image)
        if other != image:
            raise DataError(f"{other} and {image} are the same frame, {frame}, to Cityscapes' server; name one of them")
