"""The soak itself: that it finds every fault, and that nothing which is lost goes unsaid."""

import random
from types import SimpleNamespace

import pytest
import soak
from outcome import SEED_VARIABLE, Fault, Outcome, choices
from real_run import phase

FAULTS = []


def lose(count, folder):
    (folder / "kept").touch()
    outcome = Outcome()
    for number in range(count):
        outcome.add("iter_4 is gone" if number == 1 else "", kind="saving")
    return outcome


def win(count, folder):
    return Outcome(tried=count, survived=count)


def skip(count, folder):
    pytest.skip("no such disk")


def break_off(count, folder):
    raise OSError("no room")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the soak on faults given by their functions; returns its exit code and what it printed."""
    monkeypatch.setattr(soak.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(SEED_VARIABLE, "0")

    def run(*functions, flags=()):
        faults = [("test_x", Fault(function.__name__, 1, 10, function)) for function in functions]
        monkeypatch.setattr(soak, "find_faults", lambda only: faults)
        code = soak.main(["--seed", "7", *flags])
        return code, capsys.readouterr().out

    return run


def test_a_loss_is_named_kept_and_fails(run, tmp_path):
    code, printed = run(win, lose)
    assert code == 1
    table = printed.split("seed 7, ")[-1]
    assert table.splitlines()[2].split()[:4] == ["win", "10", "10", "0"]
    assert table.splitlines()[3].split()[:4] == ["lose", "10", "9", "1"] and "(saving 10)" in table
    assert "LOST lose: iter_4 is gone" in table and "--seed 7 --only 'lose'" in table
    kept = [path.name for path in tmp_path.iterdir()]
    assert len(kept) == 1 and (tmp_path / kept[0] / "kept").exists() and kept[0] in table


def test_nothing_lost_is_success_and_leaves_nothing(run, tmp_path):
    code, printed = run(win, skip, flags=["--scale", "0.3"])
    assert code == 0 and not list(tmp_path.iterdir())
    assert "win: 3 tries" in printed and "skipped: no such disk" in printed


def test_a_trial_that_breaks_off_is_a_loss_and_the_next_is_tried(run):
    code, printed = run(break_off, win)
    assert code == 1
    assert "broke off (OSError: no room)" in printed and "win: 10 tries" in printed


def test_every_fault_is_found_once_and_by_name():
    faults = [fault for _, fault in soak.find_faults([])]
    names = [fault.name for fault in faults]
    assert len(set(names)) == len(names) > 5
    assert all(1 <= fault.small <= fault.full for fault in faults)
    assert [fault.name for _, fault in soak.find_faults(["full DISK"])] == ["full disk (tmpfs)"]
    with pytest.raises(SystemExit, match="fits none of"):
        soak.find_faults(["nothing of the kind"])


def test_choices_follow_from_the_seed_and_the_name(monkeypatch):
    def draw(seed, name):
        monkeypatch.setenv(SEED_VARIABLE, str(seed))
        return choices(name).random()

    assert draw(1, "a") == draw(1, "a")
    random.random()
    assert len({draw(1, "a"), draw(2, "a"), draw(1, "b")}) == 3


@pytest.mark.parametrize("logged, kind", [
    ("\tresumed output/iter_10 at iteration 10\n\tnothing to do: output/iter_10 has 10 of 10 iterations", "starting"),
    ("\tconfiguration:\n\teffective batch 4\n\t[TRAIN] iter: 1/10", "training"),
    ("\t[TRAIN] iter: 2/10\n\tsaved output/iter_2\n", "evaluating"),
])
def test_a_phase_is_found_in_whatever_was_logged(logged, kind, tmp_path):
    assert phase(SimpleNamespace(save_dir=tmp_path, has_begun=True, logged=logged)) == kind
