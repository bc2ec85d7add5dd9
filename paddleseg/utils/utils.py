"""Names that code written for PaddleSeg imports from here; this project's own code imports the modules behind them."""

import os
from typing import Optional

from paddleseg.utils.download import cache_home
from paddleseg.weights.load import find_weights, load_pretrained

__all__ = ["download_pretrained_model", "load_entire_model", "load_pretrained_model", "seg_env"]


class SegEnv:
    """Folders of this user, read from the environment at each access."""

    USER_HOME = property(lambda self: os.path.expanduser("~"))
    HOME = PRETRAINED_MODEL_HOME = property(lambda self: cache_home())
    DATA_HOME = property(lambda self: os.path.join(cache_home(), "dataset"))
    TMP_HOME = property(lambda self: os.path.join(cache_home(), "tmp"))


seg_env = SegEnv()


def load_pretrained_model(model, pretrained_model: Optional[str]) -> None:
    """Load a model's or a backbone's weights, strictly, where PaddleSeg's leaves out what doesn't fit."""
    load_pretrained(model, pretrained_model)


load_entire_model = load_pretrained_model
download_pretrained_model = find_weights
