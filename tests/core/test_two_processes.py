"""Several processes over gloo, as `paddle.distributed.launch` starts them."""

import contextlib
import json
import socket
import subprocess
import sys
from pathlib import Path

import norm_cases
import numpy as np
import pytest
import small_encnet
from tiny import Colors, TinyNet, run_pointwise

from paddleseg.core.val import evaluate
from paddleseg.weights.load import load_into, read_weights

pytestmark = pytest.mark.slow
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


def launch(out: Path, code: str, nodes: int = 1, per_node: int = 2) -> list:
    """Run code in processes that save `state`; returns the state of each rank.

    Each "node" is a launcher of its own; they meet on the loopback interface.
    """
    out.mkdir()
    save = 'np.savez(f"{out}/rank{distributed.rank()}.npz", **state)'
    script = out / "run.py"
    preamble = PREAMBLE.format(root=str(HERE.parents[1]), here=str(HERE.parent), out=str(out))
    script.write_text(f"{preamble}{code}\n{save}")
    master = ["--nnodes", str(nodes), "--master", f"127.0.0.1:{free_port()}"]
    with contextlib.ExitStack() as stack:
        launchers = []
        for node in range(nodes):
            meeting = [*master, "--rank", str(node)] if nodes > 1 else []
            command = [sys.executable, "-m", "paddle.distributed.launch", *meeting, "--nproc_per_node", str(per_node),
                       "--log_dir", str(out / f"log_{node}"), str(script)]
            launchers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
            stack.callback(launchers[-1].terminate)  # which ends its processes too
        for launcher in launchers:
            printed, _ = launcher.communicate(timeout=120)
            assert launcher.returncode == 0, printed[-3000:]
    return [dict(np.load(out / f"rank{rank}.npz")) for rank in range(nodes * per_node)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assert_close(states: list, expected: dict, tolerance: float) -> None:
    """All ranks hold the same bits, and they are the expected values."""
    for name, value in expected.items():
        for state in states:
            np.testing.assert_array_equal(state[name], states[0][name], err_msg=name)
        np.testing.assert_allclose(states[0][name], value, rtol=tolerance, atol=tolerance, err_msg=name)


def test_two_processes_with_accumulation_equal_one(tmp_path):
    two = launch(tmp_path / "two", "state = run_pointwise(out, batch_size=1, accum_iters=2)")
    one = run_pointwise(tmp_path / "one", batch_size=4)
    assert_close(two, one, 1e-12)


STEPS_WITH = """
from paddleseg.core.train import backward
from paddleseg.core.precision import MixedPrecision
from paddleseg.models import FCN
from paddleseg.models.backbones import ResNet18_vd
state = {}
for stages in (), (1, 2, 3, 4):
    paddle.seed(0)
    model = FCN(3, ResNet18_vd(base_channels=4, recompute_stages=stages), channels=8, dropout=0.0, aux_dropout=0.0)
    optimizer, runner = SGD(model, momentum=0.9), paddle.DataParallel(model)
    optimizer.set_lr(0.1)
    for step in range(2):
        rng = np.random.default_rng([step, distributed.rank()])
        batch = {"img": paddle.to_tensor(rng.normal(size=(2, 3, 32, 48)).astype("float32")),
                 "label": paddle.to_tensor(rng.integers(0, 3, (2, 32, 48)))}
        backward(runner, [(CrossEntropyLoss(), 1.0)] * 2, batch, MixedPrecision())
        MixedPrecision().step(optimizer)
    state.update({f"{len(stages)} {name}": value.numpy() for name, value in model.state_dict().items()})
"""


def test_two_processes_compute_stages_again(tmp_path):
    for state in launch(tmp_path / "run", STEPS_WITH):
        plain = {name[2:]: value for name, value in state.items() if name.startswith("0 ")}
        assert plain and all(np.array_equal(value, state[f"4 {name}"]) for name, value in plain.items())


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


AVERAGE_AND_STOP = """
class Unlabelled(Colors):
    def sample(self, index, rng):
        return {**super().sample(index, rng), "label": np.full([8, 12], 255, "uint8")}

changes = dict(batch_size=1, accum_iters=2, save_interval=2, do_eval=True, use_ema=True)
run(out / "whole", val_dataset=Colors("val", 3), **changes)
run(out / "parts", val_dataset=Colors("val", 3), iters=4, **changes)
model, _ = run(out / "parts", resume_model=out / "parts" / "iter_4", model_seed=99, val_dataset=Colors("val", 3),
               **changes)
run(out / "stopped", val_dataset=Unlabelled("val", 3), iters=60, early_stop_intervals=2, **changes)
state = arrays(model)
"""


def test_two_processes_average_weights_go_on_exactly_and_stop_together(tmp_path):
    one, two = launch(tmp_path / "run", AVERAGE_AND_STOP)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    for name in ("iter_6/model.pdparams", "iter_6/ema_model.pdparams", "iter_6/model.pdopt", "best_model/score.json",
                 "best_model/ema_model.pdparams"):
        whole, parts = ((tmp_path / "run" / folder / name).read_bytes() for folder in ("whole", "parts"))
        assert whole == parts, name
    assert sorted(path.name for path in (tmp_path / "run" / "stopped").glob("iter_*")) == ["iter_2", "iter_4"]


def test_evaluation_counts_every_image_once(tmp_path):
    """An odd number of images, so that one process gets fewer; the matrices agree in every count."""
    code = ("from small_encnet import *\n"
            "state = {str(n): evaluate(build(False), Stripes(n), num_workers=n % 2).matrix for n in (1, 4, 7)}")
    states = launch(tmp_path / "run", "from paddleseg.core.val import evaluate\n" + code)
    for count in (1, 4, 7):
        one = evaluate(small_encnet.build(False), small_encnet.Stripes(count)).matrix
        assert one.sum() == count * 32 * 48
        for state in states:
            np.testing.assert_array_equal(state[str(count)], one)


@pytest.fixture(scope="module")
def normalised(tmp_path_factory):
    """Every case of norm_cases in two processes."""
    return launch(tmp_path_factory.mktemp("norms") / "run", "import norm_cases\nstate = norm_cases.run_all()")


@pytest.mark.parametrize("name", norm_cases.CASES)
def test_a_batch_norm_over_two_processes_is_that_of_the_whole_batch(normalised, name):
    case = norm_cases.CASES[name]
    tolerance = {"float64": 1e-12, "float32": 1e-6}[case.dtype] * max(1, case.mean)
    for key, expected in case.run().items():
        shares = [state[f"{name}: {key}"] for state in normalised]
        if key in ("x", "y", "y in evaluation"):
            shares = [np.concatenate(shares)]
        for share in shares:
            np.testing.assert_allclose(share, expected, rtol=tolerance, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("nodes, per_node, accum_iters", [(1, 2, 1), (1, 2, 2), (2, 2, 1)])
def test_processes_that_share_a_batch_train_the_model_of_one_process(tmp_path, nodes, per_node, accum_iters):
    """Gradients and statistics of one batch, then both and the parameters after 20 iterations; an EncNet with all."""
    code = f"import small_encnet\nstate = small_encnet.run_all(out, batch_size=1, accum_iters={accum_iters})"
    states = launch(tmp_path / "several", code, nodes, per_node)
    one = small_encnet.run_all(tmp_path / "one", batch_size=nodes * per_node, accum_iters=accum_iters)
    assert_close(states, one, 1e-9)


def test_a_process_may_keep_the_others_waiting(tmp_path):
    """Gloo alone gives up after 30 seconds, and an image or a slow disk may take longer."""
    code = """
import time
if distributed.rank() == 0:
    time.sleep(33)
state = {"sum": distributed.sum_over_ranks(np.full(2, distributed.rank() + 1))}
"""
    for state in launch(tmp_path / "run", code):
        np.testing.assert_array_equal(state["sum"], [3, 3])
