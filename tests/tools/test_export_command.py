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
    assert set(section["sha256"]) == names and section["onednn"] is True
    assert section["input_shape"] == [-1, 3, -1, -1]
    assert (section["output_op"], section["output_dtype"], section["channel_order"]) == ("argmax", "int32", "RGB")
    assert section["class_names"][:2] == ["road", "sidewalk"] and section["palette"][0] == [128, 64, 128]
    assert len(section["class_names"]) == len(section["palette"]) == 19
    assert section["transforms"] == [{"type": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}]
    table = capsys.readouterr().out
    assert "2x3x40x64" in table and "1x3x33x47" in table and "onednn ms" in table
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob("*.old"))


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
    with pytest.raises(RunError, match="% of the labels differ from the model's, over 0.1 %") as error:
        run(weights, tmp_path / "model", "--overwrite")
    assert error.value.exit_code == 1
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
    assert run(weights, tmp_path / "model") == 0
    with pytest.raises(RunError, match="--overwrite replaces it"):
        run(weights, tmp_path / "model")
    assert run(weights, tmp_path / "model", "--overwrite", "--output", "softmax") == 0
    assert description(tmp_path / "model")["output_op"] == "softmax"
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds other files .notes.txt"):
        run(weights, tmp_path / "model", "--overwrite")
    (tmp_path / "model" / "notes.txt").rename(tmp_path / "model" / "model.pdparams")  # trained, not exported
    with pytest.raises(RunError, match="holds other files .model.pdparams"):
        run(weights, tmp_path / "model", "--overwrite")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        run(weights, tmp_path / "file")


def test_refuses_what_cannot_be_deployed(weights, tmp_path):
    blur = ["val_dataset.transforms=[{type: RandomBlur}, {type: Normalize}]"]
    with pytest.raises(ConfigError, match="val_dataset.transforms.0, RandomBlur, can't be deployed"):
        run(weights, tmp_path / "model", opts=blur)
    for shape in ((1, 4, 32, 32), (1, 3, 0, 32)):
        with pytest.raises(ConfigError, match="N 3 H W is needed"):
            run(weights, tmp_path / "model", "--input_shape", *shape)
    partial = read_weights(weights)
    del partial["head.weight"]
    write_weights(str(tmp_path / "partial.pdparams"), partial)
    with pytest.raises(WeightsError, match="missing: head.weight"):
        run(str(tmp_path / "partial.pdparams"), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_missing_converter_is_named_with_the_fix(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RunError, match="pip install (-r requirements-onnx.txt|paddle2onnx==)"):
        run(weights, tmp_path / "model", "--format", "onnx")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name, count, first, color", [
    ("encnet_r50_d8_512x512_80k_ade20k", 150, "wall", [120, 120, 120]),
    ("encnet_r50_d8_512x512_20k_voc12aug", 21, "background", [0, 0, 0]),
    ("encnet_r50_d8_480x480_80k_pascal_context_59", 59, "aeroplane", [128, 0, 0])])
def test_classes_are_called_as_their_data_set_calls_them(tmp_path, name, count, first, color):
    config = builder.resolve(load_config(str(ROOT / f"configs/encnet/{name}.yml")), builder.INFERENCE)
    args = export.parse_args(["--config", config.path, "--model_path", "none"])
    section = export.describe(config, {}, str(tmp_path), args)
    assert len(section["class_names"]) == len(section["palette"]) == count
    assert section["class_names"][0] == first and section["palette"][0] == color


def test_classes_of_listed_files_are_called_as_the_config_says(tmp_path):
    own = ["train_dataset.num_classes=2", "val_dataset.num_classes=2", "model.num_classes=2"]
    args = export.parse_args(["--config", "x", "--model_path", "none"])
    for opts, expected in ((["val_dataset.class_names=[sky, sea]"], ["sky", "sea"]),
                           (["val_dataset.class_names=null"], ["0", "1"])):
        config = load_config(str(ROOT / "configs/quick_start/own_data.yml"), [*own, *opts])
        config = builder.resolve(config, builder.INFERENCE)
        assert export.describe(config, {}, str(tmp_path), args)["class_names"] == expected
