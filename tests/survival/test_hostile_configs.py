"""Hostile configs, `--opts`, lists and names: none runs code, none writes outside the save directory.

Written may be only the save directory and the download cache, $HOME/.paddleseg/weights. The canary is a file that a
payload creates; all paths lead into the case's folder, so that whatever is written is seen. In every text {canary} is
the canary's path, and {folder} the case's folder.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Callable, Dict, NamedTuple, Sequence, Tuple

import pytest
import yaml
from forked_commands import Ended
from outcome import Fault, check
from small_world import OUT, run, survive

CANARY = "canary"
BEST = "run/best_model/model.pdparams"
TRAIN = ["train.py", "--config", "recipe.yml", "--save_dir", OUT, "--iters", "1"]
OWN = ["train.py", "--config", "own.yml", "--save_dir", OUT, "--iters", "1", "--do_eval"]
PREDICT = ["predict.py", "--config", "recipe.yml", "--model_path", BEST, "--save_dir", OUT, "--image_path"]
ANY, REFUSED, DONE = (0, 1, 2), (1, 2), (0,)

TAGS = ("!!python/object/apply:os.system ['touch {canary}']",
        "!!python/object/new:type {{args: [x, !!python/tuple [], {{extend: !!python/name:os.system }}], "
        "listitems: 'touch {canary}'}}",
        "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {canary}']")
NAMES = ("os.system", "builtins.eval", "__import__", "__class__", "components_dict", "paddleseg.cvlibs.manager.MODELS",
         "EncNet.__init__", "lambda: 0", "../recipe.yml", "")
SECTIONS = ("model", "model.backbone", "train_dataset", "train_dataset.transforms.0", "optimizer", "lr_scheduler",
            "loss.types.0")
KEYS = ("__class__", "__globals__", "self", "kwargs")
SHELL = ("$(touch {canary})", "`touch {canary}`", "; touch {canary}", "x\" && touch {canary} && \"")
ROOTS = ("..", "../../../../../../../..", "/", "/etc", "~", "/dev", "/proc/self", "data/scenes/../../..",
         "file:///etc", "http://127.0.0.1:9/x", *SHELL)
WEIGHTS = ("file:///etc/passwd", "FILE:{canary}", "ftp://127.0.0.1/x", "http://example.invalid/x.pdparams",
           "https://[/x", "https://", "https://u:p@/x", "/etc/passwd", "/etc", "~root/x", "/dev/zero", "{canary}",
           "--help", *SHELL)
BASES = ("/etc/passwd", "../../../../../../etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/environ",
         "http://127.0.0.1:9/x.yml", "recipe.yml/", "data", BEST, *SHELL)
OPTIONS = ("model.type=os.system", "__class__=x", "optimizer.model=x", "model.backbone=os.system", "loss.types.0=eval",
           "save_dir={canary}", "train_dataset.transforms.0={{type: eval}}", "_base_=/etc/passwd",
           "seed=$(touch {canary})", "train_dataset.mode=__init__", *(f"seed={tag}" for tag in TAGS))
IMAGES = ("...png", "-rf.png", "~.png", "a b.png", "$(touch canary).png", "a;touch canary.png", "%2e%2e%2f.png",
          "..\\..\\canary.png", "canary.png/..x.png", "日本.png", "a\nb.png", "\x1b[2Jc.png")
LISTS = {"..": "../../elsewhere/canary.png", "absolute": "{folder}/elsewhere/canary.png",
         "both and inside": "../../elsewhere/canary.png\n{folder}/elsewhere/canary.png\nimages/0.png",
         "a link": "images/up/link.png",
         "through a linked folder": "images/up/canary.png\nimages/up/../own/images/0.png"}


class Hostile(NamedTuple):
    """A command in a folder that `prepare` has made hostile, and the exit codes it may have."""

    prepare: Callable[[Path], None]
    command: Sequence[str] = TRAIN
    codes: Sequence[int] = REFUSED


def nothing(folder: Path) -> None:
    """The hostile part is in the command."""


def append(text: str, name: str = "recipe.yml") -> Callable[[Path], None]:
    """Put text behind what a file holds."""
    def prepare(folder: Path) -> None:
        with open(folder / name, "a", encoding="utf-8") as file:
            file.write("\n" + text.format(canary=folder / CANARY, folder=folder) + "\n")
    return prepare


def set_key(dotted: str, value: str, name: str = "recipe.yml") -> Callable[[Path], None]:
    """Set a value of a config, at keys that need not exist."""
    def prepare(folder: Path) -> None:
        tree = node = yaml.safe_load((folder / name).read_text())
        *parents, last = (int(part) if part.isdigit() else part for part in dotted.split("."))
        for part in parents:
            node = node.setdefault(part, {}) if isinstance(node, dict) else node[part]
        node[last] = value.replace("{canary}", str(folder / CANARY))
        (folder / name).write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return prepare


def name_image(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / "data/names" / name).parent.mkdir(parents=True)
        shutil.copy(folder / "data/own/images/0.png", folder / "data/names" / name)
    return prepare


def list_images(lines: str) -> Callable[[Path], None]:
    """Make links out of the images' folder, and a list."""
    def prepare(folder: Path) -> None:
        (folder / "elsewhere").mkdir()
        shutil.copy(folder / "data/own/images/0.png", folder / "elsewhere/canary.png")
        (folder / "elsewhere/link.png").symlink_to(folder / "elsewhere/canary.png")
        (folder / "data/own/images/up").symlink_to(folder / "elsewhere")
        append(lines, "data/own/predict.txt")(folder)
    return prepare


def pack_weights(folder: Path) -> None:
    """Put the weights into an archive, which is unpacked into the cache wherever it lies."""
    subprocess.run(["tar", "czf", "data/w.tar.gz", "-C", "run/best_model", "model.pdparams"], cwd=folder, check=True)


def hostile_cases() -> Dict[str, Hostile]:
    cases = {}
    for tag in TAGS:
        cases[f"tag {tag}"] = Hostile(append(f"seed: {tag}"))
        cases[f"tag as a type {tag}"] = Hostile(append(f"test_dataset: {{{{type: {tag}}}}}"))
        cases[f"tag as a key {tag}"] = Hostile(append(f"? {tag}\n: 1"))
        cases[f"tag in a base {tag}"] = Hostile(lambda folder, tag=tag: (
            append(f"seed: {tag}", "base.yml")(folder), append("_base_: base.yml")(folder)))
    for section in SECTIONS:
        cases.update({f"{section}.type {name!r}": Hostile(set_key(f"{section}.type", name), codes=(2,))
                      for name in NAMES})
        cases.update({f"{section}.{key}": Hostile(set_key(f"{section}.{key}", "os.system"), codes=(2,))
                      for key in KEYS})
    for key in ("save_dir", "work_dir", "hooks", "custom_imports"):
        cases[f"key {key}"] = Hostile(set_key(key, "{canary}"), codes=(2,))
    for option in OPTIONS:
        cases[f"--opts {option}"] = Hostile(nothing, [*TRAIN, "--opts", option])
    for root in ROOTS:
        cases[f"dataset_root {root}"] = Hostile(set_key("train_dataset.dataset_root", root))
        cases[f"dataset_root of lists {root}"] = Hostile(set_key("val_dataset.dataset_root", root, "own.yml"), OWN)
        cases[f"train_path {root}"] = Hostile(set_key("train_dataset.train_path", root, "own.yml"), OWN)
    for weights in WEIGHTS:
        cases[f"pretrained {weights}"] = Hostile(set_key("model.pretrained", weights))
        cases[f"backbone.pretrained {weights}"] = Hostile(set_key("model.backbone.pretrained", weights))
        cases[f"IN {weights}"] = Hostile(nothing, ["tools/convert_weights.py", "--", weights, f"{OUT}/y.pdparams"])
    cases.update({f"_base_ {base}": Hostile(set_key("_base_", base), codes=(2,)) for base in BASES})
    cases["an archive"] = Hostile(pack_weights, [*TRAIN, "--opts", "model.pretrained=data/w.tar.gz"], DONE)
    cases["a name that is YAML"] = Hostile(
        lambda folder: (folder / "recipe.yml").rename(folder / f"r\nseed: !!python∕x ['touch {CANARY}'] # .yml"),
        ["train.py", "--config", f"r\nseed: !!python∕x ['touch {CANARY}'] # .yml", *TRAIN[3:]], DONE)
    cases.update({f"an image {name!r}": Hostile(name_image(name), [*PREDICT, "data/names"], DONE) for name in IMAGES})
    cases.update({f"a list with {what}": Hostile(list_images(lines), [*PREDICT, "data/own/predict.txt"], ANY)
                  for what, lines in LISTS.items()})
    for path in ("data/own/../../elsewhere/canary.png", "data/own/images"):
        cases[f"images in {path}"] = Hostile(list_images(""), [*PREDICT, path], DONE)
    return cases


CASES = hostile_cases()
STEP = 4  # a small count takes every so many of them, of each kind
ORDER = [name for start in range(STEP) for name in list(CASES)[start::STEP]]


def attempt(number: int, folder: Path) -> Tuple[Ended, str]:
    case = CASES[ORDER[number]]
    (folder / "home").mkdir()
    case.prepare(folder)
    command = [word.format(canary=folder / CANARY) for word in case.command]
    ended, fault = run(command, folder, changes=(OUT, "home"))
    if not fault and ended.code not in case.codes:
        fault = f"exit code {ended.code}, not one of {case.codes}: {ended.err[-300:]}"
    cache = folder / "home" / ".paddleseg" / "weights"
    if any(cache not in path.parents for path in folder.rglob(CANARY)):
        fault = "the canary sings"
    strays = [path for path in (folder / "home").rglob("*")
              if path.is_symlink() or path.is_file() and cache not in path.parents]
    if not fault and strays:
        fault = f"wrote {strays[0]}"
    return ended, fault and f"{ORDER[number]}: {fault}"


FAULTS = [Fault("hostile configs and names", len(ORDER) // STEP, len(ORDER),
                lambda count, folder: survive(count, folder, attempt))]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_nothing_runs_and_nothing_is_written_elsewhere(fault, tmp_path):
    check(fault, tmp_path)
