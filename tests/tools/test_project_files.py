"""The Makefile, the requirement files and pyproject.toml, held against each other and against the code."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest
import setup_env

ROOT = setup_env.ROOT
PACKAGE_OF = {"cv2": "opencv-python", "PIL": "pillow", "yaml": "pyyaml"}
# Imported where a user asked for what needs them; each place says how to install them.
OPTIONAL = {"torch", "safetensors", "paddle2onnx", "onnx", "onnxruntime", "kornia_rs", "flask", "werkzeug",
            "matplotlib"}


def sources():
    """The files that a user runs: the entry scripts, the toolkit and its tools, without their tests."""
    folders = [ROOT / name for name in ("paddleseg", "tools", "deploy")]
    return sorted([*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))])


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def is_foreign(module):
    """Return True if `module` is neither Python's nor the project's."""
    if (ROOT / module).is_dir() or list(ROOT.glob(f"*/{module}.py")) or module in sys.builtin_module_names:
        return False
    spec = importlib.util.find_spec(module)
    origins = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or [])]
    return spec is None or any("site-packages" in origin for origin in origins)


@pytest.mark.parametrize("paths, lists, others", [
    (sources(), ["base"], OPTIONAL | {"paddle"}),
    (list((ROOT / "benchmarks").glob("*.py")), ["base", "align", "onnx"], {"paddle", "mmseg"})],
    ids=["product", "benchmarks"])
def test_every_foreign_import_is_declared(paths, lists, others):
    lines = [line for name in lists for line in setup_env.read_requirements(ROOT / f"requirements-{name}.txt")]
    declared = {setup_env.package_name(line) for line in lines} | others
    undeclared = {f"{path.relative_to(ROOT)}: {module}" for path in paths for module in imported_modules(path)
                  if is_foreign(module) and PACKAGE_OF.get(module, module) not in declared}
    assert not undeclared


def test_constructors_name_their_arguments():
    """So that a misspelt one is refused where it is given; PaddleSeg's own model files need what lies in compat."""
    swallowing = [f"{path.relative_to(ROOT)}:{node.lineno}" for path in (ROOT / "paddleseg").rglob("*.py")
                  if "compat" not in path.parts for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                  if isinstance(node, ast.FunctionDef) and node.name == "__init__" and node.args.kwarg]
    assert not swallowing


def test_both_sets_have_the_same_packages_besides_paddle():
    names = {device: {setup_env.package_name(line) for line in setup_env.requirements_of(device)}
             for device in ("cpu", "gpu")}
    assert {name for name in names["gpu"] if not name.startswith(("paddlepaddle", "nvidia-"))} == \
        names["cpu"] - {"paddlepaddle"}


def test_ruff_and_pip_agree_on_the_oldest_python():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'requires-python = ">=3.{setup_env.OLDEST_PYTHON}"' in text
    assert f'target-version = "py3{setup_env.OLDEST_PYTHON}"' in text


def make(*arguments):
    # An outer make hands its own overrides down in these.
    inherited = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PADDLE", "DEVICE", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    return subprocess.run(["make", "-C", str(ROOT), *arguments], env=environment, capture_output=True, text=True)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


@needs_make
def test_make_lists_every_target():
    listed = set(re.findall(r"^  make ([\w-]+)", make().stdout, re.MULTILINE))
    declared = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed == set(declared.group(1).split()) - {"align-env"}  # a step of others


@needs_make
@pytest.mark.parametrize("overrides, setup, python", [
    ([], "python3 tools/setup_env.py --venv .venv", ".venv/bin/python"),
    (["PADDLE=2.6.2"], "python3 tools/setup_env.py --venv .venv-2.6.2 --paddle 2.6.2", ".venv-2.6.2/bin/python"),
    (["DEVICE=cpu"], "python3 tools/setup_env.py --venv .venv-cpu --device cpu", ".venv-cpu/bin/python"),
    (["PYTHON=py"], "py tools/setup_env.py --venv .venv --this_python", ".venv/bin/python"),
])
def test_make_gives_each_choice_its_environment(overrides, setup, python):
    lines = [" ".join(line.split()) for line in make("-n", "test", *overrides).stdout.splitlines()]
    assert setup in lines
    assert f"{python} -m ruff check ." in lines
    assert any(line.startswith(f"{python} -m pytest -q") for line in lines)


@needs_make
def test_clean_keeps_data_and_runs():
    removed = {word for line in make("-n", "clean").stdout.splitlines() if line.startswith("rm ")
               for word in line.split()[2:]}
    assert "output/demo" in removed
    assert not removed & {"data", "output", "data/", "output/", "data/cityscapes"}
