"""Counts against what a hand computes, a published figure, and passes at the size in question."""

from pathlib import Path

import paddle
import paddle.nn as nn
import paddle.nn.functional as F
import pytest

from paddleseg import builder
from paddleseg.cvlibs.config import load_config
from tools.model_info import MIB, forward_cost, main, stage_of

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/quick_start/encnet_resnet18_scenes.yml")
SHAPE = ("--input_shape", "2", "3", "64", "96")


class Tiny(nn.Layer):
    """relu(conv 3x3), a product over the pixels, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3, padding=1, bias_attr=False)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.conv(x))
        pixels = x.flatten(2)
        gram = paddle.matmul(pixels, pixels, transpose_y=True)
        return [x, self.fc(gram.mean(axis=1))]


def test_counts_of_a_tiny_network():
    plain = paddle.matmul
    cost = forward_cost(Tiny(), [2, 3, 64, 128])
    pixels = 2 * 64 * 128
    assert cost.flops == {"the batch": 0, "conv": 2 * pixels * 4 * 27, "between layers": 2 * pixels * 4 * 4,
                          "fc": 2 * 2 * 5 * 4, "loss": 0}
    # A map as the convolution leaves it and one behind relu, whose input isn't needed; the loss keeps a softmax.
    one_map = 4 * pixels * 4
    assert cost.kept_bytes["the batch"] == pytest.approx(pixels * (3 * 4 + 8), abs=1024)
    assert cost.kept_bytes["conv"] + cost.kept_bytes["between layers"] == pytest.approx(one_map, abs=4096)
    assert cost.kept_bytes["loss"] == pytest.approx(one_map, rel=0.01)
    assert paddle.matmul is plain


def test_published_multiply_adds():
    class Classifier(nn.Layer):
        def __init__(self):
            super().__init__()
            self.body = paddle.vision.models.resnet101()

        def forward(self, x):
            return [self.body(x)]

    assert sum(forward_cost(Classifier(), [1, 3, 224, 224]).flops.values()) == 2 * 7801405440  # torchvision: 7.80 G


def table(text):
    """{stage: [parameters, GFLOP, MiB kept]}"""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: [float(cell.replace(",", "")) for cell in row[1:]] for row in rows[1:]}


def run(capsys, *flags):
    assert main(["--config", CONFIG, *flags]) == 0
    return capsys.readouterr().out


def test_stages_and_sums(capsys):
    found = table(run(capsys, "--input_shape", "3", "3", "192", "160"))
    assert {"backbone stem", *(f"backbone stage {number}" for number in range(1, 5)), "enc_module", "head", "fcn_head",
            "se_layer", "loss", "the batch"} <= set(found)
    config = builder.resolve(load_config(CONFIG))
    model = builder.build_model(config)
    model.train()
    trained = {name: value.size for name, value in model.named_parameters() if not value.stop_gradient}
    for stage in ("backbone stage 3", "enc_module", "se_layer"):
        assert found[stage][0] == sum(size for name, size in trained.items() if stage_of(name) == stage) > 0
    total = found.pop("total")
    assert total[0] == sum(trained.values())
    for column in range(3):
        assert sum(row[column] for row in found.values()) == pytest.approx(total[column], abs=0.5)
    measured = forward_cost(model, [3, 3, 192, 160])  # what the table extends from smaller images
    assert total[1] == pytest.approx(sum(measured.flops.values()) / 1e9, abs=0.06)
    assert total[2] == pytest.approx(sum(measured.kept_bytes.values()) / MIB, rel=0.02)


def test_the_configs_images_and_recomputed_and_frozen_stages(capsys):
    assert ", 3 x 3 x 512 x 1024, float32" in run(capsys, "--opts", "batch_size=3")
    plain, changed = (table(run(capsys, *SHAPE, *flags)) for flags in (
        (), ("--opts", "model.backbone.recompute_stages=[3]", "model.backbone.frozen_stages=1")))
    assert changed["backbone stage 3"][2] < 0.6 * plain["backbone stage 3"][2]
    assert changed["backbone stage 1"][0] == 0 < plain["backbone stage 1"][0]
    assert changed["backbone stage 2"] == plain["backbone stage 2"]


@pytest.mark.parametrize("flags, message", [
    (["--config", "absent.yml"], "absent.yml"),
    (["--input_shape", "0", "3", "64", "96"], "--input_shape 0 3 64 96"),
    (["--input_shape", "1", "4", "64", "96"], "in_channels 3"),
    (["--opts", "model.num_codez=1"], "did you mean num_codes"),
])
def test_wrong_flags(flags, message, capsys):
    assert main(["--config", CONFIG, *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ConfigError: ") and message in said and len(said.splitlines()) == 1
