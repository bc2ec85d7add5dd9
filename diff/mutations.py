"""Prove that the comparison sees small mistakes: put each of a list of them into the models, one at a time.

    python diff/mutations.py [--only word]

The working tree is left alone: the mistakes are made in copies of it. The steps are those of `make align` on a
small network at 64x128 in float64, against mmsegmentation: forward, loss, and two optimizer steps (bp_align), under
the same tolerances. The copy without a mistake has to pass, every mistake has to run, and to be caught by a
difference. Exit code 1 if one survives.
"""

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from diff import check
from paddleseg.utils.cores import usable_cores

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("configs", "diff", "paddleseg")
STEPS = ("forward", "loss", "bp_align")  # the cheapest first
OPTIMIZER_STEPS = 2
DTYPE, REFERENCE = "float64", "mmseg"


class Mutation(NamedTuple):
    """A mistake: `old`, which occurs once in the file, becomes `new`."""

    name: str
    file: str  # below paddleseg/models
    old: str
    new: str


ENCODING, ENCNET, CONV_BN, RESNET = "layers/encoding.py", "encnet.py", "layers/conv_bn.py", "backbones/resnet.py"
CROSS_ENTROPY, SE_LOSS = "losses/cross_entropy_loss.py", "losses/se_loss.py"
MUTATIONS = (
    Mutation("softmax over pixels, not codewords", ENCODING, "codewords, scale), axis=1)",
             "codewords, scale), axis=2)"),
    Mutation("sign of the smoothing factors", ENCODING, "return scale.reshape", "return -scale.reshape"),
    Mutation("sign of the codewords in the sum", ENCODING, "- total * codewords", "+ total * codewords"),
    Mutation("sign of the cross term of the distance", ENCODING, "pixel_norm - 2 *", "pixel_norm + 2 *"),
    Mutation("encoding transposed", ENCODING, "transpose_y=True) - total * codewords",
             "transpose_y=True).transpose([0, 2, 1]) - total * codewords"),
    Mutation("mean over channels, not codewords", ENCNET, ".mean(axis=1)", ".mean(axis=2)"),
    Mutation("tanh for the sigmoid", ENCNET, "nn.Sigmoid()", "nn.Tanh()"),
    Mutation("attention without the identity", ENCNET, "F.relu(x + x * attention)", "F.relu(x * attention)"),
    Mutation("align_corners by default", ENCNET, "align_corners: bool = False", "align_corners: bool = True"),
    Mutation("auxiliary head sees the sign of stage 3 turned", ENCNET, "self.fcn_head(feats[2])",
             "self.fcn_head(-feats[2])"),
    Mutation("epsilon of batch norm", CONV_BN, "return single_process(num_features, ",
             "return single_process(num_features, epsilon=1.1e-5, "),
    Mutation("momentum of batch norm", CONV_BN, "return single_process(num_features, ",
             "return single_process(num_features, momentum=0.91, "),
    Mutation("biased running variance", CONV_BN, "max(count - 1, 1)", "max(count - 0, 1)"),
    Mutation("relu after a convolution left out", CONV_BN, "return relu_inplace(self._batch_norm(",
             "return (self._batch_norm("),
    Mutation("dilation of stage 4", RESNET, "(2, 1), (1, 2), (1, 4))", "(2, 1), (1, 2), (1, 2))"),
    Mutation("stride of stage 3", RESNET, "(2, 1), (1, 2), (1, 4))", "(2, 1), (2, 2), (1, 4))"),
    Mutation("dilation not contracted", RESNET, "first = dilation // 2", "first = dilation // 1"),
    Mutation("average for the maximum in the stem's pool", RESNET, "F.max_pool2d", "F.avg_pool2d"),
    Mutation("relu before the shortcut is added", RESNET, "return add_relu(branch, x if",
             "return F.relu(branch) + (x if"),
    Mutation("image turned upside down", RESNET, "x = getattr(self, name)(x)\n        x = F",
             "x = getattr(self, name)(x.flip(2) if name == 'conv1_1' else x)\n        x = F"),
    Mutation("channels swapped", RESNET, "x = getattr(self, name)(x)\n        x = F",
             "x = getattr(self, name)(x.flip(1) if name == 'conv1_1' else x)\n        x = F"),
    Mutation("loss over the valid pixels", CROSS_ENTROPY, "return total / label.size",
             "return total / (label != self.ignore_index).astype(total.dtype).sum()"),
    Mutation("ignored pixels count as a class", CROSS_ENTROPY, "(\"CrossEntropyLoss\", logit, label)",
             "(\"CrossEntropyLoss\", logit, paddle.where(label == 255, paddle.zeros_like(label), label))"),
    Mutation("ignored pixels are present in class 0", SE_LOSS, "paddle.full_like(label, num_classes), bin_of)",
             "paddle.zeros_like(label), bin_of)"),
    Mutation("absence for presence", SE_LOSS, "present.astype(logit.dtype))", "1 - present.astype(logit.dtype))"),
)


# One side of the steps, in a process of its own.


def log_side(side: str, output: str) -> None:
    """Write what diff/forward.py, diff/loss.py and diff/bp_align.py write, of a small network."""
    from diff import bp_align, forward, inputs, loss, step

    args = argparse.Namespace(side=side, reference=REFERENCE, dtype=DTYPE, output=Path(output), threads=1)
    step.set_threads(args)
    # As many channels as codewords, so that a transposed encoding runs.
    setup = inputs.Setup(depth=50, base_channels=8, mid_channels=32, aux_channels=16)
    network = step.open_side(args, setup, step.random_weights(args, setup))
    sizes = inputs.SIZES[:1]
    for name, fill in (("forward", lambda log: forward.log_stages(log, network, sizes)),
                       ("loss", lambda log: loss.log_losses(log, network, sizes)),
                       ("bp_align", lambda log: bp_align.log_steps(log, network, OPTIMIZER_STEPS))):
        log = step.Log(args, name)
        fill(log)
        log.save()


# Mutants.


class Outcome(NamedTuple):
    """End of a mutant: it was caught if it ran and a step saw a difference."""

    mutation: Mutation
    crash: str
    difference: Optional[str]

    @property
    def is_caught(self) -> bool:
        return not self.crash and self.difference is not None

    def __str__(self) -> str:
        verdict = "DID NOT RUN" if self.crash else "caught" if self.is_caught else "SURVIVED"
        return f"{verdict:<12} {self.mutation.name}: {self.crash or self.difference}"


def copy_tree(target: Path) -> Path:
    """A copy of what the steps import and read, without compiled files, which a quick change could outlive."""
    for name in COPIED:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "output", "*.log"))
    return target


def mutate(text: str, mutation: Mutation) -> str:
    """Make the mistake.

    Raises:
        SystemExit: the code has changed and the mutation doesn't fit any more.
    """
    if text.count(mutation.old) != 1:
        sys.exit(f"{mutation.name}: paddleseg/models/{mutation.file} holds {mutation.old!r} {text.count(mutation.old)} "
                 "times, once is wanted: bring diff/mutations.py up to date")
    return text.replace(mutation.old, mutation.new)


def run_side(tree: Path, side: str, output: Path) -> str:
    """Run `log_side` with the code of a tree; returns what went wrong, or nothing."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, "diff/mutations.py", "--side", side, "--output", str(output)]
    done = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace")
    return "" if done.returncode == 0 else (done.stdout.strip() or "it said nothing").splitlines()[-1]


def find_difference(reference: Path, ours: Path) -> Optional[str]:
    """The first step that doesn't pass, and its first failed array; None if all pass."""
    for step in STEPS:
        rows = check.check_files(str(reference / f"{step}_torch.npy"), str(ours / f"{step}_paddle.npy"), step, DTYPE,
                                 REFERENCE)
        failed = [row for row in rows if not row.passed]
        if failed:
            return f"{step}: {failed[0].key}: {failed[0].fault}"
    return None


def try_mutation(mutation: Mutation, tree: Path, reference: Path) -> Outcome:
    """Run one mutant in a tree, and put the tree right again."""
    path = tree / "paddleseg" / "models" / mutation.file
    original = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as output:
        try:
            path.write_text(mutate(original, mutation), encoding="utf-8")
            crash = run_side(tree, "paddle", Path(output))
        finally:
            path.write_text(original, encoding="utf-8")
        return Outcome(mutation, crash, None if crash else find_difference(reference, Path(output)))


def check_unchanged(tree: Path, reference: Path) -> None:
    """Log the reference, and stop unless our code as it is passes."""
    for side in ("torch", "paddle"):
        crash = run_side(tree, side, reference)
        if crash:
            sys.exit(f"the {side} side doesn't run: {crash}")
    fault = find_difference(reference, reference)
    if fault:
        sys.exit(f"the code without a mistake doesn't pass: {fault}")
    print("passed       the code as it is", flush=True)


def try_all(mutations: Sequence[Mutation], scratch: Path) -> List[Outcome]:
    """Every mutant, one for each core at a time, each core in a tree of its own."""
    workers = max(1, min(usable_cores(), len(mutations)))
    trees: queue.Queue = queue.Queue()
    for number in range(workers):
        trees.put(copy_tree(scratch / f"tree{number}"))
    reference = scratch / "reference"
    check_unchanged(scratch / "tree0", reference)

    def try_one(mutation: Mutation) -> Outcome:
        tree = trees.get()
        try:
            return try_mutation(mutation, tree, reference)
        finally:
            trees.put(tree)

    outcomes = []
    with ThreadPoolExecutor(workers) as pool:
        for outcome in pool.map(try_one, mutations):
            print(outcome, flush=True)
            outcomes.append(outcome)
    return outcomes


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="only mutations with this in their name")
    parser.add_argument("--side", choices=("torch", "paddle"), help="only log this side of the small network")
    parser.add_argument("--output", help="where --side writes")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    args = parse_args(argv)
    if args.side:
        log_side(args.side, args.output)
        return 0
    chosen = [mutation for mutation in MUTATIONS if args.only in mutation.name]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = try_all(chosen, Path(scratch))
    caught = sum(outcome.is_caught for outcome in outcomes)
    print(f"{caught} of {len(outcomes)} mutations caught in {(time.perf_counter() - start) / 60:.1f} minutes")
    return 0 if outcomes and caught == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
