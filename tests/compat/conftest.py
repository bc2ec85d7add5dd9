from pathlib import Path

import fresh_plugins as registries
import pytest

from diff.paddleseg_reference import FOLDER

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def paddleseg_package():
    """The folder with PaddleSeg 2.8.0 as PyPI has it, which is only read."""
    folder = ROOT / FOLDER
    if not (folder / "paddleseg" / "models" / "layers").is_dir():
        pytest.skip(f"{FOLDER} is missing: `make test` gets PaddleSeg's package from PyPI")
    return folder


@pytest.fixture
def fresh_plugins():
    with registries.fresh_plugins():
        yield
