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

_OF_A_RUN = re.compile(r"(iter_\d+|best_model)(\.tmp|\.old)?|config\.yml|train\.log|log\.jsonl|vdlrecords.*")


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
          resume_model: Optional[str] = None) -> Optional[float]:
    """Train a model, save checkpoints, and keep the best one.

    Args:
        criteria: (loss, coefficient) along the model's outputs.
        schedule: iteration 0, 1, … -> learning rate.
        val_dataset: evaluated with `options.do_eval`.
        resume_model: a checkpoint directory to go on from.

    Returns: the best mIoU of the run, or None where nothing was evaluated.

    Raises:
        RunError: a loss is not finite, or the checkpoint can't be resumed.
    """
    rank = distributed.rank()
    start = resume(resume_model, model, optimizer, options) if resume_model else 0
    if start >= options.iters:
        logger.info(f"nothing to do: {resume_model} has {start} of {options.iters} iterations; --iters trains longer")
        return (checkpoint.best_score(save_dir) or {}).get("miou")
    runner = paddle.DataParallel(model) if distributed.world_size() > 1 else model
    recorder = logger.RunRecorder(save_dir if rank == 0 else None, options.use_vdl)
    evaluation = (val_dataset, infer_options, options.num_workers) if options.do_eval else None
    if evaluation and resume_model and not checkpoint.was_evaluated(resume_model):
        _evaluate_and_keep_best(model, start, resume_model, save_dir, evaluation, recorder)

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
            saved = _save(model, optimizer, iteration, epoch, options, save_dir)
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

    Says so where the data order can't be the one of the interrupted run.
    """
    state = checkpoint.load_checkpoint(directory, model, optimizer)
    now = _stream_state(options)
    for key, value in now.items():
        if state.get(key, value) != value:
            logger.warning(f"{directory} was trained with {key} {state[key]}, now {value}: the samples that follow "
                           f"differ from those of an uninterrupted run")
    logger.info(f"resumed {directory} at iteration {state['iter']}")
    return state["iter"]


def _stream_state(options: TrainOptions) -> Dict:
    """What the stream of samples depends on."""
    return {"seed": options.seed, "batch_size": options.batch_size, "accum_iters": options.accum_iters,
            "repeats": options.repeats, "world_size": distributed.world_size()}


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


def _save(model, optimizer, iteration: int, epoch: int, options: TrainOptions, save_dir: str) -> str:
    """Rank 0 writes the checkpoint and prunes old ones; returns its directory."""
    path = os.path.join(save_dir, f"iter_{iteration}")
    if distributed.rank() == 0:
        checkpoint.save_checkpoint(save_dir, iteration, model, optimizer, {"epoch": epoch, **_stream_state(options)})
        checkpoint.prune_checkpoints(save_dir, options.keep_checkpoint_max)
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
        if best is None or scores.miou > best["miou"]:
            checkpoint.save_best(save_dir, model, score)
            best = score
        checkpoint.mark_evaluated(checkpoint_dir, score)
        logger.info(f"[EVAL] The model with the best validation mIoU ({best['miou']:.4f}) was saved at iter "
                    f"{best['iter']}.")
    distributed.barrier()


def prepare_save_dir(save_dir: str, resume_model: Optional[str], overwrite: bool) -> None:
    """Make the run's directory.

    Raises:
        RunError: it holds another run, and neither resuming nor overwriting was asked for.
    """
    if os.path.exists(save_dir) and not os.path.isdir(save_dir):
        raise RunError(f"--save_dir {save_dir} is a file; name a directory")
    os.makedirs(save_dir, exist_ok=True)
    held = [name for name in sorted(os.listdir(save_dir)) if _OF_A_RUN.fullmatch(name)]
    if held and overwrite and not resume_model:
        for name in held:
            path = os.path.join(save_dir, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    elif held and not resume_model:
        last = [name for name in held if name.startswith("iter_")][-1:]
        hint = f"--resume_model {os.path.join(save_dir, last[0])} goes on with it, " if last else ""
        raise RunError(f"{save_dir} holds another run ({', '.join(held[:4])}…); {hint}another --save_dir keeps it, "
                       f"--overwrite deletes it")
