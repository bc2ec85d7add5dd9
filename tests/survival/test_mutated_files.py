"""A thousand spoiled files: each ends in the documented error or in a correct result.

That is: exit code 0, or 1 or 2 with one last line of a SegError that names the file; no traceback, no hang, no
memory in which a machine drowns, nothing written but whole files where they belong. `small_world.run` checks all
of it. Every number of a kind gives the same case again.
"""

import json
import random
import re
import shutil
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

import numpy as np
import pytest
import spoil
import yaml
from forked_commands import Ended
from outcome import Fault, Outcome, choices
from PIL import Image
from small_world import OUT, rewrite_sums, run, survive, world

BEST = "run/best_model/model.pdparams"
ALL_AT_ONCE = ["--batch_size", "5", "--iters", "1", "--save_dir", OUT]
CHECK_OWN = ["tools/check_data.py", "data/own", "--type", "custom", "--num_classes", 19, "--num_workers", 0,
             "--train_path", "data/own/train.txt", "--val_path", "data/own/val.txt"]


def spoil_file(path: Path, spoiler: spoil.Spoiler, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(spoiler(rng, content))


# ---- images and labels

def spoiled_picture(rng: random.Random, path: Path) -> spoil.Spoiler:
    of_format = spoil.OF_FORMAT[path.suffix[1:]]
    spoiler = rng.choice(of_format if of_format and rng.random() < 0.4 else spoil.BYTES)
    spoil_file(path, spoiler, rng)
    return spoiler


def pixels(path: Path) -> Optional[np.ndarray]:
    """What Pillow sees, palette indices as they are, or None."""
    try:
        return np.asarray(Image.open(path))
    except Exception:
        return None


def fault_of_picture(path: Path, intact: Path, spoiler: spoil.Spoiler) -> str:
    """What is wrong with having accepted a spoiled picture beside a label, or as one."""
    now, before = pixels(path), pixels(intact)
    if path.suffix == ".png" and spoiler in spoil.BYTES and not np.array_equal(now, before):
        return "a PNG whose checksums tell that it is damaged was taken for whole"
    if now is not None and now.shape[:2] != before.shape[:2]:
        return f"a picture of {now.shape[:2]} was taken beside one of {before.shape[:2]}"
    return ""


def image_case(number: int, folder: Path) -> Tuple[Ended, str]:
    rng = choices(f"image {number}")
    path = rng.choice(sorted((folder / "data/own/images").iterdir()))
    spoiler = spoiled_picture(rng, path)
    commands = {
        "train": (["train.py", "--config", "own.yml", *ALL_AT_ONCE, "--num_workers", rng.choice((0, 0, 0, 1))], (OUT,)),
        "val": (["val.py", "--config", "own.yml", "--model_path", BEST], ()),
        "predict": (["predict.py", "--config", "own.yml", "--model_path", BEST, "--image_path", path.parent,
                     "--save_dir", OUT], (OUT,)),
        "check": (CHECK_OWN, ())}
    name = rng.choice(list(commands))
    ended, fault = run(commands[name][0], folder, path.name, commands[name][1])
    intact = world().intact / path.relative_to(folder)
    if not fault and ended.code == 0:
        fault = (fault_of_prediction(folder, path) if name == "predict" else
                 fault_of_picture(path, intact, spoiler))
    return ended, fault and f"image {number}: {spoiler.__name__} of {path.name}: {fault}"


def fault_of_prediction(folder: Path, path: Path) -> str:
    now = pixels(path)
    predicted = pixels(folder / OUT / "label" / f"{path.stem}.png")
    if predicted is None or now is not None and predicted.shape != now.shape[:2]:
        return "the prediction hasn't the size of its image"
    return ""


def label_case(number: int, folder: Path) -> Tuple[Ended, str]:
    rng = choices(f"label {number}")
    if rng.random() < 0.5:
        path, config = folder / f"data/own/labels/{rng.randrange(5)}.png", "own.yml"
        check = CHECK_OWN
    else:
        path = rng.choice(sorted((folder / "data/scenes/gtFine/val").rglob("*_labelTrainIds.png")))
        config, check = "recipe.yml", ["tools/check_data.py", "data/scenes", "--num_workers", 0]
    spoiler = spoiled_picture(rng, path)
    train = ["train.py", "--config", config, "--do_eval", *ALL_AT_ONCE[config == "recipe.yml" and 2:]]
    command, changes = rng.choice(((train, (OUT,)), (check, ()),
                                   (["val.py", "--config", config, "--model_path", BEST], ())))
    ended, fault = run(command, folder, path.name, changes)
    if not fault and ended.code == 0:
        fault = fault_of_picture(path, world().intact / path.relative_to(folder), spoiler)
    return ended, fault and f"label {number}: {spoiler.__name__} of {path.name}: {fault}"


# ---- list files

REFUSED = -1
ListSpoiler = Callable[[random.Random, bytes, Path], Tuple[bytes, Optional[int]]]


def some_line(rng, content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    lines = content.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    return b"".join(lines[:at] + [change(lines[at])] + lines[at + 1:])


def elsewhere(folder: Path, line: bytes) -> bytes:
    """The same files, by absolute paths to a folder beside the data set."""
    moved = folder / "elsewhere"
    moved.mkdir()
    paths = []
    for name in line.decode().split():
        paths.append(str(shutil.copy(folder / "data/own" / name, moved / name.replace("/", "_"))))
    return " ".join(paths).encode() + b"\n"


LIST_SPOILERS: Dict[str, ListSpoiler] = {
    # the spoiled list, and how many samples it names; REFUSED; or None where it depends
    "CRLF": lambda rng, content, folder: (content.replace(b"\n", b"\r\n"), 5),
    "BOM": lambda rng, content, folder: (b"\xef\xbb\xbf" + content, 5),
    "UTF-16": lambda rng, content, folder: (content.decode().encode("utf-16"), REFUSED),
    "NUL": lambda rng, content, folder: (some_line(rng, content, lambda line: line.replace(b"/", b"/\0", 1)), REFUSED),
    "not UTF-8": lambda rng, content, folder: (some_line(rng, content, lambda line: b"\xe9" + line), REFUSED),
    "no newline at the end": lambda rng, content, folder: (content.rstrip(b"\n"), 5),
    "blank lines": lambda rng, content, folder: (b"\n \n" + content.replace(b"\n", b"\n\n \t\n"), 5),
    "blanks": lambda rng, content, folder: (content.replace(b" ", b" \t  ").replace(b"\n", b"  \n"), 5),
    "missing column": lambda rng, content, folder: (
        some_line(rng, content, lambda line: line.split()[0] + b"\n"), REFUSED),
    "third column": lambda rng, content, folder: (some_line(rng, content, lambda line: b"x " + line), REFUSED),
    "comma": lambda rng, content, folder: (some_line(rng, content, lambda line: line.replace(b" ", b",")), REFUSED),
    "swapped columns": lambda rng, content, folder: (
        some_line(rng, content, lambda line: b" ".join(reversed(line.split())) + b"\n"), REFUSED),
    "no such file": lambda rng, content, folder: (
        some_line(rng, content, lambda line: line.replace(b".", b"_.", 1)), REFUSED),
    "a folder": lambda rng, content, folder: (some_line(rng, content, lambda line: b"images labels\n"), REFUSED),
    "control characters": lambda rng, content, folder: (
        some_line(rng, content, lambda line: b"\x1b[2J\x07" + line), REFUSED),
    "elsewhere": lambda rng, content, folder: (
        some_line(rng, content, lambda line: elsewhere(folder, line)), 5),
    "out and in again": lambda rng, content, folder: (content.replace(b"images/", b"../own/images/"), 5),
    "a line twice": lambda rng, content, folder: (some_line(rng, content, lambda line: line * 2), 6),
    "a long line": lambda rng, content, folder: (
        some_line(rng, content, lambda line: b"x" * 100_000 + line), REFUSED),
    "a million blank lines": lambda rng, content, folder: (content + b"\n" * 1_000_000, 5),
    "only blanks": lambda rng, content, folder: (b" \n\n", REFUSED),
}


def list_case(number: int, folder: Path) -> Tuple[Ended, str]:
    rng = choices(f"list {number}")
    path = folder / "data/own/val.txt"
    command, changes = rng.choice((
        (["val.py", "--config", "own.yml", "--model_path", BEST], ()), (CHECK_OWN, ()),
        (["train.py", "--config", "own.yml", "--do_eval", *ALL_AT_ONCE], (OUT,)),
        (["predict.py", "--config", "own.yml", "--model_path", BEST, "--image_path", path, "--save_dir", OUT], (OUT,))))
    if rng.random() < 0.6:
        name = rng.choice(list(LIST_SPOILERS))
        content, samples = LIST_SPOILERS[name](rng, path.read_bytes(), folder)
        path.write_bytes(content)
    else:
        spoiler, samples = rng.choice(spoil.BYTES), None
        name = spoiler.__name__
        spoil_file(path, spoiler, rng)
    ended, fault = run(command, folder, path.name, changes)
    # predict.py takes an image of a line by itself and leaves what follows it alone.
    if not fault and samples is not None and command[0] != "predict.py":
        said = re.search(r"#Images: (\d+)|^val: (\d+) samples", ended.out, re.MULTILINE)
        found = REFUSED if ended.code else int(said.group(1) or said.group(2))
        if found != samples:
            fault = f"{found} samples instead of {samples} ({REFUSED} is a refusal)"
    return ended, fault and f"list {number}: {name}: {fault}"


# ---- YAML files

YAML_TEXTS: Dict[str, str] = {
    # what to put behind the recipe, or in place of it where it has a line of its own at the top
    "code": "seed: !!python/object/apply:os.system ['true']\n",
    "name": "seed: !!python/name:os.system\n",
    "new": "seed: !!python/object/new:os.system ['true']\n",
    "module": "seed: !!python/module:os\n",
    "tuple": "seed: !!python/tuple [1]\n",
    "own tag": "seed: !seed 1\n",
    "binary": "seed: !!binary aGVsbG8=\n",
    "set": "seed: !!set {a, b}\n",
    "ordered map": "seed: !!omap [a: 1]\n",
    "pairs": "seed: !!pairs [a: 1]\n",
    "date": "seed: 2026-11-21\n",
    "impossible date": "seed: 2026-13-45\n",
    "tag of a date": "seed: !!timestamp tomorrow\n",
    "tag of an int": "seed: !!int many\n",
    "tag of a float": "seed: !!float much\n",
    "tag of a bool": "seed: !!bool perhaps\n",
    "tag of a map": "seed: !!map scalar\n",
    "tag of a sequence": "seed: !!seq scalar\n",
    "null tag": "seed: !!null 1\n",
    "underscored nothing": "seed: 0b_\n",
    "decimal digits": f"seed: {'7' * 5000}\n",
    "hexadecimal digits": f"seed: 0x{'f' * 5000}\n",
    "sexagesimal": f"seed: 1{':59' * 3000}\n",
    "float overflow": "seed: 1e999\n",
    "merge of a number": "optimizer: {<<: 3}\n",
    "recursive list": "seed: &a [*a]\n",
    "recursive mapping": "seed: &a {b: *a}\n",
    "recursive merge": "seed: &a {<<: *a}\n",
    "unknown anchor": "seed: *nothing\n",
    "deep list": f"seed: {'[' * 3000}{']' * 3000}\n",
    "deep mapping": f"seed: {'{a: ' * 3000}1{'}' * 3000}\n",
    "deep block": "".join(f"{' ' * depth}seed:\n" for depth in range(300)),
    "two documents": "---\nseed: 1\n",
    "directive": "%YAML 3.0\n---\nseed: 1\n",
    "tab": "seed:\t1\n\tx: 2\n",
    "NUL": "seed: 1\0\n",
    "surrogate": 'seed: "\\uD800"\n',
    "escape": 'seed: "\\e[2J\\a"\n',
    "key of two lines": '"se\\ned": 1\n',
    "key of an escape": '"\\e[2Jseed": 1\n',
    "key of a list": "? [a, b]\n: 1\n",
    "key of a mapping": "? {a: b}\n: 1\n",
    "no key": "? \n: 1\n",
    "number as a key": "1: 1\n",
    "a key twice": "iters: 1\niters: 2\n",
    "base of itself": "_base_: recipe.yml\n",
    "base that isn't there": "_base_: nothing.yml\n",
    "base of a mapping": "_base_: {a: b}\n",
    "base of a number": "_base_: 3\n",
    "base of nothing": "_base_:\n",
    "base of numbers": "_base_: [1, 2]\n",
    "base of mappings": "_base_: [{a: b}]\n",
    "base of a folder": "_base_: data\n",
    "base of a picture": "_base_: data/own/images/0.png\n",
    "base of a pickle": "_base_: run/best_model/model.pdparams\n",
    "base with a NUL": '_base_: "a\\0b"\n',
    "base of a device": "_base_: /dev/zero\n",
}


def bomb(rng, text: str) -> str:
    """Billion laughs: nine levels, each of nine of the level before."""
    kind = rng.choice(("list", "mapping", "merge"))
    if kind == "merge":
        levels = ["a0: &a0 {k: v}"] + [
            f"a{i}: &a{i} {{<<: [{', '.join(f'*a{i - 1}' for _ in range(9))}]}}" for i in range(1, 10)]
    else:
        left, right = ("[", "]") if kind == "list" else ("{", "}")
        item = "*a{}".format if kind == "list" else "k{0}_{1}: *a{0}".format
        levels = [f"a0: &a0 {left}{'1' if kind == 'list' else 'k: 1'}{right}"] + [
            f"a{i}: &a{i} {left}{', '.join(item(i - 1, j) for j in range(9))}{right}" for i in range(1, 10)]
    return "\n".join(levels) + "\n" + text


def change_indentation(rng, text: str) -> str:
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    lines[at] = rng.choice((" " + lines[at], "\t" + lines[at], lines[at].lstrip(), "    " + lines[at]))
    return "".join(lines)


def shuffle_lines(rng, text: str) -> str:
    lines = text.splitlines(keepends=True)
    rng.shuffle(lines)
    return "".join(lines)


NASTY = (None, True, False, 0, -1, 1.5, -0.5, float("nan"), float("inf"), 10 ** 6, 2 ** 31, 2 ** 63, 10 ** 30, "",
         "x", "None", "../..", "/", "\0", "a\nb", "\x1b[2J", "日本", "%s", "${HOME}", "x" * 10_000, [], {}, [[]],
         [1, "x", None], [[[[[1]]]]], {"type": "EncNet"}, {"type": "eval"}, {"type": None}, {"type": []},
         {"type": {"type": "x"}}, {"a": {"b": {}}}, [{"type": "Normalize"}] * 3, [{}], [None, {"type": "Normalize"}],
         ["x"] * 1000)
# Long by right, not by fault: what would take a day if asked to is asked to once.
BOUNDED = ["--opts", "iters=1", "accum_iters=1", "repeats=1", "num_workers=0"]


def places(node, path=()) -> List[tuple]:
    """Every place below a node of a recipe."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, child in items for place in [(*path, key), *places(child, (*path, key))]]


def parent_of(tree, place: tuple):
    for key in place[:-1]:
        tree = tree[key]
    return tree


def replace_value(rng, text: str) -> str:
    """One value, or a whole part, by what doesn't belong there."""
    tree = yaml.safe_load(text)
    place = rng.choice(places(tree))
    parent_of(tree, place)[place[-1]] = rng.choice(NASTY)
    return yaml.safe_dump(tree, sort_keys=False)


def rename_key(rng, text: str) -> str:
    tree = yaml.safe_load(text)
    place = rng.choice([place for place in places(tree) if isinstance(place[-1], str)])
    parent, key = parent_of(tree, place), place[-1]
    name = rng.choice((key + "s", key.upper(), key[:-1], "__class__", "type", "_inherited_", "_base_", "", 3, None,
                       "a\nb"))
    changed = {name if old == key else old: value for old, value in parent.items()}
    parent.clear()
    parent.update(changed)
    return yaml.safe_dump(tree, sort_keys=False)


def drop_part(rng, text: str) -> str:
    tree = yaml.safe_load(text)
    place = rng.choice(places(tree))
    del parent_of(tree, place)[place[-1]]
    return yaml.safe_dump(tree, sort_keys=False)


def move_part(rng, text: str) -> str:
    """A part of the recipe in the place of another."""
    tree = yaml.safe_load(text)
    one, other = rng.choice(places(tree)), rng.choice(places(tree))
    parent_of(tree, one)[one[-1]] = json.loads(json.dumps(parent_of(tree, other)[other[-1]]))
    return yaml.safe_dump(tree, sort_keys=False)


def do_not_inherit(rng, text: str) -> str:
    tree = yaml.safe_load(text)
    mappings = [()] + [place for place in places(tree) if isinstance(parent_of(tree, (*place, 0)), dict)]
    parent_of(tree, (*rng.choice(mappings), 0))["_inherited_"] = rng.choice((False, False, True, 3, [], {}))
    return yaml.safe_dump({"_base_": "own.yml", **tree}, sort_keys=False)


def add_text(rng, text: str) -> str:
    added = rng.choice(list(YAML_TEXTS.values()))
    return rng.choice((text + added, added + text, added))


YAML_SPOILERS = [replace_value, replace_value, replace_value, rename_key, drop_part, move_part, do_not_inherit,
                 add_text, add_text, add_text, bomb, change_indentation, shuffle_lines]


def recipe_case(number: int, folder: Path) -> Tuple[Ended, str]:
    rng = choices(f"recipe {number}")
    path = folder / "recipe.yml"
    if rng.random() < 0.8:
        spoiler = rng.choice(YAML_SPOILERS)
        path.write_text(spoiler(rng, path.read_text()), encoding="utf-8", errors="surrogatepass")
    else:
        spoiler = rng.choice(spoil.BYTES)
        spoil_file(path, spoiler, rng)
    command, changes = rng.choice((
        (["train.py", "--config", "recipe.yml", "--save_dir", OUT, *BOUNDED], (OUT,)),
        (["train.py", "--config", "recipe.yml", "--do_eval", "--save_dir", OUT, *BOUNDED], (OUT,)),
        (["val.py", "--config", "recipe.yml", "--model_path", BEST, *BOUNDED], ()),
        (["predict.py", "--config", "recipe.yml", "--model_path", BEST, "--image_path", "data/own/images",
          "--save_dir", OUT, *BOUNDED], (OUT,))))
    # A ConfigError names the key of a recipe, wherever it was set; only one that can't be read is named itself.
    ended, fault = run(command, folder, "", changes)
    return ended, fault and f"recipe {number}: {spoiler.__name__}: {fault}"


# ---- checkpoints

def spoil_json(rng, content: bytes) -> bytes:
    tree = json.loads(content)
    how = rng.choice(("value", "value", "drop", "whole", "text"))
    if how == "whole":
        return json.dumps(rng.choice((None, [], 3, "x", {}, [tree]))).encode()
    if how == "text":
        return rng.choice((b"{", b"[" * 100_000, b'{"iter": ' + b"9" * 5000 + b"}", b'{"iter": NaN}', content * 2,
                           b"\xff\xfe" + content, b'{"iter": 1e999}', b'{"iter": true}'))
    place = rng.choice(places(tree))
    if how == "drop":
        del parent_of(tree, place)[place[-1]]
    else:
        parent_of(tree, place)[place[-1]] = rng.choice(NASTY[:30])
    return json.dumps(tree).encode()


def weights_case(rng: random.Random, folder: Path) -> Tuple[Ended, str]:
    """A weights file by itself: nothing tells its values from others, but its structure must hold."""
    path = folder / "w" / f"x{rng.choice(('.pdparams', '.pth', ''))}"
    path.parent.mkdir()
    shutil.copy(folder / BEST, path)
    spoiler = rng.choice(spoil.BYTES)
    spoil_file(path, spoiler, rng)
    command, changes = rng.choice((
        (["val.py", "--config", "recipe.yml", "--model_path", path], ()),
        (["predict.py", "--config", "recipe.yml", "--model_path", path, "--image_path", "data/own/images",
          "--save_dir", OUT], (OUT,)),
        (["train.py", "--config", "recipe.yml", "--save_dir", OUT, "--iters", "1", "--opts",
          f"model.pretrained={path}"], (OUT,)),
        (["tools/convert_weights.py", path, f"{OUT}/y.pdparams"], (OUT,))))
    ended, fault = run(command, folder, path.name, changes)
    if not fault and command[0].startswith("tools") and (ended.code == 0) != (folder / OUT / "y.pdparams").exists():
        fault = "half a conversion"
    return ended, fault and f"{spoiler.__name__}: {fault}"


def checkpoint_case(number: int, folder: Path) -> Tuple[Ended, str]:
    rng = choices(f"checkpoint {number}")
    if rng.random() < 0.3:
        ended, fault = weights_case(rng, folder)
        return ended, fault and f"checkpoint {number}: {fault}"
    directory = folder / "run/iter_2"
    path = directory / rng.choice(("model.pdparams", "model.pdopt", "train_state.json", "SHA256SUMS"))
    spoiler = spoil_json if path.suffix == ".json" and rng.random() < 0.7 else rng.choice(spoil.BYTES)
    before = path.read_bytes()
    spoil_file(path, spoiler, rng)
    as_saved = path.name != "SHA256SUMS" and rng.random() < 0.4
    if as_saved:
        rewrite_sums(directory)
    auto = rng.random() < 0.5
    resume = ["--resume", "auto", "--save_dir", "run"] if auto else ["--resume_model", directory, "--save_dir", OUT]
    command = ["train.py", "--config", "recipe.yml", "--iters", "3", "--do_eval", *resume]
    ended, fault = run(command, folder, "iter_2", ("run",) if auto else (OUT,))
    differs = path.read_bytes() != before
    if path.name == "SHA256SUMS":  # what stands beside its lines makes no file another one
        differs = not set(before.splitlines()) <= set(path.read_bytes().splitlines())
    if not fault and not as_saved and differs:
        fault = fault_of_resume(ended, auto)
    return ended, fault and f"checkpoint {number}: {spoiler.__name__} of {path.name}: {fault}"


def fault_of_resume(ended: Ended, auto: bool) -> str:
    """A checkpoint that isn't as it was saved is refused or, by `auto`, named and skipped."""
    if not auto:
        return "" if ended.code == 1 else "resumed from a damaged checkpoint"
    said = [line for line in ended.out.splitlines() if "[WARNING]" in line and "iter_2" in line]
    if ended.code == 0 and said and "resumed run/iter_1" in ended.out:
        return ""
    return f"a damaged checkpoint wasn't named and skipped (exit code {ended.code})"


# ---- the table

def fault(name: str, attempt: Callable[[int, Path], Tuple[Ended, str]]) -> Fault:
    return Fault(name, 20, 200, lambda count, folder: survive(count, folder, attempt))


FAULTS = [fault("mutated images", image_case), fault("mutated labels", label_case),
          fault("mutated list files", list_case), fault("mutated recipes", recipe_case),
          fault("mutated checkpoints", checkpoint_case)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_ends_in_the_documented_error_or_in_a_correct_result(fault, tmp_path):
    outcome: Outcome = fault.survive(fault.small, tmp_path)
    assert outcome.lost == []
    assert outcome.tried == fault.small
