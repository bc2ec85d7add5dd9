"""Two processes over gloo, as `paddle.distributed.launch` starts them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
RUN = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}]
import paddle
from paddleseg.utils import distributed
distributed.init()
from tiny import Colors, arrays, run
model, best = run(Path({out!r}), batch_size=1, do_eval=True, val_dataset=Colors("val", 5), num_workers={workers})
import numpy as np
np.savez(f"{out}/rank{{distributed.rank()}}.npz", **arrays(model))
"""


def launch(out: Path, workers: int) -> None:
    out.mkdir()
    script = out / "run.py"
    script.write_text(RUN.format(root=str(HERE.parents[1]), here=str(HERE), out=str(out), workers=workers))
    done = subprocess.run([sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir",
                           str(out / "log"), str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_two_processes_agree_and_the_saved_model_is_the_one_that_scored(tmp_path):
    from tiny import Colors, TinyNet

    from paddleseg.core.val import evaluate
    from paddleseg.utils.weights import load_into, read_weights

    launch(tmp_path / "run", workers=1)
    one, two = (np.load(tmp_path / "run" / f"rank{rank}.npz") for rank in (0, 1))
    assert all(np.array_equal(one[name], two[name]) for name in one.files)

    model = TinyNet()
    load_into(model, read_weights(str(tmp_path / "run" / "iter_6" / "model.pdparams")), "iter_6")
    score = json.loads((tmp_path / "run" / "iter_6" / "score.json").read_text())
    assert evaluate(model, Colors("val", 5)).miou == score["miou"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["iter"] for line in lines if line["mode"] == "train"] == [2, 4, 6]
