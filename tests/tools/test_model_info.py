import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.model_info import main, stage_of

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "configs/quick_start/encnet_resnet18_scenes.yml")
SHAPE = ("--input_shape", "2", "3", "64", "96")


def table(text):
    """{stage: [parameters, GFLOP, MiB kept, MiB in use]}"""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: [float(cell.replace(",", "")) for cell in row[1:]] for row in rows[1:]}


def run(capsys, *flags):
    assert main(["--config", RECIPE, *flags]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def test_stages_and_sums(capsys):
    from paddleseg import builder
    from paddleseg.cvlibs.config import load_config

    found = table(run(capsys, *SHAPE))
    assert list(found) == [
        "backbone stem", "backbone stage 1", "backbone stage 2", "backbone stage 3", "backbone stage 4", "bottleneck",
        "enc_module", "head", "fcn_head", "se_layer", "loss", "the batch", "total, with backward pass"]
    config = load_config(RECIPE)
    builder.check(config)
    model = builder.build_model(config)
    trained = {name: value.size for name, value in model.named_parameters() if not value.stop_gradient}
    for stage in ("backbone stage 3", "enc_module", "se_layer"):
        assert found[stage][0] == sum(size for name, size in trained.items() if stage_of(name) == stage) > 0
    total = found.pop("total, with backward pass")
    assert total[0] == sum(trained.values())
    for column in range(3):
        assert sum(row[column] for row in found.values()) == pytest.approx(total[column], abs=0.5)
    assert total[3] >= max(row[3] for row in found.values())


def test_images_count(capsys):
    one, four = (table(run(capsys, "--input_shape", number, "3", "64", "96"))["backbone stage 3"] for number in "14")
    assert four[0] == one[0] and four[1:3] == pytest.approx([4 * value for value in one[1:3]], rel=0.2, abs=0.21)


def test_the_recipe_says_how_many_images(capsys):
    assert ", 4 x 3 x 512 x 1024, float32" in run(capsys)
    assert ", 3 x 3 x 512 x 1024, float32" in run(capsys, "--opts", "batch_size=3")


def test_recomputed_stages_keep_less(capsys):
    plain, recomputed = (table(run(capsys, *SHAPE, *flags)) for flags in (
        (), ("--opts", "model.backbone.recompute_stages=[3]")))
    assert recomputed["backbone stage 3"][2] < 0.6 * plain["backbone stage 3"][2]
    assert recomputed["backbone stage 2"] == plain["backbone stage 2"]


def test_frozen_stages_are_no_parameters(capsys):
    assert table(run(capsys, *SHAPE, "--opts", "model.backbone.frozen_stages=1"))["backbone stage 1"][0] == 0


def test_corrected_variance(capsys):
    recipe = str(ROOT / "configs/fcn/fcn_r101_d8_512x1024_80k_cityscapes.yml")
    assert main(["--config", recipe, *SHAPE]) == 0
    assert table(capsys.readouterr().out)["head"][1] > 0


@pytest.mark.parametrize("flags, message", [
    (["--input_shape", "0", "3", "64", "96"], "--input_shape 0 3 64 96: all four must be at least 1"),
    (["--input_shape", "1", "4", "64", "96"], "--input_shape: C is 4, but the backbone's in_channels 3"),
    (["--opts", "model.num_codez=1"], "did you mean num_codes"),
])
def test_wrong_flags(flags, message, capsys):
    assert main(["--config", RECIPE, *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ConfigError: ") and message in said and len(said.splitlines()) == 1


def test_missing_file(capsys):
    assert main(["--config", "absent.yml"]) == 2
    assert "absent.yml" in capsys.readouterr().err


def test_runs_as_a_script_from_anywhere(tmp_path):
    command = [sys.executable, str(ROOT / "tools/model_info.py"), "--config", RECIPE, *SHAPE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and re.search(r"backward pass: \d+\.\d GFLOP", done.stdout) and not done.stderr
    shown = subprocess.run([*command[:2], "--help"], capture_output=True, text=True).stdout
    assert "python tools/model_info.py --config configs/encnet/encnet_cityscapes.yml" in shown
