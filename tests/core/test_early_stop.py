import json
import logging

import numpy as np
import pytest
from tiny import Colors, options, run

from paddleseg.core import checkpoint
from paddleseg.core.early_stop import EarlyStop, check_early_stop
from paddleseg.core.metrics import Scores
from paddleseg.cvlibs.errors import ConfigError, Interrupted

VAL = Colors("val", 2)


def scores_of(miou):
    """Two classes, each with this IoU."""
    right, wrong = round(1000 * miou), round(1000 * (1 - miou) / 2)
    return Scores(np.array([[right, wrong], [wrong, right]]))


@pytest.fixture
def mious(monkeypatch):
    """What the evaluations of a run find, one after the other; NaN for a score that is none."""
    coming = []

    def evaluate(*_, **__):
        found = coming.pop(0)
        if isinstance(found, BaseException):
            raise found
        return Scores(np.zeros([2, 2], int)) if np.isnan(found) else scores_of(found)
    monkeypatch.setattr("paddleseg.core.train.evaluate", evaluate)
    return coming


@pytest.fixture
def lines(monkeypatch):
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    monkeypatch.setattr(logging.getLogger("paddleseg"), "handlers", [handler])
    logging.getLogger("paddleseg").setLevel(logging.INFO)
    return seen


def run_evaluating(save_dir, resume_model=None, iters=12, intervals=2, **changes):
    return run(save_dir, resume_model=resume_model, iters=iters, save_interval=1, do_eval=True, val_dataset=VAL,
               early_stop_intervals=intervals, keep_checkpoint_max=20, **changes)


def last_checkpoint(save_dir):
    return checkpoint.iteration_of(checkpoint.list_checkpoints(str(save_dir))[-1])


@pytest.mark.parametrize("found, intervals, end", [
    ([0.5, 0.4, 0.3, 0.6], 2, 3), ([0.5, 0.4, 0.6, 0.5, 0.5], 2, 5), ([0.5, 0.5], 1, 2), ([float("nan")] * 3, 3, 3),
    ([0.1, 0.2, 0.3, 0.4], 1, 4), ([0.4, 0.3, 0.2, 0.1], None, 4), ([0.4, 0.3, 0.2, 0.1], 4, 4)])
def test_so_many_evaluations_without_a_better_one_end_the_run(tmp_path, lines, mious, found, intervals, end):
    mious += found
    run_evaluating(tmp_path, iters=4 if end == 4 else 12, intervals=intervals)
    assert last_checkpoint(tmp_path) == end
    stops = [line for line in lines if line.startswith("Early stopping")]
    assert bool(stops) == (end < 4 or end == 5)
    if found[0] == 0.5 and end == 3:
        assert stops == ["Early stopping at iter 3: 2 evaluations in a row without a better mIoU. The best is 0.5000, "
                         "of iter 1."]


def test_a_better_average_counts_too(tmp_path, mious):
    mious += [0.5, 0.5, 0.4, 0.6, 0.4, 0.5, 0.3, 0.5]  # the model's and the averages' in turn
    run_evaluating(tmp_path, use_ema=True)
    assert last_checkpoint(tmp_path) == 4


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_resumed_run_stops_where_an_uninterrupted_one_does(tmp_path, mious, cut):
    found = [0.5, 0.4, 0.6, 0.5, 0.5, 0.9]
    mious += found[:cut]
    run_evaluating(tmp_path, iters=cut)
    mious[:] = found[cut:]
    run_evaluating(tmp_path, resume_model=tmp_path / f"iter_{cut}")
    assert last_checkpoint(tmp_path) == 5


@pytest.mark.parametrize("cut", range(1, 6))
def test_so_does_one_whose_evaluation_was_cut_off(tmp_path, mious, cut):
    found = [0.5, 0.4, 0.6, 0.5, 0.5, 0.9]
    mious += [*found[:cut - 1], Interrupted("now")]
    with pytest.raises(Interrupted):
        run_evaluating(tmp_path)
    mious[:] = found[cut - 1:]
    run_evaluating(tmp_path, resume_model=tmp_path / f"iter_{cut}")
    assert last_checkpoint(tmp_path) == 5


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_so_does_one_that_was_cut_off_before_the_evaluation_was_noted(tmp_path, mious, cut):
    """The best model of this very iteration is there already."""
    found = [0.5, 0.4, 0.6, 0.5, 0.5, 0.9]
    mious += found[:cut]
    run_evaluating(tmp_path, iters=cut)
    (tmp_path / f"iter_{cut}" / "score.json").unlink()
    mious[:] = found[cut - 1:]
    run_evaluating(tmp_path, resume_model=tmp_path / f"iter_{cut}")
    assert last_checkpoint(tmp_path) == 5


def test_a_stopped_run_goes_on_only_with_more_patience(tmp_path, lines, mious):
    mious += [0.5, 0.4, 0.3]
    run_evaluating(tmp_path)
    run_evaluating(tmp_path, resume_model=tmp_path / "iter_3")
    assert any("nothing to do: 2 evaluations in a row" in line and "--early_stop_intervals" in line for line in lines)
    mious += [0.2, 0.2]
    run_evaluating(tmp_path, resume_model=tmp_path / "iter_3", intervals=4)
    assert last_checkpoint(tmp_path) == 5


def test_the_weights_until_then_are_those_of_a_run_that_goes_on(tmp_path, mious):
    mious += [0.5, 0.4, 0.3] + [0.2] * 9
    run_evaluating(tmp_path / "stopped")
    mious[:] = [0.5] * 12
    run_evaluating(tmp_path / "whole", intervals=None)
    one, other = ((tmp_path / name / "iter_3" / "model.pdparams").read_bytes() for name in ("stopped", "whole"))
    assert one == other
    records = [json.loads(line) for line in (tmp_path / "stopped" / "log.jsonl").read_text().splitlines()]
    assert max(record["iter"] for record in records) == 3


def test_without_evaluations_there_is_nothing_to_count():
    with pytest.raises(ConfigError, match="early_stop_intervals 3 counts evaluations.*--do_eval"):
        check_early_stop(3, do_eval=False)
    check_early_stop(3, do_eval=True)
    check_early_stop(None, do_eval=False)
    with pytest.raises(ConfigError, match="early_stop_intervals 0: must be at least 1"):
        options(early_stop_intervals=0)
    assert not EarlyStop(None, 100).is_due
