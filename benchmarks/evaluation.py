"""Time of an evaluation after the forward pass, per image, against PaddleSeg 2.8.0.

    python benchmarks/evaluation.py [--rounds 7] [--paddleseg DIR] [--forward]

From the coarse logits of 19 classes to the counts of a 1024 x 2048 image: upsampling, argmax, confusion matrix. Both
sides begin with the same logits and end with the same counts, which is checked.

    scenes  logits like a trained network's: from the classes' shares in a drawn street scene, with some noise
    noise   independent logits, the worst case: no class can be left out anywhere
    slide   scenes through windows of 512 x 1024, moved by 384 x 768; logits of windows are averaged, by PaddleSeg in
            float64

The two alternate in one process. PaddleSeg's core/infer.py and utils/metrics.py are read from DIR, where `make
align-env` puts them; without it only this toolkit is timed. As its metrics concatenate tensors without a dimension,
which Paddle refuses, these are given one. Aim: at least 5 times faster. --forward times EncNet on ResNet-101 up to the
coarse logits too: minutes on one core, and 5 GB.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import time
import types
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SIZE, NUM_CLASSES, IGNORE_INDEX = (1024, 2048), 19, 255
WINDOW, STRIDE = (1024, 512), (768, 384)  # (width, height)
# kind, size of the logits of an image or window, sliding
CASES = (("scenes", (128, 256), False), ("scenes", (64, 128), False), ("noise", (128, 256), False),
         ("noise", (64, 128), False), ("slide", (64, 128), True))


def scene_labels():
    """Classes of one drawn scene, uint8; what Cityscapes doesn't evaluate is ignored."""
    import cv2

    from paddleseg.datasets.cityscapes import train_labels
    from tools.scenes.layout import draw_scene

    index_of = {label.name: index for index, label in enumerate(train_labels())}
    labels = np.full(SIZE, IGNORE_INDEX, np.uint8)
    for item in draw_scene(1, 0, 0, *SIZE).objects:
        index = index_of.get(item["label"], IGNORE_INDEX)
        cv2.fillPoly(labels, [np.asarray(item["polygon"], np.int32)], index)
    return labels


def coarse_logits(kind, labels, size):
    """(1, C, h, w) float32."""
    import cv2

    noise = np.random.default_rng(0).normal(size=(1, NUM_CLASSES, *size)).astype(np.float32)
    if kind == "noise":
        return noise
    masks = [(labels == index).astype(np.float32) for index in range(NUM_CLASSES)]
    shares = np.stack([cv2.GaussianBlur(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_AREA), (3, 3), 0)
                       for mask in masks])
    return np.log(shares + np.float32(0.003)) + np.float32(0.3) * noise


def make_model(logits):
    """A layer whose head is done: it returns these logits for each image, and resizes them if asked to."""
    import paddle
    from paddle.nn.functional import interpolate

    class Head(paddle.nn.Layer):
        align_corners = False

        def forward(self, x, at_input_size: bool = True):
            coarse = logits.expand([x.shape[0], *logits.shape[1:]])
            return [interpolate(coarse, x.shape[2:], mode="bilinear") if at_input_size else coarse]

    return Head()


def load_paddleseg(folder):
    """PaddleSeg's core.infer and utils.metrics, or None where they aren't."""
    import paddle

    paths = [Path(folder, "paddleseg", name) for name in ("core/infer.py", "utils/metrics.py")]
    if not all(path.is_file() for path in paths):
        return None
    scikit = sys.modules["sklearn"] = types.ModuleType("sklearn")  # which only its area under the ROC curve needs
    scikit.metrics = sys.modules["sklearn.metrics"] = types.ModuleType("sklearn.metrics")
    modules = []
    for path in paths:
        spec = importlib.util.spec_from_file_location("reference_" + path.stem, path)
        modules.append(importlib.util.module_from_spec(spec))
        spec.loader.exec_module(modules[-1])
    infer, metrics = modules

    class Vectors:
        def __getattr__(self, name):
            return getattr(paddle, name)

        def concat(self, tensors):
            return paddle.concat([tensor.reshape([1]) for tensor in tensors])

    metrics.paddle = Vectors()
    return infer, metrics


def evaluate_ours(model, batch, slide):
    """The steps of paddleseg.core.val.evaluate; returns seconds of both, and the counts."""
    from paddleseg.core.infer import InferOptions, predict_classes
    from paddleseg.core.metrics import confusion_matrix

    options = InferOptions(is_slide=True, crop_size=WINDOW, stride=STRIDE) if slide else InferOptions()
    start = time.perf_counter()
    pred = predict_classes(model, batch["img"], [], options).numpy()
    middle = time.perf_counter()
    matrix = confusion_matrix(pred, np.asarray(batch["label"][0]), NUM_CLASSES, IGNORE_INDEX)
    end = time.perf_counter()
    return (middle - start, end - middle), np.stack([np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)])


def evaluate_paddleseg(modules, model, batch, slide):
    """The steps of its evaluate."""
    infer, metrics = modules
    options = dict(is_slide=True, crop_size=WINDOW, stride=STRIDE) if slide else {}
    label = batch["label"].astype("int64")
    start = time.perf_counter()
    pred, _ = infer.inference(model, batch["img"], trans_info=[], **options)
    middle = time.perf_counter()
    areas = metrics.calculate_area(pred, label, NUM_CLASSES, ignore_index=IGNORE_INDEX)
    counts = np.stack([area.numpy() for area in areas])
    return (middle - start, time.perf_counter() - middle), counts


def compare(kind, size, slide, labels, modules, rounds):
    """Print the medians of one case."""
    import paddle

    model = make_model(paddle.to_tensor(coarse_logits(kind, labels, size)))
    batch = {"img": paddle.zeros([1, 3, *SIZE]), "label": paddle.to_tensor(labels[np.newaxis]).astype("int64")}
    sides = {"ours": lambda: evaluate_ours(model, batch, slide)}
    if modules:
        sides["PaddleSeg"] = lambda: evaluate_paddleseg(modules, model, batch, slide)
    times, counts = {name: [] for name in sides}, {name: run()[1] for name, run in sides.items()}
    for _ in range(rounds):
        for name, run in sides.items():
            times[name].append(run()[0])
    print(f"{kind}, logits {size[0]} x {size[1]}" + (" a window" if slide else ""))
    totals = {}
    for name, seconds in times.items():
        totals[name] = [sum(pair) for pair in seconds]
        upsample, count = (statistics.median(column) * 1e3 for column in zip(*seconds))
        print(f"  {name:<10}{statistics.median(totals[name]) * 1e3:8.1f} ms ({min(totals[name]) * 1e3:.1f} to "
              f"{max(totals[name]) * 1e3:.1f}): upsample and argmax {upsample:.1f}, counts {count:.1f}")
    if modules:
        ratio = statistics.median(totals["PaddleSeg"]) / statistics.median(totals["ours"])
        differing = int(np.abs(np.subtract(*counts.values())).sum())
        print(f"  {ratio:.1f} times faster; the counts " + (f"differ by {differing}" if differing else "are equal"))
        if differing and not slide:
            sys.exit("both sides must count the same")


def time_forward(rounds):
    """Print the time of EncNet on ResNet-101 to the coarse logits of one image."""
    import paddle

    from paddleseg.models import EncNet
    from paddleseg.models.backbones import ResNet101_vd

    model, image = EncNet(NUM_CLASSES, ResNet101_vd(output_stride=8)), paddle.randn([1, 3, *SIZE])
    model.eval()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        model(image, at_input_size=False)[0].numpy()
        seconds.append(time.perf_counter() - start)
    print(f"forward pass of EncNet on ResNet-101: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to "
          f"{max(seconds):.2f})")


def machine():
    """One line on what this runs on."""
    import paddle

    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return (f"{cpu}, {os.cpu_count()} cores, {os.environ['OMP_NUM_THREADS']} thread(s), {paddle.get_device()}, "
            f"Paddle {paddle.__version__}, NumPy {np.__version__}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="calls of each side (default: %(default)s)")
    parser.add_argument("--paddleseg", metavar="DIR", default=str(ROOT / ".venv-align/paddleseg"),
                        help="the folder that holds PaddleSeg's package (default: %(default)s)")
    parser.add_argument("--forward", action="store_true", help="time the forward pass too")
    args = parser.parse_args()

    import paddle  # sets OMP_NUM_THREADS to 1 unless it is set

    print(machine())
    modules = load_paddleseg(args.paddleseg)
    if modules is None:
        print(f"PaddleSeg is skipped: {args.paddleseg} doesn't hold it; `make align-env` installs it there")
    labels = scene_labels()
    with paddle.no_grad():
        for kind, size, slide in CASES:
            compare(kind, size, slide, labels, modules, args.rounds)
        if args.forward:
            time_forward(rounds=3)


if __name__ == "__main__":
    main()
