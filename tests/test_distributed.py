"""The commands of docs/distributed.md, taken out of the page: those for GPUs with CPUs in their place."""

import contextlib
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from paddleseg import builder
from paddleseg.cvlibs.config import load_config

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "distributed.md").read_text()
QUICK = "configs/quick_start/encnet_resnet18_scenes.yml"
SMALL = ["--num_workers", "0", "--opts", "model.backbone.base_channels=8", "model.mid_channels=16"]
SHORT = ["train_dataset.transforms.0.crop_size=[64,64]", "lr_scheduler.warmup_iters=0", "--log_iters", "1"]


def commands(heading: str) -> list:
    """The lines of the code blocks under a heading, as words."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL).group(1)
    blocks = re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def value(words: list, flag: str, default=None):
    return words[words.index(flag) + 1] if flag in words else default


def on_cpus(words: list, port: int, per_node: int = 2) -> list:
    """The command on a CPU and on a small network; its flags stay, but for those that name GPUs and machines."""
    assert words[0] == "python"
    words = [sys.executable, *words[1:]]
    if "--devices" in words:
        at = words.index("--devices")
        words[at:at + 2] = ["--nproc_per_node", str(per_node)]
    if "--master" in words:
        words[words.index("--master") + 1] = f"127.0.0.1:{port}"
    words[words.index("--config") + 1] = QUICK
    words += [] if "--device" in words else ["--device", "cpu"]
    return words + SMALL + (SHORT if "train.py" in words else [])


def start(words: list, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(together: list, cwd: Path) -> list:
    """Run commands at the same time; returns what each printed. All must end well."""
    with contextlib.ExitStack() as stack:
        running = [start(words, cwd) for words in together]
        for process in running:
            stack.callback(process.terminate)  # a launcher ends its processes too
        printed = [process.communicate(timeout=200)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "\n".join(printed)[-3000:]
    return printed


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "scenes"
    subprocess.run([sys.executable, ROOT / "tools" / "make_scenes.py", root, "--train", "8", "--val", "3", "--test",
                    "1", "--size", "64", "128", "--seed", "3"], check=True, capture_output=True)
    return root


@pytest.fixture
def checkout(scenes, tmp_path):
    """A directory where the page's relative paths lead to this code and to the scenes."""
    for name in ("train.py", "val.py", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "scenes").symlink_to(scenes)
    return tmp_path


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def all_private(logs: Path) -> bool:
    """Nobody but the owner may read the launcher's files, val.py's neither."""
    return not any(path.stat().st_mode & 0o077 for path in (logs, *logs.iterdir()))


def class_table(printed: str) -> list:
    """Classes, scores and pixels of the last table that an evaluation printed."""
    return re.findall(r"^\|.*\|$", printed[printed.rindex("per class"):], re.MULTILINE)


@pytest.mark.parametrize("heading", ["One GPU", "Four GPUs", "Two machines of two GPUs"])
def test_the_recipes_commands_make_the_recipes_batch(heading):
    for words in filter(lambda words: "train.py" in words, commands(heading)):
        config = builder.resolve(load_config(str(ROOT / value(words, "--config")), [], {}))
        processes = int(value(words, "--nnodes", 1)) * len(value(words, "--devices", "0").split(","))
        batches = processes * int(value(words, "--accum_iters", 1))
        assert batches * config["batch_size"] == config["effective_batch"]


def test_one_gpu(checkout, port):
    for words in commands("One GPU"):
        run([[*on_cpus(words, port), "--iters", "1"]], checkout)
    assert (checkout / "output" / "best_model").is_dir()


def test_four_gpus(checkout, port):
    """The evaluation of three images by two processes counts as one process does."""
    train, val = (on_cpus(words, port) for words in commands("Four GPUs"))
    trained, = run([[*train, "--iters", "2", "--batch_size", "2"]], checkout)
    assert "effective batch = 2 processes x 2 x 1" in trained and "2 process(es)" in trained
    several, = run([val], checkout)
    alone, = run([[sys.executable, *val[val.index("val.py"):]]], checkout)
    assert "2 process(es)" in several and "1 process(es)" in alone
    assert class_table(several) == class_table(alone) == class_table(trained)
    assert all_private(checkout / "output" / "log")


def test_two_machines(checkout, port):
    both = [on_cpus(words, port, per_node=1) for words in commands("Two machines of two GPUs")]
    first, second = run([[*words, "--iters", "2", "--batch_size", "2"] for words in both], checkout)
    assert "effective batch = 2 processes x 2 x 1" in first
    assert "effective batch" not in second  # rank 0 alone speaks
    for node in (0, 1):
        logs = checkout / "output" / f"log_{node}"
        assert (logs / "workerlog.0").is_file()
        assert all_private(logs)


def test_cpus_stop_and_go_on(checkout, port):
    """SIGTERM to the launcher: the run is saved, the launcher exits with 15 or 75, and the next command goes on."""
    (begin,), (go_on,) = commands("CPUs"), commands("Stop and go on")
    assert go_on == [*begin, "--resume", "auto"]
    with contextlib.ExitStack() as stack:
        launcher = start([*on_cpus(begin, port), "--iters", "1000"], checkout)
        stack.callback(launcher.terminate)
        for line in launcher.stdout:
            if "iter: 2/" in line:
                launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(60) in (15, 75)
    saved, = (checkout / "output").glob("iter_*")
    iteration = int(saved.name[len("iter_"):])
    printed, = run([[*on_cpus(go_on, port), "--iters", str(iteration + 1)]], checkout)
    assert f"resumed {saved.relative_to(checkout)} at iteration {iteration}" in printed
    assert (checkout / "output" / "best_model").is_dir()
