"""benchmarks/report.py: what it makes of given results, and that README shows what RESULTS.md has."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import encoding
import pytest
import report

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {"date": "2026-01-31", "CPU": "abacus", "cores": "2"}
HEADS = report.AIM_HEADS["README.md"]


def row(case, measure, side, values, ratios=None, at_most=None, met=None, missing=None, unit="s", size=(64, 128, 32)):
    return {"case": case, "measure": measure, "unit": unit, "side": side, "arguments": {"size": list(size)},
            "values": values, "ratios": ratios, "at_most": at_most, "met": met, "missing": missing}


RESULTS = {
    "alpha": {"question": "Alpha", "machine": MACHINE, "tables": [], "rows": [
        row("a", "time", "ours", [1.0, 3.0, 2.0]),
        row("a", "time", "peer", [10.0, 10.0, 10.0], [0.1, 0.3, 0.2], 0.25, True),
        row("a", "time", "PaddleSeg", [], None, 0.1, None, "not run: PaddleSeg isn't installed"),
        row("a", "memory", "ours", [5000.0], unit="MiB", at_most=4000, met=False),
        row("b", "time", "ours", [], missing="not run"), row("b", "time", "peer", [], None, 0.5, None, "not run")]},
    "beta": None,
    "gamma": {"question": "Gamma", "machine": MACHINE, "rows": [], "tables": [
        {"title": "Computed", "note": "From the graph.", "columns": ["layer", "GFLOP"],
         "rows": [["a|b", 1.23456], ["c", 7]]}]},
}


@pytest.fixture
def folder(tmp_path):
    """A folder of benchmark files."""
    for name in (*RESULTS, "harness", "report"):
        (tmp_path / f"{name}.py").write_text(f'"""What {name} measures."""\n')
    return tmp_path


def test_the_table_of_aims(folder):
    assert report.aims(RESULTS, folder, HEADS).splitlines()[2:] == [
        "| Alpha: a | time | peer | 2 s | 10 s | 0.2 (0.1 to 0.3) | 0.25 | met |",
        "| Alpha: a | time | PaddleSeg | 2 s |  |  | 0.1 | not run: PaddleSeg isn't installed |",
        "| Alpha: a | memory |  | 5000 MiB |  |  | 4000 MiB | **missed** |",
        "| Alpha: b | time | peer |  |  |  | 0.5 | not run: `python benchmarks/alpha.py` |",
        "| What beta measures |  |  |  |  |  |  | not run: `python benchmarks/beta.py` |",
    ]


def test_the_table_of_a_question():
    assert report.measured_table(RESULTS["alpha"]["rows"]) == """\
| case | side | rounds | time, s | ratio | memory, MiB |
|-|-|-|-|-|-|
| a | ours | 3 | 2 (1 to 3) |  | 5000 |
|  | peer | 3 | 10 (10 to 10) | 0.2 (0.1 to 0.3) |  |
|  | PaddleSeg | not run: PaddleSeg isn't installed |  |  |  |
| b | ours | not run |  |  |  |
|  | peer | not run |  |  |  |
"""


def test_a_computed_table_stands_beside_the_measured_ones(folder):
    text = report.section("gamma", RESULTS["gamma"], folder)
    assert text.startswith("## Gamma\n\n[gamma.py](gamma.py)\n")
    assert text.endswith("### Computed\n\nFrom the graph.\n\n| layer | GFLOP |\n|-|-|\n| a\\|b | 1.23 |\n| c | 7 |\n")


def test_a_question_without_results_says_how_to_get_them(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "alpha.json").write_text(json.dumps(RESULTS["alpha"]))
    results = report.load_results(folder, tmp_path / "out")
    assert results == {**RESULTS, "gamma": None}
    assert report.section("beta", None, folder) == "## What beta measures\n\nnot run: `python benchmarks/beta.py`\n"


def test_machines():
    assert report.machines(RESULTS) == "date: 2026-01-31; CPU: abacus; cores: 2\n"
    other = {**RESULTS, "beta": {"machine": {**MACHINE, "cores": "4"}}}
    assert report.machines(other) == ("- alpha, gamma: date: 2026-01-31; CPU: abacus; cores: 2\n"
                                      "- beta: date: 2026-01-31; CPU: abacus; cores: 4\n")


def test_text_between_markers():
    text = "one\n<!-- bench -->\nold\n<!-- /bench -->\ntwo\n"
    once = report.between_markers(text, "new\n", "x.md")
    assert once == "one\n<!-- bench -->\nnew\n<!-- /bench -->\ntwo\n"
    assert report.between_markers(once, "new\n", "x.md") == once
    with pytest.raises(SystemExit, match="x.md has no <!-- bench -->"):
        report.between_markers("no marker", "new\n", "x.md")


def encoding_rows():
    return [row("case", measure, side, [height * width * factor, height * width * factor * 1.5], unit=unit,
                size=(height, width, codes))
            for height, width, codes in encoding.PIXELS for measure, unit in encoding.UNITS.items()
            for side, factor in ((encoding.OURS, 1.0), (encoding.PADDLESEG, 100.0))]


def test_points_of_the_plot():
    rows = encoding_rows() + [row("more codewords", "time", encoding.OURS, [9.0], size=(32, 64, 64))]
    assert report.points(rows, encoding.OURS, "time")[1] == [2048, 2048.0, 2560.0, 3072.0]
    assert [point[0] for point in report.points(rows, encoding.OURS, "time")] == [512, 2048, 8192, 32768]
    assert not report.has_points([{**item, "values": []} for item in rows])


def tables_of(text):
    """The rows of each table but its head, which READMEs translate."""
    return [block.splitlines()[1:] for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]


def test_everything_that_is_written(folder, tmp_path):
    pytest.importorskip("matplotlib")
    root = tmp_path / "root"
    (root / "benchmarks").mkdir(parents=True)
    for name in report.AIM_HEADS:
        shutil.copy(ROOT / name, root / name)
    results = {**RESULTS, "encoding": {"question": "Encoding", "machine": MACHINE, "tables": [],
                                       "rows": encoding_rows()}}
    written = report.write(results, root, folder)
    page = (root / "benchmarks" / "RESULTS.md").read_text()
    assert {path.name for path in written} == {"RESULTS.md", "README.md", "README_CN.md", "encoding.png"}
    assert (root / "benchmarks" / "encoding.png").read_bytes().startswith(b"\x89PNG")
    assert "(encoding.png)" in page
    for name in report.AIM_HEADS:
        shown = (root / name).read_text().partition(report.MARKERS[0])[2].partition(report.MARKERS[1])[0]
        assert tables_of(shown) == tables_of(page)[:1] and "abacus" in shown
        assert (root / name).read_text().partition(report.MARKERS[0])[0] == \
            (ROOT / name).read_text().partition(report.MARKERS[0])[0]


@pytest.mark.parametrize("name", report.AIM_HEADS)
def test_readme_shows_the_table_of_results(name):
    """As committed: neither is edited by hand."""
    text = (ROOT / name).read_text(encoding="utf-8")
    page = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    shown = text.partition(report.MARKERS[0])[2].partition(report.MARKERS[1])[0]
    aims = page.partition("## Aims\n")[2].partition("\n## ")[0]
    assert tables_of(shown) == tables_of(aims) and len(tables_of(shown)[0]) > 1
    assert shown.strip().splitlines()[-1] in page  # the machine
    assert f"(benchmarks/{report.PLOT})" in text and (ROOT / "benchmarks" / report.PLOT).is_file()


def test_every_question_has_its_section():
    page = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    for path in report.question_files(ROOT / "benchmarks"):
        assert f"[{path.name}]({path.name})" in page or report.not_run(path.stem) in page


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_bench_runs_every_question_and_then_the_report():
    commands = subprocess.run(["make", "-C", str(ROOT), "-n", "bench", "BENCH_ARGS=--rounds 1"], capture_output=True,
                              text=True, check=True).stdout
    questions = [f"benchmarks/{path.name}" for path in report.question_files(ROOT / "benchmarks")]
    assert f"for file in {' '.join(questions)}; do" in commands
    assert "$file --rounds 1 ||" in commands
    assert commands.index("$file --rounds 1") < commands.index("benchmarks/report.py")
