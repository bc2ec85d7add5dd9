"""tools/export.py: what it writes, what it refuses, and that a wrong graph isn't kept."""

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from fake_weights import make_weights

from paddleseg import builder
from paddleseg.cvlibs.config import load_config
from paddleseg.cvlibs.errors import ConfigError, RunError, WeightsError
from paddleseg.weights.load import read_weights
from paddleseg.weights.write import write_weights
from tools import export

ROOT = Path(__file__).resolve().parents[2]
QUICK = str(ROOT / "configs" / "quick_start" / "encnet_resnet18_scenes.yml")
SMALL = ["model.backbone.base_channels=4", "model.mid_channels=8", "model.num_codes=4"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(make_weights(tmp_path_factory.mktemp("weights"), QUICK, SMALL))


@pytest.fixture(autouse=True)
def small_checks(monkeypatch):
    monkeypatch.setattr(export, "CHECK_SHAPES", ((2, 3, 40, 64), (1, 3, 33, 47)))


def run(weights, folder, *flags, opts=()):
    """Export; returns the exit code."""
    return export.main(export.parse_args(["--config", QUICK, "--model_path", weights, "--save_dir", str(folder),
                                          "--threads", "1", "--opts", *SMALL, *opts, *map(str, flags)]))


def description(folder):
    return yaml.safe_load((folder / "deploy.yaml").read_text())["Deploy"]


def test_writes_a_graph_and_its_description(weights, tmp_path, capsys):
    assert run(weights, tmp_path / "model") == 0
    section = description(tmp_path / "model")
    names = {section["model"], section["params"]}
    assert {path.name for path in (tmp_path / "model").iterdir()} == {*names, "deploy.yaml"}
    assert set(section["sha256"]) == names and section["onednn"] is True and section["input_shape"] == [-1, 3, -1, -1]
    assert (section["output_op"], section["output_dtype"], section["channel_order"]) == ("argmax", "int32", "RGB")
    assert section["transforms"] == [{"type": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}]
    table = capsys.readouterr().out
    assert "2x3x40x64" in table and "1x3x33x47" in table and "onednn ms" in table


def test_a_fixed_shape_is_the_one_that_is_checked(weights, tmp_path, capsys):
    assert run(weights, tmp_path / "model", "--input_shape", 1, 3, 48, 64, "--output_op", "none") == 0
    section = description(tmp_path / "model")
    assert section["input_shape"] == [1, 3, 48, 64]
    assert (section["output_op"], section["output_dtype"]) == ("logits", "float32")
    assert capsys.readouterr().out.count("1x3x48x64") == 1


def test_a_graph_that_computes_something_else_is_not_kept(weights, tmp_path, monkeypatch):
    from deploy import export_graph as core

    assert run(weights, tmp_path / "model") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    fold = core._fold

    def wrong(conv, norm):
        fold(conv, norm)
        conv.bias.set_value(conv.bias.numpy() + np.float32(0.5))

    monkeypatch.setattr(core, "_fold", wrong)
    with pytest.raises(RunError, match="% of the labels differ"):
        run(weights, tmp_path / "model", "--overwrite")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert not list(tmp_path.glob("*.tmp"))


def test_a_backend_that_fails_is_left_out(weights, tmp_path, monkeypatch, caplog):
    from deploy import infer

    start = infer.load_graph

    def failing(folder, section, device, threads, backend):
        if backend == "onednn":
            raise NotImplementedError("no such kernel")
        return start(folder, section, device, threads, backend)

    monkeypatch.setattr(infer, "load_graph", failing)
    assert run(weights, tmp_path / "model") == 0
    assert description(tmp_path / "model")["onednn"] is False


def test_what_is_there_is_kept_unless_told_otherwise(weights, tmp_path):
    folder = tmp_path / "model"
    assert run(weights, folder) == 0
    with pytest.raises(RunError, match="--overwrite"):
        run(weights, folder)
    assert run(weights, folder, "--overwrite", "--output", "softmax") == 0
    assert description(folder)["output_op"] == "softmax"
    (folder / "model.pdparams").write_text("trained, not exported")
    with pytest.raises(RunError, match="model.pdparams"):
        run(weights, folder, "--overwrite")
    with pytest.raises(RunError, match="is a file"):
        run(weights, folder / "deploy.yaml")


def test_refuses_what_cannot_be_deployed(weights, tmp_path, monkeypatch):
    folder, partial = tmp_path / "model", read_weights(weights)
    with pytest.raises(ConfigError, match="val_dataset.transforms.0, RandomBlur"):
        run(weights, folder, opts=["val_dataset.transforms=[{type: RandomBlur}, {type: Normalize}]"])
    for shape in ((1, 4, 32, 32), (1, 3, 0, 32)):
        with pytest.raises(ConfigError, match="--input_shape"):
            run(weights, folder, "--input_shape", *shape)
    del partial["head.weight"]
    write_weights(str(tmp_path / "partial.pdparams"), partial)
    with pytest.raises(WeightsError, match="head.weight"):
        run(str(tmp_path / "partial.pdparams"), folder)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RunError, match="pip install (-r requirements-onnx.txt|paddle2onnx==)"):
        run(weights, folder, "--format", "onnx")
    assert not folder.exists()


OWN = ["train_dataset.num_classes=2", "val_dataset.num_classes=2", "model.num_classes=2"]


@pytest.mark.parametrize("path, opts, count, names", [
    ("encnet/encnet_r50_d8_512x512_80k_ade20k", [], 150, ["wall", "building"]),
    ("encnet/encnet_r50_d8_512x512_20k_voc12aug", [], 21, ["background", "aeroplane"]),
    ("encnet/encnet_r50_d8_480x480_80k_pascal_context_59", [], 59, ["aeroplane", "bag"]),
    ("quick_start/encnet_resnet18_scenes", [], 19, ["road", "sidewalk"]),
    ("quick_start/own_data", [*OWN, "val_dataset.class_names=[sky, sea]"], 2, ["sky", "sea"]),
    ("quick_start/own_data", [*OWN, "val_dataset.class_names=null"], 2, ["0", "1"])])
def test_classes_are_called_as_their_data_set_calls_them(tmp_path, path, opts, count, names):
    config = builder.resolve(load_config(str(ROOT / f"configs/{path}.yml"), opts), builder.INFERENCE)
    args = export.parse_args(["--config", config.path, "--model_path", "none"])
    section = export.describe(config, {}, str(tmp_path), args)
    assert len(section["class_names"]) == len(section["palette"]) == count and section["class_names"][:2] == names
