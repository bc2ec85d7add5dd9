"""diff/run.py and diff/report.py on steps that are a few lines each."""

import re

import pytest

from diff import check, report, run

# A step: writes one key with reprod_log's format; the paddle side is off by what --shift says.
SCRIPT = """
import argparse, pathlib, sys
import numpy as np
parser = argparse.ArgumentParser()
for name in ("side", "reference", "dtype", "output", "threads"):
    parser.add_argument("--" + name)
parser.add_argument("--shift", type=float, default=0)
parser.add_argument("--fail", action="store_true")
args = parser.parse_args()
if args.fail and args.side == "torch":
    sys.exit("the reason")
folder = pathlib.Path(args.output)
{body}
np.save(str(folder / "{step}_{{}}.npy".format(args.side)), log)
"""
FORWARD = """
values = np.arange(1.0, 5.0) + (args.shift if args.side == "paddle" else 0)
log = {f"{size}/{mode}/{stage}": values for size in ("64x128", "97x161") for mode in ("train", "eval")
       for stage in ("stem", "layer1", "seg")}
"""
IN_ORDER = """
if args.side == "paddle":
    assert (folder / "data_torch.npy").exists()
log = {"scene_00/label": np.zeros((4, 4), "uint8")}
"""
TRAIN = """
log = {"seed0/loss": np.linspace(3, 1, 20) + (1e-9 if args.side == "paddle" else 0),
       "seed0/lr": np.full(20, 0.01), "seed0/miou": np.array(0.25)}
"""
BP_ALIGN = """
log = {f"step{number}/seg": np.array(1.0 + number * args.shift * (args.side == "paddle")) for number in range(3)}
log.update({f"gradient/conv{number}.weight": np.ones(4) for number in range(5)})
"""
BODIES = {"forward": FORWARD, "data": IN_ORDER, "train_align": TRAIN, "bp_align": BP_ALIGN}


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A working directory with the steps in steps/."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "steps"
    folder.mkdir()
    for step, body in BODIES.items():
        (folder / f"{step}.py").write_text(SCRIPT.format(body=body, step=step))
    return folder


def run_one(scripts, step, *flags, **fields):
    job = run.Job(step, "mmseg", "float64", flags, **fields)
    return run.run_jobs([job], [job], "output", "logs", False, scripts)[0]


def test_jobs_that_pass_and_fail(scripts, capsys):
    passed, failed = run_one(scripts, "forward"), run_one(scripts, "forward", "--shift", "1e-3")
    assert passed.passed and len(passed.rows) == 12
    assert not failed.passed and failed.rows[0].largest == pytest.approx(2.5e-4)
    assert re.search(r"\[1/1\] forward mmseg float64 +\d+\.\d s  passed\n.*FAILED", capsys.readouterr().out)
    assert (scripts.parent / "logs/forward_diff.log").read_text().splitlines()[-1].endswith("diff check failed")
    lines = run.format_table([passed, failed]).splitlines()
    assert "largest difference" in lines[1] and "passed" in lines[3] and "0.00025" in lines[4] and "FAILED" in lines[4]


def test_a_side_that_stops_fails_the_job_and_no_old_log_stands_in(scripts):
    assert run_one(scripts, "forward").passed
    result = run_one(scripts, "forward", "--fail")
    assert [(row.key, row.fault) for row in result.rows] == [("torch side", "exit code 1: the reason")]
    assert not (scripts.parent / "output/mmseg_float64/forward_torch.npy").exists()
    assert result.verdict == ["forward", "mmseg", "float64", "-", "-", "FAILED"]


def test_a_step_that_writes_nothing_fails(scripts):
    (scripts / "loss.py").write_text("")
    assert "loss_torch.npy doesn't exist" in run_one(scripts, "loss").rows[0].fault


def test_ours_waits_for_the_reference_where_it_replays(scripts):
    for _ in range(2):
        assert run_one(scripts, "data", is_in_order=True).passed


def test_each_step_is_in_both_runs_and_each_log_has_a_name_of_its_own():
    names = [run.log_name(job, run.JOBS) for job in run.JOBS]
    assert len(set(names)) == len(names)
    assert {f"{step}_diff.log" for step in check.STEPS} <= set(names)
    for jobs in (run.JOBS, [job for job in run.JOBS if job.is_quick]):
        assert {job.step for job in jobs} == set(check.STEPS)


def test_the_report(scripts):
    pytest.importorskip("matplotlib")
    results = [run_one(scripts, step, *flags) for step, flags in (
        ("forward", ()), ("bp_align", ("--shift", "1e-9")), ("train_align", ()), ("forward", ("--fail",)))]
    path = scripts.parent / "logs/report.html"
    report.write(results, "a <title>", scripts.parent / "output", path)
    text = path.read_text()
    assert text.count("<figure>") == 4
    assert "a &lt;title&gt;: 3 of 4 comparisons passed" in text and "the reason" in text
    for line in ("Forward pass", "Gradient of every parameter", "Error growth", "loss of both sides"):
        assert line in text
    # Nothing is loaded from elsewhere.
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", text) and "@import" not in text and "url(" not in text


def test_the_training_log(scripts):
    path = scripts.parent / "train.log"
    run.write_train_log([run_one(scripts, "train_align", "--fail")], "output", path)
    assert not path.exists()
    run.write_train_log([run_one(scripts, "forward"), run_one(scripts, "train_align")], "output", path)
    lines = path.read_text().splitlines()
    assert len(lines) == 21
    assert lines[0] == "[TRAIN] mmseg float64 seed0, iter: 1/20, loss: 3.000000001, reference: 3, lr: 0.01"
    assert lines[-1] == "[EVAL] mmseg float64 seed0, mIoU: 0.2500, reference: 0.2500"
