"""Cross entropy of both heads from their coarse logits, forward and backward, against resizing the logits first.

    python benchmarks/losses.py [--rounds 3] [--only TEXT]

    ours           in strips, see paddleseg/models/losses/coarse.py
    resized first  F.interpolate and F.cross_entropy, as the PaddleSeg and mmsegmentation recipes do

Random logits (2, 19, 64, 128) and a label of 512x1024 of which a tenth is ignored; twice, for seg and aux, with the
coefficients 1 and 0.4. In float32 on one thread. Each measurement has a process of its own, warmed up on a small map.
Extra memory is the peak resident set (on a GPU: of what is allocated) above that with the inputs built. The losses must
agree, or the benchmark fails.
"""

import time

import numpy as np
from harness import ROOT, Aim, Case, peak_mib, reset_peak, run

QUESTION = "Cross entropy of both heads, forward and backward"
OURS, RESIZED = "ours", "resized first"
BATCH, CLASSES, COARSE, SIZE = 2, 19, (64, 128), (512, 1024)


def cases(args):
    yield Case(f"({BATCH}, {CLASSES}, {COARSE[0]}, {COARSE[1]}) to {SIZE[0]}x{SIZE[1]}", (OURS, RESIZED),
               {"time": "s", "extra memory": "MiB"}, args.rounds, keep_alive=False, agree={"loss": 1e-5},
               aims=(Aim("time", 1.0, RESIZED), Aim("extra memory", 1.0, RESIZED)))


def prepare(side, arguments):
    """The measurement of one side; every side has the same logits and label."""
    import sys

    sys.path.insert(0, str(ROOT))
    import paddle
    import paddle.nn.functional as F

    from paddleseg.models.losses import CrossEntropyLoss

    loss = CrossEntropyLoss()

    def both_heads(logits, label):
        size = label.shape[1:]
        if side == RESIZED:
            seg, aux = (loss(F.interpolate(logit, size, mode="bilinear"), label) for logit in logits)
        else:
            seg, aux = (loss(logit, label, size=size) for logit in logits)
        total = seg + 0.4 * aux
        total.backward()
        return total.item()

    def inputs(coarse_size, size):
        rng = np.random.default_rng(0)
        logits = [paddle.to_tensor(rng.normal(0, 3, (BATCH, CLASSES, *coarse_size)).astype("float32"),
                                   stop_gradient=False) for _ in range(2)]
        label = rng.integers(0, CLASSES, (BATCH, *size))
        label[rng.random(label.shape) < 0.1] = 255
        return logits, paddle.to_tensor(label)

    def measure():
        both_heads(*inputs((2, 2), (4, 4)))  # loads the kernels
        logits, label = inputs(COARSE, SIZE)
        reset_peak()
        before_mib, start = peak_mib(), time.perf_counter()
        value = both_heads(logits, label)
        return {"time": time.perf_counter() - start, "extra memory": peak_mib() - before_mib, "loss": value}

    return measure


if __name__ == "__main__":
    run(__file__, QUESTION, cases, prepare, __doc__, rounds=3)
