"""The mixed precision that benchmarks/graph.py applies to a graph, against what a hand derives from Paddle's lists."""

import graph as benchmark
import paddle.nn as nn
import paddle.nn.functional as F

MAP = 2 * 4 * 8 * 8  # elements


class Net(nn.Layer):
    """Convolution, batch norm, relu; softmax; a convolution with a bias."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2D(3, 4, 3, padding=1, bias_attr=False), nn.BatchNorm2D(4)
        self.second = nn.Conv2D(4, 4, 1)

    def forward(self, x):
        return self.second(F.softmax(F.relu(self.norm(self.conv(x))), axis=1))


def step(model, image, label, present):
    logits = model(image)
    return logits.mean(), [logits]


def item_bytes(graph):
    """{operator: bytes of an element of what it gives first}, forward."""
    return [(operator.name, graph.values[operator.outputs[0]].item_bytes)
            for operator in graph.operators[:graph.forward] if operator.launches]


def test_mixed_precision():
    cost = benchmark.load_cost()
    plain = cost.capture(Net, (2, 3, 8, 8), 4, step)
    half = benchmark.HalfPrecision(plain, ()).graph
    # Image, softmax's operand and both weights are cast; a sum with a float32 bias is float32.
    assert item_bytes(half)[:11] == [
        ("cast", 2), ("cast", 2), ("conv2d", 2), ("batch_norm", 2), ("relu", 2), ("cast", 4), ("softmax", 4),
        ("cast", 2), ("cast", 2), ("conv2d", 2), ("cast", 4)]
    assert item_bytes(half)[11] == ("add", 4)
    saved = cost.saved_for_backward(half, cost.lives(half))
    kept = sorted(life.bytes for life in saved if life.maker and life.bytes >= 2 * MAP)
    # conv2d, relu and the cast of softmax's result in 2 bytes, softmax and the logits in 4
    assert kept == [2 * MAP] * 3 + [4 * MAP] * 2
    written = {key: operator.name for operator in half.operators for key in operator.outputs}
    assert [written[key] for key in half.gradients].count("cast") == 2  # of both weights
    assert {half.values[key].item_bytes for key in half.gradients} == {4}
    # Scopes kept in float32, such as the Encoding layer's, cast nothing down.
    whole = benchmark.HalfPrecision(plain, ("conv", "norm", "second")).graph
    assert all(size == 4 for _, size in item_bytes(whole))
