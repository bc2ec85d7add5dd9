import numpy as np
import paddle
import paddle.nn as nn
import pytest

from paddleseg import builder
from paddleseg.core.optim import SGD, Adam, AdamW, ConstantLR, Momentum, PolynomialDecay, grouped_parameters
from paddleseg.core.state import optimizer_state, restore_optimizer
from paddleseg.cvlibs.config import load_config
from paddleseg.cvlibs.errors import ConfigError, WeightsError


def linear(weight):
    layer = paddle.nn.Linear(2, 1, bias_attr=False)
    layer.weight.set_value(np.array(weight).reshape(2, 1))
    return layer


def run(optimizer, layer, lrs):
    gradient = np.array([[0.5], [-1.0]])
    for lr in lrs:
        optimizer.set_lr(lr)
        (layer.weight * paddle.to_tensor(gradient)).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    return layer.weight.numpy().ravel()


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torch_sgd_with_coupled_decay(float64, nesterov):
    layer, lrs = linear([1.0, 2.0]), [0.1, 0.05, 0.025]
    ours = run(SGD(layer, momentum=0.9, weight_decay=0.01, use_nesterov=nesterov), layer, lrs)
    p, v, grad = np.array([1.0, 2.0]), np.zeros(2), np.array([0.5, -1.0])
    for lr in lrs:
        g = grad + 0.01 * p
        v = 0.9 * v + g
        p = p - lr * (g + 0.9 * v if nesterov else v)
    np.testing.assert_allclose(ours, p, rtol=1e-7)


@pytest.mark.parametrize("make, coupled", [(Adam, True), (AdamW, False)])
def test_adam_couples_the_decay_and_adamw_does_not(float64, make, coupled):
    layer, lrs = linear([1.0, 2.0]), [0.1, 0.1]
    ours = run(make(layer, weight_decay=0.1), layer, lrs)
    p, m, v, grad = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2), np.array([0.5, -1.0])
    for t, lr in enumerate(lrs, 1):
        g = grad + 0.1 * p if coupled else grad
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g ** 2
        p = p if coupled else p - lr * 0.1 * p
        p = p - lr * (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-8)
    np.testing.assert_allclose(ours, p, rtol=1e-6)


def test_polynomial_over_iters_as_paddleseg():
    ours = PolynomialDecay(0.01, iters=20, end_lr=0.0, power=0.9)
    theirs = paddle.optimizer.lr.PolynomialDecay(0.01, decay_steps=20, end_lr=0.0, power=0.9)
    for step in range(20):
        assert ours(step) == pytest.approx(theirs.get_lr(), rel=1e-14)
        theirs.step()
    assert ours(19) > 0


def test_polynomial_that_ends_at_the_last_iteration_as_mmengine():
    schedule = PolynomialDecay(0.01, iters=20, end_lr=1e-4, power=0.9, ends_at_last_iter=True)
    assert schedule(0) == 0.01 and schedule(19) == 1e-4
    # mmengine's recurrence: lr = (lr - end) * (1 - 1 / (total - t + 1)) ** power + end, total = iters - 1
    lr = 0.01
    for step in range(1, 20):
        lr = (lr - 1e-4) * (1 - 1 / (19 - step + 1)) ** 0.9 + 1e-4
        assert schedule(step) == pytest.approx(lr, rel=1e-12)


def test_a_constant_rate_warms_up():
    schedule = ConstantLR(0.1, iters=100, warmup_iters=10, warmup_start_lr=0.01)
    assert [schedule(step) for step in (0, 5, 10, 99)] == pytest.approx([0.01, 0.055, 0.1, 0.1])


def test_warmup_equals_paddles():
    ours = PolynomialDecay(0.1, iters=30, end_lr=0.0, power=0.9, warmup_iters=10, warmup_start_lr=0.01)
    theirs = paddle.optimizer.lr.LinearWarmup(
        paddle.optimizer.lr.PolynomialDecay(0.1, decay_steps=20, end_lr=0.0, power=0.9), 10, 0.01, 0.1)
    for step in range(30):
        assert ours(step) == pytest.approx(theirs.get_lr(), rel=1e-12), step
        theirs.step()


def test_the_ends_of_schedules():
    schedule = PolynomialDecay(0.1, iters=100, end_lr=0.001, decay_steps=50)
    assert schedule(50) == schedule(99) == 0.001
    assert [PolynomialDecay(0.1, iters=iters, ends_at_last_iter=True)(0) for iters in (1, 2)] == [0.1, 0.1]
    for warmup_iters in (-1, 10, 11):
        with pytest.raises(ConfigError, match="warmup_iters"):
            PolynomialDecay(0.1, iters=10, warmup_iters=warmup_iters)


@pytest.mark.parametrize("optimizer", [SGD, Momentum, Adam, AdamW])
def test_a_weight_decay_that_lets_weights_grow_is_refused(float64, optimizer):
    with pytest.raises(ConfigError, match="weight_decay -0.1 must be at least 0"):
        optimizer(linear([1.0, 2.0]), weight_decay=-0.1)


@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_a_model_with_nothing_to_train_is_refused(float64, optimizer):
    layer = linear([1.0, 2.0])
    layer.weight.stop_gradient = True
    with pytest.raises(ConfigError, match="Linear: every parameter is frozen"):
        optimizer(layer)


# ---- groups ------------------------------------------------------------------------------------------

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
def test_states_are_restored_under_the_parameters_own_names(make, arguments):
    model = Net()
    optimizer = make(model, custom_cfg=GROUPS, weight_decay=0.01, **arguments)
    optimizer.set_lr(0.1)
    model(paddle.randn([2, 3, 4, 4])).sum().backward()
    optimizer.step()
    state = optimizer_state(model, optimizer)
    other_model = Net()
    other = make(other_model, custom_cfg=GROUPS, weight_decay=0.01, **arguments)
    assert {key.partition("@")[0] for key in state} == {name for name, _ in model.named_parameters()
                                                        if not name.endswith(("_mean", "_variance"))}
    assert not {each.name for each in model.parameters()} & {each.name for each in other_model.parameters()}
    restore_optimizer(other_model, other, state, "iter_1")
    optimizers = [(model, optimizer), (other_model, other)]
    other_model.set_state_dict(model.state_dict())
    for each, its in optimizers:
        its.clear_grad()
        each(paddle.ones([2, 3, 4, 4])).sum().backward()
        its.set_lr(0.05)
        its.step()
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), other_model.state_dict()[name].numpy())


def test_the_state_of_another_model_is_refused_and_parameters_without_a_gradient_have_none():
    model = Net()
    optimizer = SGD(model, momentum=0.9)
    optimizer.set_lr(0.1)
    model.backbone(paddle.randn([2, 3, 4, 4])).sum().backward()
    optimizer.step()
    state, rest = optimizer_state(model, optimizer), ["neck.bias", "neck.weight", "head.bias", "head.weight"]
    restore_optimizer(model, optimizer, state, "iter_1", without_slots=rest)
    state["tail.weight@velocity_0"] = state.pop("backbone.conv.weight@velocity_0")
    with pytest.raises(WeightsError, match="iter_1: .*another model; 2 parameters"):
        restore_optimizer(model, optimizer, state, "iter_1", rest)


@pytest.mark.parametrize("make, arguments", OPTIMIZERS)
def test_a_step_without_a_rate_does_not_pass_for_one_that_trained(make, arguments):
    model = nn.Linear(1, 1)
    optimizer = make(model, **arguments)
    model.weight.sum().backward()
    optimizer.step()
    assert np.isnan(model.weight.item())


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
