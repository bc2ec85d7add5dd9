"""Every config of configs/ is checked whole; the numbers that make a config what it is are held here."""

import re
from pathlib import Path

import numpy as np
import pytest
from fake_data import SIZE
from fake_layouts import AUG, LAYOUTS, TRAIN

from paddleseg import builder
from paddleseg.cvlibs.config import load_config
from paddleseg.cvlibs.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/[!_]*/*.yml"))
MMSEG = "configs/encnet/encnet_r101_d8_512x1024_80k_cityscapes.yml"
ENCNET_PADDLE = "configs/encnet/encnet_cityscapes.yml"
PADDLESEG = "configs/encnet/encnet_resnet101_os8_cityscapes_1024x512_80k.yml"
OFFLINE = ["model.backbone.pretrained=None"]


def load(path, *opts):
    return builder.resolve(load_config(str(ROOT / path), [*OFFLINE, *opts]))


@pytest.mark.parametrize("path", CONFIGS)
def test_builds(path):
    width = "model.channels=16" if "fcn" in path else "model.mid_channels=16"
    config = load(path, "model.backbone.base_channels=8", width)
    model = builder.build_model(config)
    criteria = builder.build_criteria(config, model)
    assert len(criteria) == len(model.loss_names)
    builder.build_optimizer(config, model)
    assert builder.build_schedule(config)(0) > 0
    builder.build_val_transforms(config), builder.build_train_options(config), builder.build_infer_options(config)


@pytest.mark.parametrize("path", CONFIGS)
def test_says_what_it_is_how_to_run_it_and_which_score_it_aims_at(path):
    first, *rest = (ROOT / path).read_text().splitlines()
    assert first.startswith("# ") and any(f"train.py --config {path}" in line for line in rest[:3])
    if path.startswith(("configs/encnet/", "configs/fcn/")):
        header = (ROOT / path).read_text().partition("train.py")[0]
        assert re.search(r"\d\d\.\d+ mIoU", header)
        assert re.search(r"\bconfigs/\w+/\w+\.(yaml|md)\b|segmentation\.rst|EncNet-Paddle", header)
    backbone = load_config(str(ROOT / path))["model"]["backbone"]
    depth = re.match(r"ResNet(\d+)", backbone["type"]).group(1)
    assert not backbone.get("pretrained") or re.match(rf"https://.*resnet{depth}_v", backbone["pretrained"])


@pytest.mark.parametrize("path, last_rate", [(MMSEG, 1e-4), (ENCNET_PADDLE, 1.0038e-4), (PADDLESEG, 3.866e-7)])
def test_facts_of_the_configs(path, last_rate):
    config = load(path)
    schedule = builder.build_schedule(config)
    assert schedule(0) == 0.01 and schedule(79999) == pytest.approx(last_rate, rel=1e-3)
    assert (config["iters"], config["batch_size"], config["loss"]["coef"]) == (80000, 2, [1, 0.4, 0.2])
    optimizer = {"type": "SGD", "momentum": 0.9, "weight_decay": 5e-4, "use_nesterov": False}
    assert optimizer.items() <= config["optimizer"].items()
    model = config["model"]
    assert (model["num_codes"], model["mid_channels"], model["backbone"]["output_stride"]) == (32, 512, 8)
    backbone = model["backbone"]
    ours = (backbone["type"], backbone["multi_grid"], backbone["contract_dilation"], model["add_lateral"],
            model["aux_channels"], model["dropout"], model["aux_dropout"], model["conv_bias"],
            config["loss"]["types"][0]["avg_non_ignore"])
    assert ours == {
        MMSEG: ("ResNet101_v1c", [1, 1, 1], True, False, 256, 0.1, 0.1, False, False),
        ENCNET_PADDLE: ("ResNet101_vd", [1, 2, 4], False, False, 256, 0.0, 0.1, False, True),
        PADDLESEG: ("ResNet101_vd", [1, 1, 1], False, True, None, 0.0, 0.1, True, True)}[path]


# data set: images a process, images an iteration, classes, crop, learning rate, weight decay
OF_MMSEG = {"cityscapes": (2, 8, 19, None, 0.01, 5e-4), "ade20k": (4, 16, 150, [512, 512], 0.01, 5e-4),
            "voc12aug": (4, 16, 21, [512, 512], 0.01, 5e-4), "pascal_context_59": (4, 16, 59, [480, 480], 0.004, 1e-4)}


@pytest.mark.parametrize("path", [path for path in CONFIGS if "encnet_r50_d8" in path or "encnet_r101_d8" in path])
def test_facts_of_mmsegmentations_configs(path):
    depth, size, thousands, data = re.fullmatch(r".*_r(\d+)_d8_(\d+x\d+)_(\d+)k_(\w+)\.yml", path).groups()
    config = load(path)
    batch, effective, classes, crop, rate, decay = OF_MMSEG[data]
    crop = crop or [int(side) for side in size.split("x")]
    assert size == "x".join(map(str, crop)) and config["iters"] == 1000 * int(thousands)
    assert (config["batch_size"], config["effective_batch"]) == (batch, effective)
    assert config["optimizer"]["weight_decay"] == decay and builder.build_schedule(config)(0) == rate
    assert builder.build_schedule(config)(config["iters"] - 1) == pytest.approx(1e-4)
    model, backbone = config["model"], config["model"]["backbone"]
    assert (model["num_classes"], backbone["type"]) == (classes, f"ResNet{depth}_v1c")
    slides = config["test_config"]["is_slide"]
    assert (model["align_corners"], slides) == (size == "769x769", size in ("769x769", "480x480"))
    assert not slides or config["test_config"]["crop_size"] == crop
    train = {item["type"]: item for item in config["train_dataset"]["transforms"]}
    assert train["RandomCrop"]["crop_size"] == crop and train["Padding"]["target_size"] == crop[::-1]
    assert train["RandomResize"]["ratio_range"] == [0.5, 2.0]
    scales = [item["scale"] for item in config["val_dataset"]["transforms"] if item.get("ratio_range") == [1.0, 1.0]]
    # images of Cityscapes have the scale 2048x1024 as they are
    assert scales == ([] if size == "512x1024" else [train["RandomResize"]["scale"]])
    names = [item["type"] for item in config["train_dataset"]["transforms"]]
    assert (names.index("Padding") < names.index("Normalize")) == (data == "voc12aug")
    assert config["train_dataset"].get("aug", False) == (data == "voc12aug")


@pytest.mark.parametrize("name, path", [
    ("ADE20K", "configs/encnet/encnet_r50_d8_512x512_80k_ade20k.yml"),
    ("PascalVOC", "configs/encnet/encnet_r50_d8_512x512_20k_voc12aug.yml"),
    ("PascalContext59", "configs/encnet/encnet_r50_d8_480x480_80k_pascal_context_59.yml")])
def test_configs_read_their_data_sets(name, path, tmp_path):
    layout = LAYOUTS[name]
    root = layout.make(tmp_path)
    config = load(path, f"train_dataset.dataset_root={root}", f"val_dataset.dataset_root={root}")
    rng = np.random.default_rng(0)
    train, val = (builder.build_dataset(config, key) for key in ("train_dataset", "val_dataset"))
    side = OF_MMSEG[path.rpartition("k_")[2][:-4]][3][0]
    for index in range(len(train)):
        sample = train.sample(index, rng)
        assert sample["img"].shape == (3, side, side) and sample["label"].shape == (side, side)
        assert set(np.unique(sample["label"])) <= {*layout.classes, 255}
    sample = val.sample(0, rng)
    long, short = config["val_dataset"]["transforms"][0]["scale"]
    height = min(short, long * SIZE[0] // SIZE[1])
    assert sample["img"].shape == (3, height, height * SIZE[1] // SIZE[0]) and sample["label"].shape == SIZE
    if name == "PascalVOC":  # PaddleSeg's trainaug
        opts = ["train_dataset.mode=trainaug", "train_dataset.aug=False", f"train_dataset.dataset_root={root}"]
        config = load(path, *opts)
        assert len(builder.build_dataset(config, "train_dataset")) == len(TRAIN) + len(AUG)


# ---- what the builder checks beyond single components -----------------------------------------------

@pytest.mark.parametrize("opts, message", [
    (["optimiser.type=SGD"], r"--opts: optimiser is not a key of a config; did you mean optimizer\?"),
    (["model.num_classes=20"], r"--opts: model.num_classes is 20, but train_dataset \(Cityscapes\) has 19 classes"),
    (["loss.coef=[1,0.4]"], "loss has 3 types and 2 coef"),
    (["loss.types=[]"], "loss has 0 types and 3 coef"),
    (["train_dataset.transforms.0.type=RandomFlp"], r"transforms.0.type: RandomFlp .*did you mean RandomFlip\?"),
    (["train_dataset.transforms.1.crop=3"], "train_dataset.transforms.1.crop is not an argument of RandomCrop"),
    (["model.backbone.output_strid=8"], r"model.backbone.output_strid .*did you mean output_stride\?"),
    (["model.backbone.type=EncNet"], "model.backbone.type: EncNet is not one of backbones"),
    (["lr_scheduler.iters=5"], "lr_scheduler.iters is not an argument of PolynomialDecay"),
    (["test_config.crop=1"], "test_config.crop is not an argument"),
    (["batch_size=two"], "batch_size .* must be a whole number, not 'two'"),
    (["val_dataset.mode=train"], "--opts: val_dataset.mode is train, which is for training"),
    (["train_dataset.mode=val"], "--opts: train_dataset.mode is val, which is for evaluation"),
    (["loss.types.2.type=SELos"], r"loss.types.2.type: SELos .*did you mean SELoss\?"),
])
def test_errors_are_found_before_anything_is_built(opts, message):
    with pytest.raises(ConfigError, match=message):
        load(MMSEG, *opts)


def test_a_missing_section_is_named_where_it_is_needed():
    for section in ("model", "train_dataset", "loss", "optimizer", "lr_scheduler", "batch_size"):
        config = load_config(str(ROOT / MMSEG), OFFLINE)
        del config.tree[section]
        with pytest.raises(ConfigError, match=f"{section} is missing"):
            builder.resolve(config)
        if section != "model":
            builder.resolve(config, builder.INFERENCE)


def test_the_data_set_tells_what_model_losses_and_transforms_leave_out():
    opts = ["train_dataset.type=Dataset", "train_dataset.num_classes=19", "train_dataset.ignore_index=254",
            "train_dataset.train_path=x"]
    config = load_config(str(ROOT / ENCNET_PADDLE), [*OFFLINE, *opts])
    config.tree["model"].pop("num_classes", None)
    del config.tree["val_dataset"]["mode"], config.tree["train_dataset"]["mode"]
    config = builder.resolve(config)
    assert config["model"]["num_classes"] == 19 and config.origin("model.num_classes") == "train_dataset Dataset"
    assert (config["train_dataset"]["mode"], config["val_dataset"]["mode"]) == ("train", "val")
    crop = next(item for item in config["train_dataset"]["transforms"] if item["type"] == "RandomPaddingCrop")
    assert crop["label_padding_value"] == crop["ignore_index"] == 254
    assert {loss["ignore_index"] for loss in config["loss"]["types"]} == {254}


def test_colors_are_the_data_sets_or_the_given_ones():
    config = load(MMSEG)
    assert builder.dataset_palette(config)[[0, 10, 18]].tolist() == [[128, 64, 128], [70, 130, 180], [119, 11, 32]]
    assert builder.dataset_palette(config, list(range(57)))[18].tolist() == [54, 55, 56]
    for colors in ([1, 2, 3], [256] * 57):
        with pytest.raises(ConfigError, match="--custom_color takes 57 values 0..255"):
            builder.dataset_palette(config, colors)


def test_losses_must_be_as_many_as_the_outputs():
    config = load(MMSEG, "model.backbone.base_channels=8", "model.mid_channels=8", "model.use_se_loss=False")
    with pytest.raises(ConfigError, match="loss.coef has 3 values, but the outputs of EncNet are seg, aux;"):
        builder.build_criteria(config, builder.build_model(config))


@pytest.mark.parametrize("option", ["model.num_codes=0", "model.backbone_indices=[7]", "model.mid_channels=-1",
                                    "model.dropout=1.5", "lr_scheduler.learning_rate=-1", "lr_scheduler.power=-1",
                                    "optimizer.weight_decay=-1", "lr_scheduler.decay_steps=0"])
def test_values_that_nothing_can_be_built_from(option):
    config = load(MMSEG, "model.backbone.base_channels=8", option)
    with pytest.raises(ConfigError):
        builder.build_optimizer(config, builder.build_model(config))
        builder.build_schedule(config)


def test_a_data_set_that_contradicts_itself_is_named_with_its_config():
    config = load("configs/quick_start/own_data.yml", "val_dataset.class_names=[background, disc]")
    with pytest.raises(ConfigError, match=r"own_data\.yml: val_dataset: class_names: 2 names for num_classes 3"):
        builder.build_dataset(config, "val_dataset")


@pytest.mark.parametrize("value, warnings", [("True", 1), ("False", 0)])
def test_a_config_that_asks_for_auc_runs_without_it_and_says_so(value, warnings, monkeypatch):
    said = []
    monkeypatch.setattr("paddleseg.utils.logger.warning", said.append)
    config = load(MMSEG, f"test_config.auc_roc={value}")
    builder.build_infer_options(config)
    assert "auc_roc" not in config["test_config"]
    assert len(said) == warnings and all("--opts: test_config.auc_roc is left out" in line for line in said)
