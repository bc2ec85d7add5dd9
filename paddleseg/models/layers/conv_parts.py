"""A convolution by groups of input channels, for the memory that a CPU spends on it.

Letters: N images, C input and D output channels, H, W size of the input.
"""

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

# Paddle's CPU kernels unfold an image into a matrix of C * kernel height * kernel width rows and a column for each
# output pixel, forwards and backwards. At 64 x 128 pixels 2048 channels make 600 MB, just where a training step needs
# its memory most; this bound is that of 512 channels.
MATRIX_BYTES = 160 * 2 ** 20


def convolve(conv: nn.Conv2D, x: paddle.Tensor) -> paddle.Tensor:
    """conv(x), as a sum over groups of input channels where one group would need more than MATRIX_BYTES.

    Only on a CPU in training: elsewhere it is conv(x) itself. The sum is taken in another order, so the two differ by
    rounding.

    Shapes:
        x (N, C, H, W), output (N, D, H', W').
    """
    if not conv.training or not paddle.in_dynamic_mode():
        return conv(x)
    if not (x.place.is_cpu_place() and conv._groups == 1 and conv._data_format == "NCHW"
            and conv._padding_mode == "zeros"):
        return conv(x)
    _, channels, height, width = x.shape
    rows, columns = channels * conv.weight[0, 0].size, height * width // (conv._stride[0] * conv._stride[1])
    parts = -(-rows * columns * x.element_size() // MATRIX_BYTES)
    if parts <= 1 or conv.weight[0, 0].size == 1:  # a kernel of one pixel needs no matrix
        return conv(x)
    size, total = -(-channels // parts), None
    for first in range(0, channels, size):
        # slices of one image's channels are views, so that nothing is held twice until the backward pass
        own, weight = x[:, first:first + size], conv.weight[:, first:first + size]
        part = F.conv2d(own, weight, None, conv._stride, conv._padding, conv._dilation)
        total = part if total is None else total.add_(part)
    return total if conv.bias is None else total.add_(conv.bias.reshape([1, -1, 1, 1]))
