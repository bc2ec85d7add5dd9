"""What the commands work on: drawn scenes, the same pictures as a data set of list files, recipes, and a run.

A case gets a copy of all of it, so that what it spoils is its own:

    recipe.yml, own.yml    recipes for data/scenes and for data/own
    data/scenes/           Cityscapes' layout
    data/own/              train.txt, val.txt, images of several formats, labels
    run/                   two checkpoints and a best model
"""

import atexit
import functools
import hashlib
import io
import re
import shutil
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Callable, Dict, Sequence, Tuple

from forked_commands import Commands, Ended
from outcome import Outcome
from PIL import Image

from paddleseg.cvlibs import errors
from paddleseg.weights.load import read_weights
from tools import make_scenes

SIZE = (64, 128)  # (height, width)
FORMATS = {"png": {}, "jpg": {"quality": 90}, "bmp": {}, "tif": {"compression": "tiff_lzw"}, "webp": {"lossless": True}}
# An intact case takes about 200 MB; a process that grows beyond this is taken to have been blown up.
MEMORY_LIMIT_BYTES = 1 << 30

MODEL = """
model:
  type: EncNet
  backbone: {type: ResNet18_v1c, output_stride: 8, base_channels: 4}
  num_classes: 19
  num_codes: 4
  mid_channels: 8
  aux_channels: 8
optimizer: {type: AdamW}
lr_scheduler: {type: PolynomialDecay, learning_rate: 0.003, end_lr: 0.0, power: 0.9}
loss:
  types: [{type: CrossEntropyLoss}, {type: CrossEntropyLoss}, {type: SELoss}]
  coef: [1, 0.4, 0.2]
batch_size: 2
iters: 2
save_interval: 1
log_iters: 1
num_workers: 0
threads: 1
"""
TRANSFORMS = """  transforms:
    - {type: RandomPaddingCrop, crop_size: [64, 64]}
    - {type: Normalize}
"""
RECIPE = f"""train_dataset:
  type: Cityscapes
  dataset_root: data/scenes
{TRANSFORMS}val_dataset:
  type: Cityscapes
  dataset_root: data/scenes
  transforms: [{{type: Normalize}}]
{MODEL}"""
OWN = f"""train_dataset:
  type: Dataset
  dataset_root: data/own
  num_classes: 19
  train_path: data/own/train.txt
{TRANSFORMS}val_dataset:
  type: Dataset
  dataset_root: data/own
  num_classes: 19
  val_path: data/own/val.txt
  transforms: [{{type: Normalize}}]
{MODEL}"""

_CLASSES = {name for name, value in vars(errors).items()
            if isinstance(value, type) and issubclass(value, errors.SegError)}
_ERROR_LINE = re.compile(rf"({'|'.join(sorted(_CLASSES))}): \S")
_RECORDS = {"config.yml", "train.log", "log.jsonl"}
OUT = "out"


class World:
    """An intact world, and copies of it in which commands run."""

    def __init__(self):
        self.commands = Commands()
        self.folder = Path(tempfile.mkdtemp(prefix="small_world_"))
        self.intact = self.folder / "intact"
        self._draw()
        self._train()

    def _draw(self) -> None:
        scenes, own = self.intact / "data" / "scenes", self.intact / "data" / "own"
        with redirect_stdout(io.StringIO()):
            code = make_scenes.main([str(scenes), "--train", "2", "--val", "1", "--test", "1", "--num_workers", "0",
                                     "--size", *map(str, SIZE)])
        assert code == 0
        (self.intact / "recipe.yml").write_text(RECIPE)
        (self.intact / "own.yml").write_text(OWN)
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

    def _train(self) -> None:
        ended = self.commands.run(["train.py", "--config", "recipe.yml", "--do_eval", "--save_dir", "run"], self.intact)
        assert ended.code == 0, ended.printed

    def close(self) -> None:
        self.commands.close()
        shutil.rmtree(self.folder)


@functools.cache
def world() -> World:
    """One for all tests of the process."""
    made = World()
    atexit.register(made.close)
    return made


def survive(count: int, folder: Path, attempt: Callable[[int, Path], Tuple[Ended, str]]) -> Outcome:
    """attempt(number, a copy of the world) says how it ended and what was lost, or ""; copies of losses are kept."""
    def one(number: int) -> Tuple[str, str]:
        place = folder / str(number)
        shutil.copytree(world().intact, place)
        ended, loss = attempt(number, place)
        kind = "refused" if ended.code else "read"
        if loss:
            return f"{loss} (kept in {place})", kind
        shutil.rmtree(place)
        return "", kind

    outcome = Outcome()
    for loss, kind in world().commands.map(one, range(count)):
        outcome.add(loss, kind)
    return outcome


def run(command: Sequence, folder: Path, named: str = "", changes: Sequence[str] = (OUT,)) -> Tuple[Ended, str]:
    """Run a command in a copy of the world; how it ended, and what of that isn't as documented, or "".

    Args:
        named: what the line of an error must hold.
        changes: the entries of `folder` that the command may write; nothing else may change.
    """
    before = _tree(folder, changes)
    ended = world().commands.run(command, folder, HOME=str(folder / "home"))
    fault = _fault_of_end(ended, named) or _fault_of_files(command[0], folder, ended)
    if not fault and _tree(folder, changes) != before:
        written = sorted(set(_tree(folder, changes)) ^ set(before)) or "over a file"
        fault = f"wrote {written} outside {', '.join(changes)}"
    if fault:
        (folder / "printed.txt").write_text(ended.printed)
    return ended, fault and f"{' '.join(map(str, command))}: {fault}"


def _tree(folder: Path, without: Sequence[str]) -> Dict[str, Tuple[int, int]]:
    """Size and time of each file, but for those below the entries `without`."""
    found = {}
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if relative.parts[0] not in without and not path.is_dir():
            found[str(relative)] = (path.lstat().st_size, path.lstat().st_mtime_ns)
    return found


def _fault_of_end(ended: Ended, named: str) -> str:
    lines = [line for line in ended.err.split("\n") if line.strip()] or [""]
    if ended.code == Ended.TIMED_OUT:
        return f"still running after {ended.seconds:.0f} s"
    if "Traceback" in ended.printed or ended.code not in (0, 1, 2):
        return f"exit code {ended.code}: {lines[-1]:.300}"
    if ended.peak_bytes > MEMORY_LIMIT_BYTES:
        return f"took {ended.peak_bytes >> 20} MiB"
    said = [line for line in lines if _ERROR_LINE.match(line)]
    if ended.code and lines[-1:] != said:
        return f"exit code {ended.code} without a last line, the only one, that says why: {lines[-1]:.300}"
    if ended.code and named not in ended.err:
        return f"the error doesn't name {named}: {lines[-1]:.300}"
    if not re.sub("[\n\r\t]", "", ended.printed).isprintable():
        return f"control characters on the terminal: {lines[-1]!r:.300}"
    return ""


def _fault_of_files(script: str, folder: Path, ended: Ended) -> str:
    """What of the files of a command is partial."""
    partial = [path for path in folder.rglob("*") if path.suffix in (".tmp", ".part", ".old")]
    if partial:
        return f"left {partial[0]}"
    out = folder / OUT
    for picture in out.rglob("*.png"):
        if picture.is_file():
            Image.open(picture).load()
    if "[TRAIN]" in ended.out or ended.code == 0:
        return _fault_of_checkpoints(out)
    if script != "train.py" or not out.exists():
        return ""
    # What a recipe or weights refuse, they refuse before the run begins; files may be found faulty in its midst.
    early = re.search("^(ConfigError|WeightsError): ", ended.err, re.MULTILINE)
    entries = {path.name for path in out.iterdir()} - ({".lock"} if early else {".lock", *_RECORDS})
    return f"left {entries} in {OUT}" if entries else ""


def _fault_of_checkpoints(run_folder: Path) -> str:
    for directory in run_folder.glob("*/"):
        sums = directory / "SHA256SUMS"
        for line in sums.read_text().splitlines() if sums.exists() else ():
            digest, _, name = line.partition("  ")
            if hashlib.sha256((directory / name).read_bytes()).hexdigest() != digest:
                return f"{name} of {directory.name} isn't what its SHA256SUMS says"
        if (directory / "model.pdparams").exists():
            read_weights(str(directory / "model.pdparams"))
    return ""


def rewrite_sums(directory: Path) -> None:
    """Make the checksums of a checkpoint those of its files, as if they had been saved so."""
    names = sorted(path.name for path in directory.iterdir() if path.name not in ("SHA256SUMS", "score.json"))
    (directory / "SHA256SUMS").write_text("".join(
        f"{hashlib.sha256((directory / name).read_bytes()).hexdigest()}  {name}\n" for name in names))
