"""Time of `train.py --help`, of a run's imports, and of a run up to its first finished iteration.

    python benchmarks/startup.py [--rounds 5] [--only TEXT]

The PyPI package of PaddleSeg 2.8.0 has no tools/train.py, so what that file imports stands for it, with the mends of
diff/paddleseg_reference.py. A run is the quick-start recipe on drawn scenes; its phases are told by the lines that it
prints: that of its device (everything is imported, the recipe checked), that of its configuration (everything is
built and checked), that of the first iteration. Each measurement starts a new process, on one thread.
"""

import subprocess
import sys
import tempfile
import time

from harness import ROOT, Aim, Case, run, scenes

QUESTION = "Start-up"
OURS, PADDLESEG, PADDLE = "ours", "PaddleSeg 2.8.0", "`import paddle` alone"
RECIPE = "configs/quick_start/encnet_resnet18_scenes.yml"
IMPORTS = {
    OURS: "import paddleseg.builder, paddleseg.core.preflight, paddleseg.core.train",
    PADDLESEG: f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
               "import harness; harness.use_paddleseg()\n"
               "from paddleseg.cvlibs import Config, SegBuilder\n"
               "from paddleseg.utils import get_sys_env, logger, utils\nfrom paddleseg.core import train",
    PADDLE: "import paddle",
}
# What a run prints when a phase is over.
PHASES = (("imports", "device: cpu"), ("build", "configuration:"), ("first iteration", "[TRAIN]"))


def cases(args):
    yield Case("`train.py --help`", (OURS,), {"time": "s"}, args.rounds, {"what": "help"}, (Aim("time", 0.5),))
    yield Case("imports of a run", (OURS, PADDLESEG, PADDLE), {"time": "s"}, args.rounds, {"what": "imports"})
    yield Case("a run to the end of its first iteration", (OURS, PADDLE),
               {"time": "s", **{phase: "s" for phase, _ in PHASES}}, args.rounds, {"what": "run"})


def prepare(side, arguments):
    if arguments["what"] == "help":
        return lambda: time_of(["train.py", "--help"])
    if arguments["what"] == "imports" or side != OURS:
        return lambda: time_of(["-c", IMPORTS[side]])
    folder = scenes(16, 128, 256)
    return lambda: phases_of_a_run(folder)


def time_of(words):
    """Seconds that Python takes for these words."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return {"time": time.perf_counter() - start}


def phases_of_a_run(folder):
    """Seconds of each phase of a run of one iteration, as its lines arrive."""
    with tempfile.TemporaryDirectory() as save_dir:
        command = [sys.executable, "train.py", "--config", RECIPE, "--iters", "1", "--log_iters", "1", "--num_workers",
                   "0", "--device", "cpu", "--save_dir", save_dir, "--opts", f"train_dataset.dataset_root={folder}",
                   f"val_dataset.dataset_root={folder}", "lr_scheduler.warmup_iters=0"]
        before = start = time.perf_counter()
        took, waited_for = {}, iter(PHASES)
        phase, ending = next(waited_for)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if ending and ending in line:
                    now = time.perf_counter()
                    took[phase], before = now - before, now
                    phase, ending = next(waited_for, (None, None))
        if process.returncode or ending:
            raise SystemExit(f"the run ended with {process.returncode}, before the end of its {phase}")
    return {"time": before - start, **took}


if __name__ == "__main__":
    run(__file__, QUESTION, cases, prepare, __doc__, rounds=5)
