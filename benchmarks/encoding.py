"""Time and extra memory of the Encoding layer, forward and backward, against PaddleSeg 2.8.0's layer.

    python benchmarks/encoding.py [--rounds 3] [--only TEXT]

    ours             two matrix products
    PaddleSeg 2.8.0  its own code: the pixels repeated for every codeword, their residuals taken once for the distances
                     and once more for the sum
    lean             the leanest form that still holds every residual: taken once, by broadcasting

In float32 on one thread, at the size of a Cityscapes crop's features, then growing in pixels and in codewords. Each
measurement has a process of its own, warmed up on a small layer; a pass is repeated for a second, and the median is its
time. Extra memory is the peak resident set of the first (on a GPU: of what is allocated) above that with the inputs
built. The norms of all gradients must agree, or the benchmark fails.
"""

import statistics
import time

from harness import Aim, Case, peak_mib, reset_peak, run, use_paddleseg

QUESTION = "Encoding layer, forward and backward"
OURS, PADDLESEG, LEAN = "ours", "PaddleSeg 2.8.0", "lean"
HEADLINE = (64, 128, 32)  # H, W, K
SMALL = (32, 64, 32)
PIXELS = ((16, 32, 32), SMALL, HEADLINE, (128, 256, 32))
CODES = ((32, 64, 8), (32, 64, 16), SMALL, (32, 64, 64))
BATCH, CHANNELS = 2, 512
UNITS = {"time": "s", "extra memory": "MiB"}


def lean(x, codewords, scale):
    """e_k = sum_i a_ik (x_i - c_k) with one (N, P, K, D) residual; x is (N, D, H, W)."""
    import paddle.nn.functional as F

    residual = x.flatten(2).transpose([0, 2, 1]).unsqueeze(2) - codewords
    weights = F.softmax(scale * residual.square().sum(axis=3), axis=2)
    return (weights.unsqueeze(3) * residual).sum(axis=1)


def case_name(height: int, width: int, codes: int) -> str:
    return f"({BATCH}, {CHANNELS}, {height}, {width}), K = {codes}"


def cases(args):
    aims = (Aim("time", 1 / 100, PADDLESEG), Aim("extra memory", 1 / 20, PADDLESEG))
    for size in sorted({HEADLINE, *PIXELS, *CODES}, key=lambda size: (size != HEADLINE, size)):
        # At 128 x 256 PaddleSeg's layer would take 23 GB.
        sides = {HEADLINE: (OURS, PADDLESEG, LEAN), PIXELS[-1]: (OURS,)}.get(size, (OURS, PADDLESEG))
        yield Case(case_name(*size), sides, UNITS, args.rounds, {"size": size}, aims if size == HEADLINE else (),
                   keep_alive=False, agree={"gradients": 1e-4})


def prepare(side, arguments):
    """The measurement of one side; every side has the same random weights, input and direction."""
    if side == PADDLESEG:
        use_paddleseg()
        from paddleseg.models.encnet import Encoding
    else:
        from paddleseg.models.layers import Encoding
        from paddleseg.utils.device import use_fast_kernels

        use_fast_kernels()  # as train.py does
    import paddle

    height, width, codes = arguments["size"]
    paddle.seed(0)
    layer = Encoding(CHANNELS, codes)
    x = paddle.randn([BATCH, CHANNELS, height, width])
    x.stop_gradient = False
    direction = paddle.randn([BATCH, codes, CHANNELS])

    def one_pass():
        for tensor in (x, layer.codewords, layer.scale):
            tensor.clear_gradient(False)  # gone, not zero: none is added to
        start = time.perf_counter()
        out = lean(x, layer.codewords, layer.scale) if side == LEAN else layer(x)
        (out * direction).sum().backward()
        layer.codewords.grad.sum().item()  # which waits for a GPU
        return time.perf_counter() - start

    def measure():
        Encoding(4, 2)(paddle.randn([1, 4, 2, 2])).sum().backward()  # loads the kernels
        reset_peak()
        before_mib = peak_mib()
        times = [one_pass()]
        memory_mib = peak_mib() - before_mib
        while sum(times) < 1:
            times.append(one_pass())
        norms = [tensor.grad.square().sum().item() for tensor in (x, layer.codewords, layer.scale)]
        return {"time": statistics.median(times), "extra memory": memory_mib, "gradients": sum(norms)}

    return measure


def growth(rows):
    """A table of how time and memory grow with the pixels and with the codewords, from the rows' medians."""
    medians = {(row["case"], row["side"], row["measure"]): statistics.median(row["values"])
               for row in rows if row["values"]}
    body = []
    for what, first, last in (("16 times the pixels", PIXELS[0], PIXELS[-2]),
                              ("8 times the codewords", CODES[0], CODES[-1])):
        for side in (OURS, PADDLESEG):
            ends = [[medians.get((case_name(*size), side, measure)) for size in (first, last)] for measure in UNITS]
            if all(map(all, ends)):
                body.append([what, side, *(round(end / begin, 2) for begin, end in ends)])
    return [{"title": "Growth", "note": f"From {case_name(*PIXELS[0])} to {case_name(*PIXELS[-2])}, and from "
             f"{case_name(*CODES[0])} to {case_name(*CODES[-1])}: how many times as much.",
             "columns": ["", "side", *UNITS], "rows": body}] if body else []


if __name__ == "__main__":
    run(__file__, QUESTION, cases, prepare, __doc__, rounds=3, tables=growth)
