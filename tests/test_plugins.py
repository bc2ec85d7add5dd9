"""User code named by --plugins: what it may do, and what is said when it fails."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
from fake_data import make_lists
from fresh_plugins import build_dataset, fresh_plugins

import train
from paddleseg import builder, plugins
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.config import load_config
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.utils.cli import run_main

ROOT = Path(__file__).resolve().parents[2]
MODEL = """
import paddle
import paddle.nn as nn
from paddleseg import utils
from paddleseg.cvlibs import manager, param_init
from paddleseg.models import layers, losses
from paddleseg.utils import logger, utils as also_utils


@manager.MODELS.add_component
class Mine(nn.Layer):
    def __init__(self, num_classes, backbone, width=8, pretrained=None, norm=nn.BatchNorm2D):
        super().__init__()
        self.backbone = backbone
        self.conv = layers.ConvBNReLU(backbone.feat_channels[-1], width, 3, padding=1)
        self.cls = nn.Conv2D(width, num_classes, 1)
        param_init.constant_init(self.cls.bias, value=0.5)
        utils.load_entire_model(self, pretrained)

    def forward(self, x):
        logit = self.cls(self.conv(self.backbone(x)[-1]))
        return [nn.functional.interpolate(logit, paddle.shape(x)[2:], mode='bilinear')]
"""
CONFIG = """
train_dataset: &data
  type: Dataset
  dataset_root: {root}
  num_classes: 3
  train_path: {root}/train.txt
  transforms:
    - type: Normalize
model:
  type: Mine
  backbone: {{type: ResNet18_vd, base_channels: 4}}
optimizer: {{type: SGD}}
lr_scheduler: {{type: PolynomialDecay, learning_rate: 0.1}}
loss: {{types: [{{type: CrossEntropyLoss}}], coef: [1]}}
batch_size: 2
iters: 2
num_workers: 0
"""


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """No plugin loaded before, none after; the working directory is an empty folder."""
    monkeypatch.chdir(tmp_path)
    with fresh_plugins():
        yield


def write(tmp_path, text, name="mine.py"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


def config_file(tmp_path, extra=""):
    make_lists(tmp_path / "data")
    (tmp_path / "config.yml").write_text(CONFIG.format(root=tmp_path / "data") + extra)
    return "config.yml"


def test_a_model_written_for_paddleseg_trains_and_goes_on_by_the_command(tmp_path, capsys):
    plugin, flags = write(tmp_path, MODEL, "my code/mine.py"), ["--save_dir", "out", "--device", "cpu"]
    first = ["--config", config_file(tmp_path), "--iters", "1", *flags]
    with fresh_plugins():
        assert run_main(train.main, train.parse_args([*first, "--plugins", plugin])) == 0
    written = ["--config", "out/config.yml", "--resume", "auto", "--iters", "2", *flags]
    assert run_main(train.main, train.parse_args(written)) == 2
    assert capsys.readouterr().err.endswith("add --plugins 'my code/mine.py'\n")
    with fresh_plugins():
        assert run_main(train.main, train.parse_args([*written, "--plugins", f"./{plugin}"])) == 0
    assert (tmp_path / "out" / "iter_2").is_dir()


@pytest.mark.parametrize("name", ["package/part.py", "package.part", "./package/part.py"])
def test_files_and_modules_register_once(tmp_path, name):
    """They import what lies beside them; another folder may have a file of the same name."""
    write(tmp_path, "x = 1", "package/other_part.py")
    importing = "from .other_part import x\n" if name == "package.part" else "import other_part\n"
    write(tmp_path, importing + MODEL, "package/part.py")
    other = write(tmp_path, "from paddleseg.cvlibs import manager\nmanager.LOSSES.add_component(type('B', (), {}))",
                  "b/part.py")
    plugins.load_plugins([name, name, other])
    plugins.load_plugins([name])
    assert "Mine" in manager.MODELS and "B" in manager.LOSSES and plugins.loaded_plugins() == [name, other]


@pytest.mark.parametrize("name, text, message", [
    ("mine.py", "x = 1\nimport no_such_package\n", "mine.py:2: ModuleNotFoundError"),
    ("mine.py", "x = 1\n\ndef f(:\n", "mine.py:3: SyntaxError: "),
    ("mine.py", "x = 1\ndef f():\n    raise ValueError('bad\\nluck')\nf()\n", "mine.py:3: ValueError: bad luck"),
    ("mine.py", "import sys\nsys.exit(3)\n", "mine.py:2: SystemExit: 3"),
    ("my code/mine.py", "import helper\nhelper.broken()\n", "my code/helper.py:4: JSONDecodeError: "),
    ("package.mine", "import helper\nhelper.broken()\n", "helper.py:4: JSONDecodeError: "),
    ("package.mine", "import bad_syntax\n", "bad_syntax.py:1: SyntaxError: "),
    ("package/mine.py", "import os\nfrom .other import x\n", "package/mine.py:2: .*import absolutely"),
    ("gone.py", None, "there is no such .py file"), ("folder/", None, "there is no such .py file"),
    ("no_such.module", None, "there is no module no_such "), ("json.no_such", None, "there is no module json.no_such "),
    ("folder", None, "a folder without __init__.py, so nothing is run"),
    *((name, None, "neither a file, whose name ends in .py, nor a module") for name in ("", "a b", "..", "-x")),
])
def test_an_error_names_the_last_line_that_a_user_wrote(tmp_path, name, text, message):
    (tmp_path / "folder").mkdir()
    for folder in ("", "my code/"):
        write(tmp_path, "import json\n\ndef broken():\n    json.loads('{')\n", f"{folder}helper.py")
    write(tmp_path, "x = [\n", "bad_syntax.py")
    if text is not None:
        write(tmp_path, text, name if name.endswith(".py") else "package/mine.py")
    with pytest.raises(ConfigError, match=f"^--plugins {re.escape(name)}: {message}"):
        plugins.load_plugins([name])
    assert not plugins.loaded_plugins()


def test_names_taken_by_another_plugin(tmp_path):
    names = [write(tmp_path, MODEL), write(tmp_path, MODEL, "again.py")]
    with pytest.raises(ConfigError, match=r"^--plugins again.py: again.py:10: .*Mine is registered by .*plugin_mine"):
        plugins.load_plugins(names)
    assert manager.MODELS["Mine"].__module__ == "paddleseg_plugin_mine"


def test_a_config_runs_no_code(tmp_path, monkeypatch):
    write(tmp_path, "open('ran', 'w').close()\n" + MODEL, "my code.py")
    config = load_config(config_file(tmp_path, "plugins: ['my code.py', json]\n"))
    with pytest.raises(ConfigError, match=r"^config.yml names plugins, .* add --plugins 'my code.py' json$"):
        builder.resolve(config)
    assert not (tmp_path / "ran").exists()
    plugins.load_plugins(["./my code.py"])
    with pytest.raises(ConfigError, match=r"add --plugins json$"):
        builder.resolve(config)
    plugins.load_plugins(["json"])
    assert builder.resolve(config)["plugins"] == ["./my code.py", "json"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # what lies beside the config is found from there
    builder.resolve(load_config("../config.yml"))
    for value in (3, [1], {"a": "b"}, [""]):
        config.set("plugins", value, "a test")
        with pytest.raises(ConfigError, match="plugins must be a list of files and modules"):
            builder.resolve(config)


def test_arguments_that_no_file_can_say_and_that_no_signature_names(tmp_path):
    """A class keeps its default; PaddleSeg's DDRNet_23(**kwargs) hands the data set's classes on."""
    text = MODEL + "\n\n@manager.MODELS.add_component\ndef Open(**arguments):\n    return Mine(**arguments)\n"
    plugins.load_plugins([write(tmp_path, text)])
    for kind in ("Mine", "Open"):
        config = builder.resolve(load_config(config_file(tmp_path), [f"model.type={kind}"]))
        assert "norm" not in config["model"] and config["model"]["num_classes"] == 3
        assert builder.build_model(config).cls.weight.shape[0] == 3


TRANSFORM = """
import random
import numpy as np
from paddleseg.cvlibs import manager


@manager.TRANSFORMS.add_component
class Shift:
    def __init__(self, most=5.0):
        self.most = most

    def __call__(self, data):
        data['img'] -= random.random() * self.most
        data['img'] /= 2.0
        data['trans_info'].append(('resize', data['img'].shape[0:2]))
        if 'label' in data.get('gt_fields', []):
            data['label'][:2] = np.random.randint(0, 3)
        return data
"""
DATASET = """
from paddleseg.cvlibs import manager
from paddleseg.datasets import Dataset
from paddleseg.transforms import Compose


@manager.DATASETS.add_component
class Ours(Dataset):
    NUM_CLASSES = 3

    def __init__(self, transforms, dataset_root, mode='train'):
        self.dataset_root, self.mode = dataset_root, mode
        self.transforms = Compose(transforms)
        self.num_classes, self.ignore_index = self.NUM_CLASSES, 255
        self.file_list = [[f'{dataset_root}/images/{i}.png', f'{dataset_root}/annotations/{i}.png'] for i in range(4)]
"""
GETITEM = """
    def __getitem__(self, idx):
        data = {'trans_info': []}
        data['img'], data['label'] = self.file_list[idx]
        data['gt_fields'] = ['label'] if self.mode == 'train' else []
        data = self.transforms(data)
        data['label'] = 2 - data['label']
        return data
"""


def test_a_data_set_may_be_built_on_another(tmp_path):
    """Its __getitem__ asks that of its base."""
    plugins.load_plugins([write(tmp_path, """
from paddleseg.cvlibs import manager
from paddleseg.datasets import Dataset

@manager.DATASETS.add_component
class First(Dataset):
    def __getitem__(self, index):
        data = super().__getitem__(index)
        data["seen"] = data.get("seen", 0) + 1
        return data

@manager.DATASETS.add_component
class Second(First):
    def __getitem__(self, index):
        return super().__getitem__(index)
""")])
    make_lists(tmp_path / "data")
    for kind in ("First", "Second"):
        dataset = build_dataset({
            "type": kind, "dataset_root": str(tmp_path / "data"), "num_classes": 3, "mode": "train",
            "train_path": str(tmp_path / "data" / "train.txt"), "transforms": [{"type": "Normalize"}]})
        sample = dataset.sample(0, np.random.default_rng(0))
        assert sample["seen"] == 1 and sample["img"].dtype == np.float32


def samples(dataset, seed):
    """Two samples, with the global generators as the loader seeds them."""
    for index in (0, 3):
        random.seed(seed)
        np.random.seed(seed)
        yield dataset.sample(index, np.random.default_rng(seed))


@pytest.mark.parametrize("own_getitem", [False, True])
@pytest.mark.parametrize("mode", ["train", "val"])
def test_data_sets_and_transforms_written_for_paddleseg(tmp_path, own_getitem, mode):
    make_lists(tmp_path / "data")
    plugins.load_plugins([write(tmp_path, TRANSFORM, "t.py"),
                          write(tmp_path, DATASET + GETITEM * own_getitem, "d.py")])
    section = {"type": "Ours", "dataset_root": str(tmp_path / "data"), "mode": mode,
               "transforms": [{"type": "RandomHorizontalFlip"}, {"type": "Shift"}]}
    dataset = build_dataset(section)
    first, again, other = (list(samples(dataset, seed)) for seed in (1, 1, 2))
    for one, same, different in zip(first, again, other):
        assert one["img"].dtype == np.float32 and one["img"].shape == (3, 16, 32)
        np.testing.assert_array_equal(one["img"], same["img"])
        assert not np.array_equal(one["img"], different["img"])
        label = int(one["path"].rpartition("/")[2][0]) % 3
        assert set(np.unique(one["label"][2:])) == {2 - label if own_getitem else label}
    assert len(dataset) == 4 and list(dataset.class_names) == ["0", "1", "2"]


def test_no_label_is_none_in_a_list_of_paddlesegs(tmp_path):
    make_lists(tmp_path / "data")
    plugins.load_plugins([write(tmp_path, DATASET.replace("f'{dataset_root}/annotations/{i}.png'", "None"))])
    dataset = manager.DATASETS["Ours"]([], str(tmp_path / "data"), "test")
    assert "label" not in dataset[0] and dataset[0]["img"].shape == (3, 16, 32)
