"""Time of one image from the network's input to its classes: the exported model against what it was exported from.

    python benchmarks/inference.py [--rounds 3]

EncNet on ResNet-101-D8 (mmsegmentation's recipe), 512 x 1024, batch 1, two threads of a CPU, the same random weights on
every side; that the sides see the same classes is checked. Where Paddle sees a GPU, both of Paddle's run there.

    exported, Paddle Inference  tools/export.py's graph as deploy/infer.py runs it
    eager, MKL as it starts     the same model as Paddle runs it by itself, see paddleseg/utils/device.py
    eager                       the same model as predict.py and val.py run it
    mmsegmentation              its EncoderDecoder in evaluation mode, on PyTorch
    exported, ONNX Runtime      --format onnx, where requirements-onnx.txt is installed
"""

import os
import tempfile
import time

import numpy as np
from harness import Aim, Case, run

QUESTION = "One image through the network, 512x1024"
PADDLE, ONNX, MMSEG = "exported, Paddle Inference", "exported, ONNX Runtime", "mmsegmentation"
EAGER, SLOW = "eager", "eager, MKL as it starts"
SIZE, THREADS = (512, 1024), 2


def device():
    import paddle

    return "gpu" if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() else "cpu"


def cases(args):
    if device() == "gpu":
        return [Case("EncNet, ResNet-101-D8, image to classes, on a GPU", (PADDLE, EAGER), {"time": "s"}, args.rounds,
                     {"size": SIZE}, agree={"mean class": 1e-3})]
    return [Case("EncNet, ResNet-101-D8, image to classes", (PADDLE, SLOW, EAGER, MMSEG, ONNX), {"time": "s"},
                 args.rounds, {"size": SIZE},
                 [Aim("time", 0.6, SLOW), Aim("time", 0.6, EAGER), Aim("time", 0.9, MMSEG)],
                 threads=THREADS, agree={"mean class": 1e-3})]


def prepare(side, arguments):
    """A function that takes the time of one image, seconds."""
    from diff import inputs

    image = inputs.images(tuple(arguments["size"]), "float32", count=1)
    if side == SLOW:
        os.environ["MKL_DEBUG_CPU_TYPE"] = "0"
    eagerly = {SLOW: eager, EAGER: eager, MMSEG: mmsegmentation}.get(side)
    classes = eagerly() if eagerly else exported("onnx" if side == ONNX else "paddle")

    def measure():
        start = time.perf_counter()
        found = classes(image)
        seconds = time.perf_counter() - start
        return {"time": seconds, "mean class": float(np.mean(found))}

    return measure


def build():
    """The model in evaluation mode, with random weights that keep its values in range."""
    from diff import inputs, ours
    from paddleseg import builder
    from paddleseg.weights.load import load_into

    config = inputs.recipe("mmseg")
    model = builder.build_model(config, pretrained=False)
    load_into(model, ours.random_weights(config), "the random weights")
    model.eval()
    return model


def exported(kind):
    from deploy.export_graph import folded
    from deploy.infer import load_graph
    from tools import export

    with tempfile.TemporaryDirectory() as folder:
        args = export.parse_args(["--config", "", "--model_path", "", "--format", kind])
        section = {"format": kind, **export.write_graph(folded(build()), folder, args)}
        return load_graph(folder, section, device(), threads=THREADS)


def eager():
    import paddle

    from paddleseg.core.infer import InferOptions, predict_classes
    from paddleseg.utils.device import set_threads

    model, options = build(), InferOptions()
    set_threads(THREADS)

    def classes(image):
        with paddle.no_grad():
            return predict_classes(model, paddle.to_tensor(image), [], options).numpy()

    return classes


def mmsegmentation():
    import torch

    from diff import inputs, mmseg_reference, ours

    model = mmseg_reference.Side(inputs.Setup(), ours.random_weights(inputs.recipe("mmseg")), "float32").model.eval()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def classes(image):
        size = image.shape[2:]
        metas = [dict(img_shape=size, ori_shape=size, pad_shape=size)]
        with torch.no_grad():
            return model.encode_decode(torch.from_numpy(image), metas).argmax(dim=1).numpy()

    return classes


if __name__ == "__main__":
    run(__file__, QUESTION, cases, prepare, __doc__, rounds=3)
