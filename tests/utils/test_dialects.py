import numpy as np
import pytest

from paddleseg.models.backbones import resnet
from paddleseg.utils import dialects, weights

DIALECTS = sorted(dialects.TABLES)


def their_resnet(dialect, blocks=(2, 1), convs=3):
    """Names and shapes of a small ResNet as PyTorch projects write them, stated here once more."""
    norms = ("weight", "bias", "running_mean", "running_var")
    stem = {"torchvision": ["conv1", "bn1"],
            "mmseg": ["stem.0", "stem.1", "stem.3", "stem.4", "stem.6", "stem.7"],
            "pytorch_encoding": ["conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1"],
            }[dialect.replace("_d", "")]
    pairs = list(zip(stem[::2], stem[1::2]))
    first = 1 if dialect.endswith("_d") else 0
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            prefix = f"layer{stage}.{block}"
            pairs += [(f"{prefix}.conv{i}", f"{prefix}.bn{i}") for i in range(1, convs + 1)]
            if block == 0:
                pairs.append((f"{prefix}.downsample.{first}", f"{prefix}.downsample.{first + 1}"))
    rng = np.random.default_rng(0)
    result = {}
    for conv, norm in pairs:
        result[f"{conv}.weight"] = rng.normal(size=(4, 3, 1, 1))
        result.update({f"{norm}.{name}": rng.normal(size=4) for name in norms})
    result.update({"fc.weight": rng.normal(size=(10, 4)), "fc.bias": rng.normal(size=10)})
    return result


@pytest.mark.parametrize("convs", [2, 3])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_there_and_back_is_exact(dialect, convs):
    theirs = their_resnet(dialect, convs=convs)
    ours, recognised = dialects.to_ours({**theirs, "layer1.0.bn1.num_batches_tracked": np.array(3)})
    assert recognised == dialect
    assert all(key.startswith(("conv1_", "bb_", "fc.")) for key in ours)
    assert len(ours) == len(theirs)
    np.testing.assert_array_equal(ours["fc.weight"], theirs["fc.weight"].T)
    back = dialects.from_ours(ours, dialect)
    assert list(back) == list(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(back[key], value)


@pytest.mark.parametrize("dialect, theirs, ours", [
    ("torchvision", "conv1.weight", "conv1_1._conv.weight"),
    ("torchvision", "bn1.running_var", "conv1_1._batch_norm._variance"),
    ("mmseg", "stem.6.weight", "conv1_3._conv.weight"),
    ("mmseg", "stem.4.running_mean", "conv1_2._batch_norm._mean"),
    ("mmseg_d", "layer1.0.downsample.1.weight", "bb_0_0.short._conv.weight"),
    ("pytorch_encoding", "conv1.6.weight", "conv1_3._conv.weight"),
    ("pytorch_encoding", "bn1.bias", "conv1_3._batch_norm.bias"),
    ("mmseg", "layer1.0.downsample.1.weight", "bb_0_0.short._batch_norm.weight"),
    ("mmseg", "layer2.0.bn3.weight", "bb_1_0.conv2._batch_norm.weight")])
def test_names(dialect, theirs, ours):
    weights_of_theirs = their_resnet(dialect)
    renamed, _ = dialects.to_ours(weights_of_theirs)
    np.testing.assert_array_equal(renamed[ours], weights_of_theirs[theirs])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_tables_are_one_to_one(dialect):
    ours = [name for name, _ in dialects.TABLES[dialect].values()]
    assert len(set(ours)) == len(ours)


def test_our_names_are_kept():
    ours = {"conv1_1._conv.weight": np.ones(1), "fc.weight": np.ones([2, 3])}
    same, dialect = dialects.to_ours(ours)
    assert dialect == "paddleseg" and same == ours
    assert dialects.from_ours(ours, "paddleseg") == ours


def test_unknown_names_are_kept_for_the_strict_load():
    assert set(dialects.to_ours({"stem.0.weight": np.ones(1), "odd": np.ones(1)})[0]) == {
        "conv1_1._conv.weight", "odd"}


@pytest.mark.parametrize("variant, dialect", [
    ("ResNet18_v1b", "torchvision"), ("ResNet50_v1b", "torchvision"), ("ResNet50_v1c", "mmseg"),
    ("ResNet18_v1c", "mmseg"), ("ResNet50_v1s", "pytorch_encoding"), ("ResNet50_vd", "mmseg_d")])
def test_a_file_of_a_dialect_loads_into_the_backbone(tmp_path, variant, dialect):
    depth, kind = int(variant[6:8]), variant.split("_")[1]
    model = resnet.ResNet(depth, kind, base_channels=4)
    rng = np.random.default_rng(0)
    ours = {key: rng.normal(size=value.shape).astype("float32") for key, value in model.state_dict().items()}
    theirs = dialects.from_ours(ours, dialect)
    assert set(theirs).isdisjoint(ours)
    theirs.update({"fc.weight": np.zeros([10, 8], "float32"), "bn1.num_batches_tracked": np.array(1)})
    path = str(tmp_path / "x.pdparams")
    weights.write_weights(path, theirs)
    weights.load_pretrained(model, path)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), ours[key])
