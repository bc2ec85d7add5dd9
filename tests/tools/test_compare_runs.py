import html
import json
import re

import pytest
from PIL import Image

from tools.compare_runs import COLUMNS, curves, main, read_run, result_row, run_names


def write_run(folder, records, extra=""):
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + extra)
    return str(folder)


def records(best=0.5, iters=4):
    train = [{"mode": "train", "iter": step, "epoch": 1, "loss": 1 / step, "loss_seg": 0.5, "lr": 0.1,
              "ips": 2.0 * step, "eta_sec": 3} for step in range(1, iters + 1)]
    common = {"mode": "eval", "commonest_class_mIoU": 0.02, "class_iou": [0.1, None]}
    scored = [{**common, "iter": 2, "mIoU": best, "Acc": 0.75, "Kappa": 0.7, "Dice": 0.6},
              {**common, "iter": 4, "mIoU": 0.25, "Acc": 0.9, "Kappa": 0.1, "Dice": None}]
    return train[:2] + scored[:1] + train[2:] + scored[1:]


def test_the_row_of_a_run_is_that_of_its_best_evaluation(tmp_path):
    run = read_run(write_run(tmp_path / "a", records()), "a")
    assert dict(zip(COLUMNS, result_row(run))) == {
        "run": "a", "iterations": "4", "best mIoU": "0.5000", "at iteration": "2", "Acc": "0.7500", "Kappa": "0.7000",
        "Dice": "0.6000", "last mIoU": "0.2500", "last loss": "0.2500", "images/s": "6.00"}


def test_curves_are_every_finite_number_the_main_ones_first(tmp_path):
    changed = records() + [{"mode": "train", "iter": 5, "loss": None, "lr": 0.2, "custom": 1}]
    runs = [read_run(write_run(tmp_path / name, content), name) for name, content in (("a", records()), ("b", changed))]
    found = dict(curves(runs))
    assert list(found)[:3] == ["eval mIoU", "train loss", "train lr"]
    assert set(found) == {"eval mIoU", "eval Acc", "eval Kappa", "eval Dice", "train loss", "train loss_seg",
                          "train lr", "train ips", "train custom"}
    assert [line.name for line in found["train loss"]] == ["a", "b"]
    assert found["train loss"][1].points == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert found["train lr"][1].points[-1] == (5, 0.2) and found["eval Dice"][0].points == [(2, 0.6)]
    assert [(line.name, line.points) for line in found["train custom"]] == [("b", [(5, 1)])]


@pytest.mark.parametrize("paths, names", [
    (["out/a", "out/b"], ["a", "b"]), (["x/run", "y/run/"], ["x/run", "y/run"]), (["out/a/log.jsonl", "b"], ["a", "b"]),
    (["one"], ["one"])])
def test_names_tell_runs_apart(paths, names):
    assert run_names(paths) == names


def test_the_page_the_plot_and_what_is_printed(tmp_path, capsys):
    paths = [write_run(tmp_path / "first", records()), write_run(tmp_path / "<second>", records(0.625))]
    assert main([*paths, "--save_dir", str(tmp_path / "out" / "c")]) == 0
    printed = capsys.readouterr().out
    text = (tmp_path / "out" / "c" / "compare.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:)|https?://|@import|url\(", text) and "<second>" not in text
    table = re.search(r'<table id="results".*?</table>', text, re.DOTALL)[0]
    rows = [[html.unescape(cell) for cell in re.findall("<t[hd]>(.*?)</t[hd]>", row)]
            for row in table.split("<tr>")[1:]]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()
             if line.startswith("| ")]
    assert rows == lines and [row[2] for row in rows[1:]] == ["0.5000", "0.6250"]
    pytest.importorskip("matplotlib")
    assert text.count("<figure>") == 8
    with Image.open(tmp_path / "out" / "c" / "curves.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 600


@pytest.mark.parametrize("content", [None, "", '{"a": 1}\n[]\nnull\n{"mode": "train"}\n',
                                     '{"mode": "train", "iter": 3, "loss": NaN}\n'])
def test_what_is_no_run_is_named(tmp_path, capsys, content):
    (tmp_path / "a").mkdir()
    if content is not None:
        (tmp_path / "a" / "log.jsonl").write_text(content)
    assert main([str(tmp_path / "a"), "--save_dir", str(tmp_path / "c")]) == 1
    assert re.match(r"DataError: \S*a/log.jsonl: .*\n\Z", capsys.readouterr().err) and not (tmp_path / "c").exists()


def test_a_torn_line_a_run_given_twice_and_a_folder_that_cannot_be_written(tmp_path, capsys):
    path = write_run(tmp_path / "a", [{"mode": "train", "iter": 1, "loss": 0.5}], '{"mode": "train", "it')
    assert main([path, "--save_dir", str(tmp_path / "c")]) == 0
    assert "log.jsonl: 1 of 2 lines" in capsys.readouterr().out
    assert main([path, path + "/log.jsonl"]) == 1
    assert capsys.readouterr().err.startswith("DataError: ")
    (tmp_path / "file").write_text("")
    assert main([path, "--save_dir", str(tmp_path / "file" / "c")]) == 1
    assert re.match(r"RunError: --save_dir \S+file/c", capsys.readouterr().err)
