import numpy as np
import paddle
import pytest

from paddleseg.cvlibs.errors import WeightsError
from paddleseg.models import FCN, EncNet
from paddleseg.models.backbones.resnet import ResNet
from paddleseg.weights import dialects
from paddleseg.weights import load as weights
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

    def mmseg(self, lateral=False, se=True):
        def conv_module(name, *sizes):
            self.conv_norm(f"{name}.conv", f"{name}.bn", *sizes)

        head = "decode_head"
        self.layer(f"{head}.conv_seg", CLASSES, WIDTH, 1, 1)
        conv_module(f"{head}.bottleneck", WIDTH, 32, 3)
        if lateral:
            conv_module(f"{head}.lateral_convs.0", WIDTH, 8, 1)
            conv_module(f"{head}.lateral_convs.1", WIDTH, 16, 1)
            conv_module(f"{head}.fusion", WIDTH, 3 * WIDTH, 3)
        conv_module(f"{head}.enc_module.encoding_project", WIDTH, WIDTH, 1)
        self.add(f"{head}.enc_module.encoding.0.codewords", CODES, WIDTH)
        self.add(f"{head}.enc_module.encoding.0.scale", CODES)
        self.norm(f"{head}.enc_module.encoding.1", CODES)
        self.layer(f"{head}.enc_module.fc.0", WIDTH, WIDTH)
        if se:
            self.layer(f"{head}.se_layer", CLASSES, WIDTH)
        return self.mmseg_aux()

    def mmseg_aux(self):
        self.layer("auxiliary_head.conv_seg", CLASSES, AUX, 1, 1)
        self.conv_norm("auxiliary_head.convs.0.conv", "auxiliary_head.convs.0.bn", AUX, 16, 3)
        return self

    def pytorch_encoding(self, lateral=False, se=True):
        self.conv_norm("head.conv5.0", "head.conv5.1", WIDTH, 32, 3)
        if lateral:
            self.conv_norm("head.connect.0.0", "head.connect.0.1", WIDTH, 8, 1)
            self.conv_norm("head.connect.1.0", "head.connect.1.1", WIDTH, 16, 1)
            self.conv_norm("head.fusion.0", "head.fusion.1", WIDTH, 3 * WIDTH, 3)
        self.conv_norm("head.encmodule.encoding.0", "head.encmodule.encoding.1", WIDTH, WIDTH, 1)
        self.add("head.encmodule.encoding.3.codewords", CODES, WIDTH)
        self.add("head.encmodule.encoding.3.scale", CODES)
        self.norm("head.encmodule.encoding.4", CODES)
        self.layer("head.encmodule.fc.0", WIDTH, WIDTH)
        if se:
            self.layer("head.encmodule.selayer", CLASSES, WIDTH)
        self.layer("head.conv6.1", CLASSES, WIDTH, 1, 1)
        return self.pytorch_encoding_aux()

    def pytorch_encoding_aux(self):
        self.conv_norm("auxlayer.conv5.0", "auxlayer.conv5.1", AUX, 16, 3)
        self.layer("auxlayer.conv5.4", CLASSES, AUX, 1, 1)
        return self


def their_encnet(project, variant="v1c", lateral=False, se=True):
    theirs = Theirs().resnet(project, variant, False, {"mmseg": "backbone."}.get(project, "pretrained."))
    return getattr(theirs, project)(lateral, se)


def their_fcn(project):
    theirs = Theirs().resnet(project, "v1c", False, {"mmseg": "backbone."}.get(project, "pretrained."))
    if project == "mmseg":
        theirs.layer("decode_head.conv_seg", CLASSES, WIDTH, 1, 1)
        theirs.conv_norm("decode_head.convs.0.conv", "decode_head.convs.0.bn", WIDTH, 32, 3)
        return theirs.mmseg_aux()
    theirs.conv_norm("head.conv5.0", "head.conv5.1", WIDTH, 32, 3)
    theirs.layer("head.conv5.4", CLASSES, WIDTH, 1, 1)
    return theirs.pytorch_encoding_aux()


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


def assert_same(actual, expected, ordered=True):
    assert (list if ordered else set)(actual) == (list if ordered else set)(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def shapes_of(layer):
    return {name: tuple(value.shape) for name, value in layer.state_dict().items()}


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("dialect, variant", BACKBONES)
def test_a_backbone_there_and_back_is_exact(dialect, variant, bottleneck):
    if variant == "vd" and not bottleneck:
        pytest.skip("ours projects in stage 1, theirs doesn't")
    theirs = Theirs().resnet(dialect, variant, bottleneck)
    theirs.layer("fc", 10, 4)
    ours, recognised = dialects.to_ours(theirs)
    assert recognised == dialect
    np.testing.assert_array_equal(ours["fc.weight"], theirs["fc.weight"].T)
    assert_same(dialects.from_ours(ours, dialect), theirs)
    del ours["fc.weight"], ours["fc.bias"]
    model = ResNet(50 if bottleneck else 34, variant, base_channels=4)
    assert shapes_of(model) == {name: value.shape for name, value in ours.items()}


@pytest.mark.parametrize("lateral, se", [(False, True), (True, True), (False, False)])
@pytest.mark.parametrize("variant", ["v1b", "v1c", "v1s"])
@pytest.mark.parametrize("project", PROJECTS)
def test_an_encnet_there_and_back_is_exact(project, variant, lateral, se):
    theirs = their_encnet(project, variant, lateral, se)
    ours, dialect = dialects.to_ours(theirs)
    assert dialect == project
    assert shapes_of(our_encnet(variant, lateral, se)) == {name: value.shape for name, value in ours.items()}
    assert_same(dialects.from_ours(ours, dialect), theirs)


@pytest.mark.parametrize("project", PROJECTS)
def test_an_fcn_there_and_back_is_exact(project):
    theirs = their_fcn(project)
    ours, dialect = dialects.to_ours(theirs)
    model = FCN(CLASSES, ResNet(34, "v1c", base_channels=4), channels=WIDTH, aux_channels=AUX, conv_bias=False)
    assert dialect == project
    assert shapes_of(model) == {name: value.shape for name, value in ours.items()}
    assert_same(dialects.from_ours(ours, dialect), theirs)


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
    their_weights = their_encnet(project, lateral=True)
    value = their_weights[theirs]
    np.testing.assert_array_equal(dialects.to_ours(their_weights)[0][ours], value.T if transposed else value)


@pytest.mark.parametrize("make, project", [(make, project) for make in (their_encnet, their_fcn)
                                           for project in PROJECTS])
def test_what_lacks_any_one_parameter_is_refused(make, project):
    theirs = make(project, lateral=True) if make is their_encnet else make(project)
    ours, _ = dialects.to_ours(theirs)
    for name in theirs:
        if name.endswith("num_batches_tracked"):
            continue
        with pytest.raises(WeightsError, match=f"missing: {name}"):
            dialects.to_ours({key: value for key, value in theirs.items() if key != name})
    for name in ours:
        with pytest.raises(WeightsError, match=f"missing: {name}"):
            dialects.from_ours({key: value for key, value in ours.items() if key != name}, project)


@pytest.mark.parametrize("project", PROJECTS)
def test_what_has_any_one_parameter_of_another_shape_is_refused(project):
    theirs = their_encnet(project, lateral=True)
    ours, _ = dialects.to_ours(theirs)
    for name, value in theirs.items():
        if not name.endswith("num_batches_tracked"):
            with pytest.raises(WeightsError, match="mis-shaped: .* not "):
                dialects.to_ours({**theirs, name: np.zeros((value.shape[0] + 1, *value.shape[1:]), "float32")})
    for name, value in ours.items():
        for shape in ((value.shape[0] + 1, *value.shape[1:]), (*value.shape, 1), ()):
            with pytest.raises(WeightsError, match="mis-shaped"):
                dialects.from_ours({**ours, name: np.zeros(shape, "float32")}, project)


def test_a_missing_block_is_refused():
    theirs = {name: value for name, value in their_encnet("mmseg").items()
              if not name.startswith("backbone.layer3.5.")}
    with pytest.raises(WeightsError, match=r"missing: backbone.layer3.5.conv1.weight, .*\(\+5 more\)"):
        dialects.to_ours(theirs)


@pytest.mark.parametrize("dialect", PROJECTS)
def test_what_is_of_another_model_is_refused(dialect):
    theirs = their_encnet(dialect)
    odd = "decode_head.convs.1.conv.weight" if dialect == "mmseg" else "head.conv7.weight"
    with pytest.raises(WeightsError, match=f"no whole EncNet in the names of {dialect}; unexpected: {odd}$"):
        dialects.to_ours({**theirs, odd: np.zeros(1)})
    ours, _ = dialects.to_ours(theirs)
    for target in ("paddleseg", dialect):
        with pytest.raises(WeightsError, match="unexpected: odd$"):
            dialects.from_ours({**ours, "odd": np.zeros(1)}, target)


def test_the_unused_classifier_of_a_whole_model_is_left_out():
    theirs = their_encnet("pytorch_encoding")
    expected, _ = dialects.to_ours(theirs)
    theirs.layer("pretrained.fc", 10, 32)
    assert_same(dialects.to_ours(theirs)[0], expected)


def test_basic_blocks_of_vd_are_in_no_other_dialect():
    ours = random_state(ResNet(18, "vd", base_channels=4))
    with pytest.raises(WeightsError, match="unexpected: bb_0_0.short._conv.weight"):
        dialects.from_ours(ours, "mmseg_d")
    with pytest.raises(WeightsError, match=r"missing: layer1.0.downsample.1.weight"):
        dialects.to_ours(Theirs().resnet("mmseg_d", "vd", False))


@pytest.mark.parametrize("bottleneck", [False, True])
def test_one_convolution_in_the_stem_and_pooled_shortcuts_are_refused(bottleneck):
    theirs = {name.replace("downsample.1", "downsample.2").replace("downsample.0", "downsample.1"): value
              for name, value in Theirs().resnet("torchvision", "v1b", bottleneck).items()}
    with pytest.raises(WeightsError, match="pools"):
        dialects.to_ours(theirs)
    whole = their_encnet("mmseg", "v1b")
    whole["backbone.layer2.0.downsample.2.weight"] = whole["backbone.layer2.0.downsample.1.weight"]
    with pytest.raises(WeightsError, match="pools"):
        dialects.to_ours(whole)


@pytest.mark.parametrize("dialect, message", [("torchvision", "only"), ("onnx", "none of paddleseg, torchvision")])
def test_a_dialect_without_such_a_model_is_refused(dialect, message):
    with pytest.raises(WeightsError, match=message):
        dialects.from_ours(random_state(our_encnet()), dialect)


def test_our_names_are_kept():
    ours = random_state(our_encnet())
    same, dialect = dialects.to_ours(ours)
    assert dialect == "paddleseg"
    assert_same(same, ours)
    assert_same(dialects.from_ours(ours, "paddleseg"), ours)


def test_models_of_the_users_own_are_left_alone():
    own = {"conv1.weight": np.ones(1), "layer1.0.conv1.weight": np.ones(1), "layer1.0.bn1._mean": np.ones(1)}
    head = {f"decode_head.{name}": value for name, value in own.items()}
    for weights_of_own in (own, head, {"conv1.weight": np.ones(1), "stem.0.weight": np.ones(1)}):
        same, dialect = dialects.to_ours(weights_of_own)
        assert dialect == "paddleseg" and same == weights_of_own


def outputs(model, state, x, training):
    weights.load_into(model, state, "state")
    (model.train if training else model.eval)()
    with paddle.no_grad():
        return [output.numpy() for output in model(x)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("project", PROJECTS)
def test_folded_biases_leave_the_outputs(float64, project, training):
    biased, plain = our_encnet(lateral=True, conv_bias=True), our_encnet(lateral=True)
    state = random_state(biased)
    assert len(dialects.conv_biases(state)) == 6
    folded, _ = dialects.to_ours(dialects.from_ours(state, project))
    x = paddle.randn([2, 3, 33, 65])
    for ours, theirs in zip(outputs(biased, state, x, training), outputs(plain, folded, x, training)):
        np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-9 * np.abs(ours).max())


def test_added_biases_leave_the_outputs_and_every_bit(float64):
    state = random_state(our_encnet(lateral=True))
    biased = dialects.add_biases(state)
    assert len(biased) == len(state) + 6
    x = paddle.randn([1, 3, 33, 65])
    np.testing.assert_allclose(outputs(our_encnet(lateral=True, conv_bias=True), biased, x, False)[0],
                               outputs(our_encnet(lateral=True), state, x, False)[0], rtol=1e-12)
    assert_same(dialects.fold_biases(biased), state)


@pytest.mark.parametrize("depth, variant, dialect", [
    (18, "v1b", "torchvision"), (50, "v1b", "torchvision"), (50, "v1c", "mmseg"), (18, "v1c", "mmseg"),
    (50, "v1s", "pytorch_encoding"), (50, "vd", "mmseg_d")])
def test_a_file_of_a_dialect_loads_into_the_backbone(tmp_path, depth, variant, dialect):
    model = ResNet(depth, variant, base_channels=4)
    ours = random_state(model)
    theirs = dialects.from_ours(ours, dialect)
    assert set(theirs).isdisjoint(ours)
    theirs.update({"fc.weight": np.zeros([10, 8], "float32")})
    path = str(tmp_path / "x.pdparams")
    write_weights(path, theirs)
    weights.load_pretrained(model, path)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), ours[key])


@pytest.mark.parametrize("project", PROJECTS)
def test_a_file_of_a_dialect_loads_into_the_model(tmp_path, project):
    path = str(tmp_path / "x.pdparams")
    theirs = their_encnet(project)
    write_weights(path, theirs)
    ours, _ = dialects.to_ours(theirs)
    read = weights.read_model_weights(path)
    assert read.source == f"{path} (names of {project})"
    for load in (lambda model: weights.load_model_weights(model, read),
                 lambda model: weights.load_pretrained(model, path)):
        model = our_encnet()
        load(model)
        for key, value in model.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), ours[key])


def test_a_part_of_a_model_is_refused_with_the_files_name(tmp_path):
    path = str(tmp_path / "x.pdparams")
    theirs = their_encnet("mmseg")
    del theirs["decode_head.conv_seg.bias"]
    write_weights(path, theirs)
    with pytest.raises(WeightsError, match=f"{path}: no whole EncNet .*missing: decode_head.conv_seg.bias"):
        weights.read_model_weights(path)


@pytest.mark.parametrize("of_file, of_model", [("vd", "v1c"), ("v1c", "vd")])
def test_names_that_fit_shortcuts_that_do_not(tmp_path, of_file, of_model):
    path = str(tmp_path / "x.pdparams")
    ours = random_state(ResNet(50, of_file, base_channels=4))
    write_weights(path, dialects.from_ours(ours, "mmseg_d" if of_file == "vd" else "mmseg"))
    with pytest.raises(WeightsError, match=r"the model's shortcuts (don't )?pool, the file's (do|don't); take"):
        weights.load_pretrained(ResNet(50, of_model, base_channels=4), path)
    weights.load_pretrained(ResNet(50, of_file, base_channels=4), path)
