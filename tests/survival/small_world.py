"""The files that the commands work on: synthetic scenes, the same pictures as a data set of list files, configs, a run.

A case gets a copy of all of it, so that what it corrupts is its own:

    recipe.yml, own.yml    configs for data/scenes and for data/own
    data/scenes/           Cityscapes' layout
    data/own/              train.txt, val.txt, images of several formats, labels
    run/                   two checkpoints and a best model
"""

import functools
import hashlib
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, Sequence, Tuple

import yaml
from forked_commands import ROOT, Ended, run_forked
from outcome import Outcome
from PIL import Image
from real_run import damages, shared_folder

THREADS = 2
FORMATS = {"png": {}, "jpg": {"quality": 90}, "bmp": {}, "tif": {"compression": "tiff_lzw"}, "webp": {"lossless": True}}
# An intact case takes about 200 MB; a process that grows beyond this is taken to have been blown up.
MEMORY_LIMIT_BYTES = 1 << 30
OUT = "out"
_ERROR_LINE = re.compile(r"\w+Error: \S")


def _config(**dataset) -> str:
    """A config of a tiny EncNet; the data set is read for training and for validation."""
    def section(mode: str, transforms: list) -> Dict:
        paths = {f"{mode}_path": f"{dataset['dataset_root']}/{mode}.txt"} if dataset["type"] == "Dataset" else {}
        return {**dataset, **paths, "transforms": [*transforms, {"type": "Normalize"}]}

    return yaml.safe_dump({
        "train_dataset": section("train", [{"type": "RandomPaddingCrop", "crop_size": [64, 64]}]),
        "val_dataset": section("val", []),
        "model": {"type": "EncNet", "backbone": {"type": "ResNet18_v1c", "output_stride": 8, "base_channels": 4},
                  "num_classes": 19, "num_codes": 4, "mid_channels": 8, "aux_channels": 8},
        "optimizer": {"type": "AdamW"},
        "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.003, "end_lr": 0.0, "power": 0.9},
        "loss": {"types": [{"type": "CrossEntropyLoss"}, {"type": "CrossEntropyLoss"}, {"type": "SELoss"}],
                 "coef": [1, 0.4, 0.2]},
        "batch_size": 2, "iters": 2, "save_interval": 1, "log_iters": 1, "num_workers": 0, "threads": 1,
    }, sort_keys=False)


@functools.cache
def intact_world() -> Path:
    """One for all tests of the process."""
    intact = shared_folder() / "intact"
    scenes, own = intact / "data" / "scenes", intact / "data" / "own"
    subprocess.run([sys.executable, "tools/make_scenes.py", scenes, "--train", "2", "--val", "1", "--test", "1",
                    "--size", "64", "128", "--num_workers", "0"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (intact / "recipe.yml").write_text(_config(type="Cityscapes", dataset_root="data/scenes"))
    (intact / "own.yml").write_text(_config(type="Dataset", dataset_root="data/own", num_classes=19))
    for name in ("images", "labels"):
        (own / name).mkdir(parents=True)
    pictures = sorted((scenes / "leftImg8bit").glob("*/*/*.png"))
    lines = []
    for number, (suffix, options) in enumerate(FORMATS.items()):
        picture = pictures[number % len(pictures)]
        label = str(picture).replace("leftImg8bit", "gtFine", 1).replace("leftImg8bit", "gtFine_labelTrainIds")
        Image.open(picture).save(own / "images" / f"{number}.{suffix}", **options)
        shutil.copy(label, own / "labels" / f"{number}.png")
        lines.append(f"images/{number}.{suffix} labels/{number}.png\n")
    for name in ("train.txt", "val.txt"):
        (own / name).write_text("".join(lines))
    ended = run_forked(["train.py", "--config", "recipe.yml", "--do_eval", "--save_dir", "run"], intact)
    assert ended.code == 0, ended.printed
    return intact


def survive(count: int, folder: Path, attempt: Callable[[int, Path], Tuple[Ended, str]]) -> Outcome:
    """Try attempt(number, a copy of the world), which returns how it ended and what was lost, or "", `count` times."""
    def one(number: int) -> Tuple[str, str]:
        place = folder / str(number)
        shutil.copytree(intact_world(), place)
        ended, loss = attempt(number, place)
        if loss:
            loss = f"{loss} (kept in {place})"
        else:
            shutil.rmtree(place)
        return "refused" if ended.code else "read", loss

    intact_world()
    outcome = Outcome()
    with ThreadPoolExecutor(THREADS) as pool:
        for kind, loss in pool.map(one, range(count)):
            outcome.add(kind, loss)
    return outcome


def run(command: Sequence, folder: Path, named: str = "", changes: Sequence[str] = (OUT,)) -> Tuple[Ended, str]:
    """Run a command in a copy of the world; how it ended, and what of that isn't as documented, or "".

    Args:
        named: what the line of an error must hold.
        changes: the entries of `folder` that the command may write; nothing else may change.
    """
    before = _tree(folder, changes)
    ended = run_forked(command, folder, HOME=str(folder / "home"))
    fault = _fault_of_end(ended, named) or _fault_of_files(command[0], folder, ended)
    if not fault and _tree(folder, changes) != before:
        written = sorted(set(_tree(folder, changes)) ^ set(before)) or "over a file"
        fault = f"wrote {written} outside {', '.join(changes)}"
    if fault:
        (folder / "printed.txt").write_text(ended.printed)
    return ended, fault and f"{' '.join(map(str, command))}: {fault}"


def _tree(folder: Path, without: Sequence[str]) -> Dict[Path, Tuple[int, int]]:
    """Size and time of each file, but for those below the entries `without`."""
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")
            if path.relative_to(folder).parts[0] not in without and not path.is_dir()}


def _fault_of_end(ended: Ended, named: str) -> str:
    lines = [line for line in ended.err.split("\n") if line.strip()] or [""]
    if ended.code == Ended.TIMED_OUT:
        return f"still running after {ended.seconds:.0f} s"
    if "Traceback" in ended.printed or ended.code not in (0, 1, 2):
        return f"exit code {ended.code}: {lines[-1]:.300}"
    if ended.peak_bytes > MEMORY_LIMIT_BYTES:
        return f"took {ended.peak_bytes >> 20} MiB"
    if ended.code and lines[-1:] != [line for line in lines if _ERROR_LINE.match(line)]:
        return f"exit code {ended.code} without a last line, the only one, that says why: {lines[-1]:.300}"
    if ended.code and named not in ended.err:
        return f"the error doesn't name {named}: {lines[-1]:.300}"
    if not re.sub("[\n\r\t]", "", ended.printed).isprintable():
        return f"control characters on the terminal: {lines[-1]!r:.300}"
    return ""


def _fault_of_files(script: str, folder: Path, ended: Ended) -> str:
    """Name what of the files of a command is partial."""
    partial = [path for path in folder.rglob("*") if path.suffix in (".tmp", ".part", ".old")]
    if partial:
        return f"left {partial[0]}"
    out = folder / OUT
    for picture in out.rglob("*.png"):
        if picture.is_file():
            Image.open(picture).load()
    if "[TRAIN]" in ended.out or ended.code == 0:
        return "; ".join(damages(out))
    # A config or weights are refused before the run begins; files may be found faulty in its midst.
    early = re.search("^(ConfigError|WeightsError): ", ended.err, re.MULTILINE)
    allowed = {".lock"} if early else {".lock", "config.yml", "train.log", "log.jsonl"}
    left = {path.name for path in out.glob("*")} - allowed
    return f"left {left} in {OUT}" if left and script == "train.py" else ""


def rewrite_sums(directory: Path) -> None:
    """Make the checksums of a checkpoint those of its files, as if they had been saved so."""
    names = sorted(path.name for path in directory.iterdir() if path.name not in ("SHA256SUMS", "score.json"))
    (directory / "SHA256SUMS").write_text("".join(
        f"{hashlib.sha256((directory / name).read_bytes()).hexdigest()}  {name}\n" for name in names))
