"""Context at several scales: atrous spatial pyramid pooling and pyramid pooling.

Letters: N images, C channels, H, W size of the feature map.
"""

from typing import Sequence

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.models.layers.layer_libs import ConvBNReLU, SeparableConvBNReLU
from paddleseg.models.layers.resize import size_of


class ASPPModule(nn.Layer):
    """Convolutions of several dilations side by side, the mean of the image among them if asked for.

    Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, section 3.3.

    Args:
        aspp_ratios: the dilations; 1 is a 1x1 convolution, others are 3x3.
        align_corners: for resizing the mean of the image.
        use_sep_conv: separable convolutions for the dilated ones.
        image_pooling: with the mean of the image.
        data_format: NCHW or NHWC.

    Shapes:
        input (N, in_channels, H, W), output (N, out_channels, H, W); channels last for NHWC.
    """

    def __init__(self, aspp_ratios: Sequence[int], in_channels: int, out_channels: int, align_corners: bool,
                 use_sep_conv: bool = False, image_pooling: bool = False, data_format: str = "NCHW"):
        super().__init__()
        self.align_corners = align_corners
        self.data_format = data_format
        self.image_pooling = image_pooling
        self.aspp_blocks = nn.LayerList()
        for ratio in aspp_ratios:
            kind = SeparableConvBNReLU if use_sep_conv and ratio > 1 else ConvBNReLU
            self.aspp_blocks.append(kind(in_channels, out_channels, 1 if ratio == 1 else 3, dilation=ratio,
                                         padding=0 if ratio == 1 else ratio, data_format=data_format))
        if image_pooling:
            self.global_avg_pool = nn.Sequential(
                nn.AdaptiveAvgPool2D(1, data_format=data_format),
                ConvBNReLU(in_channels, out_channels, 1, bias_attr=False, data_format=data_format))
        self.conv_bn_relu = ConvBNReLU(out_channels * (len(aspp_ratios) + image_pooling), out_channels, 1,
                                       data_format=data_format)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        first, channels = (2, 1) if self.data_format == "NCHW" else (1, 3)
        parts = [block(x) for block in self.aspp_blocks]
        if self.image_pooling:
            size = x.shape[first:first + 2] if paddle.in_dynamic_mode() else paddle.shape(x)[first:first + 2]
            parts.append(F.interpolate(self.global_avg_pool(x), size, mode="bilinear",
                                       align_corners=self.align_corners, data_format=self.data_format))
        return self.dropout(self.conv_bn_relu(paddle.concat(parts, axis=channels)))


class PPModule(nn.Layer):
    """Means over grids of several sizes, each through a 1x1 convolution, beside the map itself.

    Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, section 3.2.

    Args:
        bin_sizes: cells along each side of the grids.
        dim_reduction: the 1x1 convolutions divide the channels by the number of grids.
        align_corners: for resizing the grids.

    Shapes:
        input (N, in_channels, H, W), output (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, bin_sizes: Sequence[int], dim_reduction: bool,
                 align_corners: bool):
        super().__init__()
        self.bin_sizes = bin_sizes
        self.align_corners = align_corners
        inner = in_channels // len(bin_sizes) if dim_reduction else in_channels
        self.stages = nn.LayerList([nn.Sequential(nn.AdaptiveAvgPool2D(size), ConvBNReLU(in_channels, inner, 1))
                                    for size in bin_sizes])
        self.conv_bn_relu2 = ConvBNReLU(in_channels + inner * len(bin_sizes), out_channels, 3, padding=1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        grids = [F.interpolate(stage(x), size_of(x), mode="bilinear", align_corners=self.align_corners)
                 for stage in self.stages]
        return self.conv_bn_relu2(paddle.concat([x, *grids[::-1]], axis=1))
