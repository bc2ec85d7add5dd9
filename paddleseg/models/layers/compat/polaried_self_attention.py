"""Polarized self-attention.

Letters: N images, C channels, D inner channels, H, W size of the feature map.
"""

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.cvlibs import param_init
from paddleseg.models.layers.resize import shape_of


class PolarizedSelfAttentionModule(nn.Layer):
    """x weighted for each channel, plus x weighted for each pixel.

    Liu et al., "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", 2021, the parallel layout.

    Args:
        inplanes: C.
        planes: channels of the channels' weights, 2 D; C or 1.
        kernel_size: kept for PaddleSeg's signature; every convolution is 1x1, as there.
        stride: of the convolutions on x; 1, as the weights must have the size of x.

    Shapes:
        input and output (N, C, H, W).
    """

    def __init__(self, inplanes: int, planes: int, kernel_size: int = 1, stride: int = 1):
        super().__init__()
        self.inplanes, self.planes, self.inter_planes = inplanes, planes, planes // 2
        self.kernel_size, self.stride, self.padding = kernel_size, stride, (kernel_size - 1) // 2
        self.conv_q_right = nn.Conv2D(inplanes, 1, 1, stride=stride, bias_attr=False)
        self.conv_v_right = nn.Conv2D(inplanes, self.inter_planes, 1, stride=stride, bias_attr=False)
        self.conv_up = nn.Conv2D(self.inter_planes, planes, 1, bias_attr=False)
        self.conv_q_left = nn.Conv2D(inplanes, self.inter_planes, 1, stride=stride, bias_attr=False)
        self.conv_v_left = nn.Conv2D(inplanes, self.inter_planes, 1, stride=stride, bias_attr=False)
        for conv in (self.conv_q_right, self.conv_v_right, self.conv_q_left, self.conv_v_left, self.conv_up):
            param_init.kaiming_normal_init(conv.weight)

    def spatial_pool(self, x: paddle.Tensor) -> paddle.Tensor:
        """x times a weight for each channel, from a weighted mean over the pixels."""
        mask = F.softmax(self.conv_q_right(x).flatten(2), axis=2)  # (N, 1, H * W)
        context = paddle.matmul(self.conv_v_right(x).flatten(2), mask, transpose_y=True)  # (N, D, 1)
        return x * F.sigmoid(self.conv_up(context.unsqueeze(3)))

    def channel_pool(self, x: paddle.Tensor) -> paddle.Tensor:
        """x times a weight for each pixel, from the likeness of its channels to their means."""
        means = F.adaptive_avg_pool2d(self.conv_q_left(x), 1).flatten(2)  # (N, D, 1)
        values = self.conv_v_left(x)
        height, width = shape_of(values)[2:]
        context = F.softmax(paddle.matmul(means, values.flatten(2), transpose_x=True), axis=2)  # (N, 1, H * W)
        return x * F.sigmoid(context.reshape([0, 1, height, width]))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.channel_pool(x) + self.spatial_pool(x)
