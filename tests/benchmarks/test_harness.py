"""benchmarks/harness.py on a benchmark that measures nothing: every side answers with what it is told to."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import harness
import pytest
from harness import Aim, Case

HARNESS = Path(harness.__file__).parent
# Sides answer with their figure times the number of the answer; "ours, wrong" has another checksum.
SCRIPT = f"""'''A benchmark of nothing.'''
import os, sys
from pathlib import Path
sys.path.insert(0, {str(HARNESS)!r})
import harness
from harness import Aim, Case

harness.OUTPUT = Path(__file__).parent / "out"

def cases(args):
    aims = (Aim("time", 0.25, "other"),)
    yield Case("first", ("ours", "other"), {{"time": "s"}}, args.rounds, {{"ours": 1, "other": 5}}, aims,
               agree={{"sum": 1e-6}})
    yield Case("second", ("ours", "other", "PaddleSeg of nowhere"), {{"time": "s", "pid": ""}}, args.rounds,
               {{"ours": 3, "other": 4}}, aims, keep_alive=False, threads=3)

def prepare(side, arguments):
    print("a library says something", flush=True)
    answers = []
    def measure():
        answers.append(1)
        print("and again", flush=True)
        if side == os.environ.get("DIES"):
            os._exit(3)
        return {{"time": arguments[side] * len(answers), "pid": os.getpid(),
                "threads": int(os.environ["OMP_NUM_THREADS"]), "sum": 1.0 + 1e-3 * (side == os.environ.get("WRONG"))}}
    return measure

def tables(rows):
    return [{{"title": "count", "columns": ["rows"], "rows": [[sum(bool(row["values"]) for row in rows)]]}}]

harness.paddleseg_folder = lambda: None
if __name__ == "__main__":
    harness.run(__file__, "Nothing", cases, prepare, __doc__, rounds=3, tables=tables)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "nothing.py"
    path.write_text(SCRIPT)
    return path


def call(script, *words, **environment):
    return subprocess.run([sys.executable, script, *words], capture_output=True, text=True,
                          env={**os.environ, **environment})


def kept(script):
    return json.loads((script.parent / "out" / "nothing.json").read_text())


def rows_of(script, case, measure="time"):
    return {row["side"]: row for row in kept(script)["rows"] if (row["case"], row["measure"]) == (case, measure)}


def test_rows_of_a_whole_run(script):
    result = call(script)
    assert result.returncode == 0, result.stderr
    # Processes that live on have measured once unseen.
    first = rows_of(script, "first")
    assert [first["ours"]["values"], first["other"]["values"]] == [[2, 3, 4], [10, 15, 20]]
    assert first["ours"]["ratios"] is None and first["other"]["ratios"] == [0.2] * 3
    assert first["other"]["at_most"] == 0.25 and first["other"]["met"] is True
    assert first["ours"]["at_most"] is None and first["ours"]["met"] is None
    assert first["ours"]["arguments"] == {"ours": 1, "other": 5}
    # The others are new each time.
    second = rows_of(script, "second")
    assert [second["ours"]["values"], second["other"]["values"]] == [[3] * 3, [4] * 3]
    assert second["other"]["ratios"] == [0.75] * 3 and second["other"]["met"] is False
    assert len(set(rows_of(script, "second", "pid")["ours"]["values"])) == 3
    assert "threads 3" in result.stdout and "threads 1" in result.stdout
    assert "at most 0.25: met" in result.stdout and "at most 0.25: MISSED" in result.stdout
    assert kept(script)["question"] == "Nothing" and kept(script)["machine"]["cores"]
    assert kept(script)["tables"] == [{"title": "count", "columns": ["rows"], "rows": [[6]]}]


def test_a_missing_peer_is_said(script):
    result = call(script, "--rounds", "1")
    row = rows_of(script, "second")["PaddleSeg of nowhere"]
    assert row["values"] == [] and row["met"] is None and "make align-env" in row["missing"]
    assert "PaddleSeg of nowhere" in result.stdout and "PaddleSeg isn't installed" in result.stdout


def test_only_keeps_the_other_rows(script):
    call(script)
    result = call(script, "--only", "second", "--rounds", "1")
    assert result.returncode == 0 and "round 1/1" in result.stdout
    assert rows_of(script, "first")["other"]["values"] == [10, 15, 20]
    assert rows_of(script, "second")["ours"]["values"] == [3]
    assert [row["case"] for row in kept(script)["rows"]] == ["first"] * 2 + ["second"] * 6
    assert kept(script)["tables"][0]["rows"] == [[6]]


def test_only_drops_rows_of_another_machine(script):
    call(script, "--rounds", "1")
    content = kept(script)
    content["machine"]["CPU"] = "another"
    (script.parent / "out" / "nothing.json").write_text(json.dumps(content))
    result = call(script, "--only", "second", "--rounds", "1")
    assert "another machine" in result.stdout
    assert {row["missing"] for row in rows_of(script, "first").values()} == {"not run"}


def test_only_without_a_match_measures_and_keeps_nothing(script):
    result = call(script, "--only", "third")
    assert result.returncode == 0 and "no case holds 'third'; there are first; second" in result.stdout
    assert not (script.parent / "out").exists()


@pytest.mark.parametrize("environment, message", [
    ({"WRONG": "other"}, "first: sum is 1.001 for other and 1 for ours; they may differ by 1e-06 of it"),
    ({"DIES": "other"}, "other: its process ended with 3"),
])
def test_a_failure_ends_it_and_leaves_no_earlier_rows(script, environment, message):
    call(script, "--rounds", "1")
    result = call(script, "--rounds", "1", **environment)
    assert result.returncode == 1 and message in result.stderr
    assert not any(row["values"] for row in kept(script)["rows"])


def test_what_was_measured_before_a_failure_stays(script):
    dies = "answers = []\n    if arguments['ours'] == 3: sys.exit(9)"
    script.write_text(SCRIPT.replace("answers = []", dies))
    result = call(script, "--rounds", "1")
    assert result.returncode == 1 and "ours: its process ended with 9" in result.stderr
    assert rows_of(script, "first")["other"]["values"] == [10]
    assert rows_of(script, "second")["other"]["missing"] == "not run"


CASE = Case("case", ("ours", "peer"), {"time": "s", "memory": "MiB"}, 3,
            aims=(Aim("time", 0.5, "peer"), Aim("memory", 10)))


def test_the_median_of_the_ratios_is_judged_not_the_ratio_of_the_medians():
    rows = harness.summary(CASE, {"ours": [{"time": 1.0}, {"time": 9.0}, {"time": 4.0}],
                                  "peer": [{"time": 1.0}, {"time": 90.0}, {"time": 8.0}]})
    assert rows[1]["ratios"] == [1.0, 0.1, 0.5]
    assert rows[1]["met"] is True  # the median, 0.5, is at most 0.5
    assert len(rows) == 2  # nobody took memory


@pytest.mark.parametrize("memory, met", [(10.0, True), (10.1, False)])
def test_an_aim_of_our_own_figure(memory, met):
    rows = harness.summary(CASE, {"ours": [{"time": 1.0, "memory": memory}], "peer": [{"time": 4.0}]})
    own = [row for row in rows if row["measure"] == "memory"]
    assert [(row["side"], row["at_most"], row["met"]) for row in own] == [("ours", 10, met)]


@pytest.mark.parametrize("values, text", [
    ([0.2118, 0.2094, 0.2153], "0.212 (0.209 to 0.215)"), ([5129.4, 5131.0, 5128.0], "5130 (5130 to 5130)"),
    ([1234567.0], "1230000"), ([2.0, 4.0], "3 (2 to 4)"), ([0.00001234], "1.23e-05"), ([99.96], "100"), ([0.0], "0"),
])
def test_spread(values, text):
    assert harness.spread(values) == text


def test_a_peer_is_missing_or_not(monkeypatch):
    monkeypatch.setattr(harness, "paddleseg_folder", lambda: "somewhere")
    assert harness.why_missing("ours") is None and harness.why_missing("PaddleSeg 2.8.0") is None
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    assert "mmsegmentation isn't installed" in harness.why_missing("mmsegmentation 1.2.2")
    assert "requirements-onnx.txt" in harness.why_missing("exported, ONNX Runtime")


def test_a_gpu_has_its_own_peak(monkeypatch):
    """In its place stands one of four bytes."""
    cuda = types.SimpleNamespace(max_memory_allocated=lambda: 4)
    paddle = types.SimpleNamespace(get_device=lambda: "gpu:0", device=types.SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "paddle", paddle)
    harness.reset_peak()  # as Paddle 2, which can't
    assert harness.peak_mib() == 4 / 2 ** 20
    cuda.reset_max_memory_allocated = lambda: setattr(cuda, "max_memory_allocated", lambda: 0)
    harness.reset_peak()
    assert harness.peak_mib() == 0
    paddle.get_device = lambda: "cpu"
    assert harness.peak_mib() > 1


def test_peak_memory_is_that_since_the_reset():
    code = (f"import sys; sys.path.insert(0, {str(HARNESS)!r})\nimport harness\n"
            "held = bytearray(64 << 20); del held; harness.reset_peak(); low = harness.peak_mib()\n"
            "held = bytearray(128 << 20); print(harness.peak_mib() - low)")
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 120 < float(printed) < 140
