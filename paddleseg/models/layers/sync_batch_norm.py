"""Batch norm over all processes on a CPU, where Paddle's own `nn.SyncBatchNorm` has no kernel.

Letters: N images of this process, C channels; a channel's values are those along all other axes.
"""

from typing import Optional, Tuple, Union

import paddle
import paddle.nn as nn
import paddle.nn.functional as F
from paddle.autograd import PyLayer


class CPUSyncBatchNorm(nn.SyncBatchNorm):
    """Normalise by the statistics of the whole batch, whatever share of it this process has.

    What comes out, the gradients and the running statistics are those of `nn.BatchNorm2D` in one process with the
    whole batch. The gradients of weight and bias are this process's sums, as those of every other parameter;
    `paddle.DataParallel` averages them. In training the processes exchange once in a forward pass and once in its
    backward pass, so all of them have to make it. In evaluation this is a plain batch norm.

    Attributes:
        count: the values of a channel, over all processes, in the last forward pass in training.

    Shapes:
        input (N, C), (N, C, L) or (N, C, H, W), float32 or float64; processes may differ in all but C. Output as
        the input.
    """

    def __init__(self, num_features: int, momentum: float = 0.9, epsilon: float = 1e-5,
                 weight_attr: Union[paddle.ParamAttr, bool, None] = None,
                 bias_attr: Union[paddle.ParamAttr, bool, None] = None):
        super().__init__(num_features, momentum, epsilon, weight_attr, bias_attr)
        self.count: Optional[int] = None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        mean, variance = self._mean, self._variance
        if self.training:
            with paddle.no_grad():
                mean, variance, self.count = statistics_over_processes(x)
                momentum = paddle.full([1], self._momentum, "float32").item()  # as the kernels keep it
                for running, batch in (self._mean, mean), (self._variance, variance):
                    running.set_value(momentum * running + (1.0 - momentum) * batch)
            x = _ThroughStatistics.apply(x, mean, variance, self.count, self._epsilon)
        return F.batch_norm(x, mean, variance, self.weight, self.bias, epsilon=self._epsilon)


def statistics_over_processes(x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor, int]:
    """The mean (C,) and variance (C,) of each channel's n values in all processes, with divisor n, and n.

    Each process finds those of its own values; then variance = mean of (variance_p + (mean_p - mean)^2) over the
    processes p, weighted by their counts. Sums of squares would cancel where the mean is large against the deviation.
    Chan et al., "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    channels = x.shape[1]
    mean = x.mean(_all_but_channels(x))
    variance = paddle.zeros_like(mean)
    # With momentum 0 the kernel tracks the batch's own statistics. Of a single value it tracks none; these are its.
    F.batch_norm(x, mean, variance, training=True, momentum=0.0)
    own = paddle.concat([mean, variance, paddle.full([1], x.size // channels, x.dtype)])
    shares = []
    paddle.distributed.all_gather(shares, own)
    means, variances, counts = paddle.stack(shares).split([channels, channels, 1], axis=1)
    count = counts.sum()
    weights = counts / count
    mean = (weights * means).sum(0)
    variance = (weights * (variances + (means - mean).square())).sum(0)
    return mean, variance, int(count.item())


class _ThroughStatistics(PyLayer):
    """x itself. To the gradient at constant statistics it adds what flows through mean and variance.

    g is the gradient of all processes' losses, y = (x - mean) / sqrt(variance + epsilon), the means are those
    over all processes:   dx = g - mean(g) - y mean(g y)
    """

    @staticmethod
    def forward(ctx, x: paddle.Tensor, mean: paddle.Tensor, variance: paddle.Tensor, count: int,
                epsilon: float) -> paddle.Tensor:
        same = x.clone()  # Paddle takes an output that shares the input's memory for an operation in place
        ctx.save_for_backward(same, mean, variance)
        ctx.count, ctx.epsilon = count, epsilon
        return same

    @staticmethod
    def backward(ctx, grad: paddle.Tensor) -> Tuple[paddle.Tensor, None, None]:
        x, mean, variance = ctx.saved_tensor()
        axes = _all_but_channels(x)
        # The kernel, as broadcasting along an inner axis is six times slower.
        normalised = F.batch_norm(x, mean, variance, epsilon=ctx.epsilon)
        sums = paddle.stack([grad.sum(axes), (grad * normalised).sum(axes)])
        paddle.distributed.all_reduce(sums)
        mean_grad, mean_product = sums / ctx.count
        through = F.batch_norm(x, mean, variance, mean_product, mean_grad, epsilon=ctx.epsilon)
        return grad - through, None, None


def _all_but_channels(x: paddle.Tensor) -> list:
    return [axis for axis in range(x.ndim) if axis != 1]
