"""Time and peak memory of one training step at full size, of each recipe and of the peers' networks.

    .venv-align/bin/python benchmarks/train_step.py [--rounds 2] [--only TEXT]

EncNet on ResNet-101-D8, an image of 512 x 1024, float32, two threads of a CPU. Every side of a case has the same
network; its process makes one step unseen and measures the next, split into the forward pass, the losses, the backward
pass and the optimizer. Memory is the peak resident set of this step, with all that the process holds.

    ours                 as train.py makes it
    recomputed           with backbone.recompute_stages [1, 2, 3, 4]
    PaddleSeg 2.8.0      its network, losses (mended by diff/paddleseg_reference.py) and optimizer
    ..., our MKL kernels the same with the kernels of MKL that ours chooses, see paddleseg/utils/device.py
    mmsegmentation       its network, losses and optimizer, on PyTorch

On a GPU it is ours alone, with the recipe's images per GPU, in fp32, bf16 and fp16: images per second and the memory
allocated.
"""

import os
import time

from harness import ROOT, Aim, Case, peak_mib, reset_peak, run, use_paddleseg

QUESTION = "A training step, EncNet on ResNet-101-D8, 512x1024"
SIZE, NUM_CLASSES, THREADS, STEPS, GPU_STEPS = (512, 1024), 19, 2, 1, 20
OURS, RECOMPUTED = "ours", "ours, recomputed"
PADDLESEG, PADDLESEG_FAST, MMSEG = "PaddleSeg 2.8.0", "PaddleSeg 2.8.0, our MKL kernels", "mmsegmentation"
PRECISIONS = {OURS: "fp32", "ours, bf16": "bf16", "ours, fp16": "fp16"}
PHASES = ("forward", "loss", "backward", "optimizer")
# Recipes under configs/encnet, and who is compared.
RECIPES = {
    "encnet_resnet101_os8_cityscapes_1024x512_80k": (OURS, PADDLESEG, PADDLESEG_FAST),
    "encnet_r101_d8_512x1024_80k_cityscapes": (OURS, RECOMPUTED, MMSEG),
    "encnet_cityscapes": (OURS, RECOMPUTED),
}
AIMS = [Aim("time", 0.6, PADDLESEG), Aim("memory", 0.7, PADDLESEG), Aim("time", 1.4, MMSEG)]


def cases(args):
    import paddle

    from paddleseg.utils.device import fast_kernels

    if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count():
        from paddleseg.core.precision import possible_precisions

        units, possible = {"speed": "images/s", "memory": "MiB"}, possible_precisions()
        sides = [side for side, precision in PRECISIONS.items() if precision in possible]
        return [Case(recipe, sides, units, args.rounds, {"recipe": recipe, "device": "gpu"},
                     keep_alive=False) for recipe in RECIPES]
    units = {"time": "s", **dict.fromkeys(PHASES, "s"), "memory": "MiB"}
    return [Case(recipe, sides, units, args.rounds, {"recipe": recipe, "device": "cpu", "kernels": fast_kernels()},
                 [aim for aim in AIMS if aim.against in sides], keep_alive=False, threads=THREADS)
            for recipe, sides in RECIPES.items()]


def prepare(side, arguments):
    """A function that makes the steps of one side and returns their means."""
    on_gpu = arguments["device"] == "gpu"
    if side == MMSEG:
        step, images = mmsegmentation(), 1
    elif side in (PADDLESEG, PADDLESEG_FAST):
        step, images = their_step(side, arguments["kernels"]), 1
    else:
        step, images = our_step(side, **{key: arguments[key] for key in ("recipe", "device")})

    def measure():
        step(lambda: None)
        reset_peak()
        moments = []
        for _ in range(GPU_STEPS if on_gpu else STEPS):
            step(lambda: moments.append(time.perf_counter()))
        seconds = (moments[-1] - moments[0]) / (len(moments) // (len(PHASES) + 1))
        if on_gpu:
            return {"speed": images / seconds, "memory": peak_mib()}
        count = len(PHASES) + 1
        steps = [moments[first:first + count] for first in range(0, len(moments), count)]
        phases = [sum(step[index + 1] - step[index] for step in steps) / len(steps) for index in range(len(PHASES))]
        return {"time": sum(phases), **dict(zip(PHASES, phases)), "memory": peak_mib()}

    return measure


def our_step(side, recipe, device):
    """A step as core/train.py's loop makes it, and its images; `tick` is called between the phases."""
    import paddle

    from paddleseg import builder
    from paddleseg.core.precision import MixedPrecision
    from paddleseg.cvlibs.config import load_config
    from paddleseg.utils.device import start_process

    start_process(device, THREADS)
    opts = ["model.backbone.recompute_stages=[1,2,3,4]"] if side == RECOMPUTED else []
    config = builder.resolve(load_config(str(ROOT / "configs" / "encnet" / f"{recipe}.yml"), opts))
    model = builder.build_model(config, pretrained=False)
    model.train()
    criteria, optimizer = builder.build_criteria(config, model), builder.build_optimizer(config, model)
    optimizer.set_lr(config["lr_scheduler"]["learning_rate"])
    precision = MixedPrecision(PRECISIONS.get(side, "fp32"), "O1", paddle.get_device())
    precision.prepare(model, optimizer)
    images = config["batch_size"] if device == "gpu" else 1
    image, label = example(images)
    image, label = paddle.to_tensor(image), paddle.to_tensor(label)

    def step(tick):
        mark(tick, paddle, device)
        with precision.autocast():
            logits = model(image)
        mark(tick, paddle, device)
        total = sum(coefficient * criterion(logit, label) for (criterion, coefficient), logit in zip(criteria, logits))
        mark(tick, paddle, device)
        precision.backward(total)
        del logits
        mark(tick, paddle, device)
        precision.step(optimizer)
        mark(tick, paddle, device)

    return step, images


def mark(tick, paddle, device):
    """`tick` once the device has done what it was given."""
    if device == "gpu":
        paddle.device.cuda.synchronize()
    tick()


def their_step(side, kernels):
    """PaddleSeg's: its recipe's network, the losses by `loss_computation`, its optimizer's settings."""
    if side == PADDLESEG_FAST and kernels:
        os.environ["MKL_DEBUG_CPU_TYPE"] = kernels
    use_paddleseg()
    import paddle

    paddle.base.core.set_num_threads(THREADS)
    from paddleseg.core.train import loss_computation
    from paddleseg.cvlibs import manager
    from paddleseg.models import losses

    backbone = manager.BACKBONES["ResNet101_vd"](output_stride=8)
    model = manager.MODELS["ENCNet"](num_classes=NUM_CLASSES, backbone=backbone, add_lateral=True)
    model.train()
    criteria = {"types": [losses.CrossEntropyLoss(), losses.CrossEntropyLoss(), losses.SECrossEntropyLoss()],
                "coef": [1, 0.4, 0.2]}
    optimizer = paddle.optimizer.Momentum(0.01, 0.9, model.parameters(), weight_decay=5e-4)
    image, label = map(paddle.to_tensor, example(1))

    def step(tick):
        tick()
        logits = model(image)
        tick()
        total = sum(loss_computation(logits, label, None, criteria))
        tick()
        total.backward()
        del logits
        tick()
        optimizer.step()
        model.clear_gradients()
        tick()

    return step


def mmsegmentation():
    """mmsegmentation's: its recipe's network, losses and optimizer."""
    import torch

    from diff import inputs
    from diff import mmseg_reference as mmseg  # which makes mmseg importable

    torch.set_num_threads(THREADS)
    mmseg.register_all_modules(init_default_scope=True)
    config = mmseg.load_config(inputs.Setup())
    model = mmseg.revert_sync_batchnorm(mmseg.MODELS.build(config.model))
    model.train()
    optimizer = mmseg.build_optim_wrapper(model, config.optim_wrapper)
    image, label = example(1)
    image, samples = torch.from_numpy(image), mmseg.data_samples(label)

    def step(tick):
        tick()
        feats = model.extract_feat(image)
        seg, aux = model.decode_head(feats), model.auxiliary_head(feats)
        tick()
        losses = {f"{name}.{key}": value for name, head, logits in (("decode", model.decode_head, seg),
                                                                    ("aux", model.auxiliary_head, aux))
                  for key, value in head.loss_by_feat(logits, samples).items()}
        total, _ = model.parse_losses(losses)
        tick()
        optimizer.backward(total)
        del feats, seg, aux, losses
        tick()
        optimizer.step()
        optimizer.zero_grad()
        tick()

    return step


def example(images):
    """Images and labels of blocks of classes, from a seed."""
    import numpy as np

    rng = np.random.default_rng(0)
    blocks = rng.integers(0, NUM_CLASSES, (images, SIZE[0] // 64, SIZE[1] // 64))
    return (rng.standard_normal((images, 3, *SIZE)).astype(np.float32),
            blocks.repeat(64, axis=1).repeat(64, axis=2).astype(np.int64))


if __name__ == "__main__":
    run(__file__, QUESTION, cases, prepare, __doc__, rounds=2)
