"""Who may import whom: an arrow may only point up the list of rooms."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Room -> the rooms of the package, and the libraries beyond the standard one, that it may import.
ROOMS = {
    "__main__": (set(), set()),
    "cvlibs.errors": (set(), set()),
    "cvlibs.manager": ({"cvlibs.errors"}, set()),
    "cvlibs.config": ({"cvlibs.errors", "cvlibs.manager"}, {"yaml"}),
    "cvlibs.param_init": ({"cvlibs.errors"}, {"paddle"}),
    "utils": ({"cvlibs.errors", "utils"}, {"paddle", "numpy", "tqdm", "visualdl", "safetensors"}),
    "transforms": ({"cvlibs.errors", "cvlibs.manager", "transforms"}, {"numpy", "cv2", "PIL", "isal", "kornia_rs"}),
    "datasets": ({"cvlibs.errors", "cvlibs.manager", "utils", "transforms", "datasets"},
                 {"numpy", "paddle", "cv2", "cityscapesscripts"}),
    "models.layers": ({"cvlibs.errors", "cvlibs.param_init", "models.layers"}, {"paddle"}),
    "models.backbones": ({"cvlibs.errors", "cvlibs.manager", "cvlibs.param_init", "utils", "models.layers",
                          "models.backbones"}, {"paddle"}),
    "models.losses": ({"cvlibs.errors", "cvlibs.manager", "models.losses"}, {"paddle", "numpy"}),
    "models": ({"cvlibs.errors", "cvlibs.manager", "cvlibs.param_init", "utils", "models.layers", "models.losses",
                "models.backbones", "models"}, {"paddle"}),
    "core": ({"cvlibs.errors", "cvlibs.manager", "utils", "transforms", "datasets", "core"},
             {"paddle", "numpy", "cv2", "PIL", "tqdm", "prettytable", "matplotlib"}),
    "cvlibs.plugins": ({"cvlibs.errors", "cvlibs.manager", "transforms"}, set()),
    "cvlibs.builder": ({"cvlibs.errors", "cvlibs.manager", "cvlibs.config", "cvlibs.plugins", "utils", "transforms",
                        "datasets", "models", "models.losses", "core"}, {"paddle", "numpy"}),
}
FILES = sorted((ROOT / "paddleseg").rglob("*.py"))


def room_of(module: str) -> str:
    """The longest room that a dotted module below paddleseg lies in; "" for the package itself."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in ROOMS), "")


def imported(path: Path):
    """The full dotted names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def third_party(top: str) -> bool:
    spec = importlib.util.find_spec(top)
    return spec is None or "site-packages" in (spec.origin or "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_up(path):
    module = path.relative_to(ROOT / "paddleseg").with_suffix("").as_posix().replace("/", ".")
    room = room_of(module.replace(".__init__", ""))
    rooms, libraries = ROOMS.get(room, (set(), set()))
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "paddleseg":
            target = room_of(rest)
            assert not target or target in rooms, f"{module} (room {room or 'paddleseg'}) may not import {name}"
        elif third_party(top):
            assert top in libraries, f"{module} (room {room or 'paddleseg'}) may not import {name}"


def test_every_file_has_a_room():
    homeless = [path for path in FILES if path.name != "__init__.py" and not room_of(
        path.relative_to(ROOT / "paddleseg").with_suffix("").as_posix().replace("/", "."))]
    assert not homeless


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
