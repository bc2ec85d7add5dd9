"""Differences of the frameworks and references, each in isolation.

    python diff/show.py bilinear | momentum | mmseg_epsilon | paddleseg_epsilon [PaddleSeg's folder]
"""

import argparse
import sys
from pathlib import Path
from typing import Optional

import numpy as np
import paddle

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import inputs


def resize_matrix(small: int, large: int, kind: type, each: bool) -> np.ndarray:
    """Half-pixel bilinear resizing of one axis; coordinates are rounded to `kind`, after each operation or once."""
    ratio, pixels = kind(small) / kind(large), np.arange(large)
    where = ratio * (pixels + kind(0.5)).astype(kind if each else float) - (kind(0.5) if each else 0.5)
    where = np.maximum(where, 0).astype(kind).astype(float)
    low = where.astype(int)
    weights = np.zeros((large, small))
    np.add.at(weights, (pixels, low), 1 - (where - low))
    np.add.at(weights, (pixels, np.minimum(low + 1, small - 1)), where - low)
    return weights


def show_bilinear() -> None:
    """Paddle computes bilinear coordinates in float32 even for float64 maps; an exact ratio gives an exact result.

    Its kernel rounds a row's coordinate once and a column's after each operation.
    """
    import torch

    for (h, w), (H, W) in (((8, 16), (64, 128)), ((13, 21), (97, 161)), ((13, 25), (97, 193))):
        x = np.random.default_rng(0).standard_normal((1, 1, h, w))
        ours = paddle.nn.functional.interpolate(paddle.to_tensor(x), [H, W], mode="bilinear").numpy()
        theirs = torch.nn.functional.interpolate(torch.from_numpy(x), (H, W), mode="bilinear").numpy()
        exact, single = (resize_matrix(h, H, kind, False) @ x @ resize_matrix(w, W, kind, True).T
                         for kind in (np.float64, np.float32))
        print(f"{h}x{w} -> {H}x{W}: Paddle - exact {abs(ours - exact).max():.1e}, PyTorch - exact "
              f"{abs(theirs - exact).max():.1e}, Paddle - coordinates in float32 {abs(ours - single).max():.1e}")


def show_momentum() -> None:
    """Paddle keeps two momenta in float32 even where everything else is float64: batch norm's and the optimizer's."""
    paddle.set_default_dtype("float64")
    for momentum in (0.9, 0.875):  # the second is a float32
        norm = paddle.nn.BatchNorm1D(1, momentum=momentum)
        mean, batch = 0.0, paddle.to_tensor([[1.0], [3.0]])  # whose mean is 2
        weight = paddle.create_parameter([1], "float64", default_initializer=paddle.nn.initializer.Constant(0.0))
        optimizer = paddle.optimizer.Momentum(1.0, momentum, [weight])
        place, velocity = 0.0, 0.0
        for _ in range(10):
            norm(batch)
            mean = momentum * mean + (1 - momentum) * 2
            weight.sum().backward()
            optimizer.step()
            optimizer.clear_grad()
            velocity = momentum * velocity + 1
            place -= velocity
        print(f"momentum {momentum}, after 10 steps: running mean off by {abs(norm._mean.item() / mean - 1):.1e}, "
              f"parameter by {abs(weight.item() / place - 1):.1e}; "
              f"float32({momentum}) is off by {abs(float(np.float32(momentum)) / momentum - 1):.1e}")


def show_mmseg_epsilon() -> None:
    """mmsegmentation's cross entropy divides by the number of pixels + 1.19e-7: 7.3e-12 at 2x64x128 pixels."""
    import torch

    from diff import mmseg_reference  # noqa: F401  (lets mmseg be imported)
    from mmseg.models.losses.cross_entropy_loss import cross_entropy  # isort: skip

    for height, width in ((64, 128), (97, 161), (512, 1024)):
        logit, label = torch.randn(2, 19, height, width).double(), torch.randint(19, (2, height, width))
        exact = torch.nn.functional.cross_entropy(logit, label).item()
        print(f"2x{height}x{width}: 1 - mmseg / exact = {1 - cross_entropy(logit, label).item() / exact:.3e}, "
              f"float32's epsilon / pixels = {np.finfo(np.float32).eps / label.numel():.3e}")


def show_paddleseg_epsilon(folder: Optional[str]) -> None:
    """PaddleSeg's cross entropy divides by the share of labelled pixels + 1e-8: relative 1e-8 / share."""
    from diff import paddleseg_reference

    theirs = paddleseg_reference.Side(inputs.Setup(), {}, "float64", folder)
    logits = inputs.logits(inputs.SIZES[0], "float64")
    for name, label in inputs.loss_cases(inputs.SIZES[0]):
        share = (label != inputs.IGNORE_INDEX).mean()
        if share:
            exact = paddle.nn.functional.cross_entropy(paddle.to_tensor(logits["seg"]), paddle.to_tensor(label),
                                                       ignore_index=inputs.IGNORE_INDEX, axis=1).item()
            print(f"{name}: 1 - PaddleSeg / exact = {1 - theirs.losses(logits, label)['seg'] / exact:.3e}, "
                  f"1e-8 / share = {1e-8 / share:.3e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="difference", required=True)
    for function in (show_bilinear, show_momentum, show_mmseg_epsilon, show_paddleseg_epsilon):
        command = commands.add_parser(function.__name__.partition("_")[2], help=function.__doc__.splitlines()[0])
        command.set_defaults(show=function)
    command.add_argument("folder", nargs="?", help="that holds PaddleSeg's package")
    given = vars(parser.parse_args())
    del given["difference"]
    given.pop("show")(**given)
