"""Export a trained model for serving, with a deploy.yaml that describes what goes before and after it.

    python tools/export.py --config configs/encnet/encnet_cityscapes.yml \\
        --model_path output/best_model/model.pdparams --save_dir output/inference_model
    … --output softmax --input_shape 1 3 512 1024
    … --format onnx

Batch norms are folded into the convolutions; height, width and the number of images stay free unless --input_shape
sets them. The exported graph is then held against the trained model at several sizes: where rounding decides, at up to
0.1 % of the pixels, labels may differ; beyond it nothing is written. `python deploy/infer.py --config DIR/deploy.yaml`
runs it.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError, RunError
from paddleseg.utils.cli import add_debug_flag, add_plugins_flag, run_main

DESCRIPTION = "deploy.yaml"
WRITTEN = (DESCRIPTION, "model.json", "model.pdmodel", "model.pdiparams", "model.onnx")
# The graph is compared with the model at these (N, 3, H, W), where --input_shape leaves a size free.
CHECK_SHAPES = ((2, 3, 64, 128), (1, 3, 97, 161), (1, 3, 256, 512))


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="FILE", help="the config, a YAML file")
    parser.add_argument("--opts", nargs="+", action="extend", metavar="KEY=VALUE", default=[],
                        help="override values of the config, such as model.num_codes=16")
    parser.add_argument("--model_path", required=True, metavar="FILE",
                        help="the weights, a model.pdparams, or a file in mmsegmentation's or PyTorch-Encoding's names")
    parser.add_argument("--save_dir", default="output/inference_model", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--format", choices=["paddle", "onnx"], default="paddle",
                        help="for Paddle Inference (default), or for ONNX Runtime, which needs paddle2onnx")
    parser.add_argument("--input_shape", nargs=4, type=int, metavar=("N", "C", "H", "W"), default=[-1, 3, -1, -1],
                        help="of the images; -1 is free (default: -1 3 -1 -1)")
    parser.add_argument("--output", "--output_op", choices=["argmax", "softmax", "logits", "none"], default="argmax",
                        help="class indices (default), probabilities, or logits; PaddleSeg's none means logits")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores it may use)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in --save_dir")
    add_plugins_flag(parser)
    add_debug_flag(parser)
    args = parser.parse_args(argv)
    args.output = "logits" if args.output == "none" else args.output
    return args


def check_paths(args: argparse.Namespace) -> None:
    """Refuse a shape that no graph has, and a directory that holds something else than an export to overwrite."""
    if args.input_shape[1] != 3 or any(side < 1 and side != -1 for side in args.input_shape):
        raise ConfigError(f"--input_shape {' '.join(map(str, args.input_shape))}: N 3 H W is needed, each at least 1, "
                          f"or -1 for any")
    folder = args.save_dir
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise RunError(f"--save_dir {folder} is a file; name a directory")
    found = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    others = [name for name in found if name not in WRITTEN]
    if others or found and DESCRIPTION not in found:
        raise RunError(f"{folder} holds other files ({', '.join((others or found)[:4])}); name another --save_dir")
    if found and not args.overwrite:
        raise RunError(f"{folder} holds an exported model; --overwrite replaces it, another --save_dir keeps it")


def check_transforms(config, output: str) -> None:
    """Refuse transforms of val_dataset that deploy/infer.py can't do, and warn of differences from predict.py."""
    from deploy.infer import TRANSFORMS, undeployable
    from paddleseg.utils import logger

    transforms = config["val_dataset"]["transforms"]
    for index, transform in enumerate(transforms):
        if undeployable(transform):
            raise ConfigError(f"{config.path}: val_dataset.transforms.{index}, {transform['type']}, can't be deployed; "
                              f"deploy/infer.py does {', '.join(TRANSFORMS)}, with nothing random")
    if output == "argmax" and any(transform["type"].startswith("Resize") for transform in transforms):
        logger.warning("val_dataset resizes: the exported labels will be resized back by nearest neighbour; with "
                       "--output logits the logits are, as predict.py does it")
    if config["test_config"].get("is_slide") or config["test_config"].get("aug_eval"):
        logger.warning("the graph sees an image whole and once: windows, scales and flips of test_config aren't in it")


def describe(config, files: Dict[str, str], folder: str, args: argparse.Namespace) -> Dict:
    """Make the `Deploy` section; keys that PaddleSeg's has are named and meant as there."""
    import paddle

    import paddleseg
    from paddleseg import builder
    from paddleseg.utils.files import sha256

    return {
        **files,
        "format": args.format,
        "input_shape": list(args.input_shape),
        "output_op": args.output,
        "output_dtype": "int32" if args.output == "argmax" else "float32",
        "transforms": config["val_dataset"]["transforms"],
        "channel_order": "RGB",
        "class_names": builder.dataset_class_names(config),
        "palette": builder.dataset_palette(config).tolist(),
        "toolkit": f"EncNet-Paddle {paddleseg.__version__}",
        "paddle": paddle.__version__,
        "sha256": {name: sha256(os.path.join(folder, name)) for name in files.values()},
    }


def check_graph(model, folder: str, section: Dict, args: argparse.Namespace) -> Tuple[List, str]:
    """Hold the graph against the model, as deploy/infer.py runs it; notes whether oneDNN computes it correctly.

    Returns: the comparisons and the backend.

    Raises:
        RunError: too many labels differ.
    """
    from deploy.export_graph import TOLERANCE, compare
    from deploy.infer import BACKENDS, load_graph
    from paddleseg.utils import logger

    shapes = sorted({tuple(given if given != -1 else free for given, free in zip(args.input_shape, shape))
                     for shape in CHECK_SHAPES})
    for backend in BACKENDS[args.format]:
        try:
            comparisons = compare(model, load_graph(folder, section, "cpu", args.threads, backend), shapes)
            worst = max(comparison.differing for comparison in comparisons)
            problem = f"{100 * worst:.3g} % of the labels differ from the model's, over {100 * TOLERANCE:.3g} %"
        except Exception as error:  # a runtime that can't run the graph says so in many ways
            worst, problem = 1.0, f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}"
        if worst <= TOLERANCE:
            if args.format == "paddle":
                section["onednn"] = backend == "onednn"
            return comparisons, backend
        logger.warning(f"the exported graph is not right with {backend}: {problem}")
    raise RunError(f"the exported graph doesn't do what the model does, and isn't kept: {problem}")


def print_comparisons(comparisons: Sequence, backend: str) -> None:
    from prettytable import PrettyTable

    table = PrettyTable(["input", "labels that differ", "model ms", f"{backend} ms", "ratio"])
    for shape, differing, eager_sec, graph_sec in comparisons:
        table.add_row(["x".join(map(str, shape)), f"{100 * differing:.4f} %", f"{1000 * eager_sec:.1f}",
                       f"{1000 * graph_sec:.1f}", f"{graph_sec / eager_sec:.2f}"])
    print(table)


def main(args: argparse.Namespace) -> int:
    check_paths(args)

    import yaml

    from deploy.export_graph import convert_to_onnx, folded, import_paddle2onnx, save_graph
    from paddleseg import builder
    from paddleseg.utils import device, logger
    from paddleseg.utils.files import atomic_directory

    config = builder.read_config(args, builder.INFERENCE)
    check_transforms(config, args.output)
    if args.format == "onnx":
        import_paddle2onnx()
    args.threads = builder.build_train_options(config).threads
    logger.setup_logging(0)
    device.start_process("cpu", args.threads)

    model = builder.build_trained_model(config, args.model_path)
    model.eval()
    with atomic_directory(os.path.normpath(args.save_dir)) as folder:
        shape = [None if side == -1 else side for side in args.input_shape]
        graph = save_graph(folded(model), os.path.join(folder, "model"), args.output, shape,
                           wide_resize=args.format == "paddle")  # which ONNX Runtime has no kernel for
        files = {"model": os.path.basename(graph), "params": "model.pdiparams"}
        if args.format == "onnx":
            convert_to_onnx(graph, os.path.join(folder, "model.onnx"))
            files = {"model": "model.onnx"}
        section = describe(config, files, folder, args)
        comparisons, backend = check_graph(model, folder, section, args)
        with open(os.path.join(folder, DESCRIPTION), "w", encoding="utf-8") as file:
            file.write("# Written by tools/export.py; deploy/infer.py reads it.\n")
            yaml.safe_dump({"Deploy": section}, file, sort_keys=False, allow_unicode=True, default_flow_style=None,
                           width=120)
    print_comparisons(comparisons, backend)
    logger.info(f"the exported model is in {args.save_dir}; run it with: python deploy/infer.py --config "
                f"{os.path.join(args.save_dir, DESCRIPTION)} --image_path IMAGE")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, parse_args()))
