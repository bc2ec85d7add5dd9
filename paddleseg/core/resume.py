"""Going on from a checkpoint, and what a checkpoint must say for that."""

import os
import platform
from dataclasses import dataclass
from typing import Callable, Dict, Optional

import numpy as np
import paddle
import paddle.nn as nn

from paddleseg.core import checkpoint
from paddleseg.core.ema import AveragedWeights
from paddleseg.datasets.loader import batches_per_epoch
from paddleseg.utils import distributed, logger
from paddleseg.weights.load import read_weights

# Keys of a configuration that a resumed run may change without becoming another run.
_FREE_KEYS = ("test_dataset", "log_iters", "save_interval", "keep_checkpoint_max", "num_workers", "use_vdl", "do_eval",
              "early_stop_intervals", "effective_batch", "device")  # the device that was found is compared
_EVALUATION_KEYS = ("val_dataset", "test_config")  # what the scores depend on


@dataclass
class Resumed:
    """The checkpoint that a run goes on from; model and optimizer are restored already."""

    directory: str
    iteration: int
    evaluation_due: bool
    loss_scaling: Dict
    without_gain_before: int = 0  # see `without_gain`; when the checkpoint was saved

    def awaits_evaluation(self, save_dir: str, options) -> bool:
        """Whether the interrupted run would have evaluated this checkpoint, and hasn't."""
        due = self.evaluation_due or self.iteration >= options.iters
        done = checkpoint.was_evaluated(self.directory) and checkpoint.best_score(save_dir) is not None
        return options.do_eval and due and not done

    def without_gain(self, evaluates: bool) -> int:
        """Evaluations in a row that found no better model, up to that of this checkpoint.

        Args:
            evaluates: this one is about to be made up for, and doesn't count yet.
        """
        counted = not evaluates and checkpoint.was_evaluated(self.directory)
        score = checkpoint.own_score(self.directory) if counted else {}
        return score.get("without_gain", self.without_gain_before)


def resume(directory: str, model: nn.Layer, optimizer, options, samples: int,
           config: Optional[Dict] = None) -> Resumed:
    """Restore a checkpoint.

    Says so where the run that follows can't be the one that was interrupted.

    Args:
        options: the TrainOptions of this run.
        samples: of the training set.
        config: the resolved configuration of this run.

    Raises:
        RunError: the checkpoint isn't whole.
        WeightsError: it doesn't fit the model.
    """
    state = checkpoint.load_checkpoint(directory, model, optimizer)
    before = {**_flat(state.get("config") or {}), **state.get("run", {}), **_flat(state.get("versions", {}))}
    now = {**_flat(config or {}), **_run_facts(options, samples), **_versions()}
    free = _FREE_KEYS if options.do_eval else _FREE_KEYS + _EVALUATION_KEYS
    changes = [f"{key} {before.get(key)}, now {now.get(key)}" for key in sorted({**before, **now})
               if before.get(key) != now.get(key) and key.partition(".")[0] not in free
               and not key.endswith("_dataset.cache")]  # the same samples, from elsewhere
    if changes:
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        logger.warning(f"{directory} was trained with {'; '.join(changes[:5])}{more}: what follows may differ from an "
                       f"uninterrupted run")
    logger.info(f"resumed {directory} at iteration {state['iter']}")
    return Resumed(directory, state["iter"], state.get("evaluation_due", True), state.get("loss_scaling", {}),
                   state.get("without_gain", 0))


def averaged_weights(model: nn.Layer, resumed: Optional[Resumed]) -> AveragedWeights:
    """The averages of the checkpoint that a run goes on from; those of a new run begin with the model's weights."""
    averaged = AveragedWeights(model)
    path = os.path.join(resumed.directory, checkpoint.AVERAGED) if resumed else None
    if path and os.path.exists(path):
        averaged.restore(read_weights(path), path)
    elif path:
        logger.warning(f"{resumed.directory} has no averaged weights; they begin with the weights that it has")
    return averaged


def train_state(iteration: int, due: bool, options, samples: int, save_dir: str, config: Optional[Dict]) -> Dict:
    """What a checkpoint says beside weights and the optimizer's state.

    Args:
        due: an evaluation belongs to this checkpoint; False where a signal stopped the run between two of them.
    """
    per_epoch = batches_per_epoch(range(samples), options.batch_size, distributed.world_size(), options.repeats)
    epoch, position = divmod(iteration * options.accum_iters, per_epoch)
    return {"epoch": epoch, "batch_of_epoch": position, "evaluation_due": due,
            "best": checkpoint.best_score(save_dir), "run": _run_facts(options, samples), "config": config,
            "versions": _versions()}


def _versions() -> Dict:
    return {"Paddle": paddle.__version__, "NumPy": np.__version__, "Python": platform.python_version()}


def _run_facts(options, samples: int) -> Dict:
    """What decides, beside the configuration, the samples and the sums of a run."""
    return {"processes": distributed.world_size(), "samples": samples, "threads": options.threads,
            "seed": options.seed, "iters": options.iters, "batch_size": options.batch_size,
            "accum_iters": options.accum_iters, "repeats": options.repeats,
            "precision": options.precision, "amp_level": options.amp_level,
            "found device": paddle.get_device().partition(":")[0]}


def _flat(tree, prefix: str = "") -> Dict:
    """A nested mapping as {"a.b": value}; items of lists go by number."""
    if not isinstance(tree, (dict, list)) or not tree:
        return {prefix[:-1]: tree} if prefix else {}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {key: value for name, child in items for key, value in _flat(child, f"{prefix}{name}.").items()}


def records_to_keep(resumed: Optional[Resumed], evaluates: bool) -> Optional[Callable[[Dict], bool]]:
    """Which records of the log stay when a run goes on: those of what it doesn't repeat.

    Args:
        evaluates: it begins with an evaluation of the checkpoint.
    """
    if resumed is None:
        return None
    return lambda record: record.get("iter", 0) < resumed.iteration or (
        record.get("iter") == resumed.iteration and not (record.get("mode") == "eval" and evaluates))
