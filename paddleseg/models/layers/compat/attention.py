"""Attention of one feature map to another.

Letters: N images, C channels, H, W size of the feature map.
"""

from typing import Optional

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models.layers.conv_bn import ConvBNReLU
from paddleseg.models.layers.resize import shape_of


class AttentionBlock(nn.Layer):
    """softmax(query key^T) value, with 1x1 convolutions before and after.

    Vaswani et al., "Attention Is All You Need", NIPS 2017, section 3.2.1, with pixels for words.

    Args:
        key_in_channels: of the map that gives keys and values.
        query_in_channels: of the map that asks.
        channels: of keys and queries.
        share_key_query: one projection for both.
        query_downsample: a layer on the queries, or None; it mustn't change their size.
        key_downsample: a layer on keys and values, or None; it may give (N, C, S) too.
        key_query_num_convs: convolutions of each projection of keys and of queries.
        value_out_num_convs: those of the values' and of the last one.
        key_query_norm: with batch norm and ReLU after each of the first kind.
        value_out_norm: the same for the second kind.
        matmul_norm: divide the products by sqrt(channels).
        with_out: the values have `channels`, and a last projection leads to out_channels.

    Shapes:
        query_feats (N, query_in_channels, H, W), key_feats (N, key_in_channels, h, w);
        output (N, out_channels, H, W).

    Raises:
        ConfigError: share_key_query, but the two maps differ in channels.
    """

    def __init__(self, key_in_channels: int, query_in_channels: int, channels: int, out_channels: int,
                 share_key_query: bool, query_downsample: Optional[nn.Layer], key_downsample: Optional[nn.Layer],
                 key_query_num_convs: int, value_out_num_convs: int, key_query_norm: bool, value_out_norm: bool,
                 matmul_norm: bool, with_out: bool):
        super().__init__()
        if share_key_query and key_in_channels != query_in_channels:
            raise ConfigError(f"AttentionBlock: share_key_query needs as many channels of keys ({key_in_channels}) as "
                              f"of queries ({query_in_channels})")
        self.key_in_channels, self.query_in_channels = key_in_channels, query_in_channels
        self.channels, self.out_channels = channels, out_channels
        self.share_key_query, self.with_out, self.matmul_norm = share_key_query, with_out, matmul_norm
        self.key_project = self.build_project(key_in_channels, channels, key_query_num_convs, key_query_norm)
        self.query_project = self.key_project if share_key_query else self.build_project(
            query_in_channels, channels, key_query_num_convs, key_query_norm)
        self.value_project = self.build_project(key_in_channels, channels if with_out else out_channels,
                                                value_out_num_convs, value_out_norm)
        self.out_project = self.build_project(channels, out_channels, value_out_num_convs,
                                              value_out_norm) if with_out else None
        self.query_downsample = query_downsample
        self.key_downsample = key_downsample

    def build_project(self, in_channels: int, channels: int, num_convs: int, use_conv_module: bool) -> nn.Layer:
        """`num_convs` 1x1 convolutions; the layer itself if it is one."""
        widths = [in_channels, *[channels] * num_convs]
        convs = [ConvBNReLU(before, after, 1, bias_attr=False) if use_conv_module else nn.Conv2D(before, after, 1)
                 for before, after in zip(widths, widths[1:])]
        return nn.Sequential(*convs) if num_convs > 1 else convs[0]

    def forward(self, query_feats: paddle.Tensor, key_feats: paddle.Tensor) -> paddle.Tensor:
        height, width = shape_of(query_feats)[2:]
        query, key, value = self.query_project(query_feats), self.key_project(key_feats), self.value_project(key_feats)
        if self.query_downsample is not None:
            query = self.query_downsample(query)
        if self.key_downsample is not None:
            key, value = self.key_downsample(key), self.key_downsample(value)
        weights = paddle.matmul(query.flatten(2), key.flatten(2), transpose_x=True)  # (N, H * W, h * w)
        if self.matmul_norm:
            weights = self.channels ** -0.5 * weights
        context = paddle.matmul(value.flatten(2), F.softmax(weights, axis=-1), transpose_y=True)
        context = context.reshape([0, self.channels if self.with_out else self.out_channels, height, width])
        return context if self.out_project is None else self.out_project(context)
