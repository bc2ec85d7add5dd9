"""Files, classes and ignore index; each module registers its data set in `manager.DATASETS`."""

from paddleseg.datasets import cache  # noqa: F401  (lets data sets open caches)
from paddleseg.datasets.ade20k import ADE20K
from paddleseg.datasets.cityscapes import Cityscapes
from paddleseg.datasets.dataset import Dataset
from paddleseg.datasets.pascal_context import PascalContext, PascalContext59
from paddleseg.datasets.pascal_voc import PascalVOC

__all__ = ["ADE20K", "Cityscapes", "Dataset", "PascalContext", "PascalContext59", "PascalVOC"]
