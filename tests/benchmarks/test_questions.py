"""The parts of encoding.py, startup.py and scaling.py that don't measure."""

import json
import subprocess
import sys

import encoding
import numpy as np
import paddle
import pytest
import scaling
import startup
from harness import ROOT, Case, summary

from paddleseg.models.layers import Encoding


def gradients(layer, x, function):
    """Of a weighted sum of the outputs."""
    x = paddle.to_tensor(x, stop_gradient=False)
    layer.clear_gradients()
    out = function(x)
    (out * paddle.cos(paddle.arange(out.size, dtype="float64").reshape(out.shape))).sum().backward()
    return [tensor.grad.numpy() for tensor in (x, layer.codewords, layer.scale)]


def test_lean_is_the_layer(float64):
    layer = Encoding(6, 4)
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 3))
    for mine, lean in zip(gradients(layer, x, layer),
                          gradients(layer, x, lambda x: encoding.lean(x, layer.codewords, layer.scale))):
        np.testing.assert_allclose(mine, lean, rtol=1e-10, atol=1e-12)


def test_growth():
    def rows(size, ours, theirs):
        case = Case(encoding.case_name(*size), (encoding.OURS, encoding.PADDLESEG), encoding.UNITS, 1)
        return summary(case, {encoding.OURS: [ours], encoding.PADDLESEG: [theirs]})

    def figures(time, memory):
        return {"time": time, "extra memory": memory}

    pixels = rows(encoding.PIXELS[0], figures(1, 2), figures(10, 20)) + \
        rows(encoding.HEADLINE, figures(16, 30), figures(170, 320))
    table, = encoding.growth(pixels)
    assert table["rows"] == [["16 times the pixels", encoding.OURS, 16, 15],
                             ["16 times the pixels", encoding.PADDLESEG, 17, 16]]
    assert encoding.growth(pixels[:4]) == []


def test_sides_and_aims_of_encoding():
    args = type("Args", (), {"rounds": 1})
    cases = {case.arguments["size"]: case for case in encoding.cases(args)}
    assert set(cases) == {*encoding.PIXELS, *encoding.CODES}
    assert [case for case in cases.values() if case.aims] == [cases[encoding.HEADLINE]]
    assert cases[encoding.HEADLINE].sides == (encoding.OURS, encoding.PADDLESEG, encoding.LEAN)
    assert all(case.agree and not case.keep_alive for case in cases.values())


def test_efficiency():
    case = Case("network", (scaling.TWO, scaling.ONE, scaling.ONE_ON_TWO), {"time per image": "s"}, 2)
    times = {scaling.TWO: (1.0, 1.0), scaling.ONE: (1.8, 1.6), scaling.ONE_ON_TWO: (1.2, 1.2)}
    rows = summary(case, {side: [{"time per image": value} for value in values] for side, values in times.items()})
    table, = scaling.efficiency(rows)
    assert table["rows"] == [["network", scaling.ONE, "1.70", "85% (80% to 90%)"],
                             ["network", scaling.ONE_ON_TWO, "1.20", ""]]
    assert scaling.efficiency(summary(case, {})) == []


def test_the_beginning_of_a_run_is_not_in_its_time_per_image(tmp_path):
    records = [{"mode": "train", "batch_cost": cost, "loss": loss}
               for cost, loss in ((99, 3.0), (99, 2.0), (4, 1.0), (8, 1.0), (6, 1.0))]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, [*records, {"mode": "eval"}])))
    assert scaling.read_log(tmp_path) == {"time per image": 6 / scaling.BATCH, "first loss": 3.0}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "scenes"
    subprocess.run([sys.executable, ROOT / "tools" / "make_scenes.py", root, "--train", "4", "--val", "1", "--test",
                    "1", "--size", "64", "128"], check=True, capture_output=True)
    return root


def test_a_run_tells_its_phases(scenes):
    took = startup.phases_of_a_run(scenes)
    assert list(took) == ["time", "imports", "build", "first iteration"]
    assert took["time"] == pytest.approx(took["imports"] + took["build"] + took["first iteration"])
    assert min(took.values()) > 0


def test_a_run_that_fails_is_no_measurement(tmp_path):
    with pytest.raises(SystemExit, match="the run ended with 1, before the end of its build"):
        startup.phases_of_a_run(tmp_path / "nothing")
