"""PaddleSeg's cross entropy divides by the share of labelled pixels + 1e-8: relative 1e-8 / share.

    python diff/show_paddleseg_epsilon.py [PaddleSeg's folder]
"""

import sys
from pathlib import Path

import paddle

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import inputs, paddleseg_reference

theirs = paddleseg_reference.Side(inputs.Setup(), {}, "float64", *sys.argv[1:])
logits = inputs.logits(inputs.SIZES[0], "float64")
for name, label in inputs.loss_cases(inputs.SIZES[0]):
    share = (label != inputs.IGNORE_INDEX).mean()
    if share:
        exact = paddle.nn.functional.cross_entropy(paddle.to_tensor(logits["seg"]), paddle.to_tensor(label),
                                                   ignore_index=inputs.IGNORE_INDEX, axis=1).item()
        print(f"{name}: 1 - PaddleSeg / exact = {1 - theirs.losses(logits, label)['seg'] / exact:.3e}, "
              f"1e-8 / share = {1e-8 / share:.3e}")
