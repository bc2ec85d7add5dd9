"""The fusion of a finer with a coarser feature map, weighted by attention.

Peng et al., "PP-LiteSeg: A Superior Real-Time Semantic Segmentation Model", 2022, section 3.2.

Letters: N images, x the finer map (N, x_ch, H, W), y the coarser one (N, y_ch, h, w).
"""

from typing import Tuple

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models.layers.layer_libs import ConvBN, ConvBNAct, ConvBNReLU, SeparableConvBNReLU
from paddleseg.models.layers.resize import size_of


class UAFM(nn.Layer):
    """conv(conv_x(x) + y resized); the other fusions weigh the two instead of adding them.

    Args:
        x_ch, y_ch, out_ch: channels of x, y and the output.
        ksize: of the convolution on x.
        resize_mode: how y is resized to the size of x.

    Shapes:
        output (N, out_ch, H, W).

    Raises:
        ConfigError: x is smaller than y.
    """

    conv = ConvBNReLU

    def __init__(self, x_ch: int, y_ch: int, out_ch: int, ksize: int = 3, resize_mode: str = "bilinear"):
        super().__init__()
        self.conv_x = self.conv(x_ch, y_ch, ksize, padding=ksize // 2, bias_attr=False)
        self.conv_out = self.conv(y_ch, out_ch, 3, padding=1, bias_attr=False)
        self.resize_mode = resize_mode
        self.add_attention(y_ch)

    def add_attention(self, y_ch: int) -> None:
        """Add what a subclass weighs the maps by."""

    def check(self, x: paddle.Tensor, y: paddle.Tensor) -> None:
        """Raise ConfigError for maps in the wrong order."""
        sizes = tuple(x.shape[2:]), tuple(y.shape[2:])
        if paddle.in_dynamic_mode() and (sizes[0][0] < sizes[1][0] or sizes[0][1] < sizes[1][1]):
            raise ConfigError(f"{type(self).__name__} takes the finer map first; it got {sizes[0]} before {sizes[1]}")

    def prepare(self, x: paddle.Tensor, y: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """Both with y_ch channels and of the size of x."""
        x = self.prepare_x(x, y)
        return x, self.prepare_y(x, y)

    def prepare_x(self, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
        return self.conv_x(x)

    def prepare_y(self, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
        return F.interpolate(y, size_of(x), mode=self.resize_mode)

    def fuse(self, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
        """The sum of both; subclasses weigh it. x and y are (N, y_ch, H, W)."""
        return self.conv_out(x + y)

    def forward(self, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
        self.check(x, y)
        x, y = self.prepare(x, y)
        return self.fuse(x, y)


class UAFM_ChAtten(UAFM):
    """A weight for each channel, from means and maxima over the pixels of both maps."""

    pools = (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)

    def add_attention(self, y_ch: int) -> None:
        self.conv_xy_atten = nn.Sequential(
            ConvBNAct(2 * len(self.pools) * y_ch, y_ch // 2, 1, bias_attr=False, act_type="leakyrelu"),
            ConvBN(y_ch // 2, y_ch, 1, bias_attr=False))

    def fuse(self, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
        parts = paddle.concat([pool(one, 1) for pool in self.pools for one in (x, y)], axis=1)
        attention = F.sigmoid(self.conv_xy_atten(parts))
        return self.conv_out(x * attention + y * (1 - attention))


class UAFM_ChAtten_S(UAFM_ChAtten):
    """A weight for each channel, from means over the pixels of both maps."""

    pools = (F.adaptive_avg_pool2d,)


class UAFM_SpAtten_S(UAFM):
    """A weight for each pixel, from means over the channels of both maps."""

    statistics = (paddle.mean,)
    total = 1  # of the weights of x and y

    def add_attention(self, y_ch: int) -> None:
        self.conv_xy_atten = nn.Sequential(
            ConvBNReLU(2 * len(self.statistics), 2, 3, padding=1, bias_attr=False),
            ConvBN(2, 1, 3, padding=1, bias_attr=False))

    def fuse(self, x: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
        parts = paddle.concat([reduce(one, axis=1, keepdim=True) for one in (x, y) for reduce in self.statistics],
                              axis=1)
        attention = F.sigmoid(self.conv_xy_atten(parts))
        return self.conv_out(x * attention + y * (self.total - attention))


class UAFM_SpAtten(UAFM_SpAtten_S):
    """A weight for each pixel, from means and maxima over the channels of both maps."""

    statistics = (paddle.mean, paddle.max)

    def add_attention(self, y_ch: int) -> None:
        super().add_attention(y_ch)
        # A constant 1, but a parameter in PaddleSeg, and so in its weights.
        self._scale = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))
        self._scale.stop_gradient = True

    @property
    def total(self) -> paddle.Tensor:
        return self._scale


class UAFMMobile(UAFM):
    """`UAFM` with separable convolutions."""

    conv = SeparableConvBNReLU


class UAFMMobile_SpAtten(UAFM_SpAtten_S):
    """A weight for each pixel, as in `UAFM_SpAtten`, with separable convolutions."""

    conv = SeparableConvBNReLU
    statistics = (paddle.mean, paddle.max)
