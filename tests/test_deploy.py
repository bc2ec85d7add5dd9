"""deploy/infer.py against the toolkit: the same preparation, the same labels and pictures, none of its code."""

import ast
import inspect
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from fake_weights import make_weights
from odd_images import write_odd_images
from PIL import Image

import tools.export
from deploy import infer
from paddleseg import transforms as toolkit
from paddleseg.commands import predict
from paddleseg.cvlibs.errors import DataError
from paddleseg.datasets import listing
from paddleseg.transforms import image_io

ROOT = Path(__file__).resolve().parent.parent
QUICK = str(ROOT / "configs/quick_start/encnet_resnet18_scenes.yml")
SMALL = ["model.backbone.base_channels=8", "model.mid_channels=16", "model.num_codes=4"]
NORMALIZE = {"type": "Normalize", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
RESIZE = {"type": "Resize", "target_size": [96, 64], "keep_ratio": False, "size_divisor": None, "interp": "LINEAR"}


def run(module, *words):
    assert module.main(module.parse_args(list(map(str, words)))) == 0


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three pictures of different sizes and formats, one in a folder."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, size in {"a.png": (64, 96), "b c.jpg": (50, 71), "sub/é.bmp": (72, 64)}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        patches = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3)).astype(np.uint8)
        picture = patches.repeat(8, axis=0).repeat(8, axis=1)[:size[0], :size[1]]
        Image.fromarray(cv2.GaussianBlur(np.ascontiguousarray(picture), (5, 5), 0)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights"), QUICK, SMALL)


def export(weights, folder, *flags, opts=()):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools.export, "CHECK_SHAPES", ((1, 3, 40, 64),))
        run(tools.export, "--config", QUICK, "--model_path", weights, "--save_dir", folder, "--threads", 1, *flags,
            "--opts", *SMALL, *opts)
    return folder / "deploy.yaml"


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    return export(weights, tmp_path_factory.mktemp("export") / "model")


def check_deployed(deploy, weights, images, folder, opts=(), backends=("auto",)):
    """deploy/infer.py writes what predict.py writes, with at most 0.1 % of the pixels different; returns the latter."""
    expected = folder / "predict"
    run(predict, "--config", QUICK, "--model_path", weights, "--image_path", images, "--save_dir", expected,
        "--opts", *SMALL, *opts)
    names = sorted(path.relative_to(expected) for path in expected.rglob("*.png"))
    assert len(names) == 9
    for backend in backends:
        found = folder / backend
        subprocess.run([sys.executable, ROOT / "deploy/infer.py", "--config", deploy, "--image_path", images,
                        "--save_dir", found, "--backend", backend, "--threads", "1"], check=True, timeout=300)
        assert names == sorted(path.relative_to(found) for path in found.rglob("*.png"))
        for name in names:
            one, other = (np.array(Image.open(root / name)) for root in (found, expected))
            assert one.shape == other.shape and one.dtype == other.dtype and np.mean(one != other) <= 1e-3, name
    return expected


# ---- preparation --------------------------------------------------------------------------------------

@pytest.mark.parametrize("chain", [
    [NORMALIZE], [RESIZE, NORMALIZE], [{**RESIZE, "keep_ratio": True, "size_divisor": 16, "interp": "CUBIC"}],
    [{"type": "ResizeByLong", "long_size": 77}, NORMALIZE],
    [{"type": "ResizeByShort", "short_size": 40, "max_size": 50.0}, NORMALIZE],
    [{"type": "ResizeByShort", "short_size": [90], "max_size": 1e10}],
    [NORMALIZE, {"type": "Padding", "target_size": [100, 80], "im_padding_value": 0}],
    [{"type": "Padding", "target_size": [128, 80], "im_padding_value": [1, 2, 3.5]}, NORMALIZE]], ids=str)
def test_prepares_an_image_as_the_toolkit_does_to_the_last_bit(chain):
    image = np.random.default_rng(1).integers(0, 256, (57, 83, 3)).astype(np.uint8)
    compose = toolkit.Compose([getattr(toolkit, args["type"])(
        **{key: value for key, value in args.items() if key != "type"}) for args in chain])
    expected = compose({"img": image, "gt_fields": []})
    found, changes = infer.prepare(image, chain)
    assert np.array_equal(found[0], expected["img"]) and found.dtype == np.float32
    assert [(name, tuple(size)) for name, size in expected["trans_info"]] == changes


def test_random_and_unknown_transforms_are_told_apart():
    assert not any(map(infer.undeployable, [NORMALIZE, RESIZE]))
    assert all(map(infer.undeployable, [{"type": "RandomBlur"}, {**RESIZE, "interp": "RANDOM"},
                                        {"type": "ResizeByShort", "short_size": [40, 60]}]))


def test_labels_and_scores_come_back_to_the_size_of_the_file():
    labels = np.arange(6, dtype=np.int32).reshape(2, 3)
    changes = [("resize", (4, 4)), ("padding", (2, 2))]
    expected = np.repeat(np.repeat([[0, 1], [3, 4]], 2, axis=0), 2, axis=1)
    assert np.array_equal(infer.finish(labels, changes), expected)
    scores = (np.arange(6)[:, None, None] == labels).astype(np.float32)
    found = infer.finish(scores, changes)
    assert found.dtype == np.uint8 and np.array_equal(found[[0, 0, 3, 3], [0, 3, 0, 3]], [0, 1, 3, 4])


# ---- the command --------------------------------------------------------------------------------------

def test_imports_nothing_of_the_toolkit():
    names = {alias.name.split(".")[0] for node in ast.walk(ast.parse((ROOT / "deploy" / "infer.py").read_text()))
             if isinstance(node, (ast.Import, ast.ImportFrom))
             for alias in ([ast.alias(node.module)] if isinstance(node, ast.ImportFrom) else node.names)}
    assert names - sys.stdlib_module_names == {"cv2", "numpy", "yaml", "PIL", "paddle", "onnxruntime"}


def test_writes_what_predict_writes(exported, weights, images, tmp_path):
    expected = check_deployed(exported, weights, images, tmp_path, backends=("auto", "native"))
    assert len(np.unique(np.array(Image.open(expected / "label" / "a.png")))) > 1


def test_logits_are_resized_back_as_predict_does(weights, images, tmp_path):
    opts = ["val_dataset.transforms=[{type: Resize, target_size: [104, 72]}, {type: Normalize}]"]
    deploy = export(weights, tmp_path / "model", "--output", "logits", opts=opts)
    check_deployed(deploy, weights, images, tmp_path, opts)


def test_onnx_writes_what_predict_writes(weights, images, tmp_path):
    for module in ("onnx", "onnxruntime", "paddle2onnx"):
        pytest.importorskip(module, reason=f"--format onnx needs {module}: requirements-onnx.txt")
    deploy = export(weights, tmp_path / "model", "--format", "onnx")
    assert sorted(path.name for path in deploy.parent.iterdir()) == ["deploy.yaml", "model.onnx"]
    check_deployed(deploy, weights, images, tmp_path)


# ---- copies of the toolkit ----------------------------------------------------------------------------

def test_copies_are_the_toolkits_word_for_word():
    for owner, functions, constants in (
            (listing, ["files_below", "list_images", "read_image_list", "result_names"], ["IMAGE_SUFFIXES"]),
            (image_io, ["find_damage"], ["KNOWN_START", "PILLOW_FORMATS", "MAX_PIXELS"])):
        for name in functions:
            assert inspect.getsource(getattr(infer, name)) == inspect.getsource(getattr(owner, name))
        assert all(getattr(infer, name) == getattr(owner, name) for name in constants)


def test_odd_files_are_read_alike(tmp_path):
    for name, readable in write_odd_images(tmp_path).items():
        path = str(tmp_path / name)
        if readable:
            np.testing.assert_array_equal(infer.read_image(path), image_io.read_image(path), err_msg=name)
        else:
            with pytest.raises(infer.DeployError):
                infer.read_image(path)
            with pytest.raises(DataError):
                image_io.read_image(path)


# ---- bad input ----------------------------------------------------------------------------------------

def spoiled(exported, folder, **changes):
    """A copy of the export with other values in its deploy.yaml."""
    shutil.copytree(exported.parent, folder)
    section = yaml.safe_load(exported.read_text())["Deploy"]
    (folder / "deploy.yaml").write_text(yaml.safe_dump({"Deploy": {**section, **changes}}))
    return str(folder / "deploy.yaml")


def test_damaged_files_are_named(exported, tmp_path):
    deploy = Path(spoiled(exported, tmp_path / "copy"))
    params = deploy.with_name("model.pdiparams")
    for damage, expected in ((lambda: params.write_bytes(params.read_bytes() + b"x"), "model.pdiparams is damaged"),
                             (params.unlink, "model.pdiparams is missing"),
                             (lambda: deploy.write_text("Deploy: [1]"), "is no deploy.yaml of tools/export.py"),
                             (deploy.unlink, "can't be read: No such file")):
        damage()
        with pytest.raises(infer.DeployError, match=expected):
            infer.read_description(str(deploy))


def test_one_line_says_what_is_wrong(exported, images, tmp_path, capsys):
    def said(**flags):
        given = {"config": exported, "image_path": images / "a.png", "save_dir": tmp_path / "out", **flags}
        pairs = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
        assert infer.main(infer.parse_args(pairs)) == 1
        lines = capsys.readouterr().err.splitlines()
        return next(line for line in lines if line.startswith("DeployError: "))

    assert "doesn't run a model of format paddle" in said(backend="onnxruntime")
    (tmp_path / "cut.png").write_bytes((images / "a.png").read_bytes()[:-30])
    assert "cut.png is truncated" in said(image_path=tmp_path / "cut.png")
    assert "no such image" in said(image_path=tmp_path / "none.jpg")
    fixed = spoiled(exported, tmp_path / "fixed", input_shape=[1, 3, 32, 32])
    assert "exported for inputs of [1, 3, 32, 32]" in said(config=fixed)
    import paddle
    if not paddle.is_compiled_with_cuda():
        assert "sees no GPU" in said(device="gpu")
    if paddle.__version__.startswith("2."):
        other = tmp_path / "newer"
        section = {"format": "paddle", "model": "model.json", "params": "model.pdiparams", "paddle": "3.3.1"}
        with pytest.raises(infer.DeployError, match="can't read it"):
            infer.load_graph(str(other), section)


def test_products_of_onnx_runtime_on_a_gpu_are_not_rounded_to_tf32(monkeypatch):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(get_available_providers=lambda: []))
    for device, expected in ("cpu", None), ("gpu", "0"):
        with pytest.raises(infer.DeployError, match="CPU build"):
            infer.load_graph("none", {"format": "onnx"}, device, 1)
        assert os.environ.get("NVIDIA_TF32_OVERRIDE") == expected
