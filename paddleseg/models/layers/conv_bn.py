"""Convolutions followed by a batch norm, and the auxiliary head made of them.

Letters: N images, C channels, H, W size of the feature map.

Parameters start as the framework sets them, as in PaddleSeg: convolutions from N(0, 2 / fan_in),
biases at 0, batch norms at weight 1 and bias 0.
"""

import functools
from typing import Optional, Sequence, Type, Union

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models.layers.sync_batch_norm import CPUSyncBatchNorm

Size = Union[int, Sequence[int]]
Padding = Union[int, str, Sequence[int]]
Attr = Union[paddle.ParamAttr, bool, None]


def SyncBatchNorm(num_features: int, single_process: Type[nn.Layer] = nn.BatchNorm2D, data_format: str = "NCHW",
                  momentum: float = 0.9, epsilon: float = 1e-5, weight_attr: Attr = None,
                  bias_attr: Attr = None) -> nn.Layer:
    """A batch norm whose statistics are those of the whole batch, however many processes share it.

    In a run of one process this is a layer of type `single_process`; the parameters have the same names either
    way. Several processes have one class for all shapes of input, (N, K, C) too.

    Raises:
        ConfigError: channels last, shared by several processes without GPUs.
    """
    options = dict(momentum=momentum, epsilon=epsilon, weight_attr=weight_attr, bias_attr=bias_attr)
    layout = {} if data_format == "NCHW" else {"data_format": data_format}  # BatchNorm1D calls the default NCL
    if paddle.distributed.get_world_size() == 1:
        return single_process(num_features, **options, **layout)
    if paddle.get_device().startswith("gpu"):
        return nn.SyncBatchNorm(num_features, **options, **layout)
    if layout:
        raise ConfigError(f"SyncBatchNorm of several processes on CPUs takes NCHW, not {data_format}")
    return CPUSyncBatchNorm(num_features, **options)


def use_unbiased_variance(model: nn.Layer) -> None:
    """Let every batch norm of a model track the unbiased variance, as PyTorch's does.

    Both frameworks normalise by the variance over n values with divisor n; for evaluation Paddle tracks that,
    PyTorch v * n / (n - 1). n counts the values of a channel over all processes. Layers of one process are asked
    which they track (`_tracks_biased`); Paddle's SyncBatchNorm is biased by its source.
    """
    for layer in model.sublayers():
        one_process = isinstance(layer, (nn.BatchNorm1D, nn.BatchNorm2D))
        if isinstance(layer, nn.SyncBatchNorm) or (one_process and _tracks_biased(type(layer), paddle.get_device())):
            _UnbiasedVariance(layer)


@functools.lru_cache
def _tracks_biased(kind: Type[nn.Layer], device: str) -> bool:
    """Ask a kind of batch norm on a device if it tracks the biased variance; a vendor's kernel may not.

    The values 0 and 1 have a biased variance of 1/4 and an unbiased one of 1/2.
    """
    layer = kind(1, momentum=0.0)
    layer(paddle.to_tensor([0.0, 1.0]).reshape([2, 1, 1] + [1] * (kind is nn.BatchNorm2D)))
    return layer._variance.item() < 0.375


class _UnbiasedVariance:
    """Tracks the running statistics of one batch norm in training, from the batch's own, which momentum 0 leaves there.

    running = momentum * before + (1 - momentum) * batch, with n / (n - 1) for the variance. The kernels keep a momentum
    in float32; here float64 is float64.
    """

    def __init__(self, layer: nn.Layer):
        self.momentum, layer._momentum = layer._momentum, 0.0
        self.before = ()
        layer.register_forward_pre_hook(self.remember)
        layer.register_forward_post_hook(self.track)

    def remember(self, layer: nn.Layer, inputs: tuple) -> None:
        if layer.training:
            self.before = layer._mean.clone(), layer._variance.clone()

    def track(self, layer: nn.Layer, inputs: tuple, output: paddle.Tensor) -> None:
        if not layer.training:
            return
        count = _values_of_a_channel(layer, inputs[0])
        factors = 1.0, count / max(count - 1, 1)
        with paddle.no_grad():
            for running, before, factor in zip((layer._mean, layer._variance), self.before, factors):
                running.set_value(self.momentum * before + (1.0 - self.momentum) * factor * running)


def _values_of_a_channel(layer: nn.Layer, x: paddle.Tensor) -> int:
    """The number of values, over all processes, that a layer has taken the variance of."""
    if isinstance(layer, CPUSyncBatchNorm):
        return layer.count
    processes = paddle.distributed.get_world_size() if isinstance(layer, nn.SyncBatchNorm) else 1
    return processes * x.size // x.shape[1]


class ConvBN(nn.Layer):
    """A convolution and its batch norm.

    Args:
        padding: pixels on each side, or "same".
        stride, dilation, groups, padding_mode, weight_attr, bias_attr, data_format: as nn.Conv2D has them;
            bias_attr=False for no bias (the batch norm cancels it anyway).

    Shapes:
        input (N, in_channels, H, W), output (N, out_channels, H', W').
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, padding: Padding = "same", *,
                 stride: Size = 1, dilation: Size = 1, groups: int = 1, padding_mode: str = "zeros",
                 weight_attr: Attr = None, bias_attr: Attr = None, data_format: str = "NCHW"):
        super().__init__()
        self._conv = nn.Conv2D(in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
                               padding_mode=padding_mode, weight_attr=weight_attr, bias_attr=bias_attr,
                               data_format=data_format)
        self._batch_norm = SyncBatchNorm(out_channels, data_format=data_format)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self._batch_norm(self._conv(x))


class ConvBNReLU(ConvBN):
    """`ConvBN` and a ReLU."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        # No super() in a forward: Paddle 2.6's export can't compile it.
        return relu_inplace(self._batch_norm(self._conv(x)))


def relu_inplace(x: paddle.Tensor) -> paddle.Tensor:
    """relu(x) in the memory of x, which must be an output of a batch norm or a sum that nothing else needs.

    A batch norm's gradient is computed from its input, so its output may be overwritten. Exported graphs have no
    operations in place.
    """
    return F.relu_(x) if paddle.in_dynamic_mode() else F.relu(x)


def add_relu(own: paddle.Tensor, other: paddle.Tensor) -> paddle.Tensor:
    """relu(own + other) in the memory of `own`, see `relu_inplace`."""
    same_type = paddle.in_dynamic_mode() and own.dtype == other.dtype
    return relu_inplace(own.add_(other) if same_type else own + other)


def make_dropout(probability: float, spatial: bool) -> nn.Layer:
    """Dropout of single values, or of whole channels if `spatial`."""
    if not 0 <= probability < 1:
        raise ConfigError(f"a dropout of {probability} is not from 0 to below 1")
    return nn.Dropout2D(probability) if spatial else nn.Dropout(probability)


class AuxLayer(nn.Layer):
    """A small fully convolutional head on an inner feature map: 3x3 conv, dropout, 1x1 classifier.

    Args:
        inter_channels: width between the two convolutions.
        out_channels: the number of classes.
        dropout_prob: before the classifier.
        spatial_dropout: drop whole channels.
        bias_attr: False for no bias in the 3x3 convolution; the classifier always has one.

    Shapes:
        input (N, in_channels, H, W), output (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, inter_channels: int, out_channels: int, dropout_prob: float = 0.1,
                 spatial_dropout: bool = False, bias_attr: Optional[bool] = None):
        super().__init__()
        self.conv_bn_relu = ConvBNReLU(in_channels, inter_channels, 3, padding=1, bias_attr=bias_attr)
        self.dropout = make_dropout(dropout_prob, spatial_dropout)
        self.conv = nn.Conv2D(inter_channels, out_channels, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv(self.dropout(self.conv_bn_relu(x)))
