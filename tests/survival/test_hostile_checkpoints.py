"""Hostile checkpoints and archives through every door that reads weights: refused, and nothing has happened.

A canary file, which each payload tries to create, tells; so does every file of the case's folder.
"""

import shutil
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

import pytest
from forked_commands import Ended
from hostile_files import hostile_files
from outcome import Fault, check
from small_world import OUT, intact_world, rewrite_sums, run, survive

TIME_LIMIT_SEC = 20
CANARY = "canary"
NAMES = [name for name in hostile_files("/canary") if not name.startswith("odd")]  # these: tests/weights


class Door(NamedTuple):
    """A command that reads weights from `path`."""

    path: str
    command: List[str]


DOORS: Dict[str, Door] = {
    "val.py": Door("x.pdparams", ["val.py", "--config", "recipe.yml", "--model_path", "x.pdparams"]),
    "predict.py": Door("x.pth", ["predict.py", "--config", "recipe.yml", "--model_path", "x.pth", "--image_path",
                                 "data/own/images", "--save_dir", OUT]),
    "pretrained backbone": Door("x.bin", ["train.py", "--config", "recipe.yml", "--save_dir", OUT, "--opts",
                                          "model.backbone.pretrained=x.bin"]),
    "pretrained model": Door("x.pdparams", ["train.py", "--config", "recipe.yml", "--save_dir", OUT, "--opts",
                                            "model.pretrained=x.pdparams"]),
    "weights to resume": Door("run/iter_2/model.pdparams", ["train.py", "--config", "recipe.yml", "--save_dir", OUT,
                                                            "--resume_model", "run/iter_2"]),
    "optimizer to resume": Door("run/iter_2/model.pdopt", ["train.py", "--config", "recipe.yml", "--save_dir", OUT,
                                                           "--resume_model", "run/iter_2"]),
    "automatic resume": Door("run/iter_2/model.pdparams", ["train.py", "--config", "recipe.yml", "--save_dir", "run",
                                                           "--iters", "3", "--resume", "auto"]),
    "convert_weights.py": Door("x.pth", ["tools/convert_weights.py", "x.pth", f"{OUT}/y.pdparams"]),
}
# Every file through every door; a small count takes steps that meet all files, and all doors in turn.
PAIRS: List[Tuple[str, str]] = [(name, list(DOORS)[(number + turn) % len(DOORS)])
                                for turn in range(len(DOORS)) for number, name in enumerate(NAMES)]


def attempt(number: int, folder: Path) -> Tuple[Ended, str]:
    name, door = PAIRS[number][0], DOORS[PAIRS[number][1]]
    path = folder / door.path
    weights = (folder / "run/best_model/model.pdparams").read_bytes()
    path.write_bytes(hostile_files(str(folder / CANARY), weights)[name])
    if path.parent.name == "iter_2":
        rewrite_sums(path.parent)  # as if the run had saved it so
    # An archive is unpacked in the download cache; one with an odd path beside whole weights may be read.
    may_pass = name.startswith("tricky")
    ended, fault = run(door.command, folder, changes=("home", OUT, "run") if may_pass else ("home",))
    if not fault and ended.code != 1 and not (may_pass and ended.code == 0):
        fault = f"wasn't refused (exit code {ended.code})"
    if not fault and ended.code and not ended.err.strip().split("\n")[-1].startswith(("WeightsError: ", "RunError: ")):
        fault = f"refused for another reason: {ended.err[-200:]}"
    if not fault and ended.seconds > TIME_LIMIT_SEC:
        fault = f"took {ended.seconds:.0f} s"
    if (folder / CANARY).exists():
        fault = "the canary sings: code of the file ran"
    if not fault and {path.suffix for path in (folder / "home").rglob("*") if path.is_file()} - {".pdparams"}:
        fault = "something else than weights was unpacked"
    return ended, fault and f"{name} through {PAIRS[number][1]}: {fault}"


FAULTS = [Fault("hostile checkpoints", len(NAMES), len(PAIRS), lambda count, folder: survive(count, folder, attempt))]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_all_are_refused_and_nothing_runs(fault, tmp_path):
    check(fault, tmp_path)


def test_the_doors_open_to_whole_weights(tmp_path):
    for name, door in DOORS.items():
        folder = tmp_path / name.replace(" ", "_")
        shutil.copytree(intact_world(), folder)
        if not (folder / door.path).exists():
            shutil.copy(folder / "run/best_model/model.pdparams", folder / door.path)
        ended, fault = run(door.command, folder, changes=(OUT, "run", "home"))
        expected = 1 if name == "pretrained backbone" else 0  # a whole model is no backbone
        assert not fault and ended.code == expected, ended.printed
