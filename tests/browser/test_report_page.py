"""The pages of val.py --report and tools/compare_runs.py in a real browser."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from chromium import DESKTOP, PHONE, load, needs_chromium
from fake_weights import make_weights

pytestmark = needs_chromium
ROOT = Path(__file__).resolve().parents[2]
RECIPE = "configs/quick_start/encnet_resnet18_scenes.yml"
SMALL = ["model.backbone.base_channels=8", "model.mid_channels=16"]

TABLE = """const rows = [...document.querySelectorAll("#%s tr")];
answer.table = rows.map(row => [...row.cells].map(cell => cell.textContent));"""
LAYOUT = """answer.page = document.documentElement.scrollWidth; answer.window = innerWidth;
answer.images = [...document.images].map(image => image.complete && image.naturalWidth > 0);
answer.small = [...document.querySelectorAll("p, td, th, li, figcaption, span, b")].filter(element =>
  element.textContent.trim() && parseFloat(getComputedStyle(element).fontSize) < 11).length;"""


def python(*command):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A report of an untrained network on drawn scenes, and what val.py printed."""
    root = tmp_path_factory.mktemp("evaluated")
    python("tools/make_scenes.py", root / "scenes", "--train", 1, "--val", 5, "--test", 1, "--size", 64, 128)
    opts = [*SMALL, f"train_dataset.dataset_root={root}/scenes", f"val_dataset.dataset_root={root}/scenes"]
    printed = python("val.py", "--config", RECIPE, "--model_path", make_weights(root, RECIPE, opts),
                     "--num_workers", 0, "--report", root / "report", "--opts", *opts)
    return root / "report" / "report.html", printed


def printed_table(printed):
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_report_fits_the_window_and_shows_what_val_prints(evaluated, tmp_path, size):
    page, printed = evaluated
    script = TABLE % "scores" + LAYOUT + """
answer.headline = [...document.querySelectorAll(".numbers div")].map(div => div.innerText.split(/\\s+/));"""
    loaded = load(page, script, tmp_path, size)
    assert loaded.console == [] and "error" not in loaded.answer
    assert loaded.answer["table"] == printed_table(printed) and len(loaded.answer["table"]) == 20
    line = re.search(r"\[EVAL\] #Images: 5 (.*)", printed)[1]
    assert " ".join(f"{name}: {value}" for name, value in loaded.answer["headline"]) == line
    assert loaded.answer["window"] == size[0] >= loaded.answer["page"]
    assert loaded.answer["images"] == [True] * (2 + 20) and loaded.answer["small"] == 0


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_a_matrix_of_many_classes_can_be_read_where_it_is_scrolled_to(tmp_path, size):
    """The names of row and column stay in sight; the cell has its count as a tooltip."""
    from paddleseg.core.metrics import Scores
    from paddleseg.report import page, report

    names = [f"class number {number}" for number in range(150)]
    matrix = np.random.default_rng(0).integers(0, 9, [150, 150]) + np.diag([400] * 150)
    page.write(str(tmp_path / "many.html"), "many", [report._matrix_part(Scores(matrix), names)])
    loaded = load(tmp_path / "many.html", LAYOUT + """
const table = document.querySelector("#matrix"), frame = table.parentNode, cell = table.tBodies[0].rows[99].cells[90];
frame.scrollIntoView();
frame.scrollTo(cell.offsetLeft - 200, cell.offsetTop - 300);
answer.seen = [table.tHead.rows[0].cells[90], table.tBodies[0].rows[99].cells[0], cell].map(element => {
  const box = element.getBoundingClientRect(), middle = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
  return element.contains(document.elementFromPoint(...middle));
});
answer.title = cell.title;""", tmp_path, size)
    assert loaded.console == [] and "error" not in loaded.answer and loaded.answer["small"] == 0
    assert loaded.answer["page"] <= loaded.answer["window"] == size[0] and loaded.answer["seen"] == [True] * 3
    assert loaded.answer["title"].startswith(f"{matrix[99, 89]} pixels, ")


def test_the_comparison_of_runs_is_drawn(tmp_path):
    for number, name in enumerate(("one", "two & <three>")):
        (tmp_path / name).mkdir()
        records = [{"mode": "train", "iter": step, "loss": 2.0 / step + number, "lr": 0.01, "ips": 3.5}
                   for step in range(1, 21)] + [{"mode": "eval", "iter": 20, "mIoU": 0.25 + number / 4, "Acc": 0.5}]
        (tmp_path / name / "log.jsonl").write_text("\n".join(map(json.dumps, records)))
    printed = python("tools/compare_runs.py", tmp_path / "one", tmp_path / "two & <three>", "--save_dir",
                     tmp_path / "c")
    script = TABLE % "results" + LAYOUT + """
answer.legend = [...document.querySelectorAll(".legend span")].map(span => span.textContent);
answer.widths = [...document.images].map(image => image.getBoundingClientRect().width / image.naturalWidth);"""
    for size in (DESKTOP, PHONE):
        loaded = load(tmp_path / "c" / "compare.html", script, tmp_path, size)
        assert loaded.answer["table"] == printed_table(printed) and loaded.console == []
        assert loaded.answer["images"] == [True] * 5 and loaded.answer["legend"] == ["one", "two & <three>"]
        assert loaded.answer["page"] <= loaded.answer["window"] and loaded.answer["small"] == 0
        assert min(loaded.answer["widths"]) > 0.55  # so that a letter of 15 pixels has 8
