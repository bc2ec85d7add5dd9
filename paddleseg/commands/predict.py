"""Write the predictions of a trained model for an image, a directory of images, or a list of them.

    python predict.py --config configs/encnet/encnet_cityscapes.yml --model_path output/best_model/model.pdparams \\
        --image_path data/cityscapes/leftImg8bit/val --save_dir output/result

Each image gives an overlay (added_prediction/), a colour map (pseudo_color_prediction/) and the class indices
(label/), under its path relative to --image_path. For Cityscapes' server:

    … --image_path data/cityscapes/leftImg8bit/test --save_dir output/test --save_label_ids
    python tools/make_submission.py output/test/label_ids --dataset_root data/cityscapes
"""

import argparse
from typing import Sequence

from paddleseg.utils.cli import add_common_flags, add_inference_flags


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser)
    parser.add_argument("--model_path", required=True, metavar="FILE",
                        help="the weights, a model.pdparams, or a file in mmsegmentation's or PyTorch-Encoding's names")
    parser.add_argument("--image_path", required=True, metavar="PATH", help="an image, a directory, or a list file")
    parser.add_argument("--save_dir", help="where the pictures go (default: output/result)")
    add_inference_flags(parser, "--aug_pred")
    parser.add_argument("--custom_color", nargs="+", type=int, metavar="V",
                        help="red green blue of each class, 0..255 (default: the data set's palette)")
    parser.add_argument("--save_label_ids", action="store_true",
                        help="write Cityscapes' label ids too (label_ids/), named as its server knows them")
    return parser.parse_args(argv)


def server_label_ids(dataset_type: str, images: Sequence[str]):
    """Return the label id of each class, if Cityscapes' server can tell the images.

    Raises:
        ConfigError: the config is of another data set.
        DataError: the images' names don't say their frames.
    """
    from paddleseg.cvlibs.errors import ConfigError
    from paddleseg.datasets.cityscapes_server import check_frames, class_label_ids

    if dataset_type != "Cityscapes":
        raise ConfigError(f"--save_label_ids: val_dataset is {dataset_type}, and only Cityscapes has label ids; "
                          "label/ holds the class indices")
    check_frames(images)
    return class_label_ids()


def main(args: argparse.Namespace) -> int:
    from paddleseg import builder
    from paddleseg.core.predict import ResultWriter, predict
    from paddleseg.datasets.cityscapes_server import server_name
    from paddleseg.datasets.listing import list_images
    from paddleseg.utils import device, distributed, logger

    config = builder.read_config(args, builder.INFERENCE)
    options = builder.build_train_options(config)
    logger.setup_logging(distributed.rank())
    device.start_process(options.device, options.threads)

    images, root = list_images(args.image_path)
    label_ids = server_label_ids(config["val_dataset"]["type"], images) if args.save_label_ids else None
    palette = builder.dataset_palette(config, args.custom_color)
    model = builder.build_trained_model(config, args.model_path)
    save_dir = args.save_dir or "output/result"
    predict(model, images, root, builder.build_val_transforms(config),
            ResultWriter(save_dir, palette, label_ids, server_name), builder.build_infer_options(config),
            num_writers=max(1, options.num_workers))
    logger.info(f"{len(images)} predictions are in {save_dir}")
    return 0
