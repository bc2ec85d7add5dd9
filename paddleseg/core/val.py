"""The evaluation pass, the same one in training and in val.py."""

import contextlib
import sys
from typing import Callable, Dict, List, Optional, Sequence

import numpy as np
import paddle
import paddle.nn as nn
from prettytable import PrettyTable
from tqdm import tqdm

from paddleseg.core.infer import LARGE_PX, InferOptions, predict_batch, warn_large_image
from paddleseg.core.losses import Criteria, ValidationLosses
from paddleseg.core.metrics import Scores, confusion_matrix
from paddleseg.cvlibs.errors import DataError
from paddleseg.datasets.loader import eval_batches
from paddleseg.utils import distributed, logger

SCORE_COLUMNS = ("class", "IoU", "Precision", "Recall", "Dice", "pixels")


@contextlib.contextmanager
def evaluation_mode(model: nn.Layer):
    """Eval mode without gradients; afterwards the mode is what it was."""
    was_training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        model.train() if was_training else model.eval()


def evaluate(model: nn.Layer, dataset, options: Optional[InferOptions] = None, num_workers: int = 0,
             on_image: Optional[Callable] = None, criteria: Criteria = ()) -> Scores:
    """Score a model on a data set; every process takes its share of the images.

    Args:
        on_image: called as on_image(path, pred, label, matrix) for each image of this process, with the image's own
            confusion matrix.
        criteria: (loss, coefficient) along the model's outputs in training; their means become the scores' `losses`,
            see `ValidationLosses`.

    Returns: the scores over all images, on every process.

    Raises:
        DataError: the data set has no labels (Cityscapes withholds those of its test split).
    """
    if dataset.mode == "test":
        raise DataError("the labels of the test split are withheld; evaluate on val, or predict and submit the "
                        "results to the data set's own server")
    options = options or InferOptions()
    rank, world = distributed.rank(), distributed.world_size()
    distributed.share_buffers(model)
    matrix, largest_px = np.zeros([dataset.num_classes] * 2, np.int64), LARGE_PX
    losses = ValidationLosses(model, criteria, getattr(dataset, "transforms", None), options) if criteria else None
    batches = eval_batches(dataset, num_workers, rank, world, options.eval_batch_size)
    bar = tqdm(total=len(range(rank, len(dataset), world)), desc="evaluating", unit="image",
               disable=None if rank == 0 else True, leave=False, file=sys.stderr)
    with evaluation_mode(model), contextlib.closing(batches), bar:
        for batch in batches:
            largest_px = warn_large_image(batch["path"][0], batch["img"].shape[2:], largest_px, options)
            if losses is not None:
                losses.start_batch(batch["label"])
            preds = predict_batch(losses.forward if losses else model, batch["img"], batch["trans_info"], options)
            for path, pred, label in zip(batch["path"], preds, batch["label"]):
                pred = pred.numpy()
                own = confusion_matrix(pred, label, dataset.num_classes, dataset.ignore_index)
                matrix += own
                if on_image is not None:
                    on_image(path, pred, label, own)
                bar.update()
    return Scores(distributed.sum_over_ranks(matrix), losses.means() if losses else {})


def log_scores(scores: Scores, class_names: Sequence[str], num_images: int) -> None:
    """PaddleSeg's [EVAL] line, then a table of the classes."""
    values = " ".join(f"{name}: {value}" for name, value in headline(scores).items())
    logger.info(f"[EVAL] #Images: {num_images} {values}")
    logger.info(f"[EVAL] always predicting the commonest class would give mIoU: {scores.commonest_class_miou:.4f}")
    logger.info("[EVAL] per class:\n" + score_table(scores, class_names))


def headline(scores: Scores) -> Dict[str, str]:
    """The scores of the [EVAL] line, as they are printed."""
    values = {"mIoU": scores.miou, "Acc": scores.accuracy, "Kappa": scores.kappa, "Dice": scores.mdice}
    return {name: f"{value:.4f}" for name, value in values.items()}


def class_rows(scores: Scores, class_names: Sequence[str]) -> List[List[str]]:
    """The SCORE_COLUMNS of each class, as they are printed; "-" where a class doesn't occur."""
    columns = zip(class_names, scores.iou, scores.precision, scores.recall, scores.dice, scores.matrix.sum(axis=1))
    return [[name, *("-" if np.isnan(value) else f"{value:.4f}" for value in values), f"{pixels:,}"]
            for name, *values, pixels in columns]


def score_table(scores: Scores, class_names: Sequence[str]) -> str:
    """IoU, precision, recall and Dice of each class, as text."""
    table = PrettyTable(list(SCORE_COLUMNS), align="r")
    table.align["class"] = "l"
    table.add_rows(class_rows(scores, class_names))
    return table.get_string()
