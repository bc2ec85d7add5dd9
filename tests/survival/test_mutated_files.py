"""Corrupted files, a thousand in the soak: each ends in the documented error or in a correct result.

That is: exit code 0, or 1 or 2 with one last line of a SegError that names the file; no traceback, no hang, no
memory in which a machine drowns, nothing written but whole files where they belong. `small_world.run` checks all
of it. Every number of a kind gives the same case again.
"""

import json
import random
from functools import partial
from pathlib import Path
from typing import List, Optional, Tuple

import corrupt
import numpy as np
import pytest
import yaml
from forked_commands import Ended
from outcome import Fault, check, choices
from PIL import Image
from small_world import OUT, intact_world, rewrite_sums, run, survive

BEST = "run/best_model/model.pdparams"
VAL = ["val.py", "--model_path", BEST, "--config"]
PREDICT = ["predict.py", "--model_path", BEST, "--save_dir", OUT, "--config"]
TRAIN = ["train.py", "--do_eval", "--save_dir", OUT, "--config"]
ALL_AT_ONCE = ["--batch_size", "5", "--iters", "1"]
CHECK_SCENES = ["tools/check_data.py", "data/scenes", "--num_workers", 0]
CHECK_OWN = ["tools/check_data.py", "data/own", "--type", "custom", "--num_classes", 19, "--num_workers", 0,
             "--train_path", "data/own/train.txt", "--val_path", "data/own/val.txt"]


def changes_of(command) -> Tuple[str, ...]:
    """The entries of the folder that a command may write."""
    return (OUT,) if OUT in command else ()


def corrupt_file(path: Path, rng: random.Random, corruptions: List[corrupt.Corruption]) -> str:
    corruption = rng.choice(corruptions)
    path.write_bytes(corruption(rng, path.read_bytes()))
    return corruption.__name__


# ---- images and labels

def picture_case(kind: str, number: int, folder: Path) -> Tuple[Ended, str]:
    rng = choices(f"{kind} {number}")
    own = kind == "image" or rng.random() < 0.5
    path = rng.choice(sorted((folder / f"data/own/{kind}s").iterdir() if own else
                             (folder / "data/scenes/gtFine/val").rglob("*_labelTrainIds.png")))
    of_format = corrupt.OF_FORMAT.get(path.suffix, [])
    checksums_hold = bool(of_format) and rng.random() < 0.4
    name = corrupt_file(path, rng, of_format if checksums_hold else corrupt.BYTES)
    config = "own.yml" if own else "recipe.yml"
    commands = [[*TRAIN, config, *(ALL_AT_ONCE if own else ()), "--num_workers", rng.choice((0, 0, 0, 1))],
                [*VAL, config], CHECK_OWN if own else CHECK_SCENES]
    if kind == "image":
        commands.append([*PREDICT, config, "--image_path", path.parent])
    command = rng.choice(commands)
    ended, fault = run(command, folder, path.name, changes_of(command))
    if not fault and ended.code == 0:
        if command[0] == "predict.py":
            image, predicted = pixels(path), pixels(folder / OUT / "label" / f"{path.stem}.png")
            if predicted is None or image is not None and predicted.shape != image.shape[:2]:
                fault = "the prediction hasn't the size of its image"
        else:
            fault = fault_of_picture(path, intact_world() / path.relative_to(folder), checksums_hold)
    return ended, fault and f"{kind} {number}: {name} of {path.name}: {fault}"


def pixels(path: Path) -> Optional[np.ndarray]:
    """Pixels as Pillow reads them, palette indices as they are, or None."""
    try:
        return np.asarray(Image.open(path))
    except Exception:
        return None


def fault_of_picture(path: Path, intact: Path, checksums_hold: bool) -> str:
    """Name what is wrong with having accepted a corrupted picture beside a label, or as one."""
    now, before = pixels(path), pixels(intact)
    if path.suffix == ".png" and not checksums_hold and not np.array_equal(now, before):
        return "a PNG whose checksums tell that it is damaged was taken for whole"
    if now is not None and now.shape[:2] != before.shape[:2]:
        return f"a picture of {now.shape[:2]} was taken beside one of {before.shape[:2]}"
    return ""


# ---- list files

ODD_BYTES = (b"\0", b"\xe9", b"\x1b[2J\x07", b"\xef\xbb\xbf", b"\r", b" ", b",", b"\n" * 10 ** 6, b"x" * 10 ** 5)


def insert_odd_bytes(rng, content: bytes) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + rng.choice(ODD_BYTES) + content[at:]


def list_case(number: int, folder: Path) -> Tuple[Ended, str]:
    rng = choices(f"list {number}")
    path = folder / "data/own/val.txt"
    name = corrupt_file(path, rng, [*corrupt.BYTES, *[insert_odd_bytes] * len(corrupt.BYTES)])
    command = rng.choice(([*VAL, "own.yml"], CHECK_OWN, [*TRAIN, "own.yml", *ALL_AT_ONCE],
                          [*PREDICT, "own.yml", "--image_path", path]))
    ended, fault = run(command, folder, path.name, changes_of(command))
    return ended, fault and f"list {number}: {name}: {fault}"


# ---- YAML files

NASTY = (None, True, 0, -1, 1.5, float("nan"), float("inf"), 10 ** 6, 2 ** 63, 10 ** 30, "", "x", "../..", "\0", "a\nb",
         "\x1b[2J", "日本", "%s", "x" * 10_000, [], {}, [[]], [1, "x", None], {"type": "EncNet"}, {"type": "eval"},
         {"type": None}, {"type": {"type": "x"}}, [{"type": "Normalize"}] * 3, [None], ["x"] * 1000)
# A config may ask for a day of work, which is no fault: here it is asked for once.
BOUNDED = ["--opts", "iters=1", "accum_iters=1", "repeats=1", "num_workers=0"]


def places(node, path=()) -> List[tuple]:
    """Every place below a node of a tree."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, child in items for place in [(*path, key), *places(child, (*path, key))]]


def parent_of(tree, place: tuple):
    for key in place[:-1]:
        tree = tree[key]
    return tree


def change_tree(rng, tree) -> None:
    """Replace a value, rename or drop a key, or put a part in the place of another."""
    place = rng.choice(places(tree))
    parent, key = parent_of(tree, place), place[-1]
    how = rng.choice(("replace", "replace", "rename", "drop", "move"))
    if how == "replace":
        parent[key] = rng.choice(NASTY)
    elif how == "move":
        other = rng.choice(places(tree))
        parent[key] = json.loads(json.dumps(parent_of(tree, other)[other[-1]]))
    else:
        value = parent.pop(key)
        if how == "rename" and isinstance(key, str):
            parent[rng.choice((key + "s", key.upper(), key[:-1], "__class__", "type", "_inherited_", "_base_", "",
                               "a\nb"))] = value


def change_yaml(rng, content: bytes) -> bytes:
    tree = yaml.safe_load(content)
    change_tree(rng, tree)
    return yaml.safe_dump(tree, sort_keys=False).encode(errors="surrogatepass")


def config_case(number: int, folder: Path) -> Tuple[Ended, str]:
    rng = choices(f"config {number}")
    name = corrupt_file(folder / "recipe.yml", rng, [change_yaml] if rng.random() < 0.75 else corrupt.BYTES)
    command = rng.choice((TRAIN, VAL, [*PREDICT[:-1], "--image_path", "data/own/images", "--config"]))
    # A ConfigError names a key of the config, wherever it was set; only a config that can't be read is named itself.
    ended, fault = run([*command, "recipe.yml", *BOUNDED], folder, "", changes_of(command))
    return ended, fault and f"config {number}: {name}: {fault}"


# ---- checkpoints

def change_json(rng, content: bytes) -> bytes:
    tree = json.loads(content)
    if rng.random() < 0.4:
        return rng.choice((b"null", b"[]", b"3", b"{}", b"{", b"[" * 100_000, b'{"iter": ' + b"9" * 5000 + b"}",
                           b'{"iter": NaN}', content * 2, b"\xff\xfe" + content, b'{"iter": 1e999}', b'{"iter": true}'))
    change_tree(rng, tree)
    return json.dumps(tree).encode()


def best_case(number: int, folder: Path) -> Tuple[Ended, str]:
    rng = choices(f"best {number}")
    path = folder / BEST
    before = path.read_bytes()
    name = corrupt_file(path, rng, corrupt.BYTES)
    command = [*VAL, "recipe.yml"] if number % 2 else [*PREDICT, "recipe.yml", "--image_path", "data/own/images"]
    ended, fault = run(command, folder, path.name, changes_of(command))
    if not fault and ended.code == 0 and path.read_bytes() != before:
        fault = "damaged weights were taken for whole"
    return ended, fault and f"best {number}: {name}: {fault}"


def checkpoint_case(number: int, folder: Path) -> Tuple[Ended, str]:
    if number % 3 == 0:
        return best_case(number // 3, folder)
    rng = choices(f"checkpoint {number}")
    directory = folder / "run/iter_2"
    path = directory / rng.choice(("model.pdparams", "model.pdopt", "train_state.json", "SHA256SUMS"))
    before = path.read_bytes()
    name = corrupt_file(path, rng, [change_json] if path.suffix == ".json" and rng.random() < 0.7 else corrupt.BYTES)
    as_saved = path.name != "SHA256SUMS" and rng.random() < 0.4
    if as_saved:
        rewrite_sums(directory)
    auto = rng.random() < 0.5
    resume = ["--resume", "auto", "--save_dir", "run"] if auto else ["--resume_model", directory, "--save_dir", OUT]
    command = ["train.py", "--config", "recipe.yml", "--iters", "3", "--do_eval", *resume]
    # Values that were saved so may be anything, and the training finds out.
    named = "" if as_saved and path.suffix != ".json" else "iter_2"
    ended, fault = run(command, folder, named, ("run",) if auto else (OUT,))
    differs = path.read_bytes() != before
    if path.name == "SHA256SUMS":  # what stands beside its lines makes no file another one
        differs = not set(before.splitlines()) <= set(path.read_bytes().splitlines())
    if not fault and not as_saved and differs:
        fault = fault_of_resume(ended, auto)
    return ended, fault and f"checkpoint {number}: {name} of {path.name}: {fault}"


def fault_of_resume(ended: Ended, auto: bool) -> str:
    """A checkpoint that isn't as it was saved is refused or, by `auto`, named and skipped."""
    if not auto:
        return "" if ended.code == 1 else "resumed from a damaged checkpoint"
    said = [line for line in ended.out.splitlines() if "[WARNING]" in line and "iter_2" in line]
    if ended.code == 0 and said and "resumed run/iter_1" in ended.out:
        return ""
    return f"a damaged checkpoint wasn't named and skipped (exit code {ended.code})"


FAULTS = [Fault(f"mutated {name}", 20, 200, partial(survive, attempt=attempt)) for name, attempt in (
    ("images", partial(picture_case, "image")), ("labels", partial(picture_case, "label")),
    ("list files", list_case), ("configs", config_case), ("checkpoints", checkpoint_case))]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_ends_in_the_documented_error_or_in_a_correct_result(fault, tmp_path):
    check(fault, tmp_path)
