"""A config to objects: the components that its sections name, checked before anything is built."""

import os
from dataclasses import fields
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn as nn

from paddleseg import plugins
from paddleseg.core import optim
from paddleseg.core.infer import InferOptions
from paddleseg.core.options import TrainOptions
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.config import (
    DEFAULT,
    Component,
    Config,
    Leaf,
    Resolver,
    annotate,
    build,
    load_config,
    origin_of,
    plain,
)
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.datasets import base as _datasets  # noqa: F401  (registers the data sets)
from paddleseg.models.losses import CrossEntropyLoss
from paddleseg.transforms import Compose
from paddleseg.utils import logger
from paddleseg.utils.palette import color_map
from paddleseg.weights.load import load_weights

TRAINING = ("train_dataset", "model", "loss", "optimizer", "lr_scheduler", "batch_size", "iters")
INFERENCE = ("val_dataset", "model")


def _loss_section(types: list, coef: List[float]) -> None:
    """The signature that the loss section is checked against."""


_DATASETS = ("train_dataset", "val_dataset", "test_dataset")
_SECTIONS = {
    **dict.fromkeys(_DATASETS, manager.DATASETS), "model": manager.MODELS, "loss": _loss_section,
    "optimizer": manager.OPTIMIZERS, "lr_scheduler": manager.LR_SCHEDULERS, "test_config": InferOptions}
_READERS = {"backbone": manager.BACKBONES, "transforms": manager.TRANSFORMS, "types": manager.LOSSES,
            "custom_cfg": optim.parameter_group}
_SUPPLIED = {"optimizer": ("model",), "lr_scheduler": ("iters",)}
_OPTIONS = [field.name for field in fields(TrainOptions)]


def read_config(args, needed: Sequence[str] = TRAINING) -> Config:
    """The resolved config of a command: its plugins, its file, --opts and flags; see `resolve`."""
    plugins.load_plugins(args.plugins)
    return resolve(load_config(args.config, args.opts, flag_values(args)), needed)


def resolve(config: Config, needed: Sequence[str] = TRAINING) -> Config:
    """Check every key of a config, before anything is built.

    Args:
        needed: the keys that the command can't do without.

    Returns: the config with every argument of every component, which the functions of this file build from.

    Raises:
        ConfigError: naming file, dotted key and the nearest valid name.
    """
    known = [*_OPTIONS, *_SECTIONS, "plugins"]
    for key, node in config.tree.items():
        if key not in known:
            raise ConfigError(f"{origin_of(node)}: {key} is not a key of a config; {manager.hint(key, known)}")
    if "plugins" in config:
        plugins.check_named(config["plugins"], config.origin("plugins"), os.path.dirname(config.path))
    for key in needed:
        if key not in config:
            raise ConfigError(f"{config.path}: {key} is missing")
    tree = {"batch_size": Leaf(1, DEFAULT), "iters": Leaf(1, DEFAULT)}  # for commands that don't train
    tree.update((key, node) for key, node in config.tree.items() if key in _OPTIONS)
    tree = dict(Resolver().resolve(TrainOptions, tree, ""))
    tree.update((key, node) for key, node in config.tree.items() if key not in tree)
    tree["test_config"] = _without_auc_roc(config.tree.get("test_config", {}))
    for key, reader in _SECTIONS.items():
        if key in tree:
            resolver = Resolver(_READERS, _shared_facts(config, key))
            tree[key] = resolver.resolve(reader, tree[key], key, _SUPPLIED.get(key, ()))
    if plugins.loaded_plugins():
        tree["plugins"] = annotate(plugins.loaded_plugins(), "--plugins")
    resolved = Config(config.path, tree)
    _check_modes(resolved)
    _check_num_classes(resolved)
    if "loss" in resolved:
        _check_losses(resolved)
    return resolved


def _without_auc_roc(node: Any) -> Any:
    """Configs of PaddleSeg ask for one more score; they train and evaluate without it."""
    if isinstance(node, Leaf):
        return node if node.value else {}
    if plain(node.get("auc_roc", Leaf(False, ""))):
        logger.warning(f"{origin_of(node['auc_roc'])}: test_config.auc_roc is left out, as AUC isn't computed here; "
                       f"IoU, precision and recall of each class are")
    return {key: child for key, child in node.items() if key != "auc_roc"}


def dataset_fact(config: Config, key: str, name: str) -> Any:
    """A fact of a data set, such as num_classes, from its section or its class; None where neither has it."""
    section = config.get(key)
    section = section if isinstance(section, dict) else {}
    kind = section.get("type")
    dataset = manager.DATASETS[kind] if isinstance(kind, str) and kind in manager.DATASETS else None
    # PaddleSeg's data sets have theirs in capitals; what only an object of the class has is a descriptor.
    found = (section.get(name), getattr(dataset, name, None), getattr(dataset, name.upper(), None))
    return next((fact for fact in found if fact is not None and not hasattr(fact, "__get__")), None)


def _shared_facts(config: Config, key: str) -> Dict:
    """The arguments that a section takes from elsewhere where it leaves them out, for `Resolver`."""
    classes, ignored = (dataset_fact(config, "train_dataset", name) for name in ("num_classes", "ignore_index"))
    origin = "train_dataset" if classes is ignored is None else f"train_dataset {config['train_dataset'].get('type')}"
    facts = {manager.DATASETS: {"mode": Leaf(key.partition("_")[0], key)}}
    if classes is not None:
        facts[manager.MODELS] = {"num_classes": Leaf(classes, origin)}
    if ignored is not None:
        facts[manager.LOSSES] = {"ignore_index": Leaf(ignored, origin)}
        if key == "train_dataset":
            facts[manager.TRANSFORMS] = dict.fromkeys(("ignore_index", "label_padding_value"), Leaf(ignored, origin))
    return facts


def _check_modes(config: Config) -> None:
    """Labels are transformed in mode train alone, so train_dataset must be in it, and no other."""
    for key in _DATASETS:
        mode = config.tree.get(key, {}).get("mode")
        # PaddleSeg's PascalVOC has trainaug too.
        if mode and str(mode.value).startswith("train") != (key == "train_dataset"):
            raise ConfigError(f"{mode.origin}: {key}.mode is {mode.value}, which "
                              + ("is for evaluation" if key == "train_dataset" else "is for training"))


def _check_num_classes(config: Config) -> None:
    """The model must have as many classes as each data set."""
    for key in ("train_dataset", "val_dataset"):
        classes, model_classes = dataset_fact(config, key, "num_classes"), config["model"].get("num_classes")
        if None not in (classes, model_classes) and classes != model_classes:
            raise ConfigError(f"{config.origin('model.num_classes')}: model.num_classes is {model_classes}, but {key} "
                              f"({config[key]['type']}) has {classes} classes; they must agree, and where "
                              f"model.num_classes is left out, the data sets tell it")


def _check_losses(config: Config) -> None:
    """There must be one loss for all outputs, or one for each."""
    types, coef = len(config["loss"]["types"]), len(config["loss"]["coef"])
    if types not in (1, coef):
        raise ConfigError(f"{config.origin('loss')}: loss has {types} types and {coef} coef; give one coef for each "
                          f"output of the model, and one type for all or one for each")


def log_class_weights(config: Config, class_names: Sequence[str]) -> None:
    """Log each class's weight in the losses, a line for each."""
    width = max(map(len, class_names))
    losses = list(config.tree["loss"]["types"])
    while losses:
        loss = losses.pop(0)
        mixed, weight = loss.get("losses"), plain(loss.get("weight", Leaf(None, "")))
        losses += mixed if isinstance(mixed, list) else []
        if loss.constructor is CrossEntropyLoss and weight is not None:
            logger.info("\n".join([f"class weights of {loss['type'].value}:",
                                   *(f"  {name:<{width}}  {value:7.3f}" for name, value in zip(class_names, weight))]))


# ---- building ---------------------------------------------------------------------------------------

def build_model(config: Config, pretrained: bool = True) -> nn.Layer:
    """Build the model; its initial weights depend on `config["seed"]` alone.

    Args:
        pretrained: False leaves out the weights that the config begins with, where others are loaded anyway.
    """
    paddle.seed(config["seed"])
    return config.tree["model"].build() if pretrained else _build_untrained(config.tree["model"])


def _build_untrained(section: Component) -> nn.Layer:
    """Build a model or backbone without `pretrained`."""
    supplied = {"pretrained": None} if "pretrained" in section else {}
    if isinstance(section.get("backbone"), Component):
        supplied["backbone"] = _build_untrained(section["backbone"])
    return section.build(**supplied)


def build_trained_model(config: Config, path: str) -> nn.Layer:
    """Build the model with the weights of a file, which must hold every parameter, in place of `pretrained`.

    Raises:
        WeightsError: the file can't be read or doesn't fit.
    """
    model = build_model(config, pretrained=False)
    load_weights(model, path)
    return model


def build_dataset(config: Config, key: str):
    """Build train_dataset, val_dataset or test_dataset.

    Raises:
        ConfigError: the config has no such section, or its values contradict each other.
    """
    if key not in config:
        raise ConfigError(f"{config.path}: {key} is missing")
    try:
        return config.tree[key].build()
    except ConfigError as error:
        raise ConfigError(f"{config.path}: {key}: {error}") from error


def build_criteria(config: Config, model: nn.Layer) -> List[Tuple[nn.Layer, float]]:
    """(loss, coefficient) for each output of the model.

    Raises:
        ConfigError: their number isn't that of the model's outputs.
    """
    types, coef = config.tree["loss"]["types"], config["loss"]["coef"]
    outputs = getattr(model, "loss_names", coef)
    if len(outputs) != len(coef):
        raise ConfigError(f"{config.origin('loss.coef')}: loss.coef has {len(coef)} values, but the outputs of "
                          f"{type(model).__name__} are {', '.join(outputs)}; give one for each")
    return [(loss.build(), value) for loss, value in zip(types * len(coef) if len(types) == 1 else types, coef)]


def build_optimizer(config: Config, model: nn.Layer):
    return config.tree["optimizer"].build(model=model)


def build_schedule(config: Config):
    return config.tree["lr_scheduler"].build(iters=config["iters"])


def build_train_options(config: Config) -> TrainOptions:
    return TrainOptions(**{name: config[name] for name in _OPTIONS})


def build_infer_options(config: Config) -> InferOptions:
    return config.tree["test_config"].build()


def build_val_transforms(config: Config) -> Compose:
    """The transforms of val_dataset, for images without a data set."""
    return Compose(build(config.tree["val_dataset"]["transforms"]))


# ---- facts and flags --------------------------------------------------------------------------------

def dataset_class_names(config: Config) -> List[str]:
    """The names of val_dataset's classes; their numbers where it has no names."""
    return list(dataset_fact(config, "val_dataset", "class_names") or map(str, range(config["model"]["num_classes"])))


def dataset_palette(config: Config, custom_color: Optional[List[int]] = None) -> np.ndarray:
    """RGB colors, uint8 (num_classes, 3): the given ones, val_dataset's, or PASCAL VOC's scheme."""
    num_classes = config["model"]["num_classes"]
    if custom_color is not None:
        if len(custom_color) != 3 * num_classes or not all(0 <= value <= 255 for value in custom_color):
            raise ConfigError(f"--custom_color takes {3 * num_classes} values 0..255, red green blue of each of the "
                              f"{num_classes} classes, not {len(custom_color)} values")
        return np.array(custom_color, np.uint8).reshape(-1, 3)
    palette = dataset_fact(config, "val_dataset", "palette")
    return color_map(num_classes) if palette is None else palette


def flag_values(args) -> Iterator[Tuple[str, str, Any]]:
    """(flag, dotted key, value) of the flags that stand for a key of the config; None where not given."""
    keys = {name: name for name in _OPTIONS}
    keys["learning_rate"] = "lr_scheduler.learning_rate"
    keys.update((item.name, f"test_config.{item.name}") for item in fields(InferOptions))
    for name, key in keys.items():
        yield f"--{name}", key, getattr(args, name, None)
