"""Print the numbers that CONTRIBUTING.md shows of the house: lines, arrows, files entered, argument lists.

    python tests/house_numbers.py
"""

import ast
import inspect
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Set, Tuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "paddleseg"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import test_imports  # noqa: E402

CONFIG = "configs/quick_start/encnet_resnet18_scenes.yml"
PADDLESEG_FUNCTIONS = ("download_file_and_uncompress",)
LAYOUT = re.compile(r"^iter_$|iter_[{(\[\\%]|best_model|SHA256SUMS|score\.json|^(train\.log|log\.jsonl)$")


def lines(*folders: str) -> int:
    listed = subprocess.run(["git", "ls-files", *(f"{folder}/*.py" for folder in folders)], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.split()
    return sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in listed)


# ---- arrows -----------------------------------------------------------------------------------------

def arrows() -> Dict[str, Set[str]]:
    return {module: test_imports.targets(path) - {module} for module, path in test_imports.MODULES.items()}


def back_arrows() -> List[str]:
    order, room = test_imports.ORDER, test_imports.room_of
    return [f"{module} -> {name}" for module, names in arrows().items() for name in names
            if room(module) and order.index(room(name)) > order.index(room(module))]


def circles() -> int:
    """The number of groups of files that import each other."""
    graph = arrows()

    def reached(start: str) -> Set[str]:
        found, waiting = set(), [start]
        while waiting:
            for name in graph.get(waiting.pop(), ()):
                if name not in found:
                    found.add(name)
                    waiting.append(name)
        return found

    reach = {module: reached(module) for module in graph}
    return len({frozenset(name for name in reach[module] if module in reach[name])
                for module in graph if module in reach[module]})


# ---- who knows, and how long the lists are ----------------------------------------------------------

def texts(tree: ast.AST) -> Iterator[str]:
    """The string constants of a file that are neither docstrings nor a flag's help."""
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
        elif isinstance(node, ast.keyword) and node.arg == "help":
            skipped.update(ast.walk(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and node not in skipped:
            skipped.update(node.values)
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            yield node.value


def files_that_know_the_layout() -> List[str]:
    found = []
    for path in test_imports.FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(LAYOUT.search(text) for text in texts(tree)):
            found.append(path.relative_to(PACKAGE).as_posix())
    return found


def longest_argument_list() -> Tuple[int, str]:
    """Return the longest list outside models and data, but for components and functions that PaddleSeg names."""
    longest = (0, "")
    for path in test_imports.FILES:
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(("models/", "datasets/", "transforms/")):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        registered = {method for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
                      and any("add_component" in ast.dump(decorator) for decorator in node.decorator_list)
                      for method in node.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node not in registered and node.name not in PADDLESEG_FUNCTIONS:
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                count = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
                longest = max(longest, (count, f"{name}: {node.name}"))
    return longest


# ---- files entered -----------------------------------------------------------------------------------

def files_entered(action: Callable[[], None]) -> List[str]:
    """Return the files of the package that have a function called in an action; imports don't count."""
    entered = set()

    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_name != "<module>":
            entered.add(frame.f_code.co_filename)

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return sorted(Path(name).relative_to(PACKAGE).as_posix() for name in entered if name.startswith(f"{PACKAGE}/"))


def walks() -> Tuple[List[str], List[str]]:
    """Return the files entered by a sample from disk to its loss, and by a checkpoint from save to val.py's model."""
    from fake_data import make_cityscapes

    from paddleseg import builder
    from paddleseg.core import train
    from paddleseg.core.precision import MixedPrecision
    from paddleseg.core.run_dir import RunDir
    from paddleseg.core.state import TrainState, run_fingerprint
    from paddleseg.cvlibs.config import load_config

    with tempfile.TemporaryDirectory() as folder:
        make_cityscapes(Path(folder) / "data")
        sizes = ["train_dataset.transforms.0.crop_size=[64,64]", "batch_size=1", "num_workers=0", "device=cpu"]
        config = builder.resolve(load_config(str(ROOT / CONFIG), [
            f"train_dataset.dataset_root={folder}/data", f"val_dataset.dataset_root={folder}/data", *sizes]))
        options, dataset = builder.build_train_options(config), builder.build_dataset(config, "train_dataset")
        model = builder.build_model(config)
        criteria = builder.build_criteria(config, model)
        batches, precision = train.training_batches(dataset, options), MixedPrecision()

        def to_the_loss() -> None:
            _, batch = next(batches)
            train.backward(model, criteria, batch, precision)

        to_the_loss()
        sample = files_entered(to_the_loss)
        batches.close()
        state = TrainState(model, criteria, builder.build_optimizer(config, model), builder.build_schedule(config),
                           options, run_fingerprint(options, len(dataset)))
        state.end_iteration(1)
        with RunDir(f"{folder}/run").locked():
            run_dir = RunDir(f"{folder}/run")
            saved = files_entered(lambda: state.save(run_dir, options, evaluation_due=True))
        path = f"{run_dir.checkpoint_path(1)}/model.pdparams"
        loaded = files_entered(lambda: builder.build_trained_model(config, path))
        # The model itself is built in between; that isn't the checkpoint's way.
        return sample, sorted({*saved, *(name for name in loaded if not name.startswith(("models/", "cvlibs/")))})


def main() -> None:
    from paddleseg.core.train import train

    sample, checkpoint = walks()
    layout, (longest, where) = files_that_know_the_layout(), longest_argument_list()
    rows = [
        ("lines of `paddleseg/`", "15,556", f"{lines('paddleseg'):,}", "11,000"),
        ("tools + scenes, diff, benchmarks, tests", "5,680, 3,177, 2,227, 23,151", ", ".join(
            f"{lines(*folders):,}" for folders in (("tools", "scenes"), ("diff",), ("benchmarks",), ("tests",))),
         "4,900, 2,700, 1,500, 14,000"),
        ("circles of files; imports that run back up the list of rooms", "1; 5",
         f"{circles()}; {len(back_arrows())}", "0; 0"),
        ("files of `paddleseg/` entered by one sample from disk to its loss", "24", str(len(sample)), "14"),
        ("the same by a checkpoint from save to val.py's model", "14", str(len(checkpoint)), "8"),
        ("files of `paddleseg/` that know the layout of a run", "5", str(len(layout)), "1"),
        ("arguments of `train`", "12", str(len(inspect.signature(train).parameters)), "5"),
        ("longest argument list outside models and data sets", "14", str(longest), "7"),
    ]
    print("| What | 2026-11-21 | Now | At most |\n|-|-|-|-|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    for title, names in (("sample", sample), ("checkpoint", checkpoint), ("layout", layout), ("longest", [where])):
        print(f"\n{title}: {', '.join(names)}", file=sys.stderr)


if __name__ == "__main__":
    main()
