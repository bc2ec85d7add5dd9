"""The convolution blocks that PaddleSeg's models build on, beside those of conv_bn.py, which are here too by name.

Letters: N images, C channels, H, W size of the feature map. Each block takes (N, in_channels, H, W) and gives
(N, out_channels, H', W'). `conv` goes to nn.Conv2D. Parameters have PaddleSeg's names.
"""

from typing import Optional, Sequence, Tuple

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.models.layers.activation import Activation
from paddleseg.models.layers.conv_bn import AuxLayer, ConvBN, ConvBNReLU, Padding, Size, SyncBatchNorm
from paddleseg.models.layers.resize import resize

__all__ = ["Activation", "AuxLayer", "ConvBN", "ConvBNAct", "ConvBNLeakyReLU", "ConvBNPReLU", "ConvBNReLU", "ConvGNAct",
           "ConvNormAct", "ConvReLUPool", "DepthwiseConvBN", "JPU", "SeparableConvBNReLU", "SyncBatchNorm"]


class ConvBNAct(ConvBN):
    """`ConvBN` and the activation of that name, or none."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, padding: Padding = "same",
                 act_type: Optional[str] = None, **conv):
        super().__init__(in_channels, out_channels, kernel_size, padding, **conv)
        self._act = Activation(act_type)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self._act(self._batch_norm(self._conv(x)))


class ConvBNPReLU(ConvBN):
    """`ConvBN` and a ReLU with one learned slope below 0."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, padding: Padding = "same", **conv):
        super().__init__(in_channels, out_channels, kernel_size, padding, **conv)
        self._prelu = Activation("prelu")

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self._prelu(self._batch_norm(self._conv(x)))


class ConvBNLeakyReLU(ConvBN):
    """`ConvBN` and a ReLU with a slope of 0.01 below 0."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.leaky_relu(self._batch_norm(self._conv(x)))


class ConvNormAct(nn.Layer):
    """A convolution, then the layer `norm` and the activation of that name, or neither."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, padding: Padding = "same",
                 act_type: Optional[str] = None, norm: Optional[nn.Layer] = None, **conv):
        super().__init__()
        self._conv = nn.Conv2D(in_channels, out_channels, kernel_size, padding=padding, **conv)
        self._norm = norm
        self._act = Activation(act_type)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self._conv(x)
        return self._act(x if self._norm is None else self._norm(x))


class ConvGNAct(ConvNormAct):
    """A convolution, a group norm of `num_groups` groups of channels, and the activation of that name, or none."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, padding: Padding = "same",
                 num_groups: int = 32, act_type: Optional[str] = None, **conv):
        super().__init__(in_channels, out_channels, kernel_size, padding, act_type, **conv)
        self._group_norm = nn.GroupNorm(num_groups, out_channels, data_format=conv.get("data_format", "NCHW"))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self._act(self._group_norm(self._conv(x)))


class ConvReLUPool(nn.Layer):
    """A 3x3 convolution, a ReLU, and the largest of each 2x2 pixels: H' = H // 2, W' = W // 2."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2D(in_channels, out_channels, 3, padding=1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.max_pool2d(F.relu(self.conv(x)), 2, stride=2)


class DepthwiseConvBN(nn.Layer):
    """`ConvBN` with a group for each input channel."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, padding: Padding = "same", **conv):
        super().__init__()
        self.depthwise_conv = ConvBN(in_channels, out_channels, kernel_size, padding, groups=in_channels, **conv)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.depthwise_conv(x)


class SeparableConvBNReLU(nn.Layer):
    """`ConvBN` of each channel by itself, then a 1x1 `ConvBNReLU`.

    Args:
        pointwise_bias: bias_attr of the second one; the others are of the first one, data_format is of both.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, padding: Padding = "same",
                 pointwise_bias: Optional[bool] = None, **conv):
        super().__init__()
        self.depthwise_conv = ConvBN(in_channels, in_channels, kernel_size, padding, groups=in_channels, **conv)
        # Misspelt in PaddleSeg, and so in its weights.
        self.piontwise_conv = ConvBNReLU(in_channels, out_channels, 1, bias_attr=pointwise_bias,
                                         data_format=conv.get("data_format", "NCHW"))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.piontwise_conv(self.depthwise_conv(x))


class JPU(nn.Layer):
    """Joint Pyramid Upsampling: what dilated stages would see, from the maps of an undilated backbone.

    Wu et al., "FastFCN: Rethinking Dilated Convolution in the Backbone for Semantic Segmentation", 2019.

    Args:
        in_channels: of the maps, the largest first; the last three are used.
        width: channels of each of the four parts of the result.

    Shapes:
        inputs: at least four maps (N, in_channels[i], h_i, w_i); outputs: the first three as they are, and
        (N, 4 * width, h, w) of the size of the third from the end.
    """

    def __init__(self, in_channels: Sequence[int], width: int = 512):
        super().__init__()
        narrow = dict(padding=1, bias_attr=False)
        self.conv5 = ConvBNReLU(in_channels[-1], width, 3, **narrow)
        self.conv4 = ConvBNReLU(in_channels[-2], width, 3, **narrow)
        self.conv3 = ConvBNReLU(in_channels[-3], width, 3, **narrow)
        for number, dilation in enumerate((1, 2, 4, 8), start=1):
            self.add_sublayer(f"dilation{number}", SeparableConvBNReLU(
                3 * width, width, 3, padding=dilation, pointwise_bias=False, dilation=dilation, bias_attr=False))

    def forward(self, *inputs: paddle.Tensor) -> Tuple[paddle.Tensor, ...]:
        third = self.conv3(inputs[-3])
        feat = paddle.concat([resize(self.conv5(inputs[-1]), third, align_corners=True),
                              resize(self.conv4(inputs[-2]), third, align_corners=True), third], axis=1)
        feat = paddle.concat([self.dilation1(feat), self.dilation2(feat), self.dilation3(feat), self.dilation4(feat)],
                             axis=1)
        return inputs[0], inputs[1], inputs[2], feat
