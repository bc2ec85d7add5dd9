import numpy as np
import paddle
import pytest

from paddleseg.cvlibs import manager
from paddleseg.models import FCN, EncModule, EncNet
from paddleseg.models.backbones import ResNet18_v1b, ResNet18_vd
from paddleseg.models.losses import CrossEntropyLoss, SELoss

NUM_CLASSES = 5


def tiny_encnet(output_stride=8, **kwargs):
    return EncNet(NUM_CLASSES, ResNet18_vd(output_stride, base_channels=8),
                  **{"num_codes": 4, "mid_channels": 8, **kwargs})


def tiny_fcn(**kwargs):
    return FCN(NUM_CLASSES, ResNet18_vd(base_channels=8), **{"channels": 8, **kwargs})


def head_names(model):
    return [name for name in model.state_dict() if not name.startswith("backbone.")]


@pytest.mark.parametrize("batch, size", [(2, (32, 32)), (1, (64, 64)), (2, (97, 161))])
@pytest.mark.parametrize("make_model, kwargs, names", [
    (tiny_encnet, {}, ("seg", "aux", "se")),
    (tiny_encnet, dict(add_lateral=True, align_corners=True), ("seg", "aux", "se")),
    (tiny_encnet, dict(output_stride=32, add_lateral=True), ("seg", "aux", "se")),  # laterals of a single pixel
    (tiny_encnet, dict(use_se_loss=False), ("seg", "aux")),
    (tiny_fcn, {}, ("seg", "aux"))])
def test_outputs(make_model, kwargs, names, batch, size):
    model = make_model(**kwargs)
    assert manager.MODELS[type(model).__name__] is type(model) and manager.MODELS["ENCNet"] is EncNet
    x = paddle.randn([batch, 3, *size])
    map_shape = (batch, NUM_CLASSES, *size)
    shapes = {"seg": map_shape, "aux": map_shape, "se": (batch, NUM_CLASSES)}
    assert model.loss_names == names
    assert [tuple(logit.shape) for logit in model(x)] == [shapes[name] for name in names]
    model.eval()
    assert [tuple(logit.shape) for logit in model(x)] == [shapes["seg"]]


@pytest.mark.parametrize("make_model", [tiny_encnet, tiny_fcn])
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_image_gives_finite_logits_and_gradients(make_model, value):
    model = make_model()
    losses = {"seg": CrossEntropyLoss(), "aux": CrossEntropyLoss(), "se": SELoss()}
    label = paddle.zeros([1, 64, 64], "int64")
    outputs = dict(zip(model.loss_names, model(paddle.full([1, 3, 64, 64], value))))
    sum(losses[name](logit, label) for name, logit in outputs.items()).backward()
    for name, param in model.named_parameters():
        if not param.stop_gradient:
            assert param.grad is not None and np.isfinite(param.grad.numpy()).all(), name


def test_encnet_names_are_paddlesegs():
    def conv_bn(name):
        return [f"{name}._conv.weight", f"{name}._conv.bias"] + [
            f"{name}._batch_norm.{part}" for part in ("weight", "bias", "_mean", "_variance")]

    assert head_names(tiny_encnet(add_lateral=True, dropout=0.1)) == [
        *conv_bn("bottleneck"), *conv_bn("lateral_convs.0"), *conv_bn("lateral_convs.1"), *conv_bn("fusion"),
        *conv_bn("enc_module.encoding_project"),
        "enc_module.encoding.0.codewords", "enc_module.encoding.0.scale", "enc_module.encoding.1.weight",
        "enc_module.encoding.1.bias", "enc_module.encoding.1._mean", "enc_module.encoding.1._variance",
        "enc_module.fc.0.weight", "enc_module.fc.0.bias", "head.weight", "head.bias",
        *conv_bn("fcn_head.conv_bn_relu"), "fcn_head.conv.weight", "fcn_head.conv.bias",
        "se_layer.weight", "se_layer.bias"]


def test_fcn_names():
    names = [name for name in head_names(tiny_fcn()) if "_batch_norm" not in name]
    assert names == ["head.conv_1._conv.weight", "head.conv_1._conv.bias", "head.cls.weight", "head.cls.bias",
                     "fcn_head.conv_bn_relu._conv.weight", "fcn_head.conv_bn_relu._conv.bias",
                     "fcn_head.conv.weight", "fcn_head.conv.bias"]


@pytest.mark.parametrize("make_model", [tiny_encnet, tiny_fcn])
def test_without_conv_bias_only_batch_norms_and_classifiers_have_one(make_model):
    names = head_names(make_model(conv_bias=False))
    assert not any(name.endswith("_conv.bias") for name in names)
    assert "fcn_head.conv.bias" in names
    assert [make_model(**width).fcn_head.conv.weight.shape[1] for width in ({}, {"aux_channels": 4})] == [8, 4]


@pytest.mark.parametrize("make_model", [tiny_encnet, tiny_fcn])
def test_the_auxiliary_head_taps_stage_3(make_model):
    model = make_model()
    model(paddle.randn([1, 3, 64, 64]))[1].sum().backward()
    assert model.backbone.bb_2_1.conv1._conv.weight.grad is not None
    assert model.backbone.bb_3_0.conv0._conv.weight.grad is None


@pytest.mark.parametrize("make_model", [tiny_encnet, tiny_fcn])
@pytest.mark.parametrize("output, option", [(0, "dropout"), (1, "aux_dropout")])
def test_each_dropout_acts_on_its_classifier(make_model, output, option):
    model = make_model(**{"dropout": 0.0, "aux_dropout": 0.0, option: 0.5})
    x = paddle.randn([1, 3, 64, 64])
    first, second = model(x), model(x)
    changed = [not np.array_equal(a.numpy(), b.numpy()) for a, b in zip(first[:2], second[:2])]
    assert changed == [output == 0, output == 1]


def test_the_lateral_convolutions_read_the_finer_maps():
    model = tiny_encnet(add_lateral=True)
    model.eval()
    x = paddle.randn([1, 3, 64, 64])
    before = model(x)[0].numpy()
    model.lateral_convs[0]._batch_norm.bias.set_value(paddle.full([8], 3.0))
    assert np.abs(model(x)[0].numpy() - before).max() > 0
    assert [conv._conv.weight.shape[1] for conv in model.lateral_convs] == [16, 32]


def test_encmodule_returns_the_code_and_the_weighed_map(float64):
    module = EncModule(6, 4)
    x = paddle.randn([2, 6, 5, 7])
    code, out = module(x)
    projected = module.encoding_project(x)
    encoding = module.encoding[0](projected).numpy()
    normal = (encoding - encoding.mean((0, 2), keepdims=True)) / np.sqrt(
        encoding.var((0, 2), keepdims=True) + 1e-5)
    expected_code = np.maximum(normal, 0).mean(1)
    linear = module.fc[0]
    gamma = 1 / (1 + np.exp(-(expected_code @ linear.weight.numpy() + linear.bias.numpy())))
    expected_out = np.maximum(x.numpy() * (1 + gamma[:, :, None, None]), 0)
    np.testing.assert_allclose(code.numpy(), expected_code, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(out.numpy(), expected_out, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("make_layer", [
    lambda pretrained: ResNet18_v1b(base_channels=2, pretrained=pretrained),
    lambda pretrained: tiny_encnet(pretrained=pretrained),
    lambda pretrained: tiny_fcn(pretrained=pretrained)])
def test_pretrained_weights_replace_the_random_start(make_layer, tmp_path):
    path = str(tmp_path / "weights.pdparams")
    saved = make_layer(None).state_dict()
    paddle.save(saved, path)
    loaded = make_layer(path).state_dict()
    assert list(loaded) == list(saved)
    for name, value in saved.items():
        np.testing.assert_array_equal(loaded[name].numpy(), value.numpy())


@pytest.mark.parametrize("make_model", [tiny_encnet, tiny_fcn])
def test_an_exported_model_computes_the_same_at_any_size(make_model, tmp_path):
    model = make_model()
    model.eval()
    path = str(tmp_path / "model")
    paddle.jit.save(model, path, input_spec=[paddle.static.InputSpec([None, 3, None, None], "float32")])
    exported = paddle.jit.load(path)
    exported.eval()
    for size in [(1, 3, 64, 64), (2, 3, 97, 65)]:
        x = paddle.randn(size)
        out = exported(x)
        out = out[0] if isinstance(out, (list, tuple)) else out
        np.testing.assert_allclose(out.numpy(), model(x)[0].numpy(), rtol=1e-5, atol=1e-5)
