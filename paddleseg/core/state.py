"""State of a training: everything that an iteration changes and a checkpoint holds."""

import platform
from typing import Dict, Mapping, Optional, Sequence

import numpy as np
import paddle
import paddle.nn as nn

from paddleseg.core.ema import ModelEma
from paddleseg.core.losses import Criteria
from paddleseg.core.options import MUTABLE_KEYS, TrainOptions
from paddleseg.core.precision import MixedPrecision, float32_weights
from paddleseg.core.run_dir import Checkpoint, RunDir
from paddleseg.cvlibs.errors import WeightsError
from paddleseg.utils import distributed, logger
from paddleseg.weights.load import load_into

_EVALUATION_KEYS = ("val_dataset", "test_config")  # the scores depend on them, the weights don't


class TrainState:
    """Model, optimizer, schedule, precision, averaged weights, iteration, best scores, patience.

        state = TrainState(model, criteria, optimizer, schedule, options, run_fingerprint(options, samples, config))
        state.resume(checkpoint)  # in a run that goes on
        train(state, batches, evaluate, run_dir, options)

    Args:
        criteria: (loss, coefficient) along the model's outputs.
        schedule: iteration 0, 1, … -> learning rate; nothing else is asked of it.
        fingerprint: see `run_fingerprint`.

    Attributes:
        iteration: how many are done.
        resumed: the checkpoint that the run goes on from; None in a new one.
        best: the scores of the best model, see `RunDir.best_score`.
        num_bad_evals: evaluations in a row that found no better model; training ends at `patience`, if that is set.
    """

    def __init__(self, model: nn.Layer, criteria: Criteria, optimizer, schedule, options: TrainOptions,
                 fingerprint: Dict):
        self.model, self.criteria, self.optimizer, self.schedule = model, criteria, optimizer, schedule
        self.precision = MixedPrecision(options.precision, options.amp_level, paddle.get_device())
        self.ema = ModelEma(model) if options.use_ema else None
        self.iteration, self.resumed, self._fingerprint = 0, None, fingerprint
        self.best: Dict = {}
        self.num_bad_evals, self.patience = 0, options.early_stop_intervals

    @property
    def is_out_of_patience(self) -> bool:
        return self.patience is not None and self.num_bad_evals >= self.patience

    def resume(self, checkpoint: Checkpoint, options: TrainOptions) -> None:
        """Go on from a checkpoint; warn where the run that follows can't be the one that was interrupted.

        Raises:
            WeightsError: it doesn't fit the model.
        """
        load_into(self.model, checkpoint.weights(), checkpoint.path)
        restore_optimizer(self.model, self.optimizer, checkpoint.optimizer(), checkpoint.path,
                          checkpoint.facts.get("without_slots", ()))
        if self.ema is not None:
            averages, self.ema = checkpoint.ema_weights(), ModelEma(self.model)
            if averages is None:
                logger.warning(f"{checkpoint.path} has no averaged weights; they begin with the weights that it has")
            else:
                self.ema.restore(averages, checkpoint.path)
        self.precision.restore(checkpoint.facts.get("loss_scaling", {}))
        self.iteration, self.resumed = checkpoint.iteration, checkpoint
        self.num_bad_evals = checkpoint.facts.get("without_gain", 0)
        mutable = ("test_dataset", *MUTABLE_KEYS, *(() if options.do_eval else _EVALUATION_KEYS))
        before, now = _flat_fingerprint(checkpoint.facts), _flat_fingerprint(self._fingerprint)
        changes = [f"{key} {before.get(key)}, now {now.get(key)}" for key in sorted({**before, **now})
                   if before.get(key) != now.get(key) and key.partition(".")[0] not in mutable
                   and not key.endswith("_dataset.cache")]  # the same samples, from elsewhere
        if changes:
            more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
            logger.warning(f"{checkpoint.path} was trained with {'; '.join(changes[:5])}{more}: what follows may "
                           f"differ from an uninterrupted run")
        logger.info(f"resumed {checkpoint.path} at iteration {self.iteration}")

    def begin(self, run_dir: RunDir, options: TrainOptions) -> bool:
        """Prepare for the first iteration; returns whether an evaluation is pending.

        One is if the interrupted run would have evaluated the checkpoint, and hasn't. Rank 0 alone looks at files:
        others may see late what it has written.
        """
        pending = False
        if distributed.rank() == 0:
            self.best = run_dir.best_score()
            if self.resumed is not None:
                score = self.resumed.score
                due = self.resumed.facts.get("evaluation_due", True) or self.iteration >= options.iters
                pending = options.do_eval and due and not (score and self.best)
                if score and not pending:
                    self.num_bad_evals = score.get("without_gain", self.num_bad_evals)
        pending, self.best, self.num_bad_evals = distributed.broadcast_object((pending, self.best, self.num_bad_evals))
        self.precision.prepare(self.model, self.optimizer)
        return pending

    def end_iteration(self, iteration: int) -> None:
        """Count an iteration, after its optimizer step."""
        self.iteration = iteration
        if self.ema is not None:
            self.ema.update(self.model, self.optimizer, iteration)

    def save(self, run_dir: RunDir, options: TrainOptions, evaluation_due: bool) -> Checkpoint:
        """Write a checkpoint of this iteration, and remove the oldest ones.

        Args:
            evaluation_due: False where a signal stopped the run between two evaluations.
        """
        slots = optimizer_state(self.model, self.optimizer)
        facts = {"iter": self.iteration,
                 "without_slots": sorted(set(_trainable_names(self.model).values()) - {_owner(key) for key in slots}),
                 "evaluation_due": evaluation_due, **self._fingerprint, "loss_scaling": self.precision.state(),
                 "without_gain": self.num_bad_evals}
        return run_dir.save(float32_weights(self.model, self.optimizer), slots, facts,
                            self.ema and self.ema.state(self.model), keep=options.keep_checkpoint_max)


def run_fingerprint(options: TrainOptions, samples: int, config: Optional[Dict] = None) -> Dict:
    """Return all that the weights of a run depend on, for JSON.

    Args:
        samples: of the training set.
        config: the resolved configuration.
    """
    run = {"processes": distributed.world_size(), "samples": samples,
           "found device": paddle.get_device().partition(":")[0], **options.fingerprint()}
    versions = {"Paddle": paddle.__version__, "NumPy": np.__version__, "Python": platform.python_version()}
    return {"run": run, "config": config, "versions": versions}


def _flat_fingerprint(facts: Mapping) -> Dict:
    return {**_flat(facts.get("config") or {}), **facts.get("run", {}), **facts.get("versions", {})}


def _flat(tree, prefix: str = "") -> Dict:
    """Return a nested mapping as {"a.b": value}; items of lists go by number."""
    if not isinstance(tree, (dict, list)) or not tree:
        return {prefix[:-1]: tree} if prefix else {}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {key: value for name, child in items for key, value in _flat(child, f"{prefix}{name}.").items()}


# ---- the optimizer's state under the parameters' own names -------------------------------------------

def _trainable_names(model: nn.Layer) -> Dict[str, str]:
    """Paddle's generated name of each parameter -> its name in the model."""
    return {parameter.name: name for name, parameter in model.named_parameters() if not parameter.stop_gradient}


def _owner(slot: str) -> str:
    """Return the parameter that a key of an optimizer's state belongs to."""
    return slot.rpartition("@")[0]


def optimizer_state(model: nn.Layer, optimizer) -> Dict[str, np.ndarray]:
    """Return the accumulators as "<parameter>@<slot>", such as "head.weight@velocity_0".

    Paddle's own keys hold generated names, which differ from one process to the next.
    """
    names = _trainable_names(model)
    state = {}
    for key, value in optimizer.state_dict().items():
        owner = max((name for name in names if key.startswith(name + "_")), key=len, default=None)
        if owner is not None:
            state[f"{names[owner]}@{key[len(owner) + 1:]}"] = value.numpy()
    return state


def restore_optimizer(model: nn.Layer, optimizer, slots: Mapping[str, np.ndarray], source: str,
                      without_slots: Sequence[str] = ()) -> None:
    """Give an `optimizer_state` back to an optimizer.

    Args:
        without_slots: parameters that never had a gradient, and so have no accumulators.

    Raises:
        WeightsError: it names a parameter that the model doesn't have, or lacks one.
    """
    generated = {name: unique for unique, name in _trainable_names(model).items()}
    differing = sorted(({_owner(key) for key in slots} | set(without_slots)) ^ set(generated))
    if differing:
        raise WeightsError(f"{source}: the optimizer's state belongs to another model; {len(differing)} parameters "
                           f"differ, such as {', '.join(differing[:3])}")
    optimizer.set_state_dict({f"{generated[_owner(key)]}_{key.rpartition('@')[2]}": paddle.to_tensor(value)
                              for key, value in slots.items()})
