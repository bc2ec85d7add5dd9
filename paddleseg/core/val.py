"""The evaluation pass, the same one in training and in val.py."""

import contextlib
import sys
from typing import Optional, Sequence

import numpy as np
import paddle
import paddle.nn as nn
from prettytable import PrettyTable
from tqdm import tqdm

from paddleseg.core.infer import InferOptions, predict_batch
from paddleseg.core.metrics import Scores, confusion_matrix
from paddleseg.cvlibs.errors import DataError
from paddleseg.datasets.loader import eval_batches
from paddleseg.utils import distributed, logger


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


def evaluate(model: nn.Layer, dataset, options: Optional[InferOptions] = None, num_workers: int = 0) -> Scores:
    """Score a model on a data set; every process takes its share of the images.

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
    matrix = np.zeros([dataset.num_classes] * 2, np.int64)
    batches = eval_batches(dataset, num_workers, rank, world, options.eval_batch_size)
    bar = tqdm(total=len(range(rank, len(dataset), world)), desc="evaluating", unit="image",
               disable=None if rank == 0 else True, leave=False, file=sys.stderr)
    with evaluation_mode(model), contextlib.closing(batches), bar:
        for batch in batches:
            for pred, label in zip(predict_batch(model, batch["img"], batch["trans_info"], options), batch["label"]):
                matrix += confusion_matrix(pred.numpy(), label, dataset.num_classes, dataset.ignore_index)
                bar.update()
    return Scores(distributed.sum_over_ranks(matrix))


def log_scores(scores: Scores, class_names: Sequence[str], num_images: int) -> None:
    """PaddleSeg's [EVAL] line, then a table of the classes."""
    logger.info(f"[EVAL] #Images: {num_images} mIoU: {scores.miou:.4f} Acc: {scores.accuracy:.4f} "
                f"Kappa: {scores.kappa:.4f} Dice: {scores.mdice:.4f}")
    logger.info(f"[EVAL] always predicting the commonest class would give mIoU: {scores.commonest_class_miou:.4f}")
    logger.info("[EVAL] per class:\n" + score_table(scores, class_names))


def score_table(scores: Scores, class_names: Sequence[str]) -> str:
    """IoU, precision, recall and Dice of each class; "-" where a class doesn't occur."""
    table = PrettyTable(["class", "IoU", "Precision", "Recall", "Dice", "pixels"], align="r")
    table.align["class"] = "l"
    columns = zip(class_names, scores.iou, scores.precision, scores.recall, scores.dice, scores.matrix.sum(axis=1))
    for name, *values, pixels in columns:
        table.add_row([name, *("-" if np.isnan(value) else f"{value:.4f}" for value in values), f"{pixels:,}"])
    return table.get_string()
