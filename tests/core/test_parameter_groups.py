import numpy as np
import paddle
import paddle.nn as nn
import pytest

from paddleseg import builder
from paddleseg.core.checkpoint import optimizer_state, restore_optimizer
from paddleseg.core.optim import SGD, Adam, AdamW, Momentum, grouped_parameters
from paddleseg.cvlibs.config import load_config
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.weights.write import write_weights

OPTIMIZERS = [(SGD, {"momentum": 0.9}), (Momentum, {}), (Adam, {}), (AdamW, {})]
GROUPS = [{"name": "norm", "weight_decay_mult": 0.0}, {"name": "backbone", "lr_mult": 0.1},
          {"name": "head", "lr_mult": 10.0, "weight_decay_mult": 2.0}]


class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(("conv", nn.Conv2D(3, 2, 1)), ("norm", nn.BatchNorm2D(2)))
        self.neck = nn.Conv2D(2, 2, 1)
        self.head = nn.Conv2D(2, 2, 1)

    def forward(self, x):
        return self.head(self.neck(self.backbone(x)))


def multiples(name):
    """(learning rate, weight decay) of a parameter by GROUPS; the first item that fits counts."""
    if "norm" in name:
        return 1.0, 0.0
    return (0.1, 1.0) if "backbone" in name else (10.0, 2.0) if "head" in name else (1.0, 1.0)


def after_steps(make, model, **arguments):
    """Every parameter has the value and the gradient 1 at first; their values after two steps."""
    for parameter in model.parameters():
        parameter.set_value(np.ones(parameter.shape, "float32"))
    optimizer = make(model, **arguments)
    for lr in (0.01, 0.005):
        optimizer.set_lr(lr)
        sum(parameter.sum() for parameter in model.parameters() if not parameter.stop_gradient).backward()
        optimizer.step()
        optimizer.clear_grad()
    return {name: value.numpy().ravel()[0] for name, value in model.named_parameters() if not value.stop_gradient}


def alone(make, lr_mult, decay, **arguments):
    """The same steps of one parameter with these rates."""
    model = nn.Linear(1, 1, bias_attr=False)
    model.weight.set_value(np.ones([1, 1], "float32"))
    optimizer = make(model, weight_decay=decay, **arguments)
    for lr in (0.01, 0.005):
        optimizer.set_lr(lr * lr_mult)
        model.weight.sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    return model.weight.item()


@pytest.mark.parametrize("make, arguments", OPTIMIZERS)
def test_each_parameter_moves_by_its_own_rates(make, arguments):
    found = after_steps(make, Net(), weight_decay=0.05, custom_cfg=GROUPS, **arguments)
    assert len(found) == 8
    for name, value in found.items():
        lr_mult, decay_mult = multiples(name)
        assert value == pytest.approx(alone(make, lr_mult, 0.05 * decay_mult, **arguments), rel=1e-6), name


@pytest.mark.parametrize("make, arguments", OPTIMIZERS)
def test_backbone_lr_mult_is_short_for_one_item(make, arguments):
    short = after_steps(make, Net(), backbone_lr_mult=0.1, **arguments)
    assert short == after_steps(make, Net(), custom_cfg=[{"name": "backbone", "lr_mult": 0.1}], **arguments)
    assert 1 - short["backbone.conv.weight"] == pytest.approx(0.1 * (1 - short["head.weight"]), rel=1e-4)


def test_head_times_ten_is_everything_but_the_backbone():
    rates = [{"name": "backbone"}, {"name": "", "lr_mult": 10.0}]
    found = after_steps(SGD, Net(), custom_cfg=rates)
    assert 1 - found["neck.bias"] == 1 - found["head.weight"] == pytest.approx(
        10 * (1 - found["backbone.conv.weight"]), rel=1e-4)


def test_frozen_parameters_are_in_no_group_and_without_rules_there_are_none():
    model = Net()
    for parameter in model.backbone.parameters():
        parameter.stop_gradient = True
    groups = grouped_parameters(model, 0.1, backbone_lr_mult=0.1)
    assert [len(group["params"]) for group in groups] == [4]
    assert [type(item) for item in grouped_parameters(model, 0.1)] == [type(model.head.weight)] * 4


@pytest.mark.parametrize("make, arguments", OPTIMIZERS)
def test_states_are_restored(tmp_path, make, arguments):
    model = Net()
    optimizer = make(model, custom_cfg=GROUPS, weight_decay=0.01, **arguments)
    optimizer.set_lr(0.1)
    model(paddle.randn([2, 3, 4, 4])).sum().backward()
    optimizer.step()
    state, path = optimizer_state(model, optimizer), str(tmp_path / "model.pdopt")
    write_weights(path, state)
    other_model = Net()
    other = make(other_model, custom_cfg=GROUPS, weight_decay=0.01, **arguments)
    restore_optimizer(other_model, other, path)
    optimizers = [(model, optimizer), (other_model, other)]
    other_model.set_state_dict(model.state_dict())
    for each, its in optimizers:
        its.clear_grad()
        each(paddle.ones([2, 3, 4, 4])).sum().backward()
        its.set_lr(0.05)
        its.step()
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), other_model.state_dict()[name].numpy())


RECIPE = """
batch_size: 1
iters: 1
train_dataset: {type: Cityscapes, dataset_root: nowhere, transforms: []}
model: {type: FCN, backbone: {type: ResNet18_v1c, base_channels: 4}}
optimizer: {type: AdamW, %s}
lr_scheduler: {type: ConstantLR, learning_rate: 0.1}
loss: {types: [{type: CrossEntropyLoss}], coef: [1, 0.4]}
"""


def read(tmp_path, optimizer):
    path = tmp_path / "recipe.yml"
    path.write_text(RECIPE % optimizer)
    config = builder.resolve(load_config(str(path)))
    return config


def test_a_recipe_is_written_back_as_it_was_read(tmp_path):
    config = read(tmp_path, "custom_cfg: [{name: backbone, lr_mult: 0.1}, {name: norm, weight_decay_mult: 0.0}]")
    (tmp_path / "saved.yml").write_text(config.dump())
    again = builder.resolve(load_config(str(tmp_path / "saved.yml")))
    assert again.plain() == config.plain()
    assert again["optimizer"]["custom_cfg"][0] == {"name": "backbone", "lr_mult": 0.1, "weight_decay_mult": 1.0}
    optimizer = builder.build_optimizer(again, builder.build_model(again))
    assert sorted({group["learning_rate"] for group in optimizer._param_groups}) == [0.1, 1.0]


@pytest.mark.parametrize("optimizer, message", [
    ("custom_cfg: [{name: head, lr_multi: 10.0}]", r"custom_cfg.0.lr_multi is not an argument .* did you mean lr_mult"),
    ("custom_cfg: [{lr_mult: 10.0}]", "custom_cfg.0.name is missing"),
    ("custom_cfg: [{name: decode_head, lr_mult: 10.0}]",
     "no parameter has 'decode_head' in its name; their names begin with backbone, fcn_head, head"),
    ("custom_cfg: [{name: head, lr_mult: -1.0}]", "head: lr_mult -1.0 .* at least 0"),
    ("custom_cfg: [{name: backbone, lr_mult: 0.1}, {name: backbone.conv1, weight_decay_mult: 0.0}]",
     "items before 'backbone.conv1' fit every parameter .* put it before them"),
    ("custom_cfg: [{name: head}], backbone_lr_mult: 0.1", "backbone_lr_mult and custom_cfg; write the first as"),
])
def test_what_would_do_nothing_is_refused(tmp_path, optimizer, message):
    with pytest.raises(ConfigError, match=message):
        config = read(tmp_path, optimizer)
        builder.build_optimizer(config, builder.build_model(config))
