import hashlib
import sys

import numpy as np
import pytest

from paddleseg.models import FCN, EncNet
from paddleseg.models.backbones.resnet import ResNet
from paddleseg.weights import dialects
from paddleseg.weights.load import load_weights, read_weights
from paddleseg.weights.write import write_weights
from tools.convert_weights import main

CONFIG = """model:
  type: EncNet
  num_classes: 5
  num_codes: 3
  mid_channels: 8
  aux_channels: 8
  conv_bias: False
  backbone: {type: ResNetVARIANT, base_channels: 4}
"""


def encnet(conv_bias=False, variant="v1c", aux_channels=8, depth=18):
    return EncNet(5, ResNet(depth, variant, base_channels=4), num_codes=3, mid_channels=8, conv_bias=conv_bias,
                  aux_channels=aux_channels)


def state_of(model):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=value.shape).astype("float32") for name, value in model.state_dict().items()}


def save(path, arrays):
    write_weights(str(path), arrays)
    return path


def save_config(path, variant):
    path.write_text(CONFIG.replace("VARIANT", variant))
    return path


def assert_same(path, expected):
    actual = read_weights(str(path))
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype and actual[name].shape == value.shape
        np.testing.assert_array_equal(actual[name], value)


@pytest.fixture
def run(tmp_path, capsys):
    def convert(source, name, *flags, code=0):
        assert main([str(source), str(tmp_path / name), *map(str, flags)]) == code
        said = capsys.readouterr()
        assert code == 0 or not (tmp_path / name).exists()
        return tmp_path / name, said.out if code == 0 else said.err
    return convert


@pytest.mark.parametrize("with_config", [False, True])
@pytest.mark.parametrize("to, depth, variant", [
    ("mmseg", 18, "v1c"), ("pytorch_encoding", 18, "v1s"), ("mmseg_d", 50, "vd"), ("mmseg", 18, "v1b")])
def test_there_and_back(run, tmp_path, to, depth, variant, with_config):
    ours = state_of(encnet(variant=variant, depth=depth))
    flags = ("--config", save_config(tmp_path / "c.yml", f"{depth}_{variant}")) if with_config else ()
    name = to.replace("_d", "") if with_config else to  # the model tells whether shortcuts pool
    theirs, said = run(save(tmp_path / "ours.pdparams", ours), "theirs.pdparams", "--to", name, *flags)
    counters = sum(name.endswith("_mean") for name in ours)
    assert f"{counters} num_batches_tracked added" in said
    assert ("take --to mmseg_d" in said) == (to == "mmseg" and variant == "v1c" and not with_config)
    assert ("--config" in said) == (not with_config)
    assert_same(theirs, dialects.convert_from_paddleseg(ours, to))
    back, said = run(theirs, "back.pdparams", *flags)
    assert f"{len(ours) + counters} arrays in the names of {to}\n" in said
    assert f"{counters} num_batches_tracked left out\n" in said and f"{len(ours)} arrays for paddle, sha256 " in said
    assert_same(back, ours)
    digest = hashlib.sha256(back.read_bytes()).hexdigest()
    assert (tmp_path / "back.pdparams.sha256").read_text() == f"{digest}  back.pdparams\n" and digest in said


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_formats(run, tmp_path, suffix):
    library = pytest.importorskip("safetensors" if suffix == ".safetensors" else "torch")
    ours = state_of(encnet())
    expected = dialects.convert_from_paddleseg(ours, "mmseg")
    theirs, _ = run(save(tmp_path / "ours.pdparams", ours), "theirs" + suffix, "--to", "mmseg")
    assert_same(theirs, expected)
    again, _ = run(theirs, "again" + suffix, "--to", "mmseg")
    assert theirs.read_bytes() == again.read_bytes()
    assert_same(run(theirs, "back.pdparams")[0], ours)
    if suffix != ".safetensors":
        loaded = library.load(str(theirs), weights_only=True)
        assert list(loaded) == list(expected)
        assert all(np.array_equal(loaded[name].numpy(), value) for name, value in expected.items())
        assert loaded["backbone.stem.1.num_batches_tracked"].dtype == library.int64


def test_a_package_that_is_not_there(run, tmp_path, monkeypatch):
    source = save(tmp_path / "ours.pdparams", state_of(encnet()))
    for module, suffix in (("torch", "pth"), ("safetensors.numpy", "safetensors")):
        monkeypatch.setitem(sys.modules, module, None)
        assert f"pip install {module.partition('.')[0]}\n" in run(source, f"x.{suffix}", code=1)[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.pdparams"]


def test_for_paddleseg_biases_are_added(run, tmp_path):
    state = state_of(encnet(variant="vd", depth=50))
    source = save(tmp_path / "theirs.pdparams", dialects.convert_from_paddleseg(state, "mmseg_d"))
    path, said = run(source, "model.pdparams", "--to", "paddleseg")
    assert "3 biases of 0 added" in said and "PaddleSeg" not in said
    model = encnet(variant="vd", depth=50, conv_bias=True)
    load_weights(model, str(path))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state.get(name, np.zeros(value.shape)))
    back, said = run(path, "back.pdparams", "--to", "mmseg_d")
    assert "3 biases before a batch norm taken off the running means" in said
    assert_same(back, read_weights(str(source)))


@pytest.mark.parametrize("model, dialect, notes", [
    (encnet(), "mmseg", ["are all _vd"]),
    (encnet(variant="v1b"), "paddleseg", ["are all _vd"]),
    (encnet(variant="vd", depth=50, aux_channels=6), "pytorch_encoding_d", ["has 8 channels, this one 6"]),
    (encnet(variant="vd", conv_bias=True), "paddleseg", []),
    (ResNet(50, "vd", base_channels=4), "mmseg_d", [])])
def test_where_paddleseg_computes_something_else_it_is_said(run, tmp_path, model, dialect, notes):
    source = save(tmp_path / "x.pdparams", dialects.convert_from_paddleseg(state_of(model), dialect))
    _, said = run(source, "model.pdparams", "--to", "paddleseg")
    assert said.count("PaddleSeg") == 2 * len(notes)
    assert all(note in said for note in notes)


def test_paddleseg_has_no_such_fcn(run, tmp_path):
    fcn = FCN(5, ResNet(18, "v1c", base_channels=4), channels=8)
    _, said = run(save(tmp_path / "x.pdparams", state_of(fcn)), "y.pdparams", "--to", "paddleseg", code=1)
    assert "take --to paddle " in said


def test_backbones(run, tmp_path):
    state = {**state_of(ResNet(18, "v1c", base_channels=4)), "fc.weight": np.ones((32, 10), "float32"),
             "fc.bias": np.ones(10, "float32")}
    theirs, _ = run(save(tmp_path / "x.pdparams", state), "theirs.pdparams", "--to", "pytorch_encoding")
    assert "conv1.6.weight" in read_weights(str(theirs))
    config = save_config(tmp_path / "c.yml", "18_v1c")
    assert_same(run(theirs, "back.pdparams", "--to", "paddleseg", "--config", config)[0], state)
    run(theirs, "y.pdparams", "--config", save_config(tmp_path / "c.yml", "34_v1c"), code=1)


@pytest.mark.parametrize("change, error", [
    (lambda state: state.pop("head.bias"), "missing: head.bias"),
    (lambda state: state.update(odd=np.ones(1, "float32")), "unexpected: odd"),
    (lambda state: state.update({"head.bias": np.ones(6, "float32")}), "mis-shaped: head.bias")])
@pytest.mark.parametrize("to", ["paddle", "mmseg"])
def test_a_part_of_a_model_is_refused(run, tmp_path, change, error, to):
    state = state_of(encnet())
    change(state)
    source, config = save(tmp_path / "x.pdparams", state), save_config(tmp_path / "c.yml", "18_v1c")
    _, said = run(source, "y.pdparams", "--to", to, "--config", config, code=1)
    assert said.startswith(f"WeightsError: {source}: ") and error in said
    if error.startswith("unexpected"):  # names alone tell
        assert error in run(source, "y.pdparams", "--to", to, code=1)[1]


def test_paths_that_cannot_be(tmp_path, capsys):
    (tmp_path / "folder.pth").mkdir()
    source = save(tmp_path / "x.pdparams", state_of(encnet()))
    before = source.read_bytes()
    for name in ("y.onnx", "", "folder.pth", "./x.pdparams"):
        assert main([str(source), f"{tmp_path}/{name}", "--to", "mmseg"]) == 2
    assert source.read_bytes() == before
    assert main([str(tmp_path / "none.pth"), str(tmp_path / "y.pdparams")]) == 1
    assert "doesn't exist" in capsys.readouterr().err
