"""Train a model from a YAML config, on one process or many.

    python train.py --config configs/quick_start/encnet_resnet18_scenes.yml --do_eval
    … --do_eval --use_ema --early_stop_intervals 5    (see docs/training.md)
    python -m paddle.distributed.launch train.py --config configs/encnet/encnet_cityscapes.yml --do_eval
"""

import argparse
from contextlib import nullcontext
from functools import partial

from paddleseg.core.options import add_option_flags
from paddleseg.utils.cli import add_common_flags, add_refused_flag


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser)
    parser.add_argument("--save_dir", help="where the run is saved (default: output)")
    parser.add_argument("--overwrite", action="store_true", help="delete the run that --save_dir holds")
    parser.add_argument("--resume", choices=["auto"],
                        help="go on from the newest whole checkpoint in --save_dir, or begin where there is none")
    parser.add_argument("--resume_model", metavar="DIR", help="go on from this checkpoint, such as output/iter_1000")
    parser.add_argument("--learning_rate", type=float, metavar="X", help="the initial learning rate")
    add_option_flags(parser)
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
        return train(args, save_dir)


def train(args: argparse.Namespace, save_dir: str) -> int:
    """Run one process of the training."""
    from paddleseg import builder
    from paddleseg.core import train as core
    from paddleseg.core.run_dir import RunDir
    from paddleseg.core.train_log import log_effective_batch
    from paddleseg.report.pictures import evaluation_pictures
    from paddleseg.utils import distributed, logger, signals

    config = builder.read_config(args)
    options, infer_options = builder.build_train_options(config), builder.build_infer_options(config)
    options.check_early_stop()
    rank, run_dir = distributed.rank(), RunDir(save_dir)
    logger.setup_logging(rank)
    with run_dir.locked() if rank == 0 else nullcontext():
        with signals.active.interruptible("nothing has changed", "start the same command again"):
            state, datasets = prepare(args, config, run_dir)

        # Only now, with everything found and fitting, does the run touch its directory.
        if rank == 0:
            run_dir.open(state.resumed)
            logger.setup_logging(rank, run_dir.log_file)
        if rank == 0 and state.iteration < options.iters:
            text = config.dump()
            run_dir.write_config(text)
            logger.info("configuration:\n" + text)
            builder.log_class_weights(config, datasets["train_dataset"].class_names)
            log_effective_batch(options, config["lr_scheduler"].get("learning_rate"))
        distributed.barrier()
        evaluator = None
        if options.do_eval:
            val_dataset = datasets["val_dataset"]
            draw = partial(evaluation_pictures, dataset=val_dataset, options=infer_options) if options.use_vdl else None
            evaluator = core.Evaluator(val_dataset, infer_options, options.num_workers, draw)
        batches = core.training_batches(datasets["train_dataset"], options, state.iteration)
        core.train(state, batches, evaluator, run_dir, options)
    return 0


def prepare(args: argparse.Namespace, config, run_dir):
    """Choose the checkpoint to go on from, build everything and check it; returns the state and the data sets."""
    from paddleseg import builder
    from paddleseg.core import preflight
    from paddleseg.core.state import TrainState, run_fingerprint
    from paddleseg.utils import device, distributed

    options, checkpoint = builder.build_train_options(config), None
    if distributed.rank() == 0:
        checkpoint = run_dir.choose(args.resume, args.resume_model)
        run_dir.check(checkpoint, args.overwrite, args.config)
    device.start_process(options.device, options.threads)
    checkpoint = distributed.broadcast_object(checkpoint)

    keys = ("train_dataset", "val_dataset") if options.do_eval else ("train_dataset",)
    datasets = {key: builder.build_dataset(config, key) for key in keys}
    model = builder.build_model(config, pretrained=checkpoint is None)
    criteria = builder.build_criteria(config, model)
    optimizer, schedule = builder.build_optimizer(config, model), builder.build_schedule(config)
    fingerprint = run_fingerprint(options, len(datasets["train_dataset"]), config.plain())
    state = TrainState(model, criteria, optimizer, schedule, options, fingerprint)
    if checkpoint is not None:
        state.resume(checkpoint, options)
    if state.iteration < options.iters:
        preflight.check_run(state, datasets, run_dir, options)
    distributed.barrier()  # rank 0 alone looks at files
    return state, datasets
