"""Time and memory of an evaluation after the forward pass, for an image of 1024 x 2048 and 19 classes.

    .venv-align/bin/python benchmarks/evaluation.py [--rounds 3] [--only TEXT]

From the coarse logits that a network's head gives to the counts of an image: upsampling, argmax, confusion matrix. Each
side does the steps of its own evaluation, on the same logits: PaddleSeg's `inference` or `aug_inference` and
`calculate_area`, mmsegmentation's `predict` and `intersect_and_union`. The head costs nothing; at its end PaddleSeg's
and mmsegmentation's models resize their logits to the size of their input, which counts.

    scenes   logits like a trained network's: from the classes' shares in a drawn street scene, with some noise
    noise    independent logits, the worst case: no class can be left out anywhere
    slide    scenes through windows of 512 x 1024, moved by 384 x 768, each with noise of its own
    scales   scenes at 0.75, 1 and 1.25 of their size, each mirrored too; probabilities are averaged, but by PaddleSeg
             logits: its classes differ at some pixels. Resizing and mirroring the images counts; for mmsegmentation,
             whose data pipeline does it, it doesn't.

That the sides count the same is checked: exactly against PaddleSeg, but for windows, which it averages in float64, and
for scales; against mmsegmentation up to one pixel in a hundred thousand, as PyTorch rounds differently. Memory is the
peak above what the process held when its inputs were there.
"""

import sys
import time

import numpy as np
from harness import OUTPUT, ROOT, Aim, Case, peak_mib, run, use_paddleseg

QUESTION = "Evaluation after the forward pass, per image on one core"
SIZE, NUM_CLASSES, IGNORE_INDEX = (1024, 2048), 19, 255
WINDOW, STRIDE = (512, 1024), (384, 768)
SCALES = (0.75, 1.0, 1.25)
# name, kind of logits, pixels to a logit, way
WAYS = (("scenes, logits 128 x 256", "scenes", 8, "whole"), ("scenes, logits 64 x 128", "scenes", 16, "whole"),
        ("noise, logits 128 x 256", "noise", 8, "whole"), ("noise, logits 64 x 128", "noise", 16, "whole"),
        ("slide", "scenes", 8, "slide"), ("scales", "scenes", 8, "scales"))
TOLERANCE = {("PaddleSeg", "whole"): 0.0, ("PaddleSeg", "scales"): 0.02}
OTHER_TOLERANCE = 1e-5
AT_MOST = {"PaddleSeg": 1 / 5}


def cases(args):
    write_labels()
    for peer in ("PaddleSeg", "mmsegmentation"):
        for name, kind, stride, way in WAYS:
            if peer == "PaddleSeg" or (kind, stride) == ("scenes", 8):
                tolerance = TOLERANCE.get((peer, way), OTHER_TOLERANCE)
                yield Case(f"{name}, against {peer}", ("ours", peer), {"time": "ms", "memory": "MiB"}, args.rounds,
                           {"kind": kind, "stride": stride, "way": way},
                           [Aim("time", AT_MOST[peer], peer)] if peer in AT_MOST else [],
                           agree=dict.fromkeys(("intersection", "predicted", "labelled"), tolerance))


def labels_file():
    return OUTPUT / "evaluation_labels.npy"


def write_labels():
    """Draw the classes of one scene, uint8; what Cityscapes doesn't evaluate is ignored."""
    sys.path.insert(0, str(ROOT))
    import cv2

    from paddleseg.datasets.cityscapes import train_labels
    from scenes.layout import draw_scene

    index_of = {label.name: index for index, label in enumerate(train_labels())}
    labels = np.full(SIZE, IGNORE_INDEX, np.uint8)
    for item in draw_scene(1, 0, 0, *SIZE).objects:
        index = index_of.get(item["label"], IGNORE_INDEX)
        cv2.fillPoly(labels, [np.asarray(item["polygon"], np.int32)], index)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    np.save(labels_file(), labels)


def coarse_logits(kind, labels, size, seed=0):
    """(C, h, w) float32."""
    import cv2

    noise = np.random.default_rng(seed).normal(size=(NUM_CLASSES, *size)).astype(np.float32)
    if kind == "noise":
        return noise
    for index, logits in enumerate(noise):
        mask = (labels == index).astype(np.float32)
        share = cv2.GaussianBlur(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_AREA), (3, 3), 0)
        logits[:] = np.log(share + np.float32(0.003)) + np.float32(0.3) * logits
    return noise


def ramps():
    """An image (1, 3, H, W) that tells the head what it sees: channel 0 counts columns, channel 1 rows."""
    rows, columns = np.indices(SIZE).astype(np.float32)
    return np.stack([columns, rows, rows])[np.newaxis]


class Head:
    """Gives the logits of what it sees; they are made at the first call."""

    def __init__(self, arguments, labels):
        self.arguments, self.labels, self.made = arguments, labels, {}

    def __call__(self, images, pack):
        """(N, C, h, w) of (N, 3, H, W), by `pack` from an array."""
        size, seen = tuple(images.shape[2:]), []
        for (left, right), (top, _) in images[:, :2, 0, ::size[1] - 1].numpy():
            seen.append((size, left > right, *((round(left), round(top)) if self.arguments["way"] == "slide" else ())))
        if tuple(seen) not in self.made:
            self.made[tuple(seen)] = pack(np.stack([self._logits(*one) for one in seen]))
        return self.made[tuple(seen)]

    def _logits(self, size, is_mirrored, left=0, top=0):
        labels = self.labels
        if self.arguments["way"] == "slide":
            labels = labels[top:top + size[0], left:left + size[1]]
        coarse = [length // self.arguments["stride"] for length in size]
        logits = coarse_logits(self.arguments["kind"], labels, coarse, seed=[left, top, int(is_mirrored)])
        return np.ascontiguousarray(logits[..., ::-1]) if is_mirrored else logits


def prepare(side, arguments):
    labels = np.load(labels_file())
    head = Head(arguments, labels)
    sides = {"ours": ours, "PaddleSeg": paddleseg, "mmsegmentation": mmsegmentation}
    evaluate = sides[side](arguments["way"], head, labels)
    before = peak_mib()
    weights = np.arange(1, NUM_CLASSES + 1, dtype=np.float64)

    def measure():
        start = time.perf_counter()
        counts = evaluate()
        seconds = time.perf_counter() - start
        areas = {name: float(weights @ np.asarray(area, np.float64))
                 for name, area in zip(("intersection", "predicted", "labelled"), counts)}
        return {"time": seconds * 1e3, "memory": peak_mib() - before, **areas}

    return measure


def paddle_head(head):
    """A layer whose logits are there already."""
    import paddle
    from paddle.nn.functional import interpolate

    class Resizing(paddle.nn.Layer):
        def forward(self, x):
            return [interpolate(head(x, paddle.to_tensor), x.shape[2:], mode="bilinear")]

    model = Resizing()
    model.eval()
    return model


def ours(way, head, labels):
    """The steps of paddleseg.core.val.evaluate."""
    sys.path.insert(0, str(ROOT))
    import paddle

    from paddleseg.core.infer import InferOptions, predict_batch
    from paddleseg.core.metrics import confusion_matrix
    from paddleseg.utils.device import use_fast_kernels

    use_fast_kernels()  # as val.py does
    options = {"whole": {}, "slide": {"is_slide": True, "crop_size": WINDOW[::-1], "stride": STRIDE[::-1]},
               "scales": {"aug_eval": True, "scales": SCALES, "flip_horizontal": True}}[way]
    options, model, image = InferOptions(**options), paddle_head(head), paddle.to_tensor(ramps())

    @paddle.no_grad()
    def evaluate():
        pred, = predict_batch(model, image, [[]], options)
        matrix = confusion_matrix(pred.numpy(), labels, NUM_CLASSES, IGNORE_INDEX)
        return np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)

    return evaluate


def paddleseg(way, head, labels):
    """The steps of PaddleSeg's evaluate."""
    use_paddleseg()
    import paddle

    from paddleseg.core import infer
    from paddleseg.utils import metrics

    model, image = paddle_head(head), paddle.to_tensor(ramps())
    label = paddle.to_tensor(labels[np.newaxis]).astype("int64")
    calls = {"whole": (infer.inference, {}),
             "slide": (infer.inference, {"is_slide": True, "crop_size": WINDOW[::-1], "stride": STRIDE[::-1]}),
             "scales": (infer.aug_inference, {"scales": SCALES, "flip_horizontal": True})}
    predict, options = calls[way]

    @paddle.no_grad()
    def evaluate():
        pred, _ = predict(model, image, trans_info=[], **options)
        return [area.numpy() for area in metrics.calculate_area(pred, label, NUM_CLASSES, ignore_index=IGNORE_INDEX)]

    return evaluate


def mmsegmentation(way, head, labels):
    """The steps of mmsegmentation's EncoderDecoder.predict, SegTTAModel and IoUMetric."""
    sys.path.insert(0, str(ROOT))
    import torch
    from mmengine.config import ConfigDict
    from torch.nn.functional import interpolate

    from diff import mmseg_reference

    torch.set_num_threads(1)
    from mmseg.evaluation import IoUMetric
    from mmseg.models import EncoderDecoder, SegTTAModel

    class Model(EncoderDecoder):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.align_corners, self.out_channels = False, NUM_CLASSES
            self.test_cfg = ConfigDict(mode="slide" if way == "slide" else "whole", crop_size=WINDOW, stride=STRIDE)

        def encode_decode(self, inputs, batch_img_metas):
            coarse = head(inputs, torch.from_numpy)
            return mmseg_reference.resize(coarse, inputs.shape[2:], mode="bilinear", align_corners=False)

    model, image, label = Model(), torch.from_numpy(ramps()), torch.from_numpy(labels.astype(np.int64))
    merger = SegTTAModel.__new__(SegTTAModel)
    torch.nn.Module.__init__(merger)
    merger.module = model

    def sample(size, flip):
        return mmseg_reference.SegDataSample(metainfo={
            "ori_shape": SIZE, "img_shape": size, "padding_size": [0] * 4, "flip": flip, "flip_direction": "horizontal",
            "img_path": ""})

    inputs = []
    for scale in SCALES if way == "scales" else (1.0,):
        size = [int(length * scale + 0.5) for length in SIZE]
        scaled = interpolate(image, size, mode="bilinear")
        inputs += [(scaled.flip(3) if flip else scaled, size, flip)
                   for flip in ((False, True) if way == "scales" else (False,))]

    @torch.no_grad()
    def evaluate():
        found = [model.predict(pixels, [sample(size, flip)]) for pixels, size, flip in inputs]
        pred = (merger.merge_preds([[one[0] for one in found]]) if way == "scales" else found[0])[0].pred_sem_seg.data
        intersection, _, predicted, labelled = IoUMetric.intersect_and_union(pred.squeeze(), label, NUM_CLASSES,
                                                                            IGNORE_INDEX)
        return intersection.numpy(), predicted.numpy(), labelled.numpy()

    return evaluate


if __name__ == "__main__":
    run(__file__, QUESTION, cases, prepare, __doc__, rounds=3)
