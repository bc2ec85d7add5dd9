"""Paddle computes bilinear coordinates in float32 even for float64 maps; where the ratio is exact, so is the result.

Its kernel rounds a row's coordinate once and a column's after each operation.
"""

import numpy as np
import paddle
import torch


def matrix(small: int, large: int, kind: type, each: bool) -> np.ndarray:
    """Half-pixel bilinear resizing of one axis; coordinates are rounded to `kind`, after each operation or once."""
    ratio, pixels = kind(small) / kind(large), np.arange(large)
    where = ratio * (pixels + kind(0.5)).astype(kind if each else float) - (kind(0.5) if each else 0.5)
    where = np.maximum(where, 0).astype(kind).astype(float)
    low = where.astype(int)
    weights = np.zeros((large, small))
    np.add.at(weights, (pixels, low), 1 - (where - low))
    np.add.at(weights, (pixels, np.minimum(low + 1, small - 1)), where - low)
    return weights


for (h, w), (H, W) in (((8, 16), (64, 128)), ((13, 21), (97, 161)), ((13, 25), (97, 193))):
    x = np.random.default_rng(0).standard_normal((1, 1, h, w))
    ours = paddle.nn.functional.interpolate(paddle.to_tensor(x), [H, W], mode="bilinear").numpy()
    theirs = torch.nn.functional.interpolate(torch.from_numpy(x), (H, W), mode="bilinear").numpy()
    exact, single = (matrix(h, H, kind, False) @ x @ matrix(w, W, kind, True).T for kind in (np.float64, np.float32))
    print(f"{h}x{w} -> {H}x{W}: Paddle - exact {abs(ours - exact).max():.1e}, PyTorch - exact "
          f"{abs(theirs - exact).max():.1e}, Paddle - coordinates in float32 {abs(ours - single).max():.1e}")
