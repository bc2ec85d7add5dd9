"""The sum of cross entropy over resized logits, without the resized logits.

Letters: N images, C classes; h, w of the coarse logits; H, W of the label.

Resized logits, their softmax and the gradients of both are each (N, C, H, W), which for a crop of Cityscapes is more
than the loss needs of everything else together. Here a strip of rows is interpolated at a time, as the product of the
coarse logits with two matrices; its share of the loss and of the gradient towards the coarse logits is taken, and only
the sums are kept. The backward pass then is one multiplication.

On a CPU a strip stays in the processor's cache and NumPy computes it, whose exponential is several times faster than
Paddle's. On a GPU a strip is large, and nothing waits for the device.
"""

from typing import Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from paddleseg.models.losses.labels import can_be_read, refuse_labels

_CACHED_BYTES, _DEVICE_ELEMENTS = 2 ** 19, 2 ** 22  # of the logits in a strip


def coarse_cross_entropy(logit: paddle.Tensor, label: paddle.Tensor, size: Sequence[int], align_corners: bool,
                         weight: paddle.Tensor, ignore_index: int) -> paddle.Tensor:
    """sum_i w(y_i) (-log p_i(y_i)) over the pixels with y_i != ignore_index.

    Args:
        logit: (N, C, h, w) in float32 or float64; resized to `size` as F.interpolate does it bilinearly.
        label: (N, H, W), int64.
        size: H, W.
        weight: w, (C,) in the logits' dtype.

    Returns: (), in the logits' dtype. On a GPU it is NaN if the label holds what is no class.

    Raises:
        LabelValueError: on a CPU the label does.
    """
    return _Sum.apply(logit, label, weight, size, align_corners, ignore_index)


class _Sum(PyLayer):
    @staticmethod
    def forward(ctx, logit, label, weight, size, align_corners, ignore_index):
        rows = _resizing(logit, 2, size[0], align_corners)
        columns = _resizing(logit, 3, size[1], align_corners)
        reduce = _reduce_in_cache if can_be_read(label) else _reduce_on_device
        totals, grads = [], []
        for image, classes in zip(logit, label):
            across = paddle.matmul(image.transpose([1, 0, 2]), columns)  # (h, C, W)
            total, grad = reduce(across, classes, rows, weight, ignore_index)
            totals.append(total)
            grads.append(paddle.matmul(grad, columns, transpose_y=True).transpose([1, 0, 2]))
        ctx.save_for_backward(paddle.stack(grads))
        return paddle.stack(totals).sum().astype(logit.dtype)

    @staticmethod
    def backward(ctx, upstream: paddle.Tensor) -> Tuple[paddle.Tensor, None, None]:
        grad, = ctx.saved_tensor()
        return grad * upstream, None, None


def _resizing(logit: paddle.Tensor, axis: int, target: int, align_corners: bool) -> paddle.Tensor:
    """The matrix that resizes along an axis: (target, h) for rows, (w, target) for columns.

    F.interpolate is asked, by what it makes of unit vectors: how it rounds positions is its own affair.
    """
    length = logit.shape[axis]
    unit = paddle.eye(length, dtype=logit.dtype)
    if axis == 2:
        resized = F.interpolate(unit.reshape([1, length, length, 1]), [target, 1], mode="bilinear",
                                align_corners=align_corners)
        return resized.reshape([length, target]).t()
    resized = F.interpolate(unit.reshape([1, length, 1, length]), [1, target], mode="bilinear",
                            align_corners=align_corners)
    return resized.reshape([length, target])


def _reduce_in_cache(across: paddle.Tensor, label: paddle.Tensor, rows: paddle.Tensor,
                     weight: paddle.Tensor, ignore_index: int) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """One image's sum, () in float64, and its gradient towards `across`, the logits (h, C, W) resized in one axis."""
    across, label, rows, weight = across.numpy(), label.numpy(), rows.numpy(), weight.numpy()
    _, num_classes, width = across.shape
    has_class = label != ignore_index
    classes = np.where(has_class, label, 0)
    if classes.min() < 0 or classes.max() >= num_classes:
        refuse_labels("CrossEntropyLoss", label, num_classes, ignore_index)
    factors = weight[classes] * has_class
    height = max(1, _CACHED_BYTES // across[0].nbytes)
    strip, term = np.empty((2, height, num_classes, width), rows.dtype)
    place = np.arange(height)[:, np.newaxis] * num_classes * width + np.arange(width)  # of class 0
    total, grad = 0.0, np.zeros_like(across)
    for top in range(0, len(rows), height):
        part, factor, which = (array[top:top + height] for array in (rows, factors, classes))
        near = np.flatnonzero(part.any(axis=0))
        logits, product = strip[:len(part)], term[:len(part)]
        np.multiply(across[near[0]], part[:, near[0], np.newaxis, np.newaxis], out=logits)
        for row in near[1:]:
            logits += np.multiply(across[row], part[:, row, np.newaxis, np.newaxis], out=product)
        largest = logits.max(axis=1, keepdims=True)
        logits -= largest
        own = place[:len(part)] + which * width
        of_class = logits.reshape(-1)[own]
        exponential = np.exp(logits, out=logits)
        divisor = exponential.sum(axis=1)
        total += (factor * (np.log(divisor) - of_class)).sum(dtype=np.float64)
        exponential *= (factor / divisor)[:, np.newaxis]
        exponential.reshape(-1)[own] -= factor
        for row in near:
            grad[row] += np.multiply(exponential, part[:, row, np.newaxis, np.newaxis], out=product).sum(axis=0)
    return paddle.to_tensor(total, dtype="float64"), paddle.to_tensor(grad)


def _reduce_on_device(across: paddle.Tensor, label: paddle.Tensor, rows: paddle.Tensor,
                      weight: paddle.Tensor, ignore_index: int) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """As `_reduce_in_cache`, in Paddle's operators."""
    source, num_classes, width = across.shape
    across, columns = across.flatten(1), paddle.arange(num_classes).reshape([1, -1, 1])
    height = max(1, _DEVICE_ELEMENTS // (num_classes * width))
    total, grad = paddle.zeros([], "float64"), paddle.zeros_like(across)
    for top in range(0, rows.shape[0], height):
        part, which = rows[top:top + height], label[top:top + height].unsqueeze(1)
        factor = _factors(which, weight, ignore_index)
        logits = paddle.matmul(part, across).reshape([-1, num_classes, width])
        logits = logits - logits.max(axis=1, keepdim=True)
        is_own = (which == columns).astype(across.dtype)
        of_class = (logits * is_own).sum(axis=1, keepdim=True)
        exponential = paddle.exp(logits)
        divisor = exponential.sum(axis=1, keepdim=True)
        total = total + (factor * (paddle.log(divisor) - of_class)).astype("float64").sum()
        towards_strip = (exponential / divisor - is_own) * factor
        grad = grad + paddle.matmul(part, towards_strip.flatten(1), transpose_x=True)
    return total, grad.reshape([source, num_classes, width])


def _factors(label: paddle.Tensor, weight: paddle.Tensor, ignore_index: int) -> paddle.Tensor:
    """w of each pixel, 0 for ignored and NaN for illegal ones."""
    is_class = paddle.logical_and(label >= 0, label < weight.shape[0])
    classes = paddle.where(is_class, label, paddle.zeros_like(label))
    factor = paddle.gather(weight, classes.flatten()).reshape(label.shape)
    factor = paddle.where(is_class, factor, paddle.full_like(factor, float("nan")))
    return paddle.where(label == ignore_index, paddle.zeros_like(factor), factor)
