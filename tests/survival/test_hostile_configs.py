"""Hostile recipes, `--opts`, lists and names: none runs code, none writes outside the save directory.

Written may be only the save directory and the download cache, $HOME/.paddleseg/weights. The canary is a file that a
payload creates; all paths lead into the case's folder, so that whatever is written is seen.
"""

import http.server
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple
from urllib.parse import quote

import pytest
import yaml
from forked_commands import Ended
from outcome import Fault, Outcome
from small_world import OUT, intact_world, run, survive

CANARY = "canary"
BEST = "run/best_model/model.pdparams"
TRAIN = ["train.py", "--config", "recipe.yml", "--save_dir", OUT, "--iters", "1"]
OWN = ["train.py", "--config", "own.yml", "--save_dir", OUT, "--iters", "1"]
VAL = ["val.py", "--config", "recipe.yml", "--model_path", BEST]
ANY, REFUSED, DONE = (0, 1, 2), (1, 2), (0,)

TAGS = {
    "apply": "!!python/object/apply:os.system ['touch {canary}']",
    "apply in a mapping": "!!python/object/apply:subprocess.call {{args: [[touch, {canary}]]}}",
    "new with state": "!!python/object/new:type {{args: [x, !!python/tuple [], {{extend: !!python/name:os.system }}], "
                      "listitems: 'touch {canary}'}}",
    "eval": "!!python/object/apply:eval ['open(\"{canary}\", \"w\")']",
    "exec": "!!python/object/apply:exec ['import os; os.system(\"touch {canary}\")']",
    "the long form": "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {canary}']",
}
NAMES = ("os.system", "builtins.eval", "eval", "exec", "__import__", "__class__", "__init__", "__dict__",
         "components_dict", "add_component", "nearest", "paddleseg.cvlibs.manager.MODELS", "paddle.nn.Layer",
         "subprocess:Popen", "EncNet.__init__", "EncNet()", "lambda: 0", "../recipe.yml", "", "encnet", "${HOME}",
         "{0.__class__}", "%s", "object", "None")
SECTIONS = ("model", "model.backbone", "train_dataset", "train_dataset.transforms.0", "optimizer", "lr_scheduler",
            "loss.types.0")
KEYS = ("__class__", "__init__", "__dict__.x", "__globals__", "self", "cls", "args", "kwargs")
SHELL = ("$(touch {canary})", "`touch {canary}`", "; touch {canary}", "| touch {canary}", "x\" && touch {canary} && \"")
ROOTS = ("..", "../../../../../../../..", "/", "/etc", "~", "/dev", "/proc/self", ".", "data/scenes/../../..",
         "data/own\\..", "file:///etc", "http://127.0.0.1:9/x", "//host/share")
WEIGHTS = ("file:///etc/passwd", "file://{canary}", "FILE:{canary}", "ftp://127.0.0.1/x",
           "http://example.invalid/x.pdparams", "data:text/plain,x", "jar:file:{canary}!/x", "https://[/x",
           "https:///x", "https://", "://", "https://a..b/x", "https://u:p@/x", "\\\\host\\share\\x", "/etc/passwd",
           "/etc", "~", "~root/x", "/dev/zero", "/dev/stdin", "../../../../etc/passwd", "{canary}", "-", "--help",
           "s3://b/x", "javascript:alert(1)")
BASES = ("/etc/passwd", "../../../../../../etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/environ",
         "file:///etc/passwd", "http://127.0.0.1:9/x.yml", "https://127.0.0.1:9/x.yml", "~", "recipe.yml/", "data",
         "run/best_model/model.pdparams")
IMAGES = ("...png", "..x.png", "-rf.png", "~.png", "a b.png", "$(touch canary).png", "a;touch canary.png", "a.PNG",
          "%2e%2e%2f.png", "..\\..\\canary.png", "canary.png/..x.png", "日本.png", "`touch canary`.png", "a.png.png")
OPTIONS = ("model.type=os.system", "model.__class__=x", "__class__=x", "optimizer.model=x", "lr_scheduler.iters=1",
           "model.backbone=os.system", "loss.types.0=eval", "train_dataset.transforms=os.system", "save_dir={canary}",
           "train_dataset.transforms.0={type: eval}", "_base_=/etc/passwd", "seed=$(touch {canary})",
           "model.backbone.type=`touch {canary}`", "log_dir={canary}", "train_dataset.mode=__init__")


class Hostile(NamedTuple):
    """A command in a folder that `prepare` has made hostile, and the exit codes it may have."""

    prepare: Callable[[Path], None]
    command: Sequence[str]
    codes: Sequence[int] = REFUSED


def nothing(folder: Path) -> None:
    """The hostile part is in the command."""


def edit(text: str, name: str = "recipe.yml") -> Callable[[Path], None]:
    """Put text behind a recipe; {canary} in it becomes the canary's path."""
    def prepare(folder: Path) -> None:
        with open(folder / name, "a", encoding="utf-8") as file:
            file.write("\n" + text.format(canary=folder / CANARY) + "\n")
    return prepare


def set_key(dotted: str, value, name: str = "recipe.yml") -> Callable[[Path], None]:
    """Set a value of a recipe, at keys that need not exist."""
    def prepare(folder: Path) -> None:
        tree = node = yaml.safe_load((folder / name).read_text())
        *parents, last = (int(part) if part.isdigit() else part for part in dotted.split("."))
        for part in parents:
            node = node.setdefault(part, {}) if isinstance(node, dict) else node[part]
        node[last] = value.replace("{canary}", str(folder / CANARY)) if isinstance(value, str) else value
        (folder / name).write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return prepare


def in_base(text: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / "base.yml").write_text(text.format(canary=folder / CANARY))
        edit("_base_: base.yml")(folder)
    return prepare


def with_options(*options: str) -> Callable[[Path], List[str]]:
    return lambda folder: [*TRAIN, "--opts", *(option.replace("{canary}", str(folder / CANARY)) for option in options)]


def recipes() -> Dict[str, Hostile]:
    """Tags, types and keys: nothing of a recipe is looked up but in the registries."""
    cases = {}
    for name, tag in TAGS.items():
        cases[f"tag {name}"] = Hostile(edit(f"seed: {tag}"), TRAIN)
        cases[f"tag {name} as a type"] = Hostile(edit(f"test_dataset: {{{{type: {tag}}}}}"), VAL)
        cases[f"tag {name} as a key"] = Hostile(edit(f"? {tag}\n: 1"), VAL)
        cases[f"tag {name} in a base"] = Hostile(in_base(f"seed: {tag}"), TRAIN)
        cases[f"tag {name} in --opts"] = Hostile(nothing, with_options("seed=" + tag.format(canary="{canary}")))
    for section in SECTIONS:
        for name in NAMES:
            cases[f"{section}.type {name!r}"] = Hostile(set_key(f"{section}.type", name), TRAIN, (2,))
        for key in KEYS:
            cases[f"{section}.{key}"] = Hostile(set_key(f"{section}.{key}", "os.system"), TRAIN, (2,))
    for option in OPTIONS:
        cases[f"--opts {option}"] = Hostile(nothing, with_options(option))
    for key in ("save_dir", "output", "log_dir", "work_dir", "pre_save", "hooks", "custom_imports"):
        cases[f"key {key}"] = Hostile(set_key(key, "{canary}"), TRAIN, (2,))
    return cases


def paths() -> Dict[str, Hostile]:
    """Whatever a recipe names is read at most."""
    cases = {}
    for root in (*ROOTS, *SHELL):
        cases[f"dataset_root {root!r}"] = Hostile(set_key("train_dataset.dataset_root", root), TRAIN)
        cases[f"dataset_root {root!r} of lists"] = Hostile(set_key("val_dataset.dataset_root", root, "own.yml"),
                                                           [*OWN, "--do_eval"])
        cases[f"train_path {root!r}"] = Hostile(set_key("train_dataset.train_path", root, "own.yml"), OWN)
        cases[f"separator {root!r}"] = Hostile(set_key("train_dataset.separator", root, "own.yml"), OWN)
    for weights in (*WEIGHTS, *SHELL):
        cases[f"pretrained {weights!r}"] = Hostile(set_key("model.pretrained", weights), TRAIN)
        cases[f"backbone.pretrained {weights!r}"] = Hostile(set_key("model.backbone.pretrained", weights), TRAIN)
        cases[f"IN {weights!r}"] = Hostile(nothing, lambda folder, weights=weights: [
            "tools/convert_weights.py", "--", weights.replace("{canary}", str(folder / CANARY)), f"{OUT}/y.pdparams"])
    for base in (*BASES, *SHELL):
        cases[f"_base_ {base!r}"] = Hostile(set_key("_base_", base), TRAIN, (2,))
    cases["an archive named by a recipe"] = Hostile(
        pack_weights, [*TRAIN, "--opts", "model.pretrained=data/w.tar.gz"], DONE)
    cases["a recipe whose name is YAML"] = Hostile(nothing, rename_recipe, DONE)
    return cases


def pack_weights(folder: Path) -> None:
    """An archive is unpacked into the cache, wherever it lies."""
    subprocess.run(["tar", "czf", "data/w.tar.gz", "-C", "run/best_model", "model.pdparams"], cwd=folder, check=True)


def rename_recipe(folder: Path) -> List[str]:
    """The saved configuration names the file behind every value."""
    name = f"r\nseed: !!python!object!apply:os.system ['touch {CANARY}'] # .yml".replace("!object!", "∕object∕")
    (folder / "recipe.yml").rename(folder / name)
    return ["train.py", "--config", name, "--save_dir", OUT, "--iters", "1"]


# ---- names of images

def lists() -> Dict[str, Hostile]:
    """Predictions go by the images' names."""
    def listing(*lines: str) -> Callable[[Path], None]:
        def prepare(folder: Path) -> None:
            (folder / "elsewhere").mkdir()
            shutil.copy(folder / "data/own/images/0.png", folder / "elsewhere/canary.png")
            (folder / "elsewhere/link.png").symlink_to(folder / "elsewhere/canary.png")
            (folder / "data/own/images/up").symlink_to(folder / "elsewhere")
            (folder / "data/own/predict.txt").write_text(
                "".join(line.replace("{folder}", str(folder)) + "\n" for line in lines))
        return prepare

    def named(*names: str) -> Callable[[Path], None]:
        def prepare(folder: Path) -> None:
            for name in names:
                (folder / "data/names" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / "data/own/images/0.png", folder / "data/names" / name)
        return prepare

    predict = ["predict.py", "--config", "recipe.yml", "--model_path", BEST, "--save_dir", OUT, "--image_path"]
    by_list, by_folder = [*predict, "data/own/predict.txt"], [*predict, "data/names"]
    lines = {"..": ("../../elsewhere/canary.png",), "absolute": ("{folder}/elsewhere/canary.png",),
             ".. and inside": ("../../elsewhere/canary.png", "images/0.png"),
             "absolute and inside": ("{folder}/elsewhere/canary.png", "images/0.png", "images/1.jpg"),
             "out and in": ("images/../../own/images/0.png",), "a link": ("images/up/link.png",),
             "through a linked folder": ("images/up/canary.png", "images/up/../own/images/0.png"),
             "far up": ("../../../" * 3 + "{folder}/elsewhere/canary.png", "images/0.png")}
    cases = {f"a list with {what}": Hostile(listing(*items), by_list, ANY) for what, items in lines.items()}
    cases.update({f"an image {name!r}": Hostile(named(name), by_folder, DONE) for name in IMAGES})
    cases["images of names with control characters"] = Hostile(named("a\nb.png", "\x1b[2Jc.png"), by_folder, DONE)
    cases["an image above"] = Hostile(listing(), [*predict, "data/own/../../elsewhere/canary.png"], DONE)
    cases["a folder with links out of it"] = Hostile(listing(), [*predict, "data/own/images"], DONE)
    return cases


# ---- downloads

class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers every address with weights, under another name, or by a redirect."""

    def do_GET(self):
        content = (intact_world() / BEST).read_bytes()
        self.send_response(302 if "redirect" in self.path else 200)
        if "redirect" in self.path:
            self.send_header("Location", self.path.partition("redirect=")[2])
        self.send_header("Content-Disposition", "attachment; filename=../../canary")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@contextmanager
def served() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def downloads() -> Dict[str, Hostile]:
    """Names of addresses become names in the cache; {port} is that of a server on this machine."""
    up = "../" * 40
    addresses = {
        "..": "/" + up + "{canary}", "encoded ..": "/" + "%2e%2e/" * 40 + "{canary}",
        "encoded /": "/" + quote(up, safe=""), "an absolute path": "//{canary}",
        "backslashes": "/" + "..\\" * 40 + "canary", "a query": "/get?f=" + up + "{canary}", "a query of ..": "/..?..",
        "dots": "/.../....", "a hidden name": "/.ssh/.authorized_keys", "a long name": "/" + "x" * 255,
        "a drive": "/C:/canary", "blanks": "/a%20b%0Ac", "a fragment": "/x#../../canary", "a user": "/@/x",
        "a tilde": "/~/x"}
    server = "http://127.0.0.1:{port}"
    cases = {f"an address with {what}": Hostile(set_key("model.pretrained", server + path), TRAIN, ANY)
             for what, path in addresses.items()}
    for target in ("file://{canary}", "ftp://127.0.0.1/x", "http://example.invalid/x", "data:,x", "//example.invalid/x",
                   "http://[/x", "https://127.0.0.1:9/" + up):
        cases[f"a redirect to {target:.30}"] = Hostile(
            set_key("model.pretrained", f"{server}/?redirect={target}"), TRAIN)
    return cases


CASES = {**recipes(), **paths(), **lists(), **downloads()}
# A small count takes every so many of them, of each kind.
STEP = 4
ORDER = [name for start in range(STEP) for name in list(CASES)[start::STEP]]


def attempt(number: int, folder: Path) -> Tuple[Ended, str]:
    name = ORDER[number]
    case = CASES[name]
    (folder / "home").mkdir()
    case.prepare(folder)
    command = case.command(folder) if callable(case.command) else case.command
    with served() as port:
        recipe = folder / "recipe.yml"
        if recipe.exists():
            recipe.write_text(recipe.read_text().replace("{port}", str(port)))
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
    return ended, fault and f"{name}: {fault}"


FAULTS = [Fault("hostile recipes and names", len(ORDER) // STEP, len(ORDER),
                lambda count, folder: survive(count, folder, attempt))]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_nothing_runs_and_nothing_is_written_elsewhere(fault, tmp_path):
    outcome: Outcome = fault.survive(fault.small, tmp_path)
    assert outcome.lost == []
    assert outcome.tried == fault.small


@pytest.mark.parametrize("name", TAGS)
def test_a_careless_reader_lets_the_canary_sing(name, tmp_path):
    (tmp_path / "x.yml").write_text("seed: " + TAGS[name].format(canary=tmp_path / CANARY))
    subprocess.run([sys.executable, "-c", f"import yaml; yaml.unsafe_load(open({str(tmp_path / 'x.yml')!r}))"],
                   capture_output=True, timeout=60)
    assert (tmp_path / CANARY).exists()


@pytest.mark.parametrize("text", SHELL[:4])
def test_a_careless_shell_lets_the_canary_sing(text, tmp_path):
    subprocess.run("ls " + text.format(canary=tmp_path / CANARY), shell=True, capture_output=True, timeout=60)
    assert (tmp_path / CANARY).exists()
