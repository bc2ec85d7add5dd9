"""The run directory: layout, lock, what is refused, what is kept, what is hashed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from tiny import Colors, arrays, run

from paddleseg.core.run_dir import RunDir
from paddleseg.cvlibs.errors import RunError
from paddleseg.utils import files
from paddleseg.weights.load import read_weights

VAL = {"do_eval": True, "val_dataset": Colors("val", 3)}
WEIGHTS, SLOTS = {"w": np.arange(6.0)}, {"w@velocity_0": np.ones(6)}


@pytest.fixture
def run_dir(tmp_path):
    found = RunDir(str(tmp_path))
    with found.locked():
        yield found


def save(run_dir, *iterations, **kwargs):
    return [run_dir.save(WEIGHTS, SLOTS, {"iter": iteration}, **kwargs) for iteration in iterations][-1]


def names(run_dir):
    return [os.path.basename(path) for path in run_dir.checkpoints()]


def corrupt(path):
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def warnings(caplog):
    return " ".join(record.getMessage() for record in caplog.records if record.name == "paddleseg")


# ---- checkpoints -----------------------------------------------------------------------------------

def test_a_checkpoint_gives_back_what_was_saved(run_dir, tmp_path):
    run_dir.write_config("iters: 7\n")
    save(run_dir, 7, ema_weights={"w": np.zeros(6)})
    found = run_dir.latest()
    assert found.iteration == 7 and found.score is None
    for saved, expected in ((found.weights(), WEIGHTS), (found.optimizer(), SLOTS), (found.ema_weights(), {"w": 0})):
        assert saved.keys() == expected.keys() and all((saved[name] == expected[name]).all() for name in saved)
    assert (tmp_path / "iter_7" / "config.yml").read_text() == "iters: 7\n"
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "iter_7").returncode == 0
    assert set(files.listed(str(tmp_path / "iter_7"))) == {
        "model.pdparams", "model.pdopt", "ema_model.pdparams", "train_state.json", "config.yml"}


def test_saving_twice_replaces_and_old_ones_go(run_dir):
    for iteration in (5, 10, 10, 15):
        save(run_dir, iteration, keep=2)
    assert names(run_dir) == ["iter_10", "iter_15"] == sorted(os.listdir(run_dir.path))


@pytest.mark.parametrize("name", ["model.pdparams", "model.pdopt", "train_state.json", "ema_model.pdparams",
                                  "config.yml", "SHA256SUMS"])
@pytest.mark.parametrize("harm", [corrupt, Path.unlink])
def test_a_damaged_checkpoint_is_named_and_skipped(run_dir, tmp_path, caplog, name, harm):
    run_dir.write_config("iters: 7\n" * 9)
    save(run_dir, 2, 10, ema_weights=WEIGHTS)
    harm(tmp_path / "iter_10" / name)
    assert run_dir.latest().iteration == 2
    assert "iter_10: " in warnings(caplog)
    with pytest.raises(RunError, match="iter_10: can't resume"):
        run_dir.checkpoint(str(tmp_path / "iter_10"))


@pytest.mark.parametrize("text", ['{"iter"', "[]", "{}", '{"iter": -1}', '{"iter": "1"}'])
def test_facts_without_an_iteration_are_refused(run_dir, tmp_path, text):
    save(run_dir, 1)
    (tmp_path / "iter_1" / "train_state.json").write_text(text)
    files.write_sums(str(tmp_path / "iter_1"))
    with pytest.raises(RunError, match="train_state.json"):
        run_dir.latest()


def test_paddle_and_paddleseg_read_the_weights(tmp_path):
    model, _ = run(tmp_path, iters=1)
    state = paddle.load(str(tmp_path / "iter_1" / "model.pdparams"))
    assert all(np.array_equal(value.numpy(), arrays(model)[name]) for name, value in state.items())


# ---- the choice ------------------------------------------------------------------------------------

def test_auto_hashes_each_file_once(tmp_path, monkeypatch):
    run(tmp_path, iters=6, save_interval=2, use_ema=True, **VAL)
    corrupt(tmp_path / "iter_6" / "model.pdopt")
    hashed, sha256 = [], files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path) or sha256(path))
    run_dir = RunDir(str(tmp_path))
    with run_dir.locked():
        found = run_dir.choose("auto")
        run_dir.check(found, overwrite=False)
        run_dir.open(found)
    assert found.iteration == 4 and len(hashed) == len(set(hashed)) > 6
    assert sum(path.endswith("iter_4/model.pdparams") for path in hashed) == 1


def test_auto_begins_where_there_is_nothing_and_stops_where_all_is_damaged(run_dir, tmp_path):
    assert run_dir.choose("auto") is None is run_dir.choose()
    save(run_dir, 3)
    corrupt(tmp_path / "iter_3" / "model.pdopt")
    with pytest.raises(RunError, match="none of its 1 checkpoints"):
        run_dir.choose("auto")


def test_auto_goes_before_the_checkpoint_to_begin_with(run_dir, tmp_path):
    old = RunDir(str(tmp_path / "old"))
    with old.locked():
        old_path = save(old, 3).path
        assert run_dir.choose("auto", old_path + "/").path == old_path == run_dir.choose(None, old_path).path
    save(run_dir, 2)
    assert run_dir.choose("auto", old_path).iteration == 2


def test_links_stand_for_what_they_lead_to(run_dir, tmp_path):
    save(run_dir, 3, 6)
    (tmp_path / "last").symlink_to("iter_6")
    chosen = run_dir.choose(None, str(tmp_path / "last"))
    run_dir.check(chosen, overwrite=False)
    run_dir.open(chosen)
    assert names(run_dir) == ["iter_3", "iter_6"]
    (tmp_path / "iter_6").rename(tmp_path / "elsewhere")
    (tmp_path / "iter_6").symlink_to(tmp_path / "elsewhere")
    run_dir.open(run_dir.latest())
    save(run_dir, 9, keep=1)
    assert names(run_dir) == ["iter_9"] and (tmp_path / "elsewhere" / "model.pdopt").exists()


# ---- what is refused -------------------------------------------------------------------------------

def test_another_run_is_refused(run_dir, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run_dir.check(None, overwrite=False)
    save(run_dir, 3)
    other = RunDir(str(tmp_path / "other"))
    with other.locked():
        theirs = save(other, 2)
    with pytest.raises(RunError, match=r"iter_3.*--resume auto.*--overwrite"):
        run_dir.check(None, overwrite=False)
    for overwrite in (False, True):
        with pytest.raises(RunError, match="iter_3"):
            run_dir.check(theirs, overwrite)
    run_dir.check(run_dir.latest(), overwrite=False)
    run_dir.check(None, overwrite=True)
    assert names(run_dir) == ["iter_3"]


def test_going_back_to_an_earlier_checkpoint_needs_a_flag(run_dir, tmp_path):
    save(run_dir, 2, 4, 6, 8)
    corrupt(tmp_path / "iter_8" / "model.pdopt")
    earlier = run_dir.choose(None, str(tmp_path / "iter_2"))
    with pytest.raises(RunError, match=r"\(iter_4, iter_6\).*--resume auto.*--overwrite"):
        run_dir.check(earlier, overwrite=False)
    run_dir.check(earlier, overwrite=True)
    run_dir.open(earlier)
    assert names(run_dir) == ["iter_2", "iter_8"]  # a damaged one stays until its iteration is saved again


def test_the_config_that_was_read_is_not_overwritten(run_dir, tmp_path):
    (tmp_path / "config.yml").write_text("mine")
    with pytest.raises(RunError, match="config.yml"):
        run_dir.check(None, False, str(tmp_path / "config.yml"))


LOCK = """
import sys, time; sys.path.insert(0, sys.argv[1])
from paddleseg.core.run_dir import RunDir
with RunDir(sys.argv[2]).locked():
    print("locked", flush=True); time.sleep(60)
"""


def test_one_run_at_a_time(tmp_path):
    root = str(Path(__file__).resolve().parents[2])
    path = str(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", LOCK, root, path], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(RunError, match="another run is writing there"), RunDir(path).locked():
            pass
        other.kill()
    started, start = os.pipe()
    with RunDir(path).locked():
        worker = os.fork()
        if worker == 0:
            os.write(start, b"x")
            time.sleep(60)
            os._exit(0)
    os.read(started, 1)
    try:
        with RunDir(path).locked():  # a worker that outlives its parent holds nothing
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_a_refused_run_leaves_no_directory(tmp_path):
    with pytest.raises(RunError), RunDir(str(tmp_path / "new" / "run")).locked():
        raise RunError("refused")
    (tmp_path / "empty").mkdir()
    with RunDir(str(tmp_path / "empty")).locked():
        pass
    assert os.listdir(tmp_path) == ["empty"]


@pytest.mark.parametrize("path", ["/proc/run/of/mine", "file", "file/run"])
def test_where_no_directory_can_be_made(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=f"--save_dir {path}"), RunDir(path).locked():
        pass


# ---- what is cleared away --------------------------------------------------------------------------

def test_a_new_run_deletes_the_old_one_and_nothing_else(tmp_path):
    run(tmp_path, iters=3, use_vdl=True, **VAL)
    for name in ("notes.txt", "train.log", "config.yml"):
        (tmp_path / name).write_text("mine")
    run_dir = RunDir(str(tmp_path))
    with run_dir.locked():
        run_dir.open(None)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_of_an_old_run_whose_deletion_is_cut_off_nothing_can_be_resumed(run_dir, tmp_path, monkeypatch):
    for name in ("iter_2", "iter_4", "best_model", "iter_6.tmp", "mine"):
        (tmp_path / name).mkdir()
    removed = []

    def cut_off(path):
        if removed:
            raise KeyboardInterrupt
        removed.append(path)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(files, "remove_tree", cut_off)
        run_dir.open(None)
    assert sorted(os.listdir(tmp_path)) == ["best_model.tmp", "iter_2.tmp", "iter_4.tmp", "iter_6.tmp", "mine"]
    run_dir.open(None)
    assert os.listdir(tmp_path) == ["mine"]


def test_what_a_crash_left_is_restored_or_removed(tmp_path):
    run(tmp_path, iters=3, **VAL)
    (tmp_path / "best_model").rename(tmp_path / "best_model.old")
    (tmp_path / "iter_3").rename(tmp_path / "iter_3.old")
    (tmp_path / ".config.yml.12.tmp").write_text("half")
    (tmp_path / "iter_6.tmp").mkdir()
    run_dir = RunDir(str(tmp_path))
    with run_dir.locked():
        assert run_dir.best_score()["iter"] == 3
        (tmp_path / "iter_3" / ".score.json.12.tmp").write_text("half")
        run_dir.open(run_dir.latest())
    assert not [*tmp_path.rglob("*.tmp"), *tmp_path.rglob("*.old")] and run_dir.latest().score


# ---- the best model --------------------------------------------------------------------------------

def scores(iteration, miou, **more):
    return {"iter": iteration, "miou": miou, "accuracy": 1.0, **more}


def test_the_best_model_is_a_checkpoints_with_its_config(run_dir, tmp_path):
    run_dir.write_config("first: 1\n")
    first = save(run_dir, 1, ema_weights={"w": np.ones(6)})
    run_dir.save_best(first, scores(1, 0.1))
    run_dir.save_best(first, scores(1, 0.1, ema=scores(1, 0.1)), ema=True)
    second = run_dir.save({"w": np.full(6, 2.0)}, SLOTS, {"iter": 2}, {"w": np.full(6, 3.0)})
    run_dir.save_best(second, scores(2, 0.2, ema=scores(1, 0.1)))
    best = tmp_path / "best_model"
    assert [read_weights(str(best / name))["w"][0] for name in ("model.pdparams", "ema_model.pdparams")] == [2.0, 1.0]
    assert run_dir.best_score()["ema"]["iter"] == 1 and (best / "config.yml").read_text() == "first: 1\n"
    assert set(files.listed(str(best))) == {"model.pdparams", "ema_model.pdparams", "score.json", "config.yml"}


def test_resuming_elsewhere_brings_the_best_model_along_and_leaves_no_mark_there(run_dir, tmp_path):
    old = RunDir(str(tmp_path / "old"))
    with old.locked():
        checkpoint = save(old, 3)
        old.save_best(checkpoint, scores(3, 0.5))
    run_dir.open(checkpoint)
    run_dir.write_score(checkpoint, scores(3, 0.5))
    assert run_dir.best_score() == old.best_score() and checkpoint.score is None


@pytest.mark.parametrize("score, aside, left", [
    (scores(6, 0.9), "of_another_run", None), (scores(3, 0.9), None, scores(3, 0.9)),
    (scores(3, 0.1, ema=scores(6, 0.9)), "of_another_run", scores(3, 0.1)), (None, "damaged", None)])
def test_a_best_model_that_is_damaged_or_of_a_discarded_future_is_set_aside(run_dir, tmp_path, score, aside, left):
    checkpoint = save(run_dir, 3, ema_weights=WEIGHTS)
    run_dir.save_best(checkpoint, score or scores(3, 0.9))
    run_dir.save_best(checkpoint, score or scores(3, 0.9), ema=True)
    if score is None:
        corrupt(tmp_path / "best_model" / "ema_model.pdparams")
    run_dir.open(checkpoint)
    assert run_dir.best_score() == (left or {})
    assert [path.suffix[1:] for path in tmp_path.glob("best_model.*")] == ([aside] if aside else [])
    if left:
        assert files.damage(str(tmp_path / "best_model"), ("model.pdparams", "score.json")) is None
        assert (tmp_path / "best_model" / "ema_model.pdparams").exists() == (aside is None)


def test_a_lost_best_model_is_found_again(tmp_path):
    _, best = run(tmp_path, iters=3, **VAL)
    shutil.rmtree(tmp_path / "best_model")
    _, again = run(tmp_path, resume_model=tmp_path / "iter_3", iters=3, **VAL)
    assert again == best and json.loads((tmp_path / "best_model" / "score.json").read_text())["iter"] == 3


def test_nobody_else_knows_the_layout():
    """Search for the names; the docstrings and help of the commands may show examples."""
    package = Path(__file__).resolve().parents[2] / "paddleseg"
    pattern = re.compile(r"""["'](iter_|best_model|train_state\.json|score\.json|train\.log|log\.jsonl|config\.yml|"""
                         r"""(ema_)?model\.pd)""")
    found = {path.name for path in package.rglob("*.py") if pattern.search(path.read_text())}
    assert found == {"run_dir.py"}
