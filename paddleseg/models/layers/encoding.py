"""The Encoding layer of EncNet.

Letters: N images, D channels, P = H * W pixels, K codewords.
"""

import paddle
import paddle.nn as nn
import paddle.nn.functional as F


class Encoding(nn.Layer):
    """Describe a feature map by its residuals to K learned codewords.

    e_k = sum_i a_ik (x_i - c_k),   a_ik = softmax_k(s_k |x_i - c_k|^2)

    Zhang et al., "Context Encoding for Semantic Segmentation", CVPR 2018, eq. 1-2.

    Both sums are matrix products, so memory grows with P * (D + K); the direct
    form holds every residual and grows with P * D * K. Inside mixed precision
    the layer computes in float32, since half precision can't hold the squared
    distances.

    Args:
        channels: D.
        num_codes: K.

    Shapes:
        input (N, D, H, W), output (N, K, D) in float32, or in float64 if the input is.
    """

    def __init__(self, channels: int, num_codes: int):
        super().__init__()
        bound = (num_codes * channels) ** -0.5
        self.codewords = self.create_parameter(
            [num_codes, channels], default_initializer=nn.initializer.Uniform(-bound, bound))
        self.scale = self.create_parameter(
            [num_codes], default_initializer=nn.initializer.Uniform(-1.0, 0.0))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        dtype = x.dtype if x.dtype == paddle.float64 else paddle.float32
        with paddle.amp.auto_cast(enable=False):
            return encode(x.astype(dtype), self.codewords.astype(dtype), self.scale.astype(dtype))


def encode(x: paddle.Tensor, codewords: paddle.Tensor, scale: paddle.Tensor) -> paddle.Tensor:
    """The sum over pixels of x_i - c_k weighted by a_ik; x (N, D, H, W) to (N, K, D)."""
    pixels = x.flatten(2)  # (N, D, P)
    weights = F.softmax(scaled_distance(pixels, codewords, scale), axis=1)  # (N, K, P)
    total = weights.sum(axis=2, keepdim=True)
    return paddle.matmul(weights, pixels, transpose_y=True) - total * codewords


def scaled_distance(pixels: paddle.Tensor, codewords: paddle.Tensor, scale: paddle.Tensor) -> paddle.Tensor:
    """s_k |x_i - c_k|^2 as (N, K, P), through |x|^2 - 2 x.c + |c|^2; pixels (N, D, P)."""
    pixel_norm = pixels.square().sum(axis=1, keepdim=True)
    code_norm = codewords.square().sum(axis=1).reshape([1, -1, 1])
    distance = pixel_norm - 2 * paddle.matmul(codewords, pixels) + code_norm
    return scale.reshape([1, -1, 1]) * distance
