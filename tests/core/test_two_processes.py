"""Two processes over gloo, as `paddle.distributed.launch` starts them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from tiny import Colors, TinyNet, run_pointwise

from paddleseg.core.val import evaluate
from paddleseg.utils.weights import load_into, read_weights

HERE = Path(__file__).resolve().parent
PREAMBLE = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}]
import numpy as np
from paddleseg.utils import distributed
distributed.init("cpu")
from tiny import *
out = Path({out!r})
"""


def launch(out: Path, code: str) -> list:
    """Run code in two processes that save `state`; returns both states."""
    out.mkdir()
    save = 'np.savez(f"{out}/rank{distributed.rank()}.npz", **state)'
    script = out / "run.py"
    script.write_text(PREAMBLE.format(root=str(HERE.parents[1]), here=str(HERE), out=str(out)) + code + "\n" + save)
    done = subprocess.run([sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir",
                           str(out / "log"), str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [dict(np.load(out / f"rank{rank}.npz")) for rank in (0, 1)]


def test_two_processes_with_accumulation_equal_one(tmp_path):
    two = launch(tmp_path / "two", "state = run_pointwise(out, batch_size=1, accum_iters=2)")
    one = run_pointwise(tmp_path / "one", batch_size=4)
    for name in one:
        np.testing.assert_array_equal(two[0][name], two[1][name])
        np.testing.assert_allclose(two[0][name], one[name], rtol=1e-12)


def test_two_processes_agree_and_the_saved_model_is_the_one_that_scored(tmp_path):
    one, two = launch(tmp_path / "run", "model, _ = run(out, batch_size=1, do_eval=True, num_workers=1, "
                                        "val_dataset=Colors('val', 5))\nstate = arrays(model)")
    assert all(np.array_equal(one[name], two[name]) for name in one)

    model = TinyNet()
    load_into(model, read_weights(str(tmp_path / "run" / "iter_6" / "model.pdparams")), "iter_6")
    score = json.loads((tmp_path / "run" / "iter_6" / "score.json").read_text())
    assert evaluate(model, Colors("val", 5)).miou == score["miou"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["iter"] for line in lines if line["mode"] == "train"] == [2, 4, 6]
