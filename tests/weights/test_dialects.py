"""Names of other projects, stated once more from their public definitions, there and back."""

import numpy as np
import paddle
import pytest

from paddleseg.cvlibs.errors import WeightsError
from paddleseg.models import FCN, EncNet
from paddleseg.models.backbones.resnet import ResNet
from paddleseg.weights import dialects
from paddleseg.weights.load import load_into, load_pretrained, load_weights
from paddleseg.weights.write import write_weights

BACKBONES = [("torchvision", "v1b"), ("mmseg", "v1c"), ("mmseg", "v1s"), ("pytorch_encoding", "v1c"),
             ("pytorch_encoding", "v1s"), ("mmseg_d", "vd"), ("pytorch_encoding_d", "vd")]
PROJECTS = ["mmseg", "pytorch_encoding"]
CODES, WIDTH, CLASSES, AUX = 3, 8, 5, 6


class Theirs(dict):
    """State of a PyTorch model, stated here once more: names, shapes and order."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def add(self, name, *shape):
        self[name] = self.rng.normal(size=shape).astype("float32")

    def conv(self, name, out_channels, in_channels, kernel):
        self.add(f"{name}.weight", out_channels, in_channels, kernel, kernel)

    def layer(self, name, *shape):
        self.add(f"{name}.weight", *shape)
        self.add(f"{name}.bias", shape[0])

    def norm(self, name, channels):
        for parameter in ("weight", "bias", "running_mean", "running_var"):
            self.add(f"{name}.{parameter}", channels)
        self[f"{name}.num_batches_tracked"] = np.zeros((), "int64")

    def conv_norm(self, conv, norm, out_channels, in_channels, kernel):
        self.conv(conv, out_channels, in_channels, kernel)
        self.norm(norm, out_channels)

    def resnet(self, dialect, variant, bottleneck, prefix=""):
        stem = {"torchvision": ["conv1", "bn1"],
                "mmseg": ["stem.0", "stem.1", "stem.3", "stem.4", "stem.6", "stem.7"],
                "pytorch_encoding": ["conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1"],
                }[dialect.replace("_d", "") if variant != "v1b" else "torchvision"]
        widths = {"v1b": [4], "v1s": [4, 4, 8]}.get(variant, [2, 2, 4])
        channels = 3
        for conv, norm, width in zip(stem[::2], stem[1::2], widths):
            self.conv_norm(prefix + conv, prefix + norm, width, channels, 7 if variant == "v1b" else 3)
            channels = width
        first = 1 if variant == "vd" else 0
        for stage, count in enumerate((3, 4, 6, 3)):
            width, out_channels = 4 << stage, (16 if bottleneck else 4) << stage
            for block in range(count):
                name = f"{prefix}layer{stage + 1}.{block}"
                sizes = ([(width, channels, 1), (width, width, 3), (out_channels, width, 1)] if bottleneck
                         else [(width, channels, 3), (width, width, 3)])
                for i, size in enumerate(sizes, start=1):
                    self.conv_norm(f"{name}.conv{i}", f"{name}.bn{i}", *size)
                if block == 0 and channels != out_channels:
                    down = f"{name}.downsample"
                    self.conv_norm(f"{down}.{first}", f"{down}.{first + 1}", out_channels, channels, 1)
                channels = out_channels
        return self

    def head(self, names, lateral=False, se=True):
        """An EncNet's, or an FCN's where `names` has none for the parts of an EncNet."""
        def conv_module(part, *sizes):
            self.conv_norm(names[part] + names["conv"], names[part] + names["norm"], *sizes)

        self.layer(names["classes"], CLASSES, WIDTH, 1, 1)
        conv_module("first", WIDTH, 32, 3)
        if lateral:
            conv_module("lateral", WIDTH, 8, 1)
            self.conv_norm(names["lateral"].replace("0", "1") + names["conv"],
                           names["lateral"].replace("0", "1") + names["norm"], WIDTH, 16, 1)
            conv_module("fusion", WIDTH, 3 * WIDTH, 3)
        if "project" in names:
            conv_module("project", WIDTH, WIDTH, 1)
            self.add(names["encoding"] + ".codewords", CODES, WIDTH)
            self.add(names["encoding"] + ".scale", CODES)
            self.norm(names["encoding norm"], CODES)
            self.layer(names["fc"], WIDTH, WIDTH)
            if se:
                self.layer(names["se"], CLASSES, WIDTH)
        self.layer(names["aux classes"], CLASSES, AUX, 1, 1)
        conv_module("aux", AUX, 16, 3)
        return self


MMSEG_AUX = {"conv": ".conv", "norm": ".bn", "aux": "auxiliary_head.convs.0", "aux classes": "auxiliary_head.conv_seg"}
ENCODING_AUX = {"conv": ".0", "norm": ".1", "aux": "auxlayer.conv5", "aux classes": "auxlayer.conv5.4"}
HEADS = {
    ("mmseg", "EncNet"): {
        **MMSEG_AUX, "classes": "decode_head.conv_seg", "first": "decode_head.bottleneck",
        "lateral": "decode_head.lateral_convs.0", "fusion": "decode_head.fusion",
        "project": "decode_head.enc_module.encoding_project", "encoding": "decode_head.enc_module.encoding.0",
        "encoding norm": "decode_head.enc_module.encoding.1", "fc": "decode_head.enc_module.fc.0",
        "se": "decode_head.se_layer"},
    ("mmseg", "FCN"): {**MMSEG_AUX, "classes": "decode_head.conv_seg", "first": "decode_head.convs.0"},
    ("pytorch_encoding", "EncNet"): {
        **ENCODING_AUX, "classes": "head.conv6.1", "first": "head.conv5", "lateral": "head.connect.0",
        "fusion": "head.fusion", "project": "head.encmodule.encoding", "encoding": "head.encmodule.encoding.3",
        "encoding norm": "head.encmodule.encoding.4", "fc": "head.encmodule.fc.0", "se": "head.encmodule.selayer"},
    ("pytorch_encoding", "FCN"): {**ENCODING_AUX, "classes": "head.conv5.4", "first": "head.conv5"},
}


def their_model(project, model, variant="v1c", lateral=False, se=True):
    theirs = Theirs().resnet(project, variant, False, {"mmseg": "backbone."}.get(project, "pretrained."))
    return theirs.head(HEADS[project, model], lateral, se)


def our_encnet(variant="v1c", lateral=False, se=True, conv_bias=False):
    return EncNet(CLASSES, ResNet(34, variant, base_channels=4), num_codes=CODES, mid_channels=WIDTH, use_se_loss=se,
                  add_lateral=lateral, aux_channels=AUX, conv_bias=conv_bias, aux_dropout=0.0)


def random_state(layer, seed=0):
    """Values for every parameter and buffer, variances positive."""
    rng = np.random.default_rng(seed)
    dtype = paddle.get_default_dtype()
    return {name: (rng.random(value.shape) + 0.5 if name.endswith("_variance")
                   else rng.normal(size=value.shape) * 0.3).astype(dtype)
            for name, value in layer.state_dict().items()}


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def assert_there_and_back(theirs, dialect, model):
    ours, recognised = dialects.convert_to_paddleseg(theirs)
    assert recognised == dialect and not dialects.unknown_names(ours)
    assert_same(dialects.convert_from_paddleseg(ours, dialect), theirs)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in ours.items() if not name.startswith("fc.")}
    return ours


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("dialect, variant", BACKBONES)
def test_a_backbone_there_and_back_is_exact(dialect, variant, bottleneck):
    if variant == "vd" and not bottleneck:
        pytest.skip("ours projects in stage 1, theirs doesn't")
    theirs = Theirs().resnet(dialect, variant, bottleneck)
    theirs.layer("fc", 10, 4)
    ours = assert_there_and_back(theirs, dialect, ResNet(50 if bottleneck else 34, variant, base_channels=4))
    np.testing.assert_array_equal(ours["fc.weight"], theirs["fc.weight"].T)


@pytest.mark.parametrize("lateral, se", [(False, True), (True, True), (False, False)])
@pytest.mark.parametrize("variant", ["v1b", "v1c", "v1s"])
@pytest.mark.parametrize("project", PROJECTS)
def test_a_model_there_and_back_is_exact(project, variant, lateral, se):
    theirs = their_model(project, "EncNet", variant, lateral, se)
    assert_there_and_back(theirs, project, our_encnet(variant, lateral, se))


@pytest.mark.parametrize("project", PROJECTS)
def test_an_fcn_there_and_back_is_exact(project):
    fcn = FCN(CLASSES, ResNet(34, "v1c", base_channels=4), channels=WIDTH, aux_channels=AUX, conv_bias=False)
    assert_there_and_back(their_model(project, "FCN"), project, fcn)


@pytest.mark.parametrize("project, theirs, ours, transposed", [
    ("mmseg", "backbone.stem.6.weight", "backbone.conv1_3._conv.weight", False),
    ("mmseg", "backbone.stem.4.running_mean", "backbone.conv1_2._batch_norm._mean", False),
    ("mmseg", "backbone.layer2.0.downsample.1.weight", "backbone.bb_1_0.short._batch_norm.weight", False),
    ("mmseg", "decode_head.lateral_convs.1.bn.running_var", "lateral_convs.1._batch_norm._variance", False),
    ("mmseg", "decode_head.enc_module.encoding.0.scale", "enc_module.encoding.0.scale", False),
    ("mmseg", "decode_head.enc_module.fc.0.weight", "enc_module.fc.0.weight", True),
    ("mmseg", "decode_head.conv_seg.bias", "head.bias", False),
    ("mmseg", "auxiliary_head.conv_seg.weight", "fcn_head.conv.weight", False),
    ("pytorch_encoding", "pretrained.bn1.bias", "backbone.conv1_3._batch_norm.bias", False),
    ("pytorch_encoding", "head.connect.0.0.weight", "lateral_convs.0._conv.weight", False),
    ("pytorch_encoding", "head.encmodule.encoding.4.running_mean", "enc_module.encoding.1._mean", False),
    ("pytorch_encoding", "head.encmodule.selayer.weight", "se_layer.weight", True),
    ("pytorch_encoding", "auxlayer.conv5.1.weight", "fcn_head.conv_bn_relu._batch_norm.weight", False)])
def test_names(project, theirs, ours, transposed):
    weights = their_model(project, "EncNet", lateral=True)
    value = weights[theirs]
    np.testing.assert_array_equal(dialects.convert_to_paddleseg(weights)[0][ours], value.T if transposed else value)


def test_what_has_no_counterpart_is_refused():
    """Pooling shortcuts of basic blocks or beside a stem of one convolution, whole models in torchvision, ONNX."""
    one_conv = {name.replace("downsample.1", "downsample.2").replace("downsample.0", "downsample.1"): value
                for name, value in Theirs().resnet("torchvision", "v1b", True).items()}
    for theirs in (one_conv, Theirs().resnet("mmseg_d", "vd", False)):
        with pytest.raises(WeightsError):
            dialects.convert_to_paddleseg(theirs)
    for model, dialect in ((ResNet(18, "vd", base_channels=4), "mmseg_d"), (our_encnet(), "torchvision"),
                           (our_encnet(), "onnx"), (our_encnet("v1b"), "mmseg_d")):
        with pytest.raises(WeightsError):
            dialects.convert_from_paddleseg(random_state(model), dialect)


def test_our_names_and_those_of_the_users_own_models_are_kept():
    ours = random_state(our_encnet())
    one = np.ones(1)
    own = {"conv1.weight": one, "layer1.0.conv1.weight": one, "layer1.0.bn1._mean": one}
    for kept in (ours, own, {f"decode_head.{name}": value for name, value in own.items()},
                 {"conv1.weight": one, "stem.0.weight": one}):
        same, dialect = dialects.convert_to_paddleseg(kept)
        assert dialect == "paddleseg"
        assert_same(same, kept)
    assert_same(dialects.convert_from_paddleseg(ours, "paddleseg"), ours)


def outputs(model, state, x, training):
    load_into(model, state, "state")
    (model.train if training else model.eval)()
    with paddle.no_grad():
        return [output.numpy() for output in model(x)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("project", PROJECTS)
def test_folded_and_added_biases_leave_the_outputs(float64, project, training):
    biased, plain = our_encnet(lateral=True, conv_bias=True), our_encnet(lateral=True)
    state = random_state(biased)
    assert len(dialects.conv_biases(state)) == 6
    folded, _ = dialects.convert_to_paddleseg(dialects.convert_from_paddleseg(state, project))
    added = dialects.add_biases(folded)
    assert_same(dialects.fold_biases(added), folded)
    x = paddle.randn([2, 3, 33, 65])
    expected = outputs(biased, state, x, training)
    for actual in (outputs(plain, folded, x, training), outputs(biased, added, x, training)):
        for theirs, ours in zip(actual, expected):
            np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-9 * np.abs(ours).max())


@pytest.mark.parametrize("project", PROJECTS)
def test_a_file_of_a_dialect_loads_into_the_model_whole_or_not_at_all(tmp_path, project):
    path, theirs, model = str(tmp_path / "x.pdparams"), their_model(project, "EncNet"), our_encnet()
    ours, _ = dialects.convert_to_paddleseg(theirs)
    if project == "pytorch_encoding":
        theirs.layer("pretrained.fc", 10, 32)  # of ImageNet, unused
    write_weights(path, theirs)
    assert load_weights(model, path) == f"{path} (names of {project})"
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), ours[key])
    bias = {"mmseg": "decode_head.conv_seg.bias", "pytorch_encoding": "head.conv6.1.bias"}[project]
    for change, word in ((lambda: theirs.pop(bias), "missing: head.bias"),
                         (lambda: theirs.update({bias: np.zeros(7)}), "mis-shaped: head.bias"),
                         (lambda: theirs.update({bias + "s": np.zeros(7)}), f"unexpected: {bias}s")):
        change()
        write_weights(path, theirs)
        with pytest.raises(WeightsError, match=f"{path}.*{word}"):
            load_weights(model, path)


@pytest.mark.parametrize("variant, dialect, other", [
    ("v1b", "torchvision", "vd"), ("v1c", "mmseg", "vd"), ("v1s", "pytorch_encoding", "vd"), ("vd", "mmseg_d", "v1c")])
def test_a_file_of_a_dialect_loads_into_the_backbone_whose_shortcuts_it_has(tmp_path, variant, dialect, other):
    model, path = ResNet(50, variant, base_channels=4), str(tmp_path / "x.pdparams")
    ours = random_state(model)
    write_weights(path, {**dialects.convert_from_paddleseg(ours, dialect), "fc.weight": np.zeros([10, 8], "float32")})
    load_pretrained(model, path)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), ours[key])
    with pytest.raises(WeightsError, match="shortcuts"):
        load_pretrained(ResNet(50, other, base_channels=4), path)
