"""The soak itself: it finds every fault, and reports whatever is lost."""

import pytest
import soak
from outcome import SEED_VARIABLE, Fault, Outcome, choices


def lose(count, folder):
    (folder / "kept").touch()
    return Outcome(tried=count, lost=["iter_4 is gone"])


def win(count, folder):
    return Outcome(tried=count)


def skip(count, folder):
    pytest.skip("no such disk")


def break_off(count, folder):
    raise OSError("no room")


@pytest.mark.parametrize("functions, code, expected", [
    ([win, lose], 1, ["win 10 10 0", "lose 10 9 1", "iter_4 is gone"]),
    ([win, skip], 0, ["win 10 10 0", "no such disk"]),
    ([break_off, win], 1, ["break_off 1 0 1", "no room", "win 10 10 0"]),
])
def test_a_loss_is_named_kept_and_fails(functions, code, expected, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(soak.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(SEED_VARIABLE, "0")
    monkeypatch.setattr(soak, "find_faults", lambda only: [Fault(function.__name__, 1, 10, function)
                                                           for function in functions])
    assert soak.main(["--seed", "7"]) == code
    table = " ".join(capsys.readouterr().out.split("seed 7, ")[-1].split())
    assert all(part in table for part in expected)
    assert all(str(path) in table for path in tmp_path.iterdir())
    assert bool(list(tmp_path.glob("*/kept"))) == (lose in functions)


def test_every_fault_is_found_once_and_by_name():
    names = [fault.name for fault in soak.find_faults([])]
    assert len(set(names)) == len(names) > 5
    assert [fault.name for fault in soak.find_faults(["full DISK"])] == ["full disk (tmpfs)"]
    with pytest.raises(SystemExit):
        soak.find_faults(["nothing of the kind"])


def test_choices_follow_from_the_seed_and_the_name(monkeypatch):
    def draw(seed, name):
        monkeypatch.setenv(SEED_VARIABLE, str(seed))
        return choices(name).random()

    assert draw(1, "a") == draw(1, "a")
    assert len({draw(1, "a"), draw(2, "a"), draw(1, "b")}) == 3
