"""Run PaddleSeg 2.8.0's own model files, unchanged, as plugins: build, train two iterations, evaluate, export.

    python tests/compat/paddleseg_models.py
    python tests/compat/paddleseg_models.py --only DeepLabV3P PSPNet

Takes the models that need a ResNet for a backbone, or none. `make test` gets the package from PyPI; it is only read, as
`paddleseg` is this project's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fake_data import write_image, write_label  # noqa: E402

from diff import paddleseg_reference  # noqa: E402

FOLDER = ROOT / paddleseg_reference.FOLDER
SIZE, TINY = (32, 64), (16, 32)
CLASSES = 19  # the one number that ESPNetV1 works for


class Case(NamedTuple):
    """A model of PaddleSeg.

    Attributes:
        file: its file in paddleseg/models, without .py.
        outputs: how many logits it gives in training.
        backbone: the depth of the ResNet, or None.
        base_channels: its width; 64 where the model's file takes no other for granted.
        arguments: those without a default, and what makes it small.
        losses: files of PaddleSeg's losses that it needs, as plugins too.
        types: the losses; CrossEntropyLoss for each output by default.
        size: (height, width) of the images.
    """

    file: str
    outputs: int
    backbone: Optional[int] = None
    arguments: Dict = {}
    losses: tuple = ()
    types: Optional[List] = None
    size: tuple = SIZE
    base_channels: int = 16


CASES = {
    "ANN": Case("ann", 2, 18),
    "AttentionUNet": Case("attention_unet", 1, size=TINY),
    "BiSeNetV2": Case("bisenet", 5),
    "BiseNetV1": Case("bisenetv1", 3, 18, base_channels=64),
    "CCNet": Case("ccnet", 2, 18),
    "DANet": Case("danet", 4, 18, {"backbone_indices": [2, 3]}),
    "DDRNet_23": Case("ddrnet", 1),
    "DMNet": Case("dmnet", 2, 18, {"mid_channels": 32}),
    "DNLNet": Case("dnlnet", 2, 50, base_channels=64),
    "DeepLabV3": Case("deeplab", 1, 18),
    "DeepLabV3P": Case("deeplab", 1, 50),
    "EMANet": Case("emanet", 2, 50, {"ema_channels": 64, "gc_channels": 32}, base_channels=64),
    "ENet": Case("enet", 1),
    "ESPNetV1": Case("espnetv1", 1),
    "ESPNetV2": Case("espnet", 2),
    "FastFCN": Case("fastfcn", 3, 18, {"mid_channels": 32}, types=[
        {"type": "CrossEntropyLoss"}, {"type": "CrossEntropyLoss"}, {"type": "SECrossEntropyLoss"}]),
    "FastSCNN": Case("fast_scnn", 2),
    "GCNet": Case("gcnet", 2, 18),
    "GINet": Case("ginet", 2, 50, base_channels=64),
    "GloRe": Case("glore", 2, 18),
    "HarDNet": Case("hardnet", 1),
    "ISANet": Case("isanet", 2, 50, {"isa_channels": 32}, base_channels=64),
    "LPSNet": Case("lpsnet", 1, None, {"depths": [1, 3, 3, 10, 10], "channels": [8, 24, 48, 96, 96],
                                       "scale_ratios": [1.0, 0.25]}),
    "LRASPP": Case("lraspp", 1, 18),
    "MobileSeg": Case("mobileseg", 3, 18),
    "OCRNet": Case("ocrnet", 2, 18, {"backbone_indices": [2, 3]}),
    "PFPNNet": Case("pfpnnet", 1, 18, {"backbone_indices": [0, 1, 2, 3], "channels": 32,
                                       "fpn_inplanes": [16, 32, 64, 128]}),
    "PPHumanSegLite": Case("pphumanseg_lite", 1),
    "PPLiteSeg": Case("pp_liteseg", 3, 18, {"backbone_indices": [1, 2, 3]}),
    "PSPNet": Case("pspnet", 2, 18),
    "PointRend": Case("pointrend", 2, 18, {"backbone_indices": [0, 1, 2, 3], "fpn_inplanes": [16, 32, 64, 128],
                                           "point_num_points": 64}, ("point_cross_entropy_loss",),
                      [{"type": "CrossEntropyLoss"}, {"type": "PointCrossEntropyLoss"}]),
    "RTFormer": Case("rtformer", 2, None, {"base_channels": 16, "head_channels": 32, "spp_channels": 32}),
    "SFNet": Case("sfnet", 1, 18, {"backbone_indices": [0, 1, 2, 3]}, base_channels=64),
    "SINet": Case("sinet", 1),
    "SegNet": Case("segnet", 1, size=TINY),
    "U2Net": Case("u2net", 7, size=TINY),
    "U2Netp": Case("u2net", 7, size=TINY),
    "UNet": Case("unet", 1, size=TINY),
    "UNet3Plus": Case("unet_3plus", 1, size=TINY),
    "UNetPlusPlus": Case("unet_plusplus", 1, size=TINY),
    "UPerNet": Case("upernet", 1, 18, {"backbone_indices": [0, 1, 2, 3], "channels": 32}),
}
# What their own files ask of Paddle that today's refuses: to join tensors without a dimension, to mix integer with
# floating-point tensors, or a bare assert in a traced graph. Which of them depends on Paddle's version.
TOO_OLD = ("FastFCN", "ISANet", "PointRend", "SFNet")
# Their files import a model's file of PaddleSeg's, which this project's paddleseg.models hasn't.
OUT_OF_REACH = {"DecoupledSegNet": "decoupled_segnet", "GSCNN": "gscnn"}
# Names of this project's own components.
TAKEN = {"FCN": "fcn", "ENCNet": "encnet"}


def write_dataset(folder: Path, size: tuple, values: tuple) -> str:
    """Write four images, labels of these values and the lists train_list.txt and val_list.txt; returns the folder."""
    lines = []
    for index in range(4):
        write_image(folder / f"{index}.png", index, size)
        write_label(folder / f"{index}_label.png", values, size)
        lines.append(f"{index}.png {index}_label.png\n")
    for name in ("train_list.txt", "val_list.txt"):
        (folder / name).write_text("".join(lines))
    return str(folder)


def write_recipe(name: str, folder: Path) -> str:
    """Write a data set and a config that trains a case on it; returns the path of the YAML file."""
    import yaml

    case = CASES[name]
    root = write_dataset(folder, case.size, (0, 1, 2, 255))
    data = {"type": "Dataset", "dataset_root": root, "num_classes": CLASSES, "train_path": f"{root}/train_list.txt",
            "val_path": f"{root}/val_list.txt", "transforms": [{"type": "Normalize"}]}
    model = {"type": name, **case.arguments}
    if case.backbone:
        model["backbone"] = {"type": f"ResNet{case.backbone}_vd", "output_stride": 8,
                             "base_channels": case.base_channels}
    recipe = {"batch_size": 2, "iters": 2, "num_workers": 0, "train_dataset": data, "val_dataset": data, "model": model,
              "optimizer": {"type": "SGD", "momentum": 0.9}, "lr_scheduler": {"type": "PolynomialDecay",
                                                                           "learning_rate": 0.001},
              "loss": {"types": case.types or [{"type": "CrossEntropyLoss"}], "coef": [1.0] * case.outputs}}
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def plugin_files(name: str, folder: Path) -> List[str]:
    """The files of PaddleSeg's package that a case needs."""
    case = CASES[name]
    return [str(folder / "paddleseg" / "models" / f"{file}.py")
            for file in (*(f"losses/{loss}" for loss in case.losses), case.file)]


def run(name: str, package: Path, scratch: Path) -> str:
    """Load, build, train, evaluate and export one model; returns a line on it.

    Raises whatever doesn't work.
    """
    import numpy as np

    from paddleseg import builder, plugins
    from paddleseg.core.run_dir import RunDir
    from paddleseg.core.state import TrainState, run_fingerprint
    from paddleseg.core.train import train, training_batches
    from paddleseg.core.val import evaluate
    from paddleseg.cvlibs.config import load_config

    plugins.load_plugins(plugin_files(name, package))
    config = builder.resolve(load_config(write_recipe(name, scratch)))
    model = builder.build_model(config)
    before = [value.numpy() for value in model.parameters()]
    datasets = [builder.build_dataset(config, key) for key in ("train_dataset", "val_dataset")]
    options, run_dir = builder.build_train_options(config), RunDir(str(scratch))
    state = TrainState(model, builder.build_criteria(config, model), builder.build_optimizer(config, model),
                       builder.build_schedule(config), options, run_fingerprint(options, len(datasets[0])))
    train(state, training_batches(datasets[0], options), None, run_dir, options)
    if all(np.array_equal(old, new.numpy()) for old, new in zip(before, model.parameters())):
        raise AssertionError("two iterations have changed no parameter")
    evaluate(model, datasets[1])
    height, width = CASES[name].size
    try:
        export_and_compare(model, scratch, (None, 3, None, None), [(1, 3, height, width), (2, 3, width, height)])
        sizes = "any size"
    except Exception:  # a model's own code may ask a traced tensor for its size; PaddleSeg exports it for one size
        export_and_compare(model, scratch, (1, 3, height, width), [(1, 3, height, width)])
        sizes = "one size"
    parameters = sum(value.size for value in model.parameters())
    return f"runs, {parameters / 1e6:.1f} M parameters, exported for {sizes}"


def export_and_compare(model, scratch: Path, shape: tuple, trials: list) -> None:
    """Write the graph of a model for images of a shape; AssertionError if it labels the trials' images otherwise."""
    import numpy as np
    import paddle

    from deploy import export_graph as export

    model = export.folded(model)
    export.save_graph(model, str(scratch / "model"), "logits", shape, wide_resize=False)
    graph = paddle.jit.load(str(scratch / "model"))
    graph.eval()
    for trial in trials:
        images = export.check_images(trial)
        with paddle.no_grad():  # each with a tensor of its own, which a model, or Paddle 2's loops, may write to
            labels = model(paddle.to_tensor(images))[0].numpy().argmax(axis=1)
            found = graph(paddle.to_tensor(images)).numpy().argmax(axis=1)
        off = np.mean(found != labels) if found.shape == labels.shape else 1
        if off > export.TOLERANCE:
            raise AssertionError(f"{off:.2%} of the labels of images {trial} differ in the exported graph")


def run_command(script, *arguments) -> str:
    """Run a script in a process of its own, whose registries hold nothing else; returns its output."""
    done = subprocess.run([sys.executable, *map(str, (script, *arguments))], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paddleseg", type=Path, default=FOLDER, metavar="DIR",
                        help="the folder that holds PaddleSeg's package (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="MODEL")
    args = parser.parse_args(argv)
    if not (args.paddleseg / "paddleseg" / "models").is_dir():
        parser.error(f"{args.paddleseg} holds no PaddleSeg; `make test` puts it into {FOLDER}")
    failed = []
    for name in args.only:
        start = time.perf_counter()
        try:
            with tempfile.TemporaryDirectory() as scratch:
                text = run(name, args.paddleseg, Path(scratch))
        except Exception as error:  # whatever a model's own code raises
            failed.append(name)
            text = f"FAILS: {type(error).__name__}: {' '.join(str(error).split())[-300:]}"
        print(f"{name:16} {time.perf_counter() - start:5.1f} s  {text}", flush=True)
    print(f"{len(args.only) - len(failed)} of {len(args.only)} run" + (f"; not {', '.join(failed)}" if failed else ""))
    return 0 if set(failed) <= set(TOO_OLD) else 1


if __name__ == "__main__":
    os.environ.setdefault("GLOG_minloglevel", "2")
    sys.exit(main())
