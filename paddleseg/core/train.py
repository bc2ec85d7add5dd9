"""The training loop."""

import math
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import paddle
import paddle.nn as nn
from tqdm import tqdm

from paddleseg.core import checkpoint
from paddleseg.core.infer import InferOptions
from paddleseg.core.val import evaluate, log_scores
from paddleseg.cvlibs.errors import ConfigError, RunError
from paddleseg.datasets.loader import train_batches
from paddleseg.utils import device, distributed, logger

_WEIGHTS = re.compile(r"(iter_\d+|best_model)(\.tmp|\.old)?")
_RECORDS = re.compile(r"config\.yml|train\.log|log\.jsonl|vdlrecords.*")


@dataclass
class TrainOptions:
    """The run itself; top-level keys of the YAML, and flags of the same names.

    Attributes:
        batch_size: images per process and step.
        iters: optimizer steps.
        accum_iters: batches whose gradients are averaged for one optimizer step.
        seed: of the initial weights, the order and the augmentation of samples, and dropout.
        do_eval: evaluate on val_dataset whenever a checkpoint is saved, and keep the best model.
        save_interval: iterations between checkpoints; the last iteration is saved too.
        log_iters: iterations between lines in the log.
        keep_checkpoint_max: older checkpoints are removed beyond this number.
        num_workers: processes that read data; None chooses by the cores, 0 reads in the main process.
        use_vdl: write VisualDL's files.
        repeats: times that each sample is seen in an epoch.
        device: auto, cpu or gpu.
        threads: CPU threads; None takes this process's share of the cores.
    """

    batch_size: int
    iters: int
    accum_iters: int = 1
    seed: int = 42
    do_eval: bool = False
    save_interval: int = 1000
    log_iters: int = 10
    keep_checkpoint_max: int = 5
    num_workers: Optional[int] = None
    use_vdl: bool = False
    repeats: int = 1
    device: str = "auto"
    threads: Optional[int] = None

    def __post_init__(self):
        for name in ("batch_size", "iters", "accum_iters", "save_interval", "log_iters", "keep_checkpoint_max",
                     "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("seed", "num_workers"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 0")
        if self.num_workers is None:
            self.num_workers = device.default_workers()


@dataclass
class _Meter:
    """Sums between two lines of the log."""

    losses: Dict[str, float] = field(default_factory=dict)
    reader_sec: float = 0.0
    batches: int = 0
    start: float = field(default_factory=time.perf_counter)

    def wait_for(self, batches: Iterator) -> Tuple[int, Dict]:
        """The next epoch (they count from 1 in a log) and batch; the wait is the reader's cost."""
        before = time.perf_counter()
        epoch, batch = next(batches)
        self.reader_sec += time.perf_counter() - before
        return epoch + 1, batch

    def add(self, losses: Dict[str, float]) -> None:
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value
        self.batches += 1

    def mean_losses(self) -> Dict[str, float]:
        return {name: value / self.batches for name, value in self.losses.items()}


def train(model: nn.Layer, criteria: Sequence[Tuple[nn.Layer, float]], optimizer, schedule, train_dataset,
          options: TrainOptions, save_dir: str, val_dataset=None, infer_options: Optional[InferOptions] = None,
          start: int = 0, resume_model: Optional[str] = None) -> Optional[float]:
    """Train a model, save checkpoints, and keep the best one.

    Args:
        criteria: (loss, coefficient) along the model's outputs.
        schedule: iteration 0, 1, … -> learning rate.
        val_dataset: evaluated with `options.do_eval`.
        start: iterations that model and optimizer have behind them, as `resume` says.
        resume_model: the checkpoint they come from; it is evaluated if that was cut off.

    Returns: the best mIoU of the run, or None where nothing was evaluated.

    Raises:
        RunError: a loss is not finite.
    """
    rank = distributed.rank()
    recorder = logger.RunRecorder(save_dir if rank == 0 else None, options.use_vdl)
    evaluation = (val_dataset, infer_options, options.num_workers) if options.do_eval else None
    if evaluation and resume_model and not checkpoint.was_evaluated(resume_model):
        _evaluate_and_keep_best(model, start, resume_model, save_dir, evaluation, recorder)
    if start >= options.iters:
        logger.info(f"nothing to do: {resume_model} has {start} of {options.iters} iterations; --iters trains longer")
        return (checkpoint.best_score(save_dir) or {}).get("miou")
    world, batch_size, accum_iters = distributed.world_size(), options.batch_size, options.accum_iters
    logger.info(f"effective batch = {world} processes x {batch_size} x {accum_iters} accumulated = "
                f"{world * batch_size * accum_iters}")
    runner = paddle.DataParallel(model) if distributed.world_size() > 1 else model
    batches = _batches(train_dataset, options, start)
    bar = tqdm(total=options.iters, initial=start, desc="training", unit="iter", file=sys.stderr,
               disable=None if rank == 0 else True)
    model.train()
    meter = _Meter()
    for iteration in range(start + 1, options.iters + 1):
        lr = schedule(iteration - 1)
        optimizer.set_lr(lr)
        paddle.seed(dropout_seed(options.seed, iteration, rank))
        for _ in range(options.accum_iters):
            epoch, batch = meter.wait_for(batches)
            losses = backward(runner, criteria, batch, options.accum_iters)
            stop_if_not_finite(losses, iteration, lr, batch["path"])
            meter.add(losses)
        optimizer.step()
        optimizer.clear_grad()
        bar.update()
        if iteration % options.log_iters == 0 or iteration == options.iters:
            _log_progress(meter, iteration, epoch, lr, options, recorder)
            meter = _Meter()
        if iteration % options.save_interval == 0 or iteration == options.iters:
            pause = time.perf_counter()
            saved = _save(model, optimizer, iteration, options, save_dir)
            if evaluation:
                _evaluate_and_keep_best(model, iteration, saved, save_dir, evaluation, recorder)
            meter.start += time.perf_counter() - pause
    bar.close()
    recorder.close()
    return (checkpoint.best_score(save_dir) or {}).get("miou")


def backward(model, criteria, batch: Dict, accum_iters: int = 1) -> Dict[str, float]:
    """Forward, weighted losses, backward; returns the value of each loss and of their weighted sum."""
    logits = model(batch["img"])
    names = loss_names(model, len(logits))
    if len(logits) != len(criteria):
        raise ConfigError(f"loss.coef has {len(criteria)} values, but the model has {len(logits)} outputs "
                          f"({', '.join(names)}); give one for each")
    losses = [criterion(logit, batch["label"]) for (criterion, _), logit in zip(criteria, logits)]
    total = sum(loss * coef for loss, (_, coef) in zip(losses, criteria))
    (total / accum_iters if accum_iters > 1 else total).backward()
    return {"loss": total.item(), **{name: loss.item() for name, loss in zip(names, losses)}}


def loss_names(model, count: int) -> List[str]:
    """loss_seg, loss_aux, …, as the model names its outputs; loss_0, loss_1, … where it doesn't."""
    names = getattr(getattr(model, "_layers", model), "loss_names", range(count))
    return [f"loss_{name}" for name in names]


def dropout_seed(seed: int, iteration: int, rank: int) -> int:
    """A seed of its own for each iteration and process, so that no random state must be saved."""
    return (seed * 1_000_003 + iteration * 1009 + rank) % (2 ** 31)


def stop_if_not_finite(losses: Dict[str, float], iteration: int, lr: float, paths: Sequence[str]) -> None:
    """Raises RunError with all there is to know about a loss that is NaN or infinite."""
    if all(math.isfinite(value) for value in losses.values()):
        return
    values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    raise RunError(f"iteration {iteration}: the loss is not finite ({values}; lr {lr:g}; images {', '.join(paths)}); "
                   f"check these files with tools/check_data.py, or lower the learning rate")


def resume(directory: str, model: nn.Layer, optimizer, options: TrainOptions) -> int:
    """Restore a checkpoint; returns its iteration.

    Says so where the run that follows can't be the one that was interrupted.
    """
    state = checkpoint.load_checkpoint(directory, model, optimizer)
    now = _what_a_run_depends_on(options)
    for key, value in now.items():
        if state.get(key, value) != value:
            logger.warning(f"{directory} was trained with {key} {state[key]}, now {value}: what follows may differ "
                           f"from an uninterrupted run")
    logger.info(f"resumed {directory} at iteration {state['iter']}")
    return state["iter"]


def _what_a_run_depends_on(options: TrainOptions) -> Dict:
    """What decides the samples, the learning rates and, in the last digit, the sums of a run."""
    return {"seed": options.seed, "iters": options.iters, "batch_size": options.batch_size,
            "accum_iters": options.accum_iters, "repeats": options.repeats, "threads": options.threads,
            "world_size": distributed.world_size()}


def _batches(dataset, options: TrainOptions, start: int):
    return train_batches(dataset, options.batch_size, options.seed, start_iter=start * options.accum_iters,
                         num_batches=(options.iters - start) * options.accum_iters,
                         num_workers=options.num_workers, rank=distributed.rank(), world=distributed.world_size(),
                         repeats=options.repeats)


def _log_progress(meter: _Meter, iteration: int, epoch: int, lr: float, options: TrainOptions, recorder) -> None:
    """PaddleSeg's [TRAIN] line with each loss behind it, and the same as a record."""
    losses = meter.mean_losses()
    batch_cost = (time.perf_counter() - meter.start) / meter.batches
    reader_cost = meter.reader_sec / meter.batches
    ips = options.batch_size / batch_cost
    eta_sec = int((options.iters - iteration) * options.accum_iters * batch_cost)
    eta = f"{eta_sec // 3600:02d}:{eta_sec // 60 % 60:02d}:{eta_sec % 60:02d}"
    terms = ", ".join(f"{name}: {value:.4f}" for name, value in losses.items() if name != "loss")
    logger.info(f"[TRAIN] epoch: {epoch}, iter: {iteration}/{options.iters}, loss: {losses['loss']:.4f}, lr: {lr:.6f}, "
                f"batch_cost: {batch_cost:.4f}, reader_cost: {reader_cost:.5f}, ips: {ips:.4f} samples/sec | "
                f"ETA {eta} | {terms}")
    recorder.record("train", iteration, epoch=epoch, **losses, lr=lr, batch_cost=batch_cost, reader_cost=reader_cost,
                    ips=ips, eta_sec=eta_sec)


def _save(model, optimizer, iteration: int, options: TrainOptions, save_dir: str) -> str:
    """Rank 0 writes the checkpoint and prunes old ones; returns its directory."""
    path = os.path.join(save_dir, f"iter_{iteration}")
    if distributed.rank() == 0:
        checkpoint.save_checkpoint(save_dir, iteration, model, optimizer, _what_a_run_depends_on(options))
        checkpoint.prune_checkpoints(save_dir, options.keep_checkpoint_max, iteration)
        logger.info(f"saved {path}")
    distributed.barrier()
    return path


def _evaluate_and_keep_best(model, iteration: int, checkpoint_dir: str, save_dir: str, evaluation, recorder) -> None:
    dataset, infer_options, num_workers = evaluation
    scores = evaluate(model, dataset, infer_options, num_workers)
    if distributed.rank() == 0:
        log_scores(scores, dataset.class_names, len(dataset))
        recorder.record("eval", iteration, mIoU=scores.miou, Acc=scores.accuracy, Kappa=scores.kappa, Dice=scores.mdice,
                        commonest_class_mIoU=scores.commonest_class_miou,
                        class_iou=[None if math.isnan(iou) else iou for iou in scores.iou.tolist()])
        score = {"iter": iteration, "miou": scores.miou, "accuracy": scores.accuracy}
        best = checkpoint.best_score(save_dir)
        if best is None or not best["miou"] >= scores.miou:  # NaN, where nothing was labelled, is no best
            checkpoint.save_best(save_dir, model, score)
            best = score
        checkpoint.mark_evaluated(checkpoint_dir, score)
        logger.info(f"[EVAL] The model with the best validation mIoU ({best['miou']:.4f}) was saved at iter "
                    f"{best['iter']}.")
    distributed.barrier()


def check_save_dir(save_dir: str, resume_model: Optional[str], overwrite: bool) -> None:
    """Refuse a directory that holds another run; nothing in it is lost or changed by a refusal.

    Raises:
        RunError: neither resuming that run nor overwriting it was asked for.
    """
    if os.path.exists(save_dir) and not os.path.isdir(save_dir):
        raise RunError(f"--save_dir {save_dir} is a file; name a directory")
    if not os.path.isdir(save_dir):
        return
    checkpoint.recover(save_dir)
    held = [name for name in sorted(os.listdir(save_dir)) if _WEIGHTS.fullmatch(name)]
    run = os.path.dirname(os.path.abspath(resume_model)) if resume_model else None
    goes_on = run is not None and os.path.realpath(run) == os.path.realpath(save_dir)
    if not held or goes_on or (overwrite and not resume_model):
        return
    last = [os.path.basename(path) for path in checkpoint.list_checkpoints(save_dir)][-1:]
    hint = f"--resume_model {os.path.join(save_dir, last[0])} goes on with it, " if last else ""
    raise RunError(f"{save_dir} holds another run ({', '.join(held[:4])}); {hint}another --save_dir keeps it, "
                   f"--overwrite without --resume_model deletes it")


def open_save_dir(save_dir: str, resume_model: Optional[str]) -> None:
    """Make the run's directory; a new run deletes an old one there, a resumed run brings its best model along."""
    os.makedirs(save_dir, exist_ok=True)
    if resume_model is None:
        for name in os.listdir(save_dir):
            path = os.path.join(save_dir, name)
            if _WEIGHTS.fullmatch(name):
                shutil.rmtree(path)
            elif _RECORDS.fullmatch(name):
                os.remove(path)
        return
    best = os.path.join(os.path.dirname(os.path.abspath(resume_model)), checkpoint.BEST)
    if os.path.isdir(best) and not os.path.exists(os.path.join(save_dir, checkpoint.BEST)):
        shutil.copytree(best, os.path.join(save_dir, checkpoint.BEST))
