"""Evaluate a trained model on val_dataset of its config.

    python val.py --config configs/encnet/encnet_cityscapes.yml --model_path output/best_model/model.pdparams
    … --aug_eval --scales 0.75 1.0 1.25 --flip_horizontal
    … --is_slide --crop_size 1024 512 --stride 768 384
    … --batch_size 4    (images together, on a GPU that isn't busy with one)
    … --report output/report    (a page to look at: report.html, and its plots as PNG files)
"""

import argparse

from paddleseg.utils.cli import add_common_flags, add_inference_flags, add_refused_flag


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser)
    parser.add_argument("--model_path", required=True, metavar="FILE",
                        help="the weights, a model.pdparams, or a file in mmsegmentation's or PyTorch-Encoding's names")
    add_inference_flags(parser, "--aug_eval")
    parser.add_argument("--batch_size", dest="eval_batch_size", type=int, metavar="N",
                        help="images of one size that go through the model together (default: 1; only a GPU may be "
                             "faster with more; rounding may move a few pixels)")
    parser.add_argument("--report", metavar="DIR",
                        help="write report.html to this folder: the scores, confusion matrix, IoU by the size of "
                             "objects, best and worst images")
    parser.add_argument("--data_format", choices=["NCHW"], help="NCHW is the one layout so far")
    add_refused_flag(parser, "--auc_roc", "it would hold every probability of the data set in memory; "
                                          "read IoU, precision and recall of each class in the table")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> int:
    from paddleseg.launch import launcher, peers

    launcher.protect_logs()
    with peers.watch_peers():
        return val(args)


def val(args: argparse.Namespace) -> int:
    """Evaluate; every process of a launch runs this."""
    from paddleseg import builder
    from paddleseg.core.val import evaluate, log_scores
    from paddleseg.report.report import Report
    from paddleseg.utils import device, distributed, logger

    config = builder.read_config(args, builder.INFERENCE)
    options = builder.build_train_options(config)
    logger.setup_logging(distributed.rank())
    device.start_process(options.device, options.threads)

    dataset = builder.build_dataset(config, "val_dataset")
    report = Report(args.report, dataset) if args.report else None
    model, infer_options = builder.build_trained_model(config, args.model_path), builder.build_infer_options(config)
    scores = evaluate(model, dataset, infer_options, options.num_workers, report.add if report else None)
    log_scores(scores, dataset.class_names, len(dataset))
    if report is not None:
        report.write(scores, model, infer_options, args.model_path, config.dump())
    return 0
