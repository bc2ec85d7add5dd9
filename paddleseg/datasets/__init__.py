"""Files, classes and ignore index; each module registers its data set in `manager.DATASETS`."""

from paddleseg.datasets.cityscapes import Cityscapes
from paddleseg.datasets.dataset import Dataset

__all__ = ["Cityscapes", "Dataset"]
