"""Train a model from a YAML recipe, on one process or many.

    python train.py --config configs/quick_start/encnet_resnet18_scenes.yml --do_eval
    … --do_eval --use_ema --early_stop_intervals 5    (see docs/training.md)
    python -m paddle.distributed.launch train.py --config configs/encnet/encnet_cityscapes.yml --do_eval
"""

import argparse

from paddleseg.utils.cli import add_common_flags, add_refused_flag


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser)
    parser.add_argument("--save_dir", help="where the run is saved (default: output)")
    parser.add_argument("--overwrite", action="store_true", help="delete the run that --save_dir holds")
    parser.add_argument("--resume", choices=["auto"],
                        help="go on from the newest whole checkpoint in --save_dir, or begin where there is none")
    parser.add_argument("--resume_model", metavar="DIR", help="go on from this checkpoint, such as output/iter_1000")
    parser.add_argument("--do_eval", action="store_true", default=None,
                        help="evaluate at each checkpoint and keep the best model")
    parser.add_argument("--use_vdl", action="store_true", default=None, help="write VisualDL's files to --save_dir")
    parser.add_argument("--use_ema", action="store_true", default=None,
                        help="average the weights over the iterations too; evaluate and save both")
    for name, kind, text in (
            ("iters", int, "optimizer steps"), ("batch_size", int, "images per process and step"),
            ("accum_iters", int, "batches whose gradients make one step (default: 1)"),
            ("learning_rate", float, "the initial learning rate"),
            ("save_interval", int, "iterations between checkpoints (default: 1000)"),
            ("early_stop_intervals", int, "end after so many evaluations in a row without a better mIoU"),
            ("keep_checkpoint_max", int, "checkpoints to keep (default: 5)"),
            ("log_iters", int, "iterations between lines of the log (default: 10)"),
            ("seed", int, "of weights, order, augmentation and dropout (default: 42)"),
            ("repeats", int, "times that each sample is seen in an epoch (default: 1)")):
        parser.add_argument(f"--{name}", type=kind, metavar="N" if kind is int else "X", help=text)
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], help="of the computation (default: fp32)")
    parser.add_argument("--amp_level", choices=["O1", "O2"],
                        help="with fp16 and bf16: O1 keeps weights in float32 (default), O2 in half precision too")
    parser.add_argument("--data_format", choices=["NCHW"], help="NCHW is the one layout so far")
    add_refused_flag(parser, "--profiler_options", "use a sampling profiler on the running process, such as py-spy")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> int:
    from paddleseg.launch import launcher, peers
    from paddleseg.utils import signals

    save_dir = args.save_dir or "output"
    launcher.protect_logs(save_dir)
    import paddle  # noqa: F401  (puts a handler of its own for SIGTERM in place)

    with signals.StopSignals() as stop, peers.watch_peers(
            "the same command with --resume auto goes on from the last checkpoint", stop):
        return train(args, save_dir, stop)


def train(args: argparse.Namespace, save_dir: str, stop) -> int:
    """What one process does."""
    from paddleseg import builder
    from paddleseg.core import early_stop, preflight, resume, run_dir
    from paddleseg.core import train as training
    from paddleseg.utils import device, distributed, logger

    config = builder.read_config(args)
    options, infer_options = builder.build_train_options(config), builder.build_infer_options(config)
    early_stop.check_early_stop(options.early_stop_intervals, options.do_eval)
    rank, directory = distributed.rank(), None
    logger.setup_logging(rank)
    with stop.at_once("nothing has changed", "start the same command again"):
        if rank == 0:
            directory = run_dir.choose_checkpoint(save_dir, args.resume, args.resume_model)
            run_dir.check_save_dir(save_dir, directory, args.overwrite, args.config)
        device.start_process(options.device, options.threads)
        directory = distributed.broadcast_object(directory)

        train_dataset = builder.build_dataset(config, "train_dataset")
        val_dataset = builder.build_dataset(config, "val_dataset") if options.do_eval else None
        model = builder.build_model(config, pretrained=directory is None)
        criteria = builder.build_criteria(config, model)
        optimizer, schedule = builder.build_optimizer(config, model), builder.build_schedule(config)
        resumed = directory and resume.resume(directory, model, optimizer, options, len(train_dataset), config.plain())
        finished = resumed is not None and resumed.iteration >= options.iters
        if not finished:
            preflight.check_run(train_dataset, val_dataset, model, optimizer, options, save_dir,
                                resumed.iteration if resumed else None, infer_options.eval_batch_size)
        distributed.barrier()  # rank 0 alone looks at files

    # Only now, with everything found and fitting, does the run touch its directory.
    if rank == 0:
        run_dir.open_save_dir(save_dir, directory)
        logger.setup_logging(rank, f"{save_dir}/train.log")
        if not finished:
            logger.info("configuration:\n" + builder.write_config(config, save_dir))
            builder.log_class_weights(config, train_dataset.class_names)
    distributed.barrier()
    training.train(model, criteria, optimizer, schedule, train_dataset, options, save_dir, val_dataset, infer_options,
                   resumed, config.plain(), stop)
    return 0
