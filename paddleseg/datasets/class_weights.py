"""Weights of classes for a cross entropy, from how often they occur.

Letters: C classes.
"""

from typing import Sequence

import numpy as np

_OFFSET = 1.02  # keeps weights within 1.4 (a class that is everywhere) and 50.5 (one that is nowhere)


def class_weights(pixels: Sequence[int]) -> np.ndarray:
    """w_c = 1 / ln(1.02 + p_c), where p_c is the share of class c in all labelled pixels; (C,) float64.

    Paszke et al., "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation", 2016, section 5.2.
    Rare classes weigh more, but within bounds. As CrossEntropyLoss divides by the weights' sum over the pixels, only
    their ratios matter.

    Args:
        pixels: of each class; ignored ones don't count.
    """
    pixels = np.asarray(pixels, np.float64)
    return 1 / np.log(_OFFSET + pixels / max(pixels.sum(), 1))


def weights_in_words(names: Sequence[str], pixels: Sequence[int]) -> str:
    """A line for each class with its share and weight, and then the weights as a recipe has them."""
    weights, total = class_weights(pixels), max(sum(pixels), 1)
    width = max(map(len, names))
    lines = [f"{name:<{width}}  {count / total:9.3%}  {weight:7.3f}"
             for name, count, weight in zip(names, pixels, weights)]
    listed = ", ".join(f"{weight:.3f}" for weight in weights)
    return "\n".join([f"{'class':<{width}}  {'share':>9}  {'weight':>7}", *lines,
                      f"- {{type: CrossEntropyLoss, weight: [{listed}]}}"])
