import json
import shutil
import subprocess
import sys
from pathlib import Path

import gpus
import pytest

from paddleseg.cvlibs.config import load_config
from tools import ablation

ROOT = Path(__file__).resolve().parents[2]


def run(save_dir, *flags, code=0):
    command = [sys.executable, "tools/ablation.py", "--quick", "--device", "cpu", "--save_dir", str(save_dir), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A quick ablation of one seed; its directory and what it printed."""
    save_dir = tmp_path_factory.mktemp("ablation") / "quick"
    return save_dir, run(save_dir, "--seeds", "7")


def test_rows_differ_in_what_they_are_named_for_alone():
    fcn, encoding, se_loss = (load_config(str(ROOT / path)).plain() for path in ablation.CONFIGS.values())
    models = [config.pop("model") for config in (fcn, encoding, se_loss)]
    assert fcn == encoding
    assert models[1] == {**models[2], "use_se_loss": False}
    for key in ("backbone", "num_classes", "aux_channels"):
        assert models[0][key] == models[1][key]
    assert models[0]["channels"] == models[1]["mid_channels"] and models[0]["dropout"] == 0.0
    losses = [config.pop("loss") for config in (encoding, se_loss)]
    assert encoding == se_loss
    for key in ("types", "coef"):
        assert losses[0][key] == losses[1][key][:2]


@pytest.mark.parametrize("seeds, fcn, encoding", [
    ((1, 2), "42.00 ± 2.83 | 40.00 to 44.00 | 50.00 ± 0.00 |  |",
     "45.00 ± 0.00 | 45.00 to 45.00 | 50.00 ± 0.00 | +3.00 ± 2.83 |"),
    ((1,), "40.00 | 40.00 to 40.00 | 50.00 |  |", "45.00 | 45.00 to 45.00 | 50.00 | +5.00 |")])
def test_the_table_from_known_scores(seeds, fcn, encoding):
    scores = {"FCN": (0.40, 0.44), "+ Encoding": (0.45, 0.45), "+ SE-loss": (0.44, 0.46)}
    results = {(row, seed): {"mIoU": scores[row][seed - 1], "Acc": 0.5} for row in scores for seed in seeds}
    lines = ablation.table(ablation.summarize(results, seeds)).splitlines()
    assert lines[2:4] == [f"| FCN | {fcn}", f"| + Encoding | {encoding}"]


@pytest.mark.slow
def test_the_table_holds_what_training_logged(done):
    save_dir, printed = done
    assert (save_dir / "table.md").read_text() in printed
    rows = json.loads((save_dir / "results.json").read_text())["rows"]
    assert [row["row"] for row in rows] == ["FCN", "+ Encoding", "+ SE-loss"]
    for row in rows:
        folder = save_dir / f"{Path(row['config']).stem}_seed7"
        evaluations = [record for record in map(json.loads, (folder / "log.jsonl").read_text().splitlines())
                       if record["mode"] == "eval"]
        assert len(evaluations) == 1 and evaluations[0]["iter"] == 2
        assert row["mIoU"]["mean"] == evaluations[0]["mIoU"] == row["runs"][0]["mIoU"]


@pytest.mark.slow
def test_what_is_done_is_not_repeated_and_what_was_cut_off_goes_on(done):
    save_dir, before = done
    table = (save_dir / "table.md").read_text()
    shutil.rmtree(save_dir / "fcn_resnet18_scenes_seed7")
    weights = {path: path.stat().st_mtime_ns for path in save_dir.glob("*/iter_2/model.pdparams")}
    assert len(weights) == 2
    printed = run(save_dir, "--seeds", "7")
    assert "3 runs, 2 of them done already" in printed and "[1/1] fcn_resnet18_scenes_seed7" in printed
    assert (save_dir / "table.md").read_text() == table
    assert weights == {path: path.stat().st_mtime_ns for path in weights}

    (save_dir / "encnet_resnet18_scenes_seed7.json").write_text('{"config": "of yesterday"}')
    assert "encnet_resnet18_scenes_seed7: its config has changed" in run(save_dir, "--seeds", "7")
    assert weights != {path: path.stat().st_mtime_ns for path in weights}
    assert (save_dir / "table.md").read_text() == table  # the same seed gives the same run


@pytest.mark.slow
@pytest.mark.skipif(bool(gpus.visible_gpus()), reason="this machine has a GPU")
def test_a_run_that_fails_is_named_with_its_message(done):
    printed = run(done[0].parent / "failing", "--seeds", "1", "--jobs", "1", "--device", "gpu", code=1)
    assert "fcn_resnet18_scenes_seed1 ended with exit code" in printed and "Traceback" not in printed
    assert "gpu" in printed.splitlines()[-1] and "fcn_resnet18_scenes_seed1.txt" in printed.splitlines()[-1]
