"""Random weights of a config's network."""

from pathlib import Path
from typing import Sequence

from diff.inputs import random_weights
from paddleseg import builder
from paddleseg.cvlibs.config import load_config
from paddleseg.weights.write import write_weights

ROOT = Path(__file__).resolve().parent.parent


def make_weights(folder: Path, config_path: str, opts: Sequence[str] = ()) -> Path:
    """Write model.pdparams to a folder, and return its path."""
    config = builder.resolve(load_config(str(ROOT / config_path), opts), builder.INFERENCE)
    shapes = {name: value.shape for name, value in builder.build_model(config).state_dict().items()}
    write_weights(str(folder / "model.pdparams"), random_weights(shapes))
    return folder / "model.pdparams"
