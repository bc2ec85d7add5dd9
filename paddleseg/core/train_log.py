"""Lines of a training's log: PaddleSeg's [TRAIN] and [EVAL], and what a user should know of a run."""

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle

from paddleseg.core.metrics import Scores
from paddleseg.core.options import TrainOptions
from paddleseg.core.val import log_scores
from paddleseg.cvlibs.errors import RunError
from paddleseg.utils import distributed, logger
from paddleseg.utils.recorder import RunRecorder


class _Batch(NamedTuple):
    """Losses of a batch that are still on the device."""

    iteration: int
    lr: float
    paths: Sequence[str]
    losses: Dict[str, paddle.Tensor]


class Meter:
    """Mean losses and times between two lines of the log.

    The host waits for the device only in `flush`, which is for logging, checkpoints and skipped steps.
    """

    def __init__(self, options: TrainOptions, recorder: RunRecorder):
        self._options, self._recorder, self._pending = options, recorder, []
        self._reset()

    def _reset(self) -> None:
        self._losses: Dict[str, float] = {}
        self._batches, self._reader_sec, self._start = 0, 0.0, time.perf_counter()

    def next_batch(self, batches: Iterator) -> Tuple[int, Dict]:
        """Fetch the next epoch (they count from 1 in a log) and batch; the time spent is added to reader_cost."""
        before = time.perf_counter()
        epoch, batch = next(batches)
        self._reader_sec += time.perf_counter() - before
        return epoch + 1, batch

    def add(self, iteration: int, lr: float, paths: Sequence[str], losses: Dict[str, paddle.Tensor]) -> None:
        self._pending.append(_Batch(iteration, lr, paths, losses))

    def flush(self) -> None:
        """Read the pending losses from the device.

        Raises:
            RunError: one isn't finite.
        """
        if not self._pending:
            return
        every = [loss.astype("float64").reshape([1]) for batch in self._pending for loss in batch.losses.values()]
        values = iter(paddle.concat(every).tolist())  # one transfer
        for batch in self._pending:
            losses = dict(zip(batch.losses, values))
            check_finite_losses(losses, batch.iteration, batch.lr, batch.paths)
            for name, value in losses.items():
                self._losses[name] = self._losses.get(name, 0.0) + value
            self._batches += 1
        self._pending.clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, time counts for no batch."""
        before = time.perf_counter()
        yield
        self._start += time.perf_counter() - before

    def log(self, iteration: int, epoch: int, lr: float) -> None:
        """Write PaddleSeg's [TRAIN] line with each loss behind it, and the same as a record; then begin anew."""
        self.flush()
        losses = {name: value / self._batches for name, value in self._losses.items()}
        batch_cost = (time.perf_counter() - self._start) / self._batches
        reader_cost, ips = self._reader_sec / self._batches, self._options.batch_size / batch_cost
        iters = self._options.iters
        eta_sec = int((iters - iteration) * self._options.accum_iters * batch_cost)
        eta = f"{eta_sec // 3600:02d}:{eta_sec // 60 % 60:02d}:{eta_sec % 60:02d}"
        terms = ", ".join(f"{name}: {value:.4f}" for name, value in losses.items() if name != "loss")
        logger.info(f"[TRAIN] epoch: {epoch}, iter: {iteration}/{iters}, loss: {losses['loss']:.4f}, lr: {lr:.6f}, "
                    f"batch_cost: {batch_cost:.4f}, reader_cost: {reader_cost:.5f}, ips: {ips:.4f} samples/sec | "
                    f"ETA {eta} | {terms}")
        self._recorder.record("train", iteration, epoch=epoch, **losses, lr=lr, batch_cost=batch_cost,
                              reader_cost=reader_cost, ips=ips, eta_sec=eta_sec)
        self._reset()


def check_finite_losses(losses: Dict[str, float], iteration: int, lr: float, paths: Sequence[str]) -> None:
    """Raise RunError with all there is to know about a loss that is NaN or infinite."""
    if all(math.isfinite(value) for value in losses.values()):
        return
    values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    raise RunError(f"iteration {iteration}: the loss is not finite ({values}; lr {lr:g}; images {', '.join(paths)}); "
                   f"check these files with tools/check_data.py, or lower the learning rate")


@dataclass
class Evaluation:
    """Result of an evaluation amid training.

    Attributes:
        ema_scores: of the averaged weights.
        pictures: (H, W, 3) uint8 RGB by name, for VisualDL.
    """

    scores: Scores
    class_names: Sequence[str] = ()
    num_images: int = 0
    ema_scores: Optional[Scores] = None
    pictures: Dict[str, np.ndarray] = field(default_factory=dict)

    def log(self, iteration: int, recorder: RunRecorder) -> None:
        """Write PaddleSeg's [EVAL] lines, and a record."""
        scores, averages = self.scores, {}
        log_scores(scores, self.class_names, self.num_images)
        logger.info("[EVAL] " + (", ".join(f"{name}: {value:.4f}" for name, value in scores.losses.items()) or
                                 "no validation loss, as no pass is of the image's own size"))
        if self.ema_scores is not None:
            averages = {"Ema_mIoU": self.ema_scores.miou, "Ema_Acc": self.ema_scores.accuracy}
            logger.info(f"[EVAL] averaged weights: mIoU: {averages['Ema_mIoU']:.4f} Acc: {averages['Ema_Acc']:.4f}")
        recorder.record(
            "eval", iteration, mIoU=scores.miou, Acc=scores.accuracy, Kappa=scores.kappa, Dice=scores.mdice,
            commonest_class_mIoU=scores.commonest_class_miou, **scores.losses, **averages,
            class_iou=[None if math.isnan(iou) else iou for iou in scores.iou.tolist()])
        recorder.show_pictures(iteration, self.pictures)


def log_early_stop(iteration: int, num_bad_evals: int, best: Dict) -> None:
    shown = f"{best['miou']:.4f}, of iter {best['iter']}" if best else "none"
    logger.info(f"Early stopping at iter {iteration}: {num_bad_evals} evaluations in a row without a better mIoU. "
                f"The best is {shown}.")


def log_already_finished(path: str, iteration: int, iters: int, num_bad_evals: int) -> None:
    if iteration >= iters:
        logger.info(f"nothing to do: {path} has {iteration} of {iters} iterations; --iters trains longer")
    else:
        logger.info(f"nothing to do: {num_bad_evals} evaluations in a row up to {path} found no better mIoU; a higher "
                    f"--early_stop_intervals trains longer")


def log_skipped_step(iteration: int, iters: int, loss_scale: float) -> None:
    logger.info(f"[TRAIN] iter: {iteration}/{iters}, step skipped: gradients overflow fp16; loss scale: "
                f"{loss_scale:g}")


def log_effective_batch(options: TrainOptions, learning_rate: Optional[float]) -> None:
    """Log the images per step, and a warning with the exact overrides where the config's number is missed.

    Args:
        learning_rate: the config's; None where its schedule has no such argument.
    """
    world, batch_size, accum_iters = distributed.world_size(), options.batch_size, options.accum_iters
    expected, here = options.effective_batch, world * batch_size * accum_iters
    logger.info(f"effective batch = {world} processes x {batch_size} x {accum_iters} accumulated = {here}"
                + ("" if expected is None else f" (config: {expected})"))
    if expected in (None, here):
        return
    ways: List[str] = []
    if expected % (world * accum_iters) == 0:
        ways.append(f"--batch_size {expected // (world * accum_iters)}")
    if expected % (world * batch_size) == 0:
        ways.append(f"--accum_iters {expected // (world * batch_size)} (the statistics of batch norms stay those of "
                    f"{world * batch_size} images)")
    if expected % (batch_size * accum_iters) == 0:
        ways.append(f"{expected // (batch_size * accum_iters)} processes")
    rate = (f"a learning rate {here / expected:g} times as high" if learning_rate is None
            else f"--learning_rate {learning_rate * here / expected:g}")
    ways.append(f"keep it and scale the schedule: {rate} --iters {round(options.iters * expected / here)} --opts "
                f"effective_batch={here}")
    logger.warning(f"the effective batch is {here}, the config's schedule is made for {expected}: expect another "
                   f"result. Nothing is scaled by itself; choose {', or '.join(ways)}")
