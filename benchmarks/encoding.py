"""Time and memory of the Encoding layer against two direct forms, which hold every residual.

    python benchmarks/encoding.py [--rounds 3]

    direct  the operations of the published implementations (PaddleSeg's): the pixels repeated for every
            codeword, their residuals taken once for the distances and once more for the sum
    lean    the leanest direct form: residuals taken once, by broadcasting, and squared without a power

Each call, forward and backward at (2, 512, 64, 128) with 32 codewords in float32, runs in a process of
its own, on one thread, the forms in turn. Extra memory is the peak resident set above that of the
process with its inputs built. Aim: at least 100 times faster than `direct`, a tenth of its memory at most.
A round takes under a minute and 6 GB.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (2, 512, 64, 128)
NUM_CODES = 32
FORMS = ("layer", "direct", "lean")


def direct(x, codewords, scale):
    """e_k = sum_i a_ik (x_i - c_k) with two (N, P, K, D) residuals; x is (N, D, H, W)."""
    import paddle.nn.functional as F

    pixels = x.flatten(2).transpose([0, 2, 1]).unsqueeze(2)
    repeats = [1, 1, codewords.shape[0], 1]
    distance = (pixels.tile(repeats) - codewords).pow(2).sum(axis=3)
    weights = F.softmax(scale * distance, axis=2)
    return (weights.unsqueeze(3) * (pixels.tile(repeats) - codewords)).sum(axis=1)


def lean(x, codewords, scale):
    """As `direct`, with one residual."""
    import paddle.nn.functional as F

    residual = x.flatten(2).transpose([0, 2, 1]).unsqueeze(2) - codewords
    weights = F.softmax(scale * residual.square().sum(axis=3), axis=2)
    return (weights.unsqueeze(3) * residual).sum(axis=1)


def peak_mib():
    """The peak resident set of this process since the last `reset_peak`."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def reset_peak():
    """Let the peak start from the present resident set (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(form):
    """One forward and backward pass; prints seconds, MiB and a checksum of the gradients."""
    sys.path.insert(0, str(ROOT))
    import paddle

    from paddleseg.models.layers import Encoding

    paddle.seed(0)
    layer = Encoding(SHAPE[1], NUM_CODES)
    x = paddle.randn(SHAPE)
    x.stop_gradient = False
    direction = paddle.randn([SHAPE[0], NUM_CODES, SHAPE[1]])
    Encoding(4, 2)(paddle.randn([1, 4, 2, 2])).sum().backward()  # loads the kernels
    reset_peak()
    before_mib = peak_mib()
    start = time.perf_counter()
    if form == "layer":
        out = layer(x)
    else:
        out = {"direct": direct, "lean": lean}[form](x, layer.codewords, layer.scale)
    (out * direction).sum().backward()
    seconds = time.perf_counter() - start
    checksum = x.grad.square().sum().item() + layer.codewords.grad.square().sum().item()
    print(seconds, peak_mib() - before_mib, checksum)


def run(form):
    """`measure` in a process of its own; returns what it printed."""
    result = subprocess.run([sys.executable, __file__, "--measure", form], env={**os.environ, **one_thread()},
                            stdout=subprocess.PIPE, text=True, check=True)
    return [float(value) for value in result.stdout.split()]


def one_thread():
    return {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="calls of each form (default 3)")
    parser.add_argument("--measure", choices=FORMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    results = {form: [] for form in FORMS}
    for index in range(args.rounds):
        for form in FORMS:
            results[form].append(run(form))
            seconds, mib, _ = results[form][-1]
            print(f"round {index + 1}/{args.rounds}  {form:<6}  {seconds:8.3f} s  {mib:8.1f} MiB",
                  flush=True)
    median = {form: [statistics.median(column) for column in zip(*results[form])] for form in FORMS}
    layer_sec, layer_mib, layer_checksum = median["layer"]
    for form in FORMS[1:]:
        seconds, mib, checksum = median[form]
        print(f"against {form:<6}  {seconds / layer_sec:.0f} times faster, {layer_mib / mib:.4f} of its "
              "extra memory, squared norms of the gradients differ by "
              f"{abs(layer_checksum / checksum - 1):.1e}")


if __name__ == "__main__":
    main()
