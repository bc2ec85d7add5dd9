import inspect
import typing

import numpy as np
import paddle
import pytest

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models import backbones
from paddleseg.models.backbones.resnet import Block, Shortcut

NAMES = [f"ResNet{depth}_{variant}"
         for depth in (18, 34, 50, 101, 152) for variant in ("vd", "v1b", "v1c", "v1s")]


def num_trainable(layer):
    return sum(int(np.prod(p.shape)) for p in layer.parameters() if not p.stop_gradient)


def wide_dilations(net, stage):
    """The dilations of the 3x3 convolutions of each block of a stage."""
    blocks = [layer for name, layer in net.named_sublayers()
              if isinstance(layer, Block) and name.startswith(f"bb_{stage}_")]
    return [[conv._dilation[0] for conv in block.sublayers()
             if isinstance(conv, paddle.nn.Conv2D) and conv._kernel_size[0] == 3] for block in blocks]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_registered_with_explicit_arguments(name):
    constructor = manager.BACKBONES[name]
    assert constructor is getattr(backbones, name)
    assert constructor.__name__ == name and name[6:].split("_")[0] in constructor.__doc__
    defaults = {key: value.default for key, value in inspect.signature(constructor).parameters.items()}
    assert defaults == {"output_stride": 8, "multi_grid": (1, 1, 1), "contract_dilation": False,
                        "base_channels": 64, "in_channels": 3, "pretrained": None, "frozen_stages": 0,
                        "recompute_stages": ()}
    assert set(typing.get_type_hints(constructor)) == {*defaults, "return"}


# Of 18 to 152 in variant v1b: torchvision's models without their classifier.
@pytest.mark.parametrize("name, count", [
    ("ResNet18_v1b", 11_176_512), ("ResNet34_v1b", 21_284_672), ("ResNet50_v1b", 23_508_032),
    ("ResNet101_v1b", 42_500_160), ("ResNet152_v1b", 58_143_808),
    # The stems alone: 9,536 parameters in b, 28,768 in c and d, 112,832 in s, whose 64 more channels
    # cost stage 1 64 * (64 + 256) more.
    ("ResNet50_v1c", 23_508_032 - 9_536 + 28_768), ("ResNet50_vd", 23_508_032 - 9_536 + 28_768),
    ("ResNet50_v1s", 23_508_032 - 9_536 + 112_832 + 20_480),
    # PaddleSeg's ResNet18_vd has a projection in stage 1 too: 64 * 64 and a batch norm.
    ("ResNet18_vd", 11_176_512 - 9_536 + 28_768 + 4_096 + 128),
])
def test_number_of_parameters(name, count):
    with paddle.LazyGuard():  # counts shapes, draws no values
        net = manager.BACKBONES[name]()
    assert num_trainable(net) == count


@pytest.mark.parametrize("output_stride, strides", [
    (8, (4, 8, 8, 8)), (16, (4, 8, 16, 16)), (32, (4, 8, 16, 32))])
@pytest.mark.parametrize("name, size", [("ResNet18_vd", (97, 161)), ("ResNet18_v1b", (64, 64)),
                                        ("ResNet50_v1s", (97, 161))])
def test_maps_of_each_output_stride(name, output_stride, strides, size):
    net = manager.BACKBONES[name](output_stride=output_stride, base_channels=8, in_channels=5)
    feats = net(paddle.randn([1, 5, *size]))
    factor = 4 if "50" in name else 1
    assert net.feat_channels == [8 * factor, 16 * factor, 32 * factor, 64 * factor]
    assert [tuple(feat.shape) for feat in feats] == [
        (1, channels, -(-size[0] // stride), -(-size[1] // stride))
        for channels, stride in zip(net.feat_channels, strides)]


@pytest.mark.parametrize("output_stride, contract, multi_grid, stage3, stage4", [
    (8, False, (1, 1, 1), [2] * 6, [4] * 3),
    (8, True, (1, 1, 1), [1] + [2] * 5, [2, 4, 4]),  # mmsegmentation's EncNet
    (8, False, (1, 2, 4), [2] * 6, [4, 8, 16]),  # EncNet-Paddle
    (8, True, (1, 2, 4), [1] + [2] * 5, [2, 8, 16]),
    (16, False, (1, 1, 1), [1] * 6, [2] * 3),
    (16, True, (1, 1, 1), [1] * 6, [1, 2, 2]),
    (16, False, (1, 2, 4), [1] * 6, [2, 4, 8]),
    (32, False, (1, 2, 4), [1] * 6, [1, 2, 4]),
])
def test_dilations_of_each_block(output_stride, contract, multi_grid, stage3, stage4):
    net = backbones.ResNet50_v1c(output_stride, multi_grid, contract, base_channels=2)
    assert wide_dilations(net, 0) == [[1]] * 3 and wide_dilations(net, 1) == [[1]] * 4
    assert wide_dilations(net, 2) == [[d] for d in stage3]
    assert wide_dilations(net, 3) == [[d] for d in stage4]
    last = net(paddle.randn([1, 3, 64, 64]))[-1]
    assert tuple(last.shape[2:]) == (64 // output_stride,) * 2


def test_both_convolutions_of_a_basic_block_are_dilated():
    net = backbones.ResNet18_vd(multi_grid=(1, 2), base_channels=2)
    assert wide_dilations(net, 2) == [[2, 2]] * 2
    assert wide_dilations(net, 3) == [[4, 4], [8, 8]]


@pytest.mark.parametrize("variant, pooled", [("vd", True), ("v1b", False), ("v1c", False), ("v1s", False)])
def test_only_stride_2_shortcuts_of_vd_pool(variant, pooled):
    net = manager.BACKBONES[f"ResNet50_{variant}"](base_channels=2)
    shortcuts = [getattr(net, f"bb_{stage}_0").short for stage in range(4)]
    assert [short.pool is not None for short in shortcuts] == [False, pooled, False, False]
    assert [short._conv._stride[0] for short in shortcuts] == [1, 1 if pooled else 2, 1, 1]
    block = net.bb_1_0  # whose stride sits in the 3x3 convolution
    assert [conv._conv._stride[0] for conv in (block.conv0, block.conv1, block.conv2)] == [1, 2, 1]


def test_avg_down_averages_the_pixels_that_exist():
    image = np.arange(15, dtype="float32").reshape(1, 1, 3, 5)
    out = Shortcut(1, 2, stride=2, avg_down=True).pool(paddle.to_tensor(image))
    np.testing.assert_array_equal(out.numpy()[0, 0], [[3, 5, 6.5], [10.5, 12.5, 14]])


def test_parameter_names_are_paddlesegs():
    with paddle.LazyGuard():
        names = set(backbones.ResNet101_vd().state_dict())
    assert {"conv1_1._conv.weight", "conv1_3._batch_norm._variance", "bb_0_0.short._conv.weight",
            "bb_0_0.short._batch_norm._mean", "bb_2_22.conv1._conv.weight",
            "bb_3_2.conv2._batch_norm.bias"} <= names
    assert len(names) == 5 * (3 + 33 * 3 + 4)
    assert not any(name.endswith("_conv.bias") for name in names)
    assert "bb_0_0.short._conv.weight" in backbones.ResNet18_vd(base_channels=2).state_dict()
    assert "bb_0_0.short._conv.weight" not in backbones.ResNet18_v1c(base_channels=2).state_dict()


@pytest.mark.parametrize("constructor, kwargs, message", [
    (backbones.ResNet50_vd, dict(output_stride=4), "ResNet50_vd: output_stride is 4"),
    (backbones.ResNet18_vd, dict(multi_grid=(1, 2, 4)), "multi_grid .* 2 factors"),
    (backbones.ResNet101_vd, dict(multi_grid=(1, 2)), "multi_grid .* 3 factors"),
    (backbones.ResNet101_vd, dict(multi_grid=(0, 1, 1)), r"multi_grid is \[0, 1, 1\]"),
    (backbones.ResNet50_vd, dict(base_channels=7), "base_channels is 7"),
    (backbones.ResNet18_vd, dict(frozen_stages=5), "frozen_stages is 5"),
    (backbones.ResNet18_vd, dict(recompute_stages=[0]), r"recompute_stages is \[0\].* 1 to 4"),
    (backbones.ResNet18_vd, dict(recompute_stages=[2], frozen_stages=2), "3 to 4"),
])
def test_values_that_cannot_be_are_named(constructor, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        constructor(**kwargs)
