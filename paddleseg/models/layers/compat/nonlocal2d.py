"""The non-local block: every pixel sees every other.

Letters: N images, C channels, K inner channels, P = H * W pixels, Q of them after sub-sampling.
"""

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models.layers.conv_bn import ConvBNReLU
from paddleseg.models.layers.resize import shape_of

MODES = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


class NonLocal2D(nn.Layer):
    """x + conv(sum over pixels of f(x_i, x_j) g(x_j)).

    Wang et al., "Non-local Neural Networks", CVPR 2018, section 3.

    Args:
        in_channels: C.
        reduction: C / K.
        use_scale: divide the products by sqrt(K); for embedded_gaussian.
        sub_sample: keys and values are the largest of each 2x2 pixels.
        mode: f, one of the four methods below.

    Shapes:
        input and output (N, C, H, W).

    Raises:
        ConfigError: there is no such mode.
    """

    def __init__(self, in_channels: int, reduction: int = 2, use_scale: bool = True, sub_sample: bool = False,
                 mode: str = "embedded_gaussian"):
        super().__init__()
        if mode not in MODES:
            raise ConfigError(f"NonLocal2D: mode is {mode}; choose one of {', '.join(MODES)}")
        self.in_channels, self.reduction, self.use_scale = in_channels, reduction, use_scale
        self.sub_sample, self.mode = sub_sample, mode
        self.inter_channels = inner = max(in_channels // reduction, 1)
        self.g = nn.Conv2D(in_channels, inner, 1)
        self.conv_out = ConvBNReLU(inner, in_channels, 1, bias_attr=False)
        if mode != "gaussian":
            self.theta = nn.Conv2D(in_channels, inner, 1)
            self.phi = nn.Conv2D(in_channels, inner, 1)
        if mode == "concatenation":
            self.concat_project = ConvBNReLU(2 * inner, 1, 1, bias_attr=False)
        if sub_sample:
            pool = nn.MaxPool2D(2)
            self.g = nn.Sequential(self.g, pool)
            self.phi = pool if mode == "gaussian" else nn.Sequential(self.phi, pool)

    def gaussian(self, theta_x: paddle.Tensor, phi_x: paddle.Tensor) -> paddle.Tensor:
        """softmax over j of x_i . x_j: (N, P, C) and (N, C, Q) to (N, P, Q)."""
        return F.softmax(paddle.matmul(theta_x, phi_x), axis=-1)

    def embedded_gaussian(self, theta_x: paddle.Tensor, phi_x: paddle.Tensor) -> paddle.Tensor:
        """softmax over j of theta(x_i) . phi(x_j): (N, P, K) and (N, K, Q) to (N, P, Q)."""
        products = paddle.matmul(theta_x, phi_x)
        return F.softmax(products / self.inter_channels ** 0.5 if self.use_scale else products, axis=-1)

    def dot_product(self, theta_x: paddle.Tensor, phi_x: paddle.Tensor) -> paddle.Tensor:
        """theta(x_i) . phi(x_j) / Q: (N, P, K) and (N, K, Q) to (N, P, Q)."""
        return _over_pixels(paddle.matmul(theta_x, phi_x))

    def concatenation(self, theta_x: paddle.Tensor, phi_x: paddle.Tensor) -> paddle.Tensor:
        """relu(w . [theta(x_i), phi(x_j)]) / Q: (N, K, P, 1) and (N, K, 1, Q) to (N, P, Q)."""
        pixels, keys = shape_of(theta_x)[2], shape_of(phi_x)[3]
        pairs = paddle.concat([theta_x.tile([1, 1, 1, keys]), phi_x.tile([1, 1, pixels, 1])], axis=1)
        return _over_pixels(self.concat_project(pairs).squeeze(1))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        height, width = shape_of(x)[2:]
        theta_x = x if self.mode == "gaussian" else self.theta(x)
        phi_x = self.phi(x) if self.sub_sample or self.mode != "gaussian" else x
        if self.mode == "concatenation":
            theta_x, phi_x = theta_x.flatten(2).unsqueeze(3), phi_x.flatten(2).unsqueeze(2)
        else:
            theta_x, phi_x = theta_x.flatten(2).transpose([0, 2, 1]), phi_x.flatten(2)
        weights = getattr(self, self.mode)(theta_x, phi_x)
        y = paddle.matmul(self.g(x).flatten(2), weights, transpose_y=True)
        return x + self.conv_out(y.reshape([0, self.inter_channels, height, width]))


def _over_pixels(weights: paddle.Tensor) -> paddle.Tensor:
    count = shape_of(weights)[-1]
    return weights / (count if isinstance(count, int) else count.astype(weights.dtype))
