"""Metric: areas, IoU and accuracy of identical predictions, with ignored pixels.

    python diff/metric.py --side paddle --reference mmseg

Keys are <case>/<score>. In the case all_classes every class is labelled and predicted; in absent_classes one
class is only labelled, one is only predicted, and two are neither. All tolerances are 0:

areas are counts. (mmsegmentation adds them up in float32, which is exact below 2^24 pixels for each class.)
The scores of a class are computed by the reference's own function from its own areas, as float64: each is
one division of two whole numbers, so there is one right result. Where a class has no score, its entry in
iou or acc is left out, and iou_classes or acc_classes tells which were left.
mmsegmentation's means are those that it reports: in percent, with two decimals (its float32 has no more than
five). PaddleSeg gives an absent class the score 0, where the others leave it out of the mean, so its scores are
compared for all_classes alone.
"""

import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import inputs, paddleseg_reference, step

SIZE = (97, 161)
COUNT = 4
# Classes of the case absent_classes.
NOWHERE = (5, 12)
ONLY_LABELLED = 7
ONLY_PREDICTED = 9

Images = Tuple[np.ndarray, np.ndarray]


def cases() -> Dict[str, Images]:
    """{name: (predictions, labels)}, each int64 (N, H, W); the last image's pixels are all ignored."""
    rng = np.random.default_rng(7)
    labels = np.concatenate([inputs.label(SIZE, count=COUNT - 1), np.full((1, *SIZE), inputs.IGNORE_INDEX)])
    # Three pixels of ten are wrong; those of ignored pixels are anything.
    guess = rng.integers(0, inputs.NUM_CLASSES, labels.shape)
    is_kept = (rng.random(labels.shape) < 0.7) & (labels != inputs.IGNORE_INDEX)
    predictions = np.where(is_kept, labels, guess)
    return {"all_classes": (predictions, labels),
            "absent_classes": (_without(predictions, (*NOWHERE, ONLY_LABELLED)),
                               _without(labels, (*NOWHERE, ONLY_PREDICTED)))}


def _without(classes: np.ndarray, absent: Sequence[int]) -> np.ndarray:
    """The same with class 0 in the place of the absent ones."""
    return np.where(np.isin(classes, absent), 0, classes)


def defined(name: str, scores: np.ndarray) -> Dict[str, np.ndarray]:
    """The scores that aren't NaN, and which classes they are of."""
    classes = np.flatnonzero(~np.isnan(scores))
    return {name: scores[classes], f"{name}_classes": classes.astype(np.int64)}


# Each side: (predictions, labels) to {score: array}.


def score_ours(predictions: np.ndarray, labels: np.ndarray, reference: str) -> Dict[str, np.ndarray]:
    from paddleseg.core.metrics import Scores, confusion_matrix

    scores = Scores(sum(confusion_matrix(prediction, label, inputs.NUM_CLASSES, inputs.IGNORE_INDEX)
                        for prediction, label in zip(predictions, labels)))
    hits, predicted, labelled = np.diag(scores.matrix), scores.matrix.sum(axis=0), scores.matrix.sum(axis=1)
    found = {"intersection": hits, "prediction": predicted, "label": labelled}
    if reference == "mmseg":
        means = {"mIoU": scores.miou, "mAcc": float(np.nanmean(scores.recall)), "aAcc": scores.accuracy}
        return {**found, "union": predicted + labelled - hits, **defined("iou", scores.iou),
                **defined("acc", scores.recall), "aacc": np.array(scores.accuracy),
                **{f"reported_{name}": np.array(round(100 * value, 2)) for name, value in means.items()}}
    return {**found, "iou": scores.iou, "miou": np.array(scores.miou), "precision": scores.precision,
            "recall": scores.recall, "accuracy": np.array(scores.accuracy), "kappa": np.array(scores.kappa)}


def score_mmseg(predictions: np.ndarray, labels: np.ndarray) -> Dict[str, np.ndarray]:
    """Score by the IoUMetric of mmsegmentation's own config of this recipe, from images to the report."""
    import torch
    from mmengine.config import Config

    from diff import mmseg_reference

    mmseg_reference.register_all_modules(init_default_scope=True)
    from mmseg.registry import METRICS

    metric = METRICS.build(Config.fromfile(str(mmseg_reference.CONFIG)).val_evaluator)
    metric.dataset_meta = {"classes": [str(index) for index in range(inputs.NUM_CLASSES)]}
    for prediction, label in zip(predictions, labels):
        metric.process({}, [{"pred_sem_seg": {"data": torch.from_numpy(prediction)[None]},
                             "gt_sem_seg": {"data": torch.from_numpy(label)[None]}}])
    areas = [sum(column).double() for column in zip(*metric.results)]
    names = ("intersection", "union", "prediction", "label")
    scores = metric.total_area_to_metrics(*areas)
    return {**{name: area.numpy().astype(np.int64) for name, area in zip(names, areas)},
            **defined("iou", scores["IoU"]), **defined("acc", scores["Acc"]), "aacc": np.array(scores["aAcc"]),
            **{f"reported_{name}": np.array(round(float(value), 2))
               for name, value in metric.evaluate(len(predictions)).items()}}


def score_paddleseg(images: Dict[str, Images], folder: Optional[str] = None) -> Dict[str, Dict[str, np.ndarray]]:
    """Score by PaddleSeg's metrics; return {case: scores}."""
    with paddleseg_reference.Worker(folder) as worker:
        return {case: worker.ask("metric", predictions=predictions, labels=labels, num_classes=inputs.NUM_CLASSES)
                for case, (predictions, labels) in images.items()}


AREAS: List[str] = ["intersection", "prediction", "label"]


def main() -> None:
    args = step.parse_args(__doc__, [
        ("--paddleseg", dict(metavar="DIR", help=f"PaddleSeg's folder; default: {paddleseg_reference.FOLDER}"))
    ], ("float64",), ("mmseg", "paddleseg"))
    step.set_threads(args)
    log = step.Log(args, "metric")
    images = cases()
    if args.side == "paddle":
        scores = {case: score_ours(*pair, args.reference) for case, pair in images.items()}
    elif args.reference == "mmseg":
        scores = {case: score_mmseg(*pair) for case, pair in images.items()}
    else:
        scores = score_paddleseg(images, args.paddleseg)
    for case, found in scores.items():
        is_partial = args.reference == "paddleseg" and case == "absent_classes"
        log.add_all(case, {name: found[name] for name in (AREAS if is_partial else found)})
    log.save()


if __name__ == "__main__":
    main()
