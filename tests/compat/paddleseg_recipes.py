"""Read PaddleSeg 2.8.0's published recipes of the models that paddleseg_models.py runs, and build their networks.

    git clone --depth 1 --branch v2.8.0 https://github.com/PaddlePaddle/PaddleSeg .venv-paddleseg-v2.8.0
    python tests/compat/paddleseg_recipes.py

Each recipe is checked whole, as train.py does it before anything is built, and its network is built without weights.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import List

from paddleseg_models import CASES, FOLDER, ROOT, TAKEN, plugin_files

CONFIGS = ROOT / ".venv-paddleseg-v2.8.0" / "configs"  # PyPI has the package alone
# Losses and data sets of the recipes that PaddleSeg brings along: its files, which are plugins here too.
COMPONENTS = {
    "BootstrappedCrossEntropyLoss": "models/losses/bootstrapped_cross_entropy", "DiceLoss": "models/losses/dice_loss",
    "PointCrossEntropyLoss": "models/losses/point_cross_entropy_loss", "RMILoss": "models/losses/rmi_loss",
    "SemanticConnectivityLoss": "models/losses/semantic_connectivity_loss", "CHASEDB1": "datasets/chase_db1",
    "DRIVE": "datasets/drive", "HRF": "datasets/hrf", "STARE": "datasets/stare"}
# What isn't read: the key that says why, and the rest of the reason.
REFUSED = {
    "bisenet_optic_disc_512x512_1k": "OpticDiscSeg is not one of datasets; its file imports relatively to its package",
    "deeplabv3p_resnet18_os8_optic_disc_512x512_1k_student": "OpticDiscSeg, and distill_loss is not a key here",
    "deeplabv3p_resnet50_os8_optic_disc_512x512_1k_teacher": "OpticDiscSeg",
    "glore_resnet50_os8_cityscapes_1024x512_80k": "learning_rate is not a key; PaddleSeg reads past it",
    "upernet_resnet101_os8_cityscapes_512x1024_40k": "the key types stands twice in it",
}


def model_names(path: Path) -> set:
    """The model types and backbones that a recipe and its bases name."""
    import yaml

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    model = content.get("model") or {}
    names = {model.get("type"), (model.get("backbone") or {}).get("type")} - {None}
    if "type" not in model and "_base_" in content:
        names |= model_names((path.parent / content["_base_"]).resolve())
    return names


def recipes(configs: Path) -> List[Path]:
    """List the recipes whose model is among the cases, on a ResNet or without a backbone."""
    from paddleseg.cvlibs import manager
    from paddleseg.models import backbones  # noqa: F401

    known = {*CASES, *TAKEN, *manager.BACKBONES}
    return [path for path in sorted(configs.rglob("*.yml"))
            if path.parent.name != "_base_" and model_names(path) and model_names(path) <= known]


def read(path: Path, package: Path, build: bool = True) -> None:
    """Check a recipe and build its network; raises whatever doesn't work."""
    from paddleseg import builder, plugins
    from paddleseg.cvlibs import manager
    from paddleseg.cvlibs.config import load_config

    config = load_config(str(path))
    name = config["model"]["type"]
    plugins.load_plugins([] if name in TAKEN else plugin_files(name, package))
    plugins.load_plugins([str(package / "paddleseg" / f"{file}.py") for component, file in COMPONENTS.items()
                          if component not in manager.LOSSES and component not in manager.DATASETS])
    config = builder.resolve(config, builder.TRAINING if "train_dataset" in config else ("model",))
    if build:
        builder.build_model(config, pretrained=False)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, default=CONFIGS, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--paddleseg", type=Path, default=FOLDER, metavar="DIR",
                        help="the folder that holds PaddleSeg's package (default: %(default)s)")
    parser.add_argument("--check_only", action="store_true", help="build no network")
    args = parser.parse_args(argv)
    failed, found = [], recipes(args.configs)
    for path in found:
        try:
            read(path, args.paddleseg, not args.check_only)
        except Exception as error:  # whatever a model's own code raises
            failed.append(path)
            reason = REFUSED.get(path.stem, "UNEXPECTED")
            message = " ".join(str(error).split())[-200:]
            print(f"{path.relative_to(args.configs)}: {reason}: {type(error).__name__}: {message}")
    print(f"{len(found) - len(failed)} of {len(found)} recipes are read" + ("" if args.check_only else " and built"))
    return 0 if found and {path.stem for path in failed} <= REFUSED.keys() else 1


if __name__ == "__main__":
    os.environ.setdefault("GLOG_minloglevel", "2")
    sys.exit(main())
