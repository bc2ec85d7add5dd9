"""The layers that PaddleSeg's models are built of: the same names, values and gradients as PaddleSeg's own."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from layer_cases import CASES, arrays_of

from paddleseg.models import layers


@pytest.fixture(scope="module")
def both_sides(paddleseg_package, tmp_path_factory):
    answer = tmp_path_factory.mktemp("peer") / "peer.npz"
    script = Path(__file__).with_name("layer_cases.py")
    subprocess.run([sys.executable, str(script), str(paddleseg_package), str(answer)], check=True,
                   cwd=answer.parent, capture_output=True)
    with np.load(answer) as stored:
        return arrays_of(layers), dict(stored)


@pytest.mark.parametrize("name", CASES)
def test_layer_is_paddlesegs(both_sides, name):
    ours, theirs = ({key: value for key, value in side.items() if key.startswith(f"{name}/")} for side in both_sides)
    assert sorted(ours) == sorted(theirs)
    for key, value in theirs.items():
        np.testing.assert_allclose(ours[key], value, rtol=1e-9, atol=1e-9, err_msg=key)


def test_every_public_layer_is_here(paddleseg_package):
    import ast

    tree = ast.parse((paddleseg_package / "paddleseg" / "models" / "layers" / "__init__.py").read_text())
    names = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names} - {"*"}
    assert names <= set(dir(layers)) and len(names) > 20


def test_every_module_path_is_here(paddleseg_package):
    for path in ("activation", "attention", "layer_libs", "nmf_2d", "nonlocal2d", "polaried_self_attention",
                 "pyramid_pool", "tensor_fusion", "wrap_functions"):
        assert (paddleseg_package / "paddleseg" / "models" / "layers" / f"{path}.py").is_file()
        module = importlib.import_module(f"paddleseg.models.layers.{path}")
        assert all(getattr(layers, name) is value for name, value in vars(module).items()
                   if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
                   and hasattr(layers, name))
