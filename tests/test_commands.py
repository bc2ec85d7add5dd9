"""The commands as a person types them, on synthetic scenes of 64x128; most run in this process."""

import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from paddleseg import builder
from paddleseg.cvlibs.config import load_config
from paddleseg.utils.cli import run_main
from paddleseg.weights.load import read_weights
from paddleseg.weights.write import write_weights

ROOT = Path(__file__).resolve().parent.parent
QUICK = str(ROOT / "configs/quick_start/encnet_resnet18_scenes.yml")
SMALL = ["model.backbone.base_channels=8", "model.mid_channels=16"]


def parser(name):
    return importlib.import_module(f"paddleseg.commands.{name}").parse_args


def command(name, *args, code=0):
    """Run train, val or predict; returns what it printed, standard error included."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), paddle.utils.unique_name.guard():
        found = run_main(importlib.import_module(f"paddleseg.commands.{name}").main, parser(name)(list(map(str, args))))
    assert found == code, printed.getvalue()[-3000:]
    return printed.getvalue()


def python(*words):
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "scenes"
    python("tools/make_scenes.py", root, "--train", 6, "--val", 3, "--test", 1, "--size", 64, 128, "--seed", 3)
    return root


@pytest.fixture(scope="module")
def on_scenes(scenes):
    return ["--config", QUICK, "--opts", *SMALL, f"train_dataset.dataset_root={scenes}",
            f"val_dataset.dataset_root={scenes}"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, on_scenes):
    """A run of six iterations with two evaluations; its directory and what it printed."""
    save_dir = tmp_path_factory.mktemp("run") / "out"
    printed = command("train", *on_scenes, "lr_scheduler.warmup_iters=0", "--do_eval", "--use_vdl", "--iters", 6,
                      "--batch_size", 2, "--save_interval", 3, "--log_iters", 1, "--num_workers", 0,
                      "--save_dir", save_dir)
    return save_dir, printed


def weights(trained):
    return trained[0] / "best_model" / "model.pdparams"


def eval_line(printed):
    return re.findall(r"\[EVAL\] #Images: 3 mIoU: [\d.]+ Acc: [\d.]+ Kappa: -?[\d.]+ Dice: [\d.]+", printed)


def test_training_leaves_a_whole_run(trained):
    save_dir, printed = trained
    assert sorted(path.name for path in save_dir.iterdir() if not path.name.startswith("vdlrecords")) == [
        "best_model", "config.yml", "iter_3", "iter_6", "log.jsonl", "train.log"]
    assert list(save_dir.glob("vdlrecords*"))
    assert sorted(path.name for path in (save_dir / "iter_6").iterdir()) == [
        "SHA256SUMS", "config.yml", "model.pdopt", "model.pdparams", "score.json", "train_state.json"]
    assert len(re.findall(r"\[TRAIN\] epoch: \d+, iter: \d/6, loss: ", printed)) == 6
    assert printed.count("#Images: 3") == 2 and "Traceback" not in printed
    assert (save_dir / "config.yml").read_text() in printed


def test_val_prints_the_score_of_training(trained, on_scenes):
    save_dir, printed = trained
    best = json.loads((save_dir / "best_model" / "score.json").read_text())
    again = command("val", *on_scenes, "--model_path", weights(trained))
    assert eval_line(again)[0] == eval_line(printed)[best["iter"] // 3 - 1]
    assert "traffic light" in again


@pytest.mark.parametrize("flags", [["--aug_eval", "--scales", 0.5, 1.0, "--flip_horizontal"],
                                   ["--is_slide", "--crop_size", 64, 48, "--stride", 48, 32],
                                   ["--aug_eval", "--flip_horizontal", "--flip_vertical", "--is_slide", "--crop_size",
                                    96, 64, "--stride", 64, 64, "--num_workers", 1]], ids=str)
def test_val_with_windows_scales_and_flips(trained, on_scenes, flags):
    assert eval_line(command("val", *on_scenes, "--model_path", weights(trained), *flags))


def test_training_from_the_saved_config_gives_the_same_run(trained, tmp_path):
    save_dir, _ = trained
    command("train", "--config", save_dir / "config.yml", "--save_dir", tmp_path / "again")
    for name in ("model.pdparams", "model.pdopt"):
        assert (tmp_path / "again" / "iter_6" / name).read_bytes() == (save_dir / "iter_6" / name).read_bytes()
    assert set(origins(tmp_path / "again").values()) == {str(save_dir / "config.yml")}
    keys = ("iters", "weight_decay", "mid_channels", "accum_iters", "do_eval")
    assert [origins(save_dir)[key] for key in keys] == ["--iters", QUICK, "--opts", "default", "--do_eval"]


def origins(save_dir):
    """The origin of each value in a run's config.yml."""
    lines = (save_dir / "config.yml").read_text().splitlines()
    return {line.split(":")[0].strip(): line.split("  # ")[-1] for line in lines if "  # " in line}


def test_resume_goes_on_and_ends_where_the_whole_run_ends(trained, on_scenes, tmp_path):
    common = ["train", *on_scenes, "lr_scheduler.warmup_iters=0", "lr_scheduler.decay_steps=6", "--batch_size", 2,
              "--num_workers", 0, "--save_dir", tmp_path / "run"]
    command(*common, "--iters", 3)
    command(*common, "--iters", 6, "--resume_model", tmp_path / "run" / "iter_3")
    assert (tmp_path / "run" / "iter_6" / "model.pdparams").read_bytes() == (
        trained[0] / "iter_6" / "model.pdparams").read_bytes()


def test_a_run_goes_on_where_what_reads_its_lines_has_ended(on_scenes, tmp_path):
    """Simulate Ctrl-C ending the tee of `train.py | tee log` first, or a terminal going away."""
    words = ["train.py", *on_scenes, "lr_scheduler.warmup_iters=0", "--batch_size", "2", "--iters", "3",
             "--log_iters", "1", "--num_workers", "0", "--save_dir", tmp_path / "run"]
    process = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    while b"iter: 1/3" not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "run" / "iter_3" / "model.pdparams").exists()
    assert "iter: 3/3" in (tmp_path / "run" / "train.log").read_text()


def test_predictions_score_as_much_in_cityscapes_own_evaluation(trained, on_scenes, scenes, tmp_path):
    command("predict", *on_scenes, "--model_path", weights(trained), "--image_path", scenes / "leftImg8bit" / "val",
           "--save_dir", tmp_path / "result")
    found = sorted(path.relative_to(tmp_path / "result").parts[0] for path in (tmp_path / "result").rglob("*.png"))
    assert found == ["added_prediction"] * 3 + ["label"] * 3 + ["pseudo_color_prediction"] * 3
    images = sorted((scenes / "leftImg8bit" / "val").rglob("*.png"))
    assert all((tmp_path / "result" / "label" / path.relative_to(scenes / "leftImg8bit" / "val")).exists()
               for path in images)
    official = cityscapes_score(scenes, tmp_path / "result" / "label")
    records = [json.loads(line) for line in (trained[0] / "log.jsonl").read_text().splitlines()]
    ours = max(record["mIoU"] for record in records if record["mode"] == "eval")
    assert abs(official - ours) < 1e-6


def cityscapes_score(scenes, predictions):
    """mIoU by cityscapesscripts' evaluation of predicted train ids."""
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
    from cityscapesscripts.helpers.labels import trainId2label

    table = np.zeros(256, np.uint8)
    for train_id in range(19):
        table[train_id] = trainId2label[train_id].id
    truths, results = [], []
    for path in sorted(predictions.rglob("*.png")):
        Image.fromarray(table[np.asarray(Image.open(path))]).save(path.with_suffix(".ids.png"))
        results.append(str(path.with_suffix(".ids.png")))
        name = path.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
        truths.append(str(scenes / "gtFine" / "val" / path.parent.name / name))
    official.args.quiet, official.args.JSONOutput, official.args.evalInstLevelScore = True, False, False
    return official.evaluateImgLists(results, truths, official.args)["averageScoreClasses"]


def test_predict_takes_one_image_and_custom_colors(trained, on_scenes, scenes, tmp_path):
    image = next((scenes / "leftImg8bit" / "val").rglob("*.png"))
    command("predict", *on_scenes, "--model_path", weights(trained), "--image_path", image, "--save_dir", tmp_path,
           "--aug_pred", "--flip_horizontal", "--custom_color", *[7] * 57)
    colors = Image.open(tmp_path / "pseudo_color_prediction" / image.name).convert("RGB")
    assert np.unique(np.asarray(colors)).tolist() == [7]


# ---- flags ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("script, required", [
    ("train", []), ("val", ["--model_path", "w"]), ("predict", ["--model_path", "w", "--image_path", "i"])])
def test_a_flag_that_is_not_given_changes_nothing(script, required):
    args = parser(script)(["--config", QUICK, *required])
    assert not [flag for flag, _, value in builder.flag_values(args) if value is not None]
    given = {"config", "opts", "plugins", "debug", "overwrite", "model_path", "image_path",
             "save_label_ids"}
    assert not {name: value for name, value in vars(args).items() if name not in given and value is not None}
    assert load_config(QUICK, args.opts, builder.flag_values(args)).dump() == load_config(QUICK).dump()


@pytest.mark.parametrize("flag, value, key, expected", [
    ("--iters", "7", "iters", 7), ("--batch_size", "3", "batch_size", 3), ("--accum_iters", "2", "accum_iters", 2),
    ("--learning_rate", "0.5", "lr_scheduler.learning_rate", 0.5), ("--save_interval", "9", "save_interval", 9),
    ("--keep_checkpoint_max", "1", "keep_checkpoint_max", 1), ("--log_iters", "5", "log_iters", 5),
    ("--seed", "0", "seed", 0), ("--repeats", "4", "repeats", 4), ("--num_workers", "0", "num_workers", 0),
    ("--threads", "1", "threads", 1), ("--device", "cpu", "device", "cpu"), ("--do_eval", None, "do_eval", True),
    ("--use_vdl", None, "use_vdl", True)])
def test_each_flag_sets_its_key_and_no_other(flag, value, key, expected):
    args = parser("train")(["--config", QUICK, flag, *([value] if value else [])])
    config, before = load_config(QUICK, (), builder.flag_values(args)), load_config(QUICK)
    assert config.node(key).value == expected and config.origin(key) == flag
    before.set(key, expected, flag)
    assert {name: config[name] for name in config.tree} == {name: before[name] for name in before.tree}


@pytest.mark.parametrize("script, flags", [
    ("train", "config device save_dir num_workers do_eval use_vdl use_ema resume_model iters batch_size learning_rate "
              "save_interval log_iters keep_checkpoint_max seed precision amp_level profiler_options data_format "
              "repeats opts"),
    ("val", "config model_path num_workers device aug_eval scales flip_horizontal flip_vertical is_slide crop_size "
            "stride data_format auc_roc opts"),
    ("predict", "config model_path image_path save_dir device aug_pred scales flip_horizontal flip_vertical is_slide "
                "crop_size stride custom_color")])
def test_every_flag_of_paddleseg_is_known(script, flags, capsys):
    with pytest.raises(SystemExit):
        parser(script)(["--help"])
    text = capsys.readouterr().out
    assert not [flag for flag in flags.split() if not re.search(rf"^\s+--{flag}\b", text, re.MULTILINE)]


# ---- bad input ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("extra, code, message", [
    (["--opts", "model.num_code=3"], 2, "^ConfigError: --opts: model.num_code is not an argument of EncNet; did you"),
    (["--opts", "train_dataset.dataset_root=data/no"], 1, "^DataError: data/no is not a folder; .*make_scenes"),
    (["--batch_size", 7], 1, "^DataError: the training set has 6 samples, fewer than the 7 of one batch"),
    (["--resume_model", "output/nothing"], 1, "^RunError: output/nothing: can't resume, .* is missing"),
    (["--device", "gpu"], 1, "^RunError: --device gpu"),
    (["--iters", 0], 2, "^ConfigError: iters 0: must be at least 1"),
    (["--opts", "loss.types.0.type=SELoss", "batch_size=2"], 2, r"^ConfigError: .*SELoss .*\(N, C"),
    (["--opts", "model.backbone.pretrained=gone.pdparams"], 1, "^WeightsError: gone.pdparams doesn't exist"),
    (["--opts", "model.backbone.pretrained=https://127.0.0.1:9/x.pdparams"], 1,
     "^WeightsError: https://127.0.0.1:9/x.pdparams can't be had: .* put the file at .*pretrained=None"),
])
def test_train_says_in_one_line_what_is_wrong(on_scenes, tmp_path, extra, code, message):
    if extra[0] == "--opts":
        words = [*on_scenes, *extra[1:]]
    else:
        words = [*on_scenes, "lr_scheduler.warmup_iters=0", *extra]
    printed = command("train", *words, "--save_dir", tmp_path / "run", code=code)
    assert re.search(message, printed, re.MULTILINE), printed[-500:]
    assert "Traceback" not in printed
    assert not list((tmp_path / "run").glob("iter_*"))


@pytest.mark.parametrize("script", ["val", "predict"])
def test_weights_that_leave_a_parameter_unset_are_refused(trained, on_scenes, scenes, tmp_path, script):
    partial = read_weights(str(weights(trained)))
    del partial["head.weight"], partial["backbone.conv1_1._batch_norm._mean"]
    write_weights(str(tmp_path / "partial.pdparams"), partial)
    image = ["--image_path", scenes / "leftImg8bit" / "val"] if script == "predict" else []
    printed = command(script, *on_scenes, "--model_path", tmp_path / "partial.pdparams", *image, code=1)
    assert re.search(r"WeightsError: .*missing: backbone.conv1_1._batch_norm._mean, head.weight", printed)
    assert "Traceback" not in printed
