"""benchmarks/harness.py on a benchmark that measures nothing: every side answers with a given figure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import harness
import pytest
from harness import Aim, Case

HARNESS = Path(harness.__file__).parent
# Sides answer with their figure times the number of the answer; one may have another checksum, or die.
SCRIPT = f"""'''A benchmark of nothing.'''
import os, sys
from pathlib import Path
sys.path.insert(0, {str(HARNESS)!r})
import harness
from harness import Aim, Case

harness.OUTPUT = Path(__file__).parent / "out"
harness.PADDLESEG_FOLDER = Path(__file__).parent / "nowhere"

def cases(args):
    aims = (Aim("time", 0.25, "other"),)
    yield Case("first", ("ours", "other"), {{"time": "s"}}, args.rounds, {{"ours": 1, "other": 5}}, aims,
               agree={{"sum": 1e-6}})
    yield Case("second", ("ours", "other", "PaddleSeg of nowhere"), {{"time": "s", "threads": ""}}, args.rounds,
               {{"ours": 3, "other": 4}}, aims, keep_alive=False, threads=3)

def prepare(side, arguments):
    print("a library says something", flush=True)
    answers = []
    def measure():
        answers.append(1)
        if arguments["ours"] == 3 and side == os.environ.get("DIES"):
            os._exit(3)
        return {{"time": arguments[side] * len(answers), "threads": int(os.environ["OMP_NUM_THREADS"]),
                "sum": 1.0 + 1e-3 * (side == os.environ.get("WRONG"))}}
    return measure

def tables(rows):
    return [{{"title": "count", "columns": ["rows"], "rows": [[sum(bool(row["values"]) for row in rows)]]}}]

if __name__ == "__main__":
    harness.run(__file__, "Nothing", cases, prepare, __doc__, rounds=3, tables=tables)
"""


@pytest.fixture
def call(tmp_path):
    """Run the script; return its process, the rows that it kept by case and measure, and all that it kept."""
    (tmp_path / "nothing.py").write_text(SCRIPT)

    def call(*words, **environment):
        result = subprocess.run([sys.executable, tmp_path / "nothing.py", *words], capture_output=True, text=True,
                                env={**os.environ, **environment})
        kept = tmp_path / "out" / "nothing.json"
        content = json.loads(kept.read_text()) if kept.exists() else {"rows": []}
        rows = {}
        for row in content["rows"]:
            rows.setdefault((row["case"], row["measure"]), {})[row["side"]] = row
        return result, rows, content

    return call


def test_rows_of_a_whole_run(call):
    result, rows, content = call()
    assert result.returncode == 0, result.stderr
    # Processes that live on have measured once unseen; the others are new each time.
    first, second = rows["first", "time"], rows["second", "time"]
    assert [first["ours"]["values"], first["other"]["values"]] == [[2, 3, 4], [10, 15, 20]]
    assert [second["ours"]["values"], second["other"]["values"]] == [[3] * 3, [4] * 3]
    assert [[row[key] for key in ("ratios", "at_most", "met")] for row in (first["ours"], first["other"])] == [
        [None] * 3, [[0.2] * 3, 0.25, True]]
    assert second["other"]["met"] is False and rows["second", "threads"]["ours"]["values"] == [3] * 3
    missing = second["PaddleSeg of nowhere"]
    assert missing["values"] == [] and missing["met"] is None and "make align-env" in missing["missing"]
    assert content["machine"]["cores"] and content["tables"][0]["rows"] == [[6]]


def test_only_measures_one_case_and_keeps_nothing(call):
    result, rows, _ = call("--only", "second", "--rounds", "1")
    assert result.returncode == 0 and "round 1/1" in result.stdout and not rows
    assert call("--only", "third")[0].returncode == 1


@pytest.mark.parametrize("environment, message, kept", [
    ({"WRONG": "other"}, "sum is 1.001 for other and 1 for ours", []),
    ({"DIES": "other"}, "other: its process ended with 3", [10]),
])
def test_a_failure_ends_it_and_leaves_no_earlier_rows(call, environment, message, kept):
    call("--rounds", "1")
    result, rows, _ = call("--rounds", "1", **environment)
    assert result.returncode == 1 and message in result.stderr
    assert rows["first", "time"]["other"]["values"] == kept
    assert rows["second", "time"]["other"]["missing"] == "not run"


def test_the_median_of_the_ratios_is_judged_and_an_own_figure():
    case = Case("case", ("ours", "peer"), {"time": "s", "memory": "MiB"}, 3,
                aims=(Aim("time", 0.5, "peer"), Aim("memory", 10)))
    for memory, met in ((10.0, True), (10.1, False)):
        mine = [{"time": time, "memory": memory} for time in (1.0, 9.0, 4.0)]
        rows = harness.summary(case, {"ours": mine, "peer": [{"time": 1.0}, {"time": 90.0}, {"time": 8.0}]})
        assert [(row["measure"], row["side"], row["ratios"], row["met"]) for row in rows] == [
            ("time", "ours", None, None), ("time", "peer", [1.0, 0.1, 0.5], True), ("memory", "ours", None, met)]


@pytest.mark.parametrize("values, text", [
    ([0.2118, 0.2094, 0.2153], "0.212 (0.209 to 0.215)"), ([1234567.0], "1230000"), ([0.00001234], "1.23e-05")])
def test_spread(values, text):
    assert harness.spread(values) == text


def test_peak_memory_is_that_since_the_reset():
    code = (f"import sys; sys.path.insert(0, {str(HARNESS)!r})\nimport harness\n"
            "held = bytearray(64 << 20); del held; harness.reset_peak(); low = harness.peak_mib()\n"
            "held = bytearray(128 << 20); print(harness.peak_mib() - low)")
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 120 < float(printed) < 140
