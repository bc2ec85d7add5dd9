"""Parts of the benchmarks that don't measure."""

import json

import encoding
import numpy as np
import paddle
import scaling
from harness import Case, summary

from paddleseg.models.layers import Encoding


def test_lean_is_the_layer(float64):
    def gradients(function):
        x = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 6, 5, 3)), stop_gradient=False)
        layer.clear_gradients()
        out = function(x)
        (out * paddle.cos(paddle.arange(out.size, dtype="float64").reshape(out.shape))).sum().backward()
        return [tensor.grad.numpy() for tensor in (x, layer.codewords, layer.scale)]

    layer = Encoding(6, 4)
    for mine, lean in zip(gradients(layer), gradients(lambda x: encoding.lean(x, layer.codewords, layer.scale))):
        np.testing.assert_allclose(mine, lean, rtol=1e-10, atol=1e-12)


def test_efficiency_of_scaling(tmp_path):
    case = Case("network", (scaling.TWO, scaling.ONE, scaling.ONE_ON_TWO), {"time per image": "s"}, 2)
    times = {scaling.TWO: (1.0, 1.0), scaling.ONE: (1.8, 1.6), scaling.ONE_ON_TWO: (1.2, 1.2)}
    rows = summary(case, {side: [{"time per image": value} for value in values] for side, values in times.items()})
    assert scaling.efficiency(rows)[0]["rows"] == [["network", scaling.ONE, "1.70", "85% (80% to 90%)"],
                                                   ["network", scaling.ONE_ON_TWO, "1.20", ""]]
    # The beginning of a run is not in its time per image.
    records = [{"mode": "train", "batch_cost": cost, "loss": loss}
               for cost, loss in ((99, 3.0), (99, 2.0), (4, 1.0), (8, 1.0), (6, 1.0))]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, [*records, {"mode": "eval"}])))
    assert scaling.read_log(tmp_path) == {"time per image": 6 / scaling.BATCH, "first loss": 3.0}
