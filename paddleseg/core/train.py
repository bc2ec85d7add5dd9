"""The training loop.

The host synchronizes with the GPU only for logging, checkpoints, evaluation and fp16 steps; losses are read at those
points, and so before anything is saved.
"""

import math
import random
import sys
from contextlib import closing
from typing import Callable, Dict, Iterator, Optional

import numpy as np
import paddle
import paddle.nn as nn
from tqdm import tqdm

from paddleseg.core.infer import InferOptions
from paddleseg.core.losses import weighted_losses
from paddleseg.core.options import TrainOptions
from paddleseg.core.precision import MixedPrecision
from paddleseg.core.run_dir import Checkpoint, RunDir
from paddleseg.core.state import TrainState
from paddleseg.core.train_log import (
    Evaluation,
    Meter,
    log_already_finished,
    log_early_stop,
    log_skipped_step,
)
from paddleseg.core.val import evaluate as evaluate_model
from paddleseg.cvlibs.errors import RunError
from paddleseg.datasets.loader import train_batches
from paddleseg.utils import distributed, logger, signals
from paddleseg.utils.recorder import RunRecorder

_STOP_SYNC_INTERVAL = 10  # within so many iterations several GPUs stop together


def train(state: TrainState, batches: Iterator, evaluate: Optional[Callable[[TrainState], Evaluation]],
          run_dir: RunDir, options: TrainOptions) -> Optional[float]:
    """Train from `state.iteration` on, save checkpoints, and keep the best one.

    Args:
        batches: (epoch, batch) from there on, `options.accum_iters` an iteration; see `training_batches`.
        evaluate: called at each checkpoint, see `Evaluator`; None without `options.do_eval`.
        run_dir: opened by rank 0.

    Returns: the best mIoU of the run, or None where nothing was evaluated.

    Raises:
        RunError: a loss or a weight is not finite, or a checkpoint can't be written.
        Interrupted: SIGTERM or Ctrl-C came, and the run is saved.
    """
    pending_evaluation = state.begin(run_dir, options)
    with closing(open_recorder(run_dir, options, state, pending_evaluation)) as recorder, closing(batches):
        if pending_evaluation:
            evaluate_checkpoint(state, evaluate, state.resumed, run_dir, recorder)
        if state.iteration >= options.iters or state.is_out_of_patience:
            log_already_finished(state.resumed.path, state.iteration, options.iters, state.num_bad_evals)
            return state.best.get("miou")
        runner = paddle.DataParallel(state.model) if distributed.world_size() > 1 else state.model
        state.model.train()
        meter = Meter(options, recorder)
        with progress_bar(state.iteration, options.iters) as bar:
            for iteration in range(state.iteration + 1, options.iters + 1):
                lr = state.schedule(iteration - 1)
                state.optimizer.set_lr(lr)
                seed_iteration(options.seed, iteration, distributed.rank())
                for _ in range(options.accum_iters):
                    epoch, batch = meter.next_batch(batches)
                    losses = backward(runner, state.criteria, batch, state.precision, options.accum_iters)
                    meter.add(iteration, lr, batch["path"], losses)
                if not state.precision.step(state.optimizer):
                    meter.flush()
                    log_skipped_step(iteration, options.iters, state.precision.loss_scale)
                state.end_iteration(iteration)
                bar.update()
                if iteration % options.log_iters == 0 or iteration == options.iters:
                    meter.log(iteration, epoch, lr)
                due = iteration % options.save_interval == 0 or iteration == options.iters
                if should_stop(iteration, due, options.log_iters):
                    meter.flush()
                    save_checkpoint(state, run_dir, options, evaluation_due=due)
                    raise signals.active.interrupted(f"iteration {iteration} of {options.iters} is saved in "
                                                     f"{run_dir.checkpoint_path(iteration)}")
                if due:
                    meter.flush()
                    with meter.paused():
                        checkpoint = save_checkpoint(state, run_dir, options, evaluation_due=True)
                        if evaluate is not None:
                            evaluate_checkpoint(state, evaluate, checkpoint, run_dir, recorder)
                if state.is_out_of_patience:
                    break
    return state.best.get("miou")


def training_batches(dataset, options: TrainOptions, start: int = 0) -> Iterator:
    """Return the (epoch, batch) of this process that come after iteration `start`."""
    return train_batches(dataset, options.batch_size, options.seed, start_iter=start * options.accum_iters,
                         num_batches=(options.iters - start) * options.accum_iters,
                         num_workers=options.num_workers, rank=distributed.rank(), world=distributed.world_size(),
                         repeats=options.repeats)


def open_recorder(run_dir: RunDir, options: TrainOptions, state: TrainState, pending_evaluation: bool) -> RunRecorder:
    """Open the record on rank 0; of an interrupted run, what is about to be done again is dropped."""
    if distributed.rank() > 0:
        return RunRecorder(None)
    start = state.iteration
    return run_dir.recorder(options.use_vdl, None if state.resumed is None else lambda record: (
        record.get("iter", 0) < start
        or (record.get("iter") == start and not (record.get("mode") == "eval" and pending_evaluation))))


def progress_bar(start: int, iters: int) -> tqdm:
    """Make a bar on standard error of rank 0, where that is a terminal."""
    return tqdm(total=iters, initial=start, desc="training", unit="iter", file=sys.stderr,
                disable=None if distributed.rank() == 0 else True)


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


def backward(model, criteria, batch: Dict, precision: MixedPrecision, accum_iters: int = 1) -> Dict[str, paddle.Tensor]:
    """Forward, weighted losses, backward; returns each loss and their weighted sum, still on the device."""
    with precision.autocast():
        outputs = model(batch["img"])
    losses = weighted_losses(model, criteria, outputs, batch["label"])
    precision.backward(losses["loss"] / accum_iters if accum_iters > 1 else losses["loss"])
    return {name: loss.detach() for name, loss in losses.items()}


def should_stop(iteration: int, due: bool, log_iters: int) -> bool:
    """Return whether a signal came, to this process or another one; every process gets the same answer.

    GPUs would have to finish all that they were given before they answered, so they aren't asked each time.
    """
    requested = signals.active.requested is not None
    is_free = distributed.world_size() == 1 or not paddle.get_device().startswith("gpu")
    if not is_free and not due and iteration % min(log_iters, _STOP_SYNC_INTERVAL):
        return False
    return distributed.any_rank(requested)


def save_checkpoint(state: TrainState, run_dir: RunDir, options: TrainOptions, evaluation_due: bool
                    ) -> Optional[Checkpoint]:
    """Write a checkpoint on rank 0, which alone gets it; the others wait."""
    checkpoint = None
    if distributed.rank() == 0:
        check_finite_weights(state.model, state.iteration)
        checkpoint = state.save(run_dir, options, evaluation_due)
        logger.info(f"saved {checkpoint.path}")
    distributed.barrier()
    return checkpoint


def check_finite_weights(model: nn.Layer, iteration: int) -> None:
    """Raise RunError if a weight or a running statistic is NaN or infinite; a loss tells an iteration too late."""
    values = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    finite = paddle.stack([paddle.isfinite(value).all() for value in values.values()]).tolist()
    bad = [name for name, is_finite in zip(values, finite) if not is_finite]
    if bad:
        raise RunError(f"iteration {iteration}: {len(bad)} of {len(values)} parameters are not finite, such as "
                       f"{bad[0]}, and are not saved; lower the learning rate, and go on with --resume auto")


class Evaluator:
    """Evaluate a training's model, and its averaged weights, on a validation set.

    Args:
        draw: makes pictures of a model's predictions; None for none.
    """

    def __init__(self, dataset, options: Optional[InferOptions] = None, num_workers: int = 0,
                 draw: Optional[Callable[[nn.Layer], Dict[str, np.ndarray]]] = None):
        self._dataset, self._options, self._num_workers = dataset, options or InferOptions(), num_workers
        self._draw = draw

    def __call__(self, state: TrainState) -> Evaluation:
        arguments, ema_scores = (self._dataset, self._options, self._num_workers), None
        with state.precision.evaluation():
            scores = evaluate_model(state.model, *arguments, criteria=state.criteria)
            if state.ema is not None:
                with state.ema.apply_to(state.model):
                    ema_scores = evaluate_model(state.model, *arguments)
            pictures = self._draw(state.model) if self._draw and distributed.rank() == 0 else {}
        return Evaluation(scores, self._dataset.class_names, len(self._dataset), ema_scores, pictures)


def evaluate_checkpoint(state: TrainState, evaluate: Callable[[TrainState], Evaluation],
                        checkpoint: Optional[Checkpoint], run_dir: RunDir, recorder: RunRecorder) -> None:
    """Evaluate what was just saved or resumed, keep its weights if they are the best, and count it if they aren't.

    Args:
        checkpoint: on rank 0.
    """
    with signals.active.interruptible(f"iteration {state.iteration} is saved, its evaluation will be made up for"):
        evaluation = evaluate(state)
    if distributed.rank() == 0:
        evaluation.log(state.iteration, recorder)
    better = keep_best(state, evaluation, checkpoint, run_dir)
    state.num_bad_evals = 0 if better else state.num_bad_evals + 1
    if distributed.rank() == 0:
        run_dir.write_score(checkpoint, {**score_of(state.iteration, evaluation.scores),
                                         "without_gain": state.num_bad_evals})
        if state.is_out_of_patience:
            log_early_stop(state.iteration, state.num_bad_evals, state.best)
    distributed.barrier()


def keep_best(state: TrainState, evaluation: Evaluation, checkpoint: Optional[Checkpoint], run_dir: RunDir) -> bool:
    """Keep the checkpoint's weights, and its averaged ones, where they have the best mIoU; returns whether any has."""
    if math.isnan(evaluation.scores.miou):
        logger.warning("[EVAL] no pixel is labelled, so there is no score and no best model")
        return False
    better = False
    for name, scores in (("model", evaluation.scores), ("EMA model", evaluation.ema_scores)):
        if scores is None:
            continue
        is_ema = name == "EMA model"
        best = state.best.get("ema") if is_ema else state.best
        # A best of this iteration or a later one is of an attempt that was cut off.
        if not best or best["miou"] < scores.miou or best["iter"] >= state.iteration:
            better, best = True, score_of(state.iteration, scores)
            averages = {key: value for key, value in state.best.items() if key == "ema"}
            state.best = {**state.best, "ema": best} if is_ema else {**best, **averages}
            if distributed.rank() == 0:
                run_dir.save_best(checkpoint, state.best, is_ema)
        logger.info(f"[EVAL] The {name} with the best validation mIoU ({best['miou']:.4f}) was saved at iter "
                    f"{best['iter']}.")
    return better


def score_of(iteration: int, scores) -> Dict:
    return {"iter": iteration, "miou": scores.miou, "accuracy": scores.accuracy}
