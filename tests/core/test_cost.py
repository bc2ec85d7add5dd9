"""Costs against what a hand computes, a published figure, and what Paddle's allocator counts."""

import math

import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest

from paddleseg.core import cost
from paddleseg.cvlibs import manager
from paddleseg.models import EncNet

N, H, W, CLASSES = 2, 4, 6, 4
MAP = 4 * N * CLASSES * H * W  # bytes of a feature map of 4 channels
VECTOR = 4 * 4
IMAGE, LABEL, PRESENT = 4 * N * 3 * H * W, 8 * N * H * W, 4 * N * CLASSES


class Tiny(nn.Layer):
    """relu(bn(conv 3x3)) + conv 1x1."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3, padding=1, bias_attr=False)
        self.norm = nn.BatchNorm2D(4)
        self.short = nn.Conv2D(3, 4, 1, bias_attr=False)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x))) + self.short(x)


class Chain(nn.Layer):
    """Three blocks; the middle one's maps are its own affair but for the last."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = (nn.Sequential(
            nn.Conv2D(3 if index == 0 else 4, 4, 3, padding=1, bias_attr=False), nn.Sigmoid(), nn.Sigmoid())
            for index in range(3))

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


def mean_step(model, image, label, present):
    logits = model(image)
    return logits.mean(), [logits]


@pytest.fixture(scope="module")
def tiny():
    return cost.capture(Tiny, (N, 3, H, W), CLASSES, mean_step)


def per_operator(graph, count):
    """{operator: counts in order}, without what makes the first gradient."""
    found = {}
    for operator in graph.operators:
        if graph.values[operator.outputs[0]].size > 1 or operator.name.startswith("mean"):
            found.setdefault(operator.name.replace("mean_all", "mean"), []).append(count(graph, operator))
    return found


def test_operations(tiny):
    pixels = MAP // 4
    assert per_operator(tiny, cost.flops) == {
        "conv2d": [2 * pixels * 27, 2 * pixels * 3], "batch_norm": [pixels], "relu": [pixels], "add": [pixels],
        "mean": [pixels], "mean_grad": [pixels], "add_grad": [pixels], "relu_grad": [pixels],
        "batch_norm_grad": [pixels], "conv2d_grad": [2 * pixels * 3, 2 * pixels * 27]}  # the image needs no gradient


def test_bytes(tiny):
    found = per_operator(tiny, cost.moved_bytes)
    wide, narrow = 4 * 4 * 27, 4 * 4 * 3
    assert found["conv2d"] == [IMAGE + wide + MAP, IMAGE + narrow + MAP]
    assert found["batch_norm"] == [2 * MAP + 8 * VECTOR]
    assert found["relu"] == [2 * MAP] and found["add"] == [3 * MAP] and found["mean"] == [MAP + 4]
    # The gradient of a sum needs no summand, that of a mean nothing but the shape.
    assert found["add_grad"] == [3 * MAP] and found["mean_grad"] == [MAP + 4] and found["relu_grad"] == [3 * MAP]
    assert found["conv2d_grad"] == [IMAGE + 2 * narrow + MAP, IMAGE + 2 * wide + MAP]


def test_memory(tiny):
    memory = cost.lives(tiny)
    saved = {}
    for life in cost.saved_for_backward(tiny, memory):
        if life.bytes >= MAP:
            saved.setdefault(life.maker.name if life.maker else "batch", []).append(life.bytes)
    # A batch norm's output isn't kept, nor is what the 1x1 convolution gives; the sum is, as it's the logits.
    assert saved == {"conv2d": [MAP], "relu": [MAP], "add": [MAP]}
    batch = sum(life.bytes for life in memory if life.maker is None)
    assert batch == IMAGE + LABEL + PRESENT
    # At the sum's gradient: three kept maps, its own gradient and both summands'; the batch norm keeps two vectors.
    assert max(cost.live_bytes(tiny, memory)) == batch + 6 * MAP + 2 * VECTOR
    assert tiny.parameter_bytes() == 4 * (4 * 27 + 4 * 3 + 2 * 4) and tiny.buffer_bytes() == 2 * VECTOR
    assert sorted(tiny.parameters.values()) == ["conv.weight", "norm.bias", "norm.weight", "short.weight"]


def test_scopes(tiny):
    scopes = {operator.name: operator.scope for operator in tiny.operators[:tiny.forward]}
    assert (scopes["batch_norm"], scopes["relu"], scopes["add"]) == ("norm", "", "")
    assert [operator.scope for operator in tiny.operators if operator.name == "conv2d"] == ["conv", "short"]
    assert tiny.operators[tiny.forward - 1].scope == cost.LOSS
    assert {operator.scope for operator in tiny.operators[tiny.forward:]} == {None}


@pytest.mark.parametrize("transpose_x, transpose_y", [(False, False), (True, False), (False, True), (True, True)])
def test_matrix_products(transpose_x, transpose_y):
    """(3, 24) times (24, 3) for each image, whatever is stored transposed."""
    class Net(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2D(3, 3, 1, bias_attr=False)

        def forward(self, x):
            x = self.conv(x)
            return paddle.matmul(x.reshape([N, 24, 3] if transpose_x else [N, 3, 24]),
                                 x.reshape([N, 3, 24] if transpose_y else [N, 24, 3]), transpose_x, transpose_y)

    graph = cost.capture(Net, (N, 3, H, W), CLASSES, mean_step)
    counts = {operator.name: cost.multiply_adds(graph, operator) for operator in graph.operators}
    assert counts["matmul"] == N * 3 * 3 * 24 and counts["matmul_grad"] == 2 * N * 3 * 3 * 24


def test_a_view_is_no_memory_and_no_kernel():
    class Net(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2D(3, 4, 1, bias_attr=False)

        def forward(self, x):
            return F.sigmoid(self.conv(x).flatten(2).unsqueeze(1))

    graph = cost.capture(Net, (N, 3, H, W), CLASSES, mean_step)
    views = [operator for operator in graph.operators if operator.name in cost.VIEWS]
    assert len(views) == 4 and not any(cost.moved_bytes(graph, view) + cost.flops(graph, view) for view in views)
    maps = [life for life in cost.lives(graph) if life.bytes == MAP]
    assert len(maps) == 4  # of convolution and sigmoid, and their gradients


def test_published_multiply_adds():
    def step(model, image, label, present):
        logits = model(image)
        return logits.mean(), [logits]

    graph = cost.capture(paddle.vision.models.resnet101, (1, 3, 224, 224), CLASSES, step)
    forward = sum(cost.multiply_adds(graph, operator) for operator in graph.operators[:graph.forward])
    assert forward == 7801405440  # torchvision's table has 7.80


def test_recomputing():
    graph = cost.capture(Chain, (N, 3, H, W), CLASSES, mean_step)
    again = cost.recomputed(graph, ["middle"])
    assert cost.recomputed(graph, []).operators == graph.operators

    def maps(graph):
        return sum(life.bytes == MAP for life in cost.saved_for_backward(graph, cost.lives(graph)))

    def operations(graph, select=lambda operator: True):
        return sum(cost.flops(graph, operator) for operator in graph.operators if select(operator))

    # The first and the last block keep two sigmoids each, the middle one its last, which is the last one's input.
    assert maps(graph) == 6 and maps(again) == 5
    middle = operations(graph, lambda operator: (operator.scope or "").startswith("middle"))
    assert operations(again) == operations(graph) + middle
    assert again.forward == graph.forward and again.operators[:again.forward] == graph.operators[:graph.forward]


@pytest.mark.parametrize("stages", [(), (3,), (1, 2, 3, 4)])
def test_memory_of_a_real_step(stages):
    """What a step keeps, as Paddle's allocator counts it, which rounds each tensor up."""
    from paddle.base import core

    def make(recompute):
        backbone = manager.BACKBONES["ResNet18_vd"](output_stride=8, base_channels=16, recompute_stages=recompute)
        return EncNet(CLASSES, backbone, num_codes=4, mid_channels=32)

    def step(model, image, label, present):
        logits = model(image)
        losses = [F.cross_entropy(logit, label, axis=1) for logit in logits[:2]]
        return sum(losses) + F.binary_cross_entropy_with_logits(logits[2], present), logits

    def batch():
        return paddle.randn([2, 3, 64, 96]), paddle.zeros([2, 64, 96], "int64"), paddle.ones([2, CLASSES])

    model = make(stages)
    model.train()
    step(model, *batch())[0].backward()
    before = core.host_memory_stat_current_value("Allocated", 0)
    loss, logits = step(model, *(tensors := batch()))
    measured = core.host_memory_stat_current_value("Allocated", 0) - before
    graph = cost.capture(lambda: make(()), (2, 3, 64, 96), CLASSES, step)
    blocks = {".".join(operator.scope.split(".")[:2]) for operator in graph.operators if operator.scope}
    graph = cost.recomputed(graph, sorted(block for block in blocks if block.startswith(
        tuple(f"backbone.bb_{stage - 1}_" for stage in stages))))
    computed = sum(life.bytes for life in cost.saved_for_backward(graph, cost.lives(graph)))
    assert len(tensors) == 3 and math.isclose(computed, measured, rel_tol=0.02), (computed, measured)


def test_the_process_is_left_as_it_was():
    shape, auto_cast = paddle.shape, paddle.amp.auto_cast

    def broken(model, image, label, present):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cost.capture(Tiny, (N, 3, H, W), CLASSES, broken)
    assert paddle.in_dynamic_mode() and paddle.shape is shape and paddle.amp.auto_cast is auto_cast
    numbers = []
    for _ in range(2):
        numbers.append(int(nn.Linear(1, 1).weight.name.partition(".")[0].rpartition("_")[2]))
        cost.capture(Tiny, (N, 3, H, W), CLASSES, mean_step)
    assert numbers[1] == numbers[0] + 1  # no two parameters of a process have one name
