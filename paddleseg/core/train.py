"""The training loop.

Lines in the log, checkpoints and evaluations wait for a GPU; of the rest only a step in fp16 does, and perhaps Paddle's
upload of a batch. So losses are looked at then, and before anything is saved.
"""

import math
import os
import random
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn as nn
from tqdm import tqdm

from paddleseg.core import checkpoint, effective_batch
from paddleseg.core.early_stop import EarlyStop
from paddleseg.core.ema import AveragedWeights
from paddleseg.core.infer import InferOptions
from paddleseg.core.losses import weighted_losses
from paddleseg.core.metrics import Scores
from paddleseg.core.precision import MixedPrecision, check_precision
from paddleseg.core.resume import Resumed, averaged_weights, records_to_keep, train_state
from paddleseg.core.val import evaluate, log_scores
from paddleseg.cvlibs.errors import ConfigError, RunError
from paddleseg.datasets.loader import train_batches
from paddleseg.report.pictures import evaluation_pictures
from paddleseg.utils import device, distributed, logger, signals
from paddleseg.utils.recorder import RunRecorder

_ASK_ITERS = 10  # within so many iterations several GPUs stop together


@dataclass
class TrainOptions:
    """The run itself; top-level keys of the YAML, and flags of the same names.

    Attributes:
        batch_size: images per process and step.
        iters: optimizer steps.
        accum_iters: batches whose gradients are averaged for one optimizer step.
        effective_batch: images per optimizer step that the schedule was made for; another number warns.
        seed: of the initial weights, the order and the augmentation of samples, and dropout.
        do_eval: evaluate on val_dataset whenever a checkpoint is saved, and keep the best model.
        early_stop_intervals: so many evaluations in a row without a better mIoU end the run; None never does.
        use_ema: average the weights over the iterations too, see core/ema.py; evaluate and save both.
        save_interval: iterations between checkpoints; the last iteration is saved too.
        log_iters: iterations between lines in the log.
        keep_checkpoint_max: older checkpoints are removed beyond this number.
        num_workers: processes that read data; None chooses by the cores, 0 reads in the main process.
        use_vdl: write VisualDL's files.
        repeats: times that each sample is seen in an epoch.
        device: auto, cpu or gpu.
        precision: fp32, fp16 or bf16; without a GPU it is fp32.
        amp_level: O1 or O2; what is kept in half precision, see core/precision.py.
        threads: CPU threads; None takes this process's share of the cores.
    """

    batch_size: int
    iters: int
    accum_iters: int = 1
    effective_batch: Optional[int] = None
    seed: int = 42
    do_eval: bool = False
    early_stop_intervals: Optional[int] = None
    use_ema: bool = False
    save_interval: int = 1000
    log_iters: int = 10
    keep_checkpoint_max: int = 5
    num_workers: Optional[int] = None
    use_vdl: bool = False
    repeats: int = 1
    device: str = "auto"
    precision: str = "fp32"
    amp_level: str = "O1"
    threads: Optional[int] = None

    def __post_init__(self):
        for name in ("batch_size", "iters", "accum_iters", "save_interval", "log_iters", "keep_checkpoint_max",
                     "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("seed", "num_workers"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 0")
        for name in ("effective_batch", "threads", "early_stop_intervals"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        check_precision(self.precision, self.amp_level)
        if self.num_workers is None:
            self.num_workers = device.default_workers()
        if self.threads is None:
            self.threads = device.default_threads()


class _Batch(NamedTuple):
    """A batch whose losses weren't looked at yet; they are on the device."""

    iteration: int
    lr: float
    paths: Sequence[str]
    losses: Dict[str, paddle.Tensor]


@dataclass
class _Meter:
    """Sums between two lines of the log."""

    unseen: List[_Batch] = field(default_factory=list)
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

    def look(self) -> None:
        """Wait for the device, and add up the losses since the last look.

        Raises:
            RunError: one isn't finite.
        """
        if not self.unseen:
            return
        every = [loss.astype("float64").reshape([1]) for batch in self.unseen for loss in batch.losses.values()]
        values = iter(paddle.concat(every).tolist())  # one transfer
        for batch in self.unseen:
            losses = dict(zip(batch.losses, values))
            stop_if_not_finite(losses, batch.iteration, batch.lr, batch.paths)
            for name, value in losses.items():
                self.losses[name] = self.losses.get(name, 0.0) + value
            self.batches += 1
        self.unseen.clear()

    def mean_losses(self) -> Dict[str, float]:
        return {name: value / self.batches for name, value in self.losses.items()}


def train(model: nn.Layer, criteria: Sequence[Tuple[nn.Layer, float]], optimizer, schedule, train_dataset,
          options: TrainOptions, save_dir: str, val_dataset=None, infer_options: Optional[InferOptions] = None,
          resumed: Optional[Resumed] = None, config: Optional[Dict] = None,
          stop: Optional[signals.StopSignals] = None) -> Optional[float]:
    """Train a model, save checkpoints, and keep the best one.

    Args:
        criteria: (loss, coefficient) along the model's outputs.
        schedule: iteration 0, 1, … -> learning rate.
        val_dataset: evaluated with `options.do_eval`.
        resumed: what `resume` returned, in a run that goes on.
        config: the resolved configuration, kept in the checkpoints.
        stop: where the signals to stop arrive; None for none.

    Returns: the best mIoU of the run, or None where nothing was evaluated.

    Raises:
        RunError: a loss or a weight is not finite, or a checkpoint can't be written.
        Interrupted: SIGTERM or Ctrl-C came, and the run is saved.
    """
    rank, start = distributed.rank(), resumed.iteration if resumed else 0
    evaluates, without_gain = _left_to_make_up(resumed, save_dir, options)
    recorder = RunRecorder(os.path.join(save_dir, "log.jsonl") if rank == 0 else None,
                           save_dir if options.use_vdl else None, records_to_keep(resumed, evaluates))
    averaged = averaged_weights(model, resumed) if options.use_ema else None  # before weights are cast
    early_stop = EarlyStop(options.early_stop_intervals, without_gain)
    precision = _prepare_precision(model, optimizer, options, resumed)
    with closing(recorder):
        keeper = _Keeper(model, optimizer, precision, options, len(train_dataset), save_dir, val_dataset, infer_options,
                         config, recorder, stop or signals.StopSignals(), criteria, averaged, early_stop)
        if evaluates:
            keeper.evaluate(start, resumed.directory)
        if start >= options.iters or early_stop.is_due:
            _say_nothing_to_do(resumed.directory, start, options, early_stop)
            return keeper.best_miou()
        _say_effective_batch(options, schedule)
        runner = paddle.DataParallel(model) if distributed.world_size() > 1 else model
        model.train()
        meter = _Meter()
        with _progress_bar(options.iters, start) as bar, closing(_batches(train_dataset, options, start)) as batches:
            for iteration in range(start + 1, options.iters + 1):
                lr = schedule(iteration - 1)
                optimizer.set_lr(lr)
                seed_iteration(options.seed, iteration, rank)
                for _ in range(options.accum_iters):
                    epoch, batch = meter.wait_for(batches)
                    losses = backward(runner, criteria, batch, precision, options.accum_iters)
                    meter.unseen.append(_Batch(iteration, lr, batch["path"], losses))
                if not precision.step(optimizer):
                    _say_skipped(meter, iteration, options, precision)
                if averaged is not None:
                    averaged.update(model, optimizer, iteration)
                bar.update()
                if iteration % options.log_iters == 0 or iteration == options.iters:
                    _log_progress(meter, iteration, epoch, lr, options, recorder)
                    meter = _Meter()
                meter.start += keeper.after(iteration, meter.look)
                if early_stop.is_due:
                    break
    return keeper.best_miou()


def _left_to_make_up(resumed: Optional[Resumed], save_dir: str, options: TrainOptions) -> Tuple[bool, int]:
    """Whether a resumed run begins with an evaluation, and how many before it found no better model.

    Rank 0 alone looks at files: others may see late what it has written, and would wait for it elsewhere.
    """
    found = np.zeros(2, np.int64)
    if resumed is not None and distributed.rank() == 0:
        evaluates = resumed.awaits_evaluation(save_dir, options)
        found[:] = evaluates, resumed.without_gain(evaluates)
    evaluates, without_gain = distributed.sum_over_ranks(found).tolist()
    return bool(evaluates), without_gain


def _prepare_precision(model: nn.Layer, optimizer, options: TrainOptions, resumed: Optional[Resumed]) -> MixedPrecision:
    precision = MixedPrecision(options.precision, options.amp_level, paddle.get_device())
    if resumed:
        precision.restore(resumed.loss_scaling)
    precision.prepare(model, optimizer)
    return precision


@dataclass
class _Keeper:
    """Saves checkpoints, evaluates them and keeps the best model, when they are due and when the run must stop."""

    model: nn.Layer
    optimizer: paddle.optimizer.Optimizer
    precision: MixedPrecision
    options: TrainOptions
    samples: int
    save_dir: str
    val_dataset: object
    infer_options: Optional[InferOptions]
    config: Optional[Dict]
    recorder: RunRecorder
    stop: signals.StopSignals
    criteria: Sequence[Tuple[nn.Layer, float]] = ()
    averaged: Optional[AveragedWeights] = None
    early_stop: EarlyStop = field(default_factory=EarlyStop)

    def after(self, iteration: int, look: Callable[[], None]) -> float:
        """What is due after an iteration; returns the seconds that it took.

        Args:
            look: checks the losses up to here.

        Raises:
            Interrupted: a signal came, to this process or another one; the iteration is saved.
        """
        due = iteration % self.options.save_interval == 0 or iteration == self.options.iters
        stopping = self.is_told_to_stop(iteration, due)
        if not due and not stopping:
            return 0.0
        look()
        start = time.perf_counter()
        directory = self.save(iteration, due)
        if stopping:
            self.stop.requested = self.stop.requested or "a signal to another process"
            raise self.stop.interrupted(f"iteration {iteration} of {self.options.iters} is saved in {directory}")
        self.evaluate(iteration, directory)
        return time.perf_counter() - start

    def is_told_to_stop(self, iteration: int, due: bool) -> bool:
        """Whether a signal came, to this process or another one; every process gets the same answer.

        GPUs would have to finish all that they were given before they answered, so they aren't asked each time.
        """
        is_free = distributed.world_size() == 1 or not paddle.get_device().startswith("gpu")
        if not is_free and not due and iteration % min(self.options.log_iters, _ASK_ITERS):
            return False
        return distributed.any_rank(self.stop.requested is not None)

    def save(self, iteration: int, due: bool) -> str:
        """Rank 0 writes the checkpoint and prunes old ones; returns its directory."""
        if distributed.rank() == 0:
            stop_if_spoilt(self.model, iteration)
            state = train_state(iteration, due, self.options, self.samples, self.save_dir, self.config)
            state.update(loss_scaling=self.precision.state(), without_gain=self.early_stop.without_gain)
            checkpoint.save_checkpoint(self.save_dir, iteration, self.model, self.optimizer, state, self.averaged)
            checkpoint.prune_checkpoints(self.save_dir, self.options.keep_checkpoint_max, iteration)
            logger.info(f"saved {self.save_dir}/iter_{iteration}")
        distributed.barrier()
        return os.path.join(self.save_dir, f"iter_{iteration}")

    def evaluate(self, iteration: int, directory: str) -> None:
        """Score a checkpoint with `do_eval`, and keep its weights if they are the best so far."""
        if not self.options.do_eval:
            return
        infer_options, workers = self.infer_options or InferOptions(), self.options.num_workers
        averaged_scores = None
        with self.precision.evaluation(), self.stop.at_once(
                f"{directory} is saved, its evaluation will be made up for"):
            scores = evaluate(self.model, self.val_dataset, infer_options, workers, criteria=self.criteria)
            if self.averaged is not None:
                with self.averaged.in_place_of(self.model):
                    averaged_scores = evaluate(self.model, self.val_dataset, infer_options, workers)
            if self.options.use_vdl and distributed.rank() == 0:
                self.recorder.show_pictures(iteration, evaluation_pictures(self.model, self.val_dataset, infer_options))
        better = False
        if distributed.rank() == 0:
            self.log_evaluation(iteration, scores, averaged_scores)
            better = self.keep_best(iteration, scores, averaged_scores)
        distributed.barrier()
        self.early_stop.see(distributed.any_rank(better))
        if distributed.rank() == 0:
            best = checkpoint.best_score(self.save_dir)
            if os.path.dirname(os.path.realpath(directory)) == os.path.realpath(self.save_dir):  # not another run's
                checkpoint.mark_evaluated(directory, {**_score(iteration, scores),
                                                      "without_gain": self.early_stop.without_gain})
            if self.early_stop.is_due:
                shown = f"{best['miou']:.4f}, of iter {best['iter']}" if best else "none"
                logger.info(f"Early stopping at iter {iteration}: {self.early_stop.without_gain} evaluations in a row "
                            f"without a better mIoU. The best is {shown}.")

    def log_evaluation(self, iteration: int, scores: Scores, averaged_scores: Optional[Scores]) -> None:
        """Lines for people, and a record."""
        log_scores(scores, self.val_dataset.class_names, len(self.val_dataset))
        logger.info("[EVAL] " + (", ".join(f"{name}: {value:.4f}" for name, value in scores.losses.items()) or
                                 "no validation loss, as no pass is of the image's own size"))
        averages = {}
        if averaged_scores is not None:
            averages = {"Ema_mIoU": averaged_scores.miou, "Ema_Acc": averaged_scores.accuracy}
            logger.info(f"[EVAL] averaged weights: mIoU: {averaged_scores.miou:.4f} Acc: "
                        f"{averaged_scores.accuracy:.4f}")
        self.recorder.record(
            "eval", iteration, mIoU=scores.miou, Acc=scores.accuracy, Kappa=scores.kappa, Dice=scores.mdice,
            commonest_class_mIoU=scores.commonest_class_miou, **scores.losses, **averages,
            class_iou=[None if math.isnan(iou) else iou for iou in scores.iou.tolist()])

    def keep_best(self, iteration: int, scores: Scores, averaged_scores: Optional[Scores]) -> bool:
        """Save the model's weights, and the averages, where each has its best mIoU; whether one of them has."""
        if math.isnan(scores.miou):
            logger.warning("[EVAL] no pixel is labelled, so there is no score and no best model")
            return False
        better = False
        for what, found, averaged in ("model", scores, None), ("EMA model", averaged_scores, self.averaged):
            if found is None:
                continue
            best = checkpoint.best_score(self.save_dir)
            best = best and best.get("ema") if averaged else best
            # A best of this iteration or a later one is of an attempt that was cut off.
            if best is None or best["miou"] < found.miou or best["iter"] >= iteration:
                better, best = True, _score(iteration, found)
                checkpoint.save_best(self.save_dir, self.model, self.optimizer, best, averaged)
            logger.info(f"[EVAL] The {what} with the best validation mIoU ({best['miou']:.4f}) was saved at iter "
                        f"{best['iter']}.")
        return better

    def best_miou(self) -> Optional[float]:
        return (checkpoint.best_score(self.save_dir) or {}).get("miou")


def _score(iteration: int, scores: Scores) -> Dict:
    return {"iter": iteration, "miou": scores.miou, "accuracy": scores.accuracy}


def _progress_bar(iters: int, start: int) -> tqdm:
    """On standard error of rank 0, where that is a terminal."""
    return tqdm(total=iters, initial=start, desc="training", unit="iter", file=sys.stderr,
                disable=None if distributed.rank() == 0 else True)


def backward(model, criteria, batch: Dict, precision: MixedPrecision, accum_iters: int = 1) -> Dict[str, paddle.Tensor]:
    """Forward, weighted losses, backward; returns each loss and their weighted sum, still on the device."""
    with precision.autocast():
        outputs = model(batch["img"])
    losses = weighted_losses(model, criteria, outputs, batch["label"])
    precision.backward(losses["loss"] / accum_iters if accum_iters > 1 else losses["loss"])
    return {name: loss.detach() for name, loss in losses.items()}


def seed_iteration(seed: int, iteration: int, rank: int) -> None:
    """Seed every generator that a model or a loss may draw from, so that no random state must be saved.

    Each iteration and process has a seed of its own.
    """
    own = iteration_seed(seed, iteration, rank)
    paddle.seed(own)
    np.random.seed(own)
    random.seed(own)


def iteration_seed(seed: int, iteration: int, rank: int) -> int:
    return (seed * 1_000_003 + iteration * 1009 + rank) % (2 ** 31)


def stop_if_not_finite(losses: Dict[str, float], iteration: int, lr: float, paths: Sequence[str]) -> None:
    """Raises RunError with all there is to know about a loss that is NaN or infinite."""
    if all(math.isfinite(value) for value in losses.values()):
        return
    values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    raise RunError(f"iteration {iteration}: the loss is not finite ({values}; lr {lr:g}; images {', '.join(paths)}); "
                   f"check these files with tools/check_data.py, or lower the learning rate")


def stop_if_spoilt(model: nn.Layer, iteration: int) -> None:
    """Raises RunError if a weight or a running statistic is NaN or infinite; a loss tells an iteration too late."""
    values = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    finite = paddle.stack([paddle.isfinite(value).all() for value in values.values()]).tolist()
    spoilt = [name for name, is_finite in zip(values, finite) if not is_finite]
    if spoilt:
        raise RunError(f"iteration {iteration}: {len(spoilt)} of {len(values)} parameters are not finite, such as "
                       f"{spoilt[0]}, and are not saved; lower the learning rate, and go on with --resume auto")


def _say_nothing_to_do(directory: str, start: int, options: TrainOptions, early_stop: EarlyStop) -> None:
    if start >= options.iters:
        logger.info(f"nothing to do: {directory} has {start} of {options.iters} iterations; --iters trains longer")
    else:
        logger.info(f"nothing to do: {early_stop.without_gain} evaluations in a row up to {directory} found no better "
                    f"mIoU; a higher --early_stop_intervals trains longer")


def _say_skipped(meter: _Meter, iteration: int, options: TrainOptions, precision: MixedPrecision) -> None:
    meter.look()
    logger.info(f"[TRAIN] iter: {iteration}/{options.iters}, step skipped: gradients overflow fp16; loss scale: "
                f"{precision.loss_scale:g}")


def _say_effective_batch(options: TrainOptions, schedule) -> None:
    line, advice = effective_batch.describe(distributed.world_size(), options.batch_size, options.accum_iters,
                                            options.effective_batch, options.iters, schedule.learning_rate)
    logger.info(line)
    if advice:
        logger.warning(advice)


def _batches(dataset, options: TrainOptions, start: int):
    return train_batches(dataset, options.batch_size, options.seed, start_iter=start * options.accum_iters,
                         num_batches=(options.iters - start) * options.accum_iters,
                         num_workers=options.num_workers, rank=distributed.rank(), world=distributed.world_size(),
                         repeats=options.repeats)


def _log_progress(meter: _Meter, iteration: int, epoch: int, lr: float, options: TrainOptions, recorder) -> None:
    """PaddleSeg's [TRAIN] line with each loss behind it, and the same as a record."""
    meter.look()
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
