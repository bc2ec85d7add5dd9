"""Import rules: an arrow may only point up the list of rooms, and no files form a circle."""

import ast
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Dict, List, Set

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each room may import itself and those above it; beside it, the libraries beyond the standard one that it may import.
ROOMS = {
    "__main__": set(),
    "cvlibs.errors": set(),
    "cvlibs.manager": set(),
    "cvlibs.config": {"yaml"},
    "cvlibs.param_init": {"paddle"},
    "utils": {"paddle", "numpy", "tqdm", "visualdl"},
    "launch": {"paddle"},
    "weights": {"paddle", "numpy", "safetensors"},
    "utils.utils": set(),  # re-exports loading under the names that PaddleSeg's code imports
    "transforms": {"numpy", "cv2", "PIL", "kornia_rs"},
    "datasets": {"numpy", "paddle", "cv2", "tqdm", "cityscapesscripts"},
    "models.layers": {"paddle"},
    "models.losses": {"paddle", "numpy"},
    "models.backbones": {"paddle"},
    "models": {"paddle"},
    "core": {"paddle", "numpy", "cv2", "PIL", "tqdm", "prettytable"},
    "report": {"paddle", "numpy", "cv2", "PIL", "matplotlib", "tqdm"},
    "plugins": set(),
    "builder": {"paddle", "numpy"},
    "commands": {"paddle"},
}
ORDER = list(ROOMS)
# Rooms above that a room may not import all the same.
NEVER = {
    "transforms": {"utils", "launch", "weights"},
    "models": {"launch", "transforms", "datasets"},
    "models.layers": {"launch", "transforms", "datasets"},
    "models.losses": {"launch", "transforms", "datasets"},
    "models.backbones": {"launch", "transforms", "datasets"},
    "core": {"cvlibs.config", "launch", "models", "models.layers", "models.losses", "models.backbones"},
}
# What a newcomer reads to understand training EncNet on Cityscapes; it never imports the outer ring.
INNER = ("cvlibs.", "transforms.", "datasets.base", "datasets.cityscapes", "datasets.dataset", "datasets.listing",
         "datasets.loader", "models.backbones.resnet", "models.layers.", "models.losses.", "models.encnet",
         "models.fcn", "core.")
COMPAT = "models.layers.compat"  # its files are modules of models.layers
OUTER = ("plugins", COMPAT, *(f"models.layers.{path.stem}" for path in (
         ROOT / "paddleseg" / "models" / "layers" / "compat").glob("[a-z]*.py")), "weights.dialects", "report",
         "datasets.cache", "datasets.ade20k", "datasets.pascal_voc", "datasets.pascal_context", "launch")
# Files that are still to move or to go; nothing may be added.
PENDING = ()
FILES = sorted(path for path in (ROOT / "paddleseg").rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name below paddleseg; "" for the package itself."""
    name = ".".join(path.relative_to(ROOT / "paddleseg").with_suffix("").parts)
    name = name[:-len("__init__")].rstrip(".") if name.endswith("__init__") else name
    return name.replace(f"{COMPAT}.", "models.layers.")


MODULES: Dict[str, Path] = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    """The longest room that a module lies in; "" for the package itself."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in ROOMS), "")


def imported(path: Path) -> List[str]:
    """The full dotted names that a file imports, wherever in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def targets(path: Path) -> Set[str]:
    """The modules of the package that a file imports."""
    found = set()
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "paddleseg":
            found.add(rest if rest in MODULES else rest.rpartition(".")[0])
    return found - {""}


def third_party(top: str) -> bool:
    spec = util.find_spec(top)
    return spec is None or "site-packages" in (spec.origin or "")


def is_in(module: str, names) -> bool:
    return any(f"{module}.".startswith(f"{name}." if not name.endswith(".") else name) for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_up(path):
    module = module_of(path)
    if module in PENDING:
        pytest.skip("still to move")
    room = room_of(module)
    for target in targets(path):
        above = room_of(target)
        assert room and ORDER.index(above) <= ORDER.index(room), f"{module} may not import {target}"
        assert above not in NEVER.get(room, ()), f"{module} may not import {target}"
    libraries = {name.split(".")[0] for name in imported(path)} - {"paddleseg"}
    foreign = {top for top in libraries if third_party(top)} - ROOMS.get(room, set())
    assert not foreign, f"{module} (room {room}) may not import {foreign}"


def test_every_file_has_a_room():
    assert not [module for module, path in MODULES.items() if not room_of(module) and path.name != "__init__.py"]


def test_no_circle_of_files():
    arrows = {module: {name for name in targets(path) if name != module} for module, path in MODULES.items()
              if module not in PENDING}
    while True:
        free = {module for module, names in arrows.items() if not names & set(arrows)}
        if not free:
            break
        arrows = {module: names for module, names in arrows.items() if module not in free}
    assert not arrows, "these import each other, or something that does"


def test_the_inner_ring_stands_alone():
    for module, path in MODULES.items():
        if module not in PENDING and is_in(module, INNER) and not is_in(module, OUTER) and path.name != "__init__.py":
            assert not [name for name in targets(path) if is_in(name, OUTER)], module


@pytest.mark.parametrize("path", [path for path in ROOT.rglob("*.py") if not any(
    part.startswith(".") or part in ("diff", "benchmarks", "build") for part in path.relative_to(ROOT).parts)],
    ids=lambda path: path.relative_to(ROOT).as_posix())
def test_torch_is_imported_nowhere_else(path):
    if path.name != "convert_weights.py":
        assert not [name for name in imported(path) if name.split(".")[0] == "torch"]


@pytest.mark.parametrize("script", ["train.py", "val.py", "predict.py", "tools/export.py"])
def test_help_needs_no_library(script):
    code = ("import sys; sys.argv = ['x', '--help']\n"
            f"import runpy\ntry: runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\nexcept SystemExit: pass\n"
            "print(sorted(set(sys.modules) & {'paddle', 'numpy', 'cv2', 'yaml'}))")
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--config FILE" in printed and printed.endswith("[]\n")
