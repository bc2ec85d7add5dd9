"""PaddleSeg's own model files, unchanged, as plugins of this project."""

import re
from pathlib import Path

import pytest
from paddleseg_models import CASES, OUT_OF_REACH, TAKEN, TOO_OLD, run_command
from paddleseg_recipes import CONFIGS

from paddleseg import builder, plugins  # noqa: F401  (builder registers what the project has)
from paddleseg.cvlibs.errors import ConfigError

FOLDER = Path(__file__).parent
REACH = 25


def test_models_train_evaluate_and_export(paddleseg_package, capsys):
    printed = run_command(FOLDER / "paddleseg_models.py", "--paddleseg", paddleseg_package)
    found = re.search(r"^(\d+) of (\d+) run.*", printed, re.MULTILINE)
    with capsys.disabled():
        print(f"\nPaddleSeg's own model files: {found.group()}")
    count, total = map(int, found.groups())
    assert total == len(CASES) and count >= max(REACH, total - len(TOO_OLD))


@pytest.mark.parametrize("name, message", [
    *((file, rf"{file}\.py:\d+: ValueError: models: {name} is registered by paddleseg.models.") for name, file in
      TAKEN.items()),
    *((file, rf"{file}\.py:\d+: ImportError: cannot import name ") for file in OUT_OF_REACH.values())])
def test_files_that_cant_be_plugins_say_why(paddleseg_package, fresh_plugins, name, message):
    with pytest.raises(ConfigError, match=message):
        plugins.load_plugins([str(paddleseg_package / "paddleseg" / "models" / f"{name}.py")])


def test_published_recipes_are_read(paddleseg_package):
    if not CONFIGS.is_dir():
        pytest.skip("PaddleSeg's recipes aren't on PyPI; paddleseg_recipes.py says how to clone them")
    printed = run_command(FOLDER / "paddleseg_recipes.py", "--paddleseg", paddleseg_package, "--check_only")
    count, total = map(int, re.search(r"^(\d+) of (\d+) recipes", printed, re.MULTILINE).groups())
    assert total == 93 and count >= 88
