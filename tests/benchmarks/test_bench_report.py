"""benchmarks/report.py on given results; READMEs show what RESULTS.md has."""

import json
import re
import shutil
from pathlib import Path

import encoding
import pytest
import report

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {"date": "2026-01-31", "CPU": "abacus", "cores": "2"}


def row(case, measure, side, values, ratios=None, at_most=None, met=None, missing=None, unit="s", size=(64, 128, 32)):
    return {"case": case, "measure": measure, "unit": unit, "side": side, "arguments": {"size": list(size)},
            "values": values, "ratios": ratios, "at_most": at_most, "met": met, "missing": missing}


RESULTS = {
    "alpha": {"question": "Alpha", "machine": MACHINE, "tables": [], "rows": [
        row("a", "time", "ours", [1.0, 3.0, 2.0]),
        row("a", "time", "peer", [10.0, 10.0, 10.0], [0.1, 0.3, 0.2], 0.25, True),
        row("a", "time", "PaddleSeg", [], None, 0.1, None, "not run: PaddleSeg isn't installed"),
        row("a", "memory", "ours", [5000.0], unit="MiB", at_most=4000, met=False),
        row("b", "time", "ours", [], missing="not run")]},
    "beta": None,
    "encoding": {"question": "Encoding", "machine": MACHINE, "tables": [
        {"title": "Growth", "note": "From small to large.", "columns": ["layer", "factor"],
         "rows": [["a|b", 1.23456], ["c", 7]]}],
        "rows": [row("case", measure, side, [height * width * factor, height * width * factor * 1.5], unit=unit,
                     size=(height, width, codes))
                 for height, width, codes in encoding.PIXELS for measure, unit in encoding.UNITS.items()
                 for side, factor in ((encoding.OURS, 1.0), (encoding.PADDLESEG, 100.0))]},
}


@pytest.fixture
def folder(tmp_path):
    """A folder of benchmark files and of what they kept."""
    for name in (*RESULTS, "harness", "report"):
        (tmp_path / f"{name}.py").write_text(f'"""Measures of {name}."""\n')
    (tmp_path / "out").mkdir()
    for name, content in RESULTS.items():
        if content:
            (tmp_path / "out" / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def tables_of(text):
    """The rows of each table but its head, which READMEs translate."""
    return [block.splitlines()[1:] for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]


def shown_in(path):
    return path.read_text(encoding="utf-8").partition(report.MARKERS[0])[2].partition(report.MARKERS[1])[0]


def test_everything_that_is_written(folder, tmp_path):
    pytest.importorskip("matplotlib")
    root = tmp_path / "root"
    (root / "benchmarks").mkdir(parents=True)
    for name in report.AIM_HEADS:
        shutil.copy(ROOT / name, root / name)
    report.write(report.load_results(folder, folder / "out"), root, folder)
    page = (root / "benchmarks" / "RESULTS.md").read_text()
    aims, alpha, encoding_table, growth = tables_of(page)
    assert aims[1:] == [
        "| Alpha: a | time | peer | 2 s | 10 s | 0.2 (0.1 to 0.3) | 0.25 | met |",
        "| Alpha: a | time | PaddleSeg | 2 s |  |  | 0.1 | not run: PaddleSeg isn't installed |",
        "| Alpha: a | memory |  | 5000 MiB |  |  | 4000 MiB | **missed** |",
        "| Measures of beta |  |  |  |  |  |  | not run: `python benchmarks/beta.py` |",
    ]
    assert alpha[1:] == [
        "| a | ours | 3 | 2 (1 to 3) |  | 5000 |",
        "|  | peer | 3 | 10 (10 to 10) | 0.2 (0.1 to 0.3) |  |",
        "|  | PaddleSeg | not run: PaddleSeg isn't installed |  |  |  |",
        "| b | ours | not run |  |  |  |"]
    assert growth[1:] == ["| a\\|b | 1.23 |", "| c | 7 |"] and len(encoding_table) == 3
    assert page.count("abacus") == 1 and (root / "benchmarks" / report.PLOT).stat().st_size > 10_000
    for name in report.AIM_HEADS:
        assert tables_of(shown_in(root / name)) == [aims] and "abacus" in shown_in(root / name)
        assert (root / name).read_text().partition(report.MARKERS[0])[0] == \
            (ROOT / name).read_text().partition(report.MARKERS[0])[0]
    (root / "README.md").write_text("no marker")
    with pytest.raises(SystemExit, match="README.md has no <!-- bench -->"):
        report.write({}, root, folder)


@pytest.mark.parametrize("name", report.AIM_HEADS)
def test_readme_shows_the_table_of_results(name):
    """Neither is edited by hand."""
    page = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    shown = shown_in(ROOT / name)
    assert tables_of(shown) == tables_of(page)[:1] and len(tables_of(shown)[0]) > 1
    assert shown.strip().splitlines()[-1] in page  # the machine
    for path in report.question_files(ROOT / "benchmarks"):
        assert f"[{path.name}]({path.name})" in page or report.not_run(path.stem) in page
