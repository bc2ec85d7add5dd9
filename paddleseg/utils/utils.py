"""What code written for PaddleSeg imports from here; this project's own code imports the modules behind it."""

import os
from typing import Optional

from paddleseg.utils.download import cache_home
from paddleseg.weights.load import find_weights, load_pretrained

__all__ = ["download_pretrained_model", "load_entire_model", "load_pretrained_model", "seg_env"]


class SegEnv:
    """Folders of this user, as the environment says when they are asked for."""

    USER_HOME = property(lambda self: os.path.expanduser("~"))
    HOME = PRETRAINED_MODEL_HOME = property(lambda self: cache_home())
    DATA_HOME = property(lambda self: os.path.join(cache_home(), "dataset"))
    TMP_HOME = property(lambda self: os.path.join(cache_home(), "tmp"))


seg_env = SegEnv()


def load_pretrained_model(model, pretrained_model: Optional[str]) -> None:
    """Load a model's or a backbone's weights; None starts from scratch.

    Unlike PaddleSeg's, which leaves out what doesn't fit, this is strict.

    Raises:
        WeightsError: see `paddleseg.weights.load.load_pretrained`.
    """
    load_pretrained(model, pretrained_model)


load_entire_model = load_pretrained_model


def download_pretrained_model(pretrained_model: str) -> str:
    """The path of a URL's weights file, downloaded if it isn't there yet; WeightsError if it can't be had."""
    return find_weights(pretrained_model)
