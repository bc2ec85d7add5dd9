"""Resolved configuration to objects; the only file that sees every room."""

import inspect
import os
from dataclasses import fields
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn as nn

from paddleseg import plugins
from paddleseg.core import optim  # noqa: F401  (registers optimizers and schedules)
from paddleseg.core.infer import InferOptions
from paddleseg.core.train import TrainOptions
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.config import Config, Leaf, annotate, check_arguments, check_component, origin_of, plain
from paddleseg.cvlibs.errors import ConfigError, RunError
from paddleseg.datasets import base as _datasets  # noqa: F401
from paddleseg.models import losses as _losses  # noqa: F401
from paddleseg.transforms import Compose
from paddleseg.utils import logger
from paddleseg.utils.files import atomic_path
from paddleseg.utils.palette import color_map
from paddleseg.weights.load import load_model_weights, read_model_weights

_SECTIONS = {
    "train_dataset": manager.DATASETS, "val_dataset": manager.DATASETS, "test_dataset": manager.DATASETS,
    "model": manager.MODELS, "optimizer": manager.OPTIMIZERS, "lr_scheduler": manager.LR_SCHEDULERS,
}
_SUPPLIED = {"optimizer": ("model",), "lr_scheduler": ("iters",)}
TRAINING = ("train_dataset", "model", "loss", "optimizer", "lr_scheduler")
INFERENCE = ("val_dataset", "model")


def check(config: Config, needed: Sequence[str] = TRAINING) -> None:
    """Check every key of a configuration and write all defaults into it, before anything is built.

    Args:
        needed: the sections that the command can't do without.

    Raises:
        ConfigError: naming file, dotted key and the nearest valid name.
    """
    options = {field.name for field in fields(TrainOptions)}
    known = [*options, *_SECTIONS, "loss", "test_config", "plugins"]
    for key, node in config.tree.items():
        if key not in known:
            near = manager.nearest_name(key, known)
            hint = f"did you mean {near}?" if near else f"known are {', '.join(sorted(known))}"
            raise ConfigError(f"{origin_of(node)}: {key} is not a key of a configuration; {hint}")
    _check_plugins(config)
    for key in needed:
        if key not in config:
            raise ConfigError(f"{config.path}: {key} is missing")
    _default_modes(config)
    _share_dataset_facts(config)
    _check_parameter_groups(config)
    for key, registry in _SECTIONS.items():
        if key in config:
            check_component(registry, config.tree[key], key, supplied=_SUPPLIED.get(key, ()))
    if "loss" in config:
        _check_losses(config)
    for key in ("train_dataset", "val_dataset"):
        _check_num_classes(config, key)
    for key in ("batch_size", "iters"):
        if "train_dataset" not in needed:
            config.tree.setdefault(key, annotate(1, "default"))
    test_config = config.tree.get("test_config")
    config.tree["test_config"] = test_config = test_config if isinstance(test_config, dict) else {}
    _drop_auc_roc(test_config)
    check_arguments(InferOptions, test_config, "test_config", "test_config")
    top = {key: node for key, node in config.tree.items() if key in options}
    check_arguments(TrainOptions, top, "", "a configuration")
    config.tree = {**top, **{key: node for key, node in config.tree.items() if key not in options}}


def _drop_auc_roc(test_config: Dict) -> None:
    """Recipes of PaddleSeg ask for one more score; they train and evaluate without it."""
    node = test_config.pop("auc_roc", None)
    if node is not None and plain(node):
        logger.warning(f"{origin_of(node)}: test_config.auc_roc is left out, as AUC isn't computed here; IoU, "
                       f"precision and recall of each class are")


def _check_plugins(config: Config) -> None:
    """Those that the recipe names must be loaded; those that are loaded are named in the saved configuration."""
    if "plugins" in config:
        plugins.check_named(config["plugins"], config.origin("plugins"), os.path.dirname(config.path))
    if plugins.loaded_plugins():
        config.tree["plugins"] = annotate(plugins.loaded_plugins(), "--plugins")


def _default_modes(config: Config) -> None:
    """train_dataset is read in mode train; the others, unless they say otherwise, in the mode of their name.

    Raises:
        ConfigError: train_dataset in another mode, or another in mode train, where labels are transformed too.
    """
    for key in ("train_dataset", "val_dataset", "test_dataset"):
        section = config.tree.get(key)
        if not isinstance(section, dict):
            continue
        mode = section.setdefault("mode", annotate(key.partition("_")[0], key))
        # PaddleSeg's PascalVOC has trainaug too.
        if str(mode.value).startswith("train") != (key == "train_dataset"):
            raise ConfigError(f"{mode.origin}: {key}.mode is {mode.value}, which "
                              + ("is for evaluation" if key == "train_dataset" else "is for training"))


def _dataset_fact(config: Config, key: str, name: str):
    """A class attribute of a data set's class, in PaddleSeg's capitals too; None where YAML must give it."""
    section = config.get(key)
    kind = section.get("type") if isinstance(section, dict) else None
    found = manager.DATASETS[kind] if kind in manager.DATASETS else None
    return getattr(found, name, getattr(found, name.upper(), None))


def _share_dataset_facts(config: Config) -> None:
    """Give model and losses what the data set knows and the YAML leaves out."""
    section = config.get("train_dataset")
    kind = section.get("type") if isinstance(section, dict) else None
    model = config.tree.get("model")
    classes = _dataset_fact(config, "train_dataset", "num_classes") or (section.get("num_classes") if kind else None)
    if isinstance(model, dict) and "num_classes" not in model and classes is not None:
        model["num_classes"] = annotate(classes, f"train_dataset {kind}")
    ignore = _dataset_fact(config, "train_dataset", "ignore_index")
    ignore = section.get("ignore_index", ignore) if kind else ignore
    loss_section = config.tree.get("loss")
    types = loss_section.get("types") if isinstance(loss_section, dict) else None
    for loss in _losses_within(types) if ignore is not None else ():
        if "ignore_index" in _parameters(manager.LOSSES, loss):
            loss.setdefault("ignore_index", annotate(ignore, f"train_dataset {kind}"))
    transforms = config.tree["train_dataset"].get("transforms") if kind and ignore is not None else None
    for transform in transforms if isinstance(transforms, list) else ():
        known = _parameters(manager.TRANSFORMS, transform)
        for key in ("ignore_index", "label_padding_value"):
            if key in known:
                transform.setdefault(key, annotate(ignore, f"train_dataset {kind}"))


def _losses_within(sections: Any) -> Iterator[Any]:
    """The sections of losses, and of those that are mixed in them."""
    for section in sections if isinstance(sections, list) else ():
        yield section
        yield from _losses_within(section.get("losses")) if isinstance(section, dict) else ()


def _parameters(registry: manager.ComponentManager, section: Any) -> Sequence[str]:
    """The arguments of the component that a section names; none where it names none."""
    node = section.get("type") if isinstance(section, dict) else None
    name = getattr(node, "value", None)
    return tuple(inspect.signature(registry[name]).parameters) if isinstance(name, str) and name in registry else ()


def _check_parameter_groups(config: Config) -> None:
    """Check the items of the optimizer's custom_cfg; from here on they are one value, as they have no type."""
    section = config.tree.get("optimizer")
    groups = section.get("custom_cfg") if isinstance(section, dict) else None
    if not isinstance(groups, list):
        return
    for number, group in enumerate(groups):
        check_arguments(optim.parameter_group, group, f"optimizer.custom_cfg.{number}", "custom_cfg")
    section["custom_cfg"] = Leaf(plain(groups), origin_of(groups))


def _check_num_classes(config: Config, key: str) -> None:
    """The model must have as many classes as each data set."""
    if key not in config:
        return
    classes = _dataset_fact(config, key, "num_classes") or config[key].get("num_classes")
    model_classes = config["model"].get("num_classes")
    if None not in (classes, model_classes) and classes != model_classes:
        raise ConfigError(f"{config.origin('model.num_classes')}: model.num_classes is {model_classes}, but {key} "
                          f"({config[key]['type']}) has {classes} classes; they must agree, and where "
                          f"model.num_classes is left out, the data sets tell it")


def _check_losses(config: Config) -> None:
    node = config.tree["loss"]
    check_arguments(_loss_section, node, "loss", "loss")
    types, coef = plain(node["types"]), plain(node["coef"])
    if not isinstance(node["types"], list) or len(types) not in (1, len(coef)):
        raise ConfigError(f"{origin_of(node)}: loss has {len(types)} types and {len(coef)} coef; give one coef for "
                          f"each output of the model, and one type for all or one for each")
    for number, item in enumerate(node["types"]):
        check_component(manager.LOSSES, item, f"loss.types.{number}")
    classes = config["model"].get("num_classes") if "model" in config else None
    for section, weight in _class_weights(config):
        if classes is not None and len(weight) != classes:
            raise ConfigError(f"{origin_of(section['weight'])}: the weight of {section['type'].value} has {len(weight)}"
                              f" values, the model has {classes} classes; give one value for each class")


def _loss_section(types: list, coef: List[float]) -> None:
    """The signature that the loss section is checked against."""


def build_component(registry: manager.ComponentManager, section: Dict, **supplied):
    """Build one section, its nested components first."""
    arguments = {key: _build_nested(registry, key, value) for key, value in section.items() if key != "type"}
    try:
        return registry[section["type"]](**arguments, **supplied)
    except (ValueError, TypeError, IndexError, ArithmeticError, AssertionError) as error:
        values = ", ".join(f"{key}={value!r}" for key, value in section.items() if not isinstance(value, (dict, list)))
        raise ConfigError(f"{section['type']} can't be built from {values}: {type(error).__name__}: {error}") from error


def _build_nested(registry, key: str, value):
    registry = {"backbone": manager.BACKBONES, "transforms": manager.TRANSFORMS}.get(key, registry)
    if isinstance(value, dict) and "type" in value:
        return build_component(registry, value)
    if isinstance(value, list) and any(isinstance(item, dict) and "type" in item for item in value):
        return [build_component(registry, item) for item in value]
    return value


def build_model(config: Config, pretrained: bool = True) -> nn.Layer:
    """Build the model; its initial weights depend on `config["seed"]` alone.

    Args:
        pretrained: False leaves out the weights that the recipe begins with, where others are loaded anyway.
    """
    paddle.seed(config["seed"])
    section = config["model"]
    for part in () if pretrained else (section, section.get("backbone")):
        if isinstance(part, dict) and "pretrained" in part:
            part["pretrained"] = None
    return build_component(manager.MODELS, section)


def build_dataset(config: Config, key: str):
    """Build train_dataset, val_dataset or test_dataset.

    Raises:
        ConfigError: the configuration has no such section, or its values contradict each other.
    """
    if key not in config:
        raise ConfigError(f"{config.path}: {key} is missing")
    try:
        return build_component(manager.DATASETS, config[key])
    except ConfigError as error:
        raise ConfigError(f"{config.path}: {key}: {error}") from error


def build_criteria(config: Config, model: nn.Layer) -> List[Tuple[nn.Layer, float]]:
    """(loss, coefficient) for each output of the model.

    Raises:
        ConfigError: their number isn't that of the model's outputs.
    """
    types, coef = config["loss"]["types"], config["loss"]["coef"]
    outputs = getattr(model, "loss_names", coef)
    if len(outputs) != len(coef):
        raise ConfigError(f"{config.origin('loss.coef')}: loss.coef has {len(coef)} values, but the outputs of "
                          f"{type(model).__name__} are {', '.join(outputs)}; give one for each")
    types = types * len(coef) if len(types) == 1 else types
    return [(build_component(manager.LOSSES, section), value) for section, value in zip(types, coef)]


def _class_weights(config: Config) -> Iterator[Tuple[Dict, List[float]]]:
    """Section and weights of each loss that has one weight for each class."""
    for section in _losses_within(config.tree["loss"]["types"]):
        if manager.LOSSES[section["type"].value] is _losses.CrossEntropyLoss and plain(section["weight"]) is not None:
            yield section, plain(section["weight"])


def log_class_weights(config: Config, class_names: Sequence[str]) -> None:
    """Say which class weighs how much in the losses, a line for each."""
    width = max(map(len, class_names))
    for section, weight in _class_weights(config):
        logger.info("\n".join([f"class weights of {section['type'].value}:",
                               *(f"  {name:<{width}}  {value:7.3f}" for name, value in zip(class_names, weight))]))


def build_optimizer(config: Config, model: nn.Layer):
    return build_component(manager.OPTIMIZERS, config["optimizer"], model=model)


def build_schedule(config: Config):
    return build_component(manager.LR_SCHEDULERS, config["lr_scheduler"], iters=config["iters"])


def build_trained_model(config: Config, path: str) -> nn.Layer:
    """Build the model with the weights of a file, which must hold every parameter, in place of `pretrained`.

    Raises:
        WeightsError: the file can't be read or doesn't fit.
    """
    weights = read_model_weights(path)
    model = build_model(config, pretrained=False)
    load_model_weights(model, weights)
    return model


def build_train_options(config: Config) -> TrainOptions:
    return TrainOptions(**{field.name: config[field.name] for field in fields(TrainOptions)})


def build_infer_options(config: Config) -> InferOptions:
    return InferOptions(**config["test_config"])


def build_val_transforms(config: Config) -> Compose:
    """The transforms of val_dataset, for images without a data set."""
    if "val_dataset" not in config:
        raise ConfigError(f"{config.path}: val_dataset is missing; its transforms prepare the images")
    return Compose(_build_nested(manager.TRANSFORMS, "transforms", config["val_dataset"]["transforms"]))


def dataset_palette(config: Config, custom_color: Optional[List[int]] = None) -> np.ndarray:
    """RGB colors, uint8 (num_classes, 3): the given ones, the data set's, or PASCAL VOC's scheme."""
    num_classes = config["model"]["num_classes"]
    if custom_color is not None:
        if len(custom_color) != 3 * num_classes or not all(0 <= value <= 255 for value in custom_color):
            raise ConfigError(f"--custom_color takes {3 * num_classes} values 0..255, red green blue of each of the "
                              f"{num_classes} classes, not {len(custom_color)} values")
        return np.array(custom_color, np.uint8).reshape(-1, 3)
    palette = _dataset_fact(config, "val_dataset", "palette")
    return color_map(num_classes) if palette is None else palette


def dataset_class_names(config: Config) -> List[str]:
    """The names of the classes: the data set's, those of its section, or their numbers."""
    names = _dataset_fact(config, "val_dataset", "class_names") or config["val_dataset"].get("class_names")
    return list(names or map(str, range(config["model"]["num_classes"])))


def flag_values(args) -> Iterator[Tuple[str, str, Any]]:
    """(flag, dotted key, value) of the flags that stand for a key of the configuration; None where not given."""
    for name in (field.name for field in fields(TrainOptions)):
        yield f"--{name}", name, getattr(args, name, None)
    yield "--learning_rate", "lr_scheduler.learning_rate", getattr(args, "learning_rate", None)
    for name in (field.name for field in fields(InferOptions)):
        yield f"--{name}", f"test_config.{name}", getattr(args, name, None)


def write_config(config: Config, save_dir: str) -> str:
    """Save the resolved configuration as config.yml; returns its text.

    Raises:
        RunError: it can't be written.
    """
    text, path = config.dump(), os.path.join(save_dir, "config.yml")
    try:
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror or error}; make room there, or name another "
                       f"--save_dir") from error
    return text
