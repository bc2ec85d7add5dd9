"""A training step's arithmetic and memory at full size, computed from its graph.

    python benchmarks/graph.py

For each recipe at its crop of 512 x 1024 and its images per GPU, ours and PaddleSeg 2.8.0's nearest network: floating
point operations, bytes moved, kernels, what the forward pass keeps for the backward pass, the peak of what lives, and
so the memory that a V100 needs. Nothing of that size is executed, see paddleseg/core/cost.py. How far it can be trusted
is measured beside it: in real steps on small images, and on ResNet-101's published number of multiply-adds.
"""

import dataclasses
import importlib.util
import json
import sys
from typing import Dict, List, NamedTuple, Sequence, Tuple

from harness import ROOT, Case, Child, parse, peak_mib, reset_peak, save, serve, use_paddleseg, why_missing

QUESTION = "A training step at full size, computed from its graph"
PUBLISHED = 7.8  # 10^9 multiply-adds of ResNet-101 at 224 x 224, as torchvision's table of models has it
OURS, THEIRS = "ours", "PaddleSeg 2.8.0"
CROP, NUM_CLASSES = (512, 1024), 19
# Of each recipe, the arguments of PaddleSeg's nearest network; its backbone is ResNet101_vd at output stride 8.
RECIPES = {
    "encnet/encnet_cityscapes": {"multi_grid": [1, 2, 4], "add_lateral": False},
    "encnet/encnet_resnet101_os8_cityscapes_1024x512_80k": {"add_lateral": True},
    "encnet/encnet_r101_d8_512x1024_80k_cityscapes": {"add_lateral": False},
    "fcn/fcn_r101_d8_512x1024_80k_cityscapes": {"type": "FCN", "backbone_indices": [3], "channels": 512},
}
CHECKED, CHECKED_SIZES = "encnet/encnet_resnet101_os8_cityscapes_1024x512_80k", ((64, 128), (128, 256))
COARSE, RESIZED = "ours", "ours, losses of resized logits"
RECOMPUTED = {"ours, stage 3 recomputed": (3,), "ours, stages 1 to 4 recomputed": (1, 2, 3, 4)}
MIB = 2 ** 20
# What nvidia-smi says of a V100; the CUDA context with cuDNN's code, assumed; FLAGS_conv_workspace_size_limit.
V100_MIB, CONTEXT_MIB, WORKSPACE_MIB, MARGIN = {"16 GB": 16160, "32 GB": 32510}, 700, 512, 1.1


def load_cost():
    """paddleseg/core/cost.py by its place, since in PaddleSeg's process `paddleseg` is another package."""
    if "cost" not in sys.modules:
        spec = importlib.util.spec_from_file_location("cost", ROOT / "paddleseg" / "core" / "cost.py")
        sys.modules["cost"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["cost"])
    return sys.modules["cost"]


# Networks and their steps. A step takes (model, image, label, present) and returns (loss, logits).


class Network(NamedTuple):
    """How to build a network, its steps by variant, and how many images a GPU has."""

    make: object
    steps: Dict
    images: int


def our_network(recipe: str) -> Network:
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from paddleseg import builder
    from paddleseg.core.outputs import training_outputs
    from paddleseg.cvlibs.config import load_config
    from paddleseg.models.losses import coarse
    from tools.model_info import model_maker

    config = load_config(str(ROOT / "configs" / f"{recipe}.yml"))
    builder.check(config)
    make_model, criteria = model_maker(config), {}

    def make():
        model = make_model()
        criteria["all"] = builder.build_criteria(config, model)
        return model

    def resized(model, image, label, present):
        logits = model(image)
        return weighted(criteria["all"], logits, [{} for _ in logits], label, present), logits

    def from_coarse(model, image, label, present):
        inline_sum(coarse)
        logits, arguments = training_outputs(model, [criterion for criterion, _ in criteria["all"]], image)
        return weighted(criteria["all"], logits, arguments, label, present), logits

    return Network(make, {RESIZED: resized, COARSE: from_coarse}, config["batch_size"])


def inline_sum(coarse) -> None:
    """Let the loss of coarse logits, a PyLayer, be captured: what it does on a GPU, and a product with its gradient."""
    import paddle

    class Context:
        def save_for_backward(self, *tensors):
            self.saved = tensors

    def apply(logit, *arguments):
        context = Context()
        with paddle.no_grad():
            coarse._Sum.forward(context, logit, *arguments)
        context.saved[0].stop_gradient = True
        return (logit * context.saved[0]).sum()

    coarse._Sum.apply = staticmethod(apply)
    coarse.can_be_read = lambda tensor: False  # it's on a GPU


def their_network(recipe: str) -> Network:
    if "paddleseg" not in sys.modules:
        use_paddleseg()
    from paddleseg.cvlibs import manager
    from paddleseg.models import backbones  # noqa: F401  (registers)
    from paddleseg.models.losses import CrossEntropyLoss

    arguments = dict(RECIPES[recipe])
    kind, multi_grid = arguments.pop("type", "ENCNet"), arguments.pop("multi_grid", [1, 1, 1])

    def make():
        backbone = manager.BACKBONES["ResNet101_vd"](output_stride=8, multi_grid=multi_grid)
        return manager.MODELS[kind](num_classes=NUM_CLASSES, backbone=backbone, **arguments)

    def step(model, image, label, present):
        logits = model(image)
        criteria = [(CrossEntropyLoss(), coefficient) for coefficient in (1, 0.4, 0.2)]
        return weighted(criteria, logits, [{} for _ in logits], label, present), logits

    return Network(make, {THEIRS: step}, 2)


def weighted(criteria, logits, arguments, label, present):
    """The sum of the losses; the SE loss with its target given, as finding it is no part of the network."""
    import paddle.nn.functional as F

    total = 0.0
    for (criterion, coefficient), logit, more in zip(criteria, logits, arguments):
        loss = (F.binary_cross_entropy_with_logits(logit, present) if len(logit.shape) == 2
                else criterion(logit, label, **more))
        total = total + coefficient * loss
    return total


def network(side: str, recipe: str) -> Network:
    return (our_network if side == OURS else their_network)(recipe)


# Mixed precision.


class HalfPrecision:
    """The graph in mixed precision O1, by the rules of Paddle's lists of operators.

    Convolutions and products cast their operands to 2 bytes; operators of the black list, and those with an operand of
    4 bytes, cast to 4. A batch norm's statistics are 4 bytes. A backward operator's results have its operands' type.
    """

    def __init__(self, graph, float32_scopes: Sequence[str]):
        import paddle

        cost = load_cost()
        self.float32_scopes = (*float32_scopes, cost.LOSS)
        self.old_names = {new: old for old, new in cost.NEW_NAMES.items()}
        self.white, self.black = (getattr(paddle.amp, name)()["float16"]["O1"] for name in ("white_list", "black_list"))
        self.values, self.operators, self.casts = dict(graph.values), [], {}
        for operator in graph.operators[:graph.forward]:
            self.forward(operator)
        forward = len(self.operators)
        for operator in graph.operators[graph.forward:]:
            self.backward(operator, graph.gradients)
        self.graph = dataclasses.replace(graph, values=self.values, operators=self.operators, forward=forward)

    def listed(self, name: str, names) -> bool:
        return name in names or self.old_names.get(name) in names

    def set_bytes(self, key, item_bytes: int) -> None:
        if self.values[key].is_float:
            self.values[key] = self.values[key]._replace(item_bytes=item_bytes)

    def floats(self, keys) -> List[int]:
        return [self.values[key].item_bytes for key in keys if self.values[key].is_float]

    def cast(self, operator, key, item_bytes: int):
        """An operand of the wanted size: itself, or a new tensor."""
        value = self.values[key]
        if not value.is_float or value.item_bytes == item_bytes:
            return key
        new = (key, operator.name, item_bytes)
        self.values[new] = value._replace(item_bytes=item_bytes)
        self.operators.append(dataclasses.replace(operator, name="cast", inputs=[key], outputs=[new], unread=set()))
        self.casts[key, operator.name] = new
        return new

    def forward(self, operator) -> None:
        keeps = any(operator.scope == scope or operator.scope.startswith(scope + ".") for scope in self.float32_scopes)
        inputs = operator.inputs
        if operator.name == "batch_norm":
            self.set_bytes(operator.outputs[0], self.values[inputs[0]].item_bytes)
            self.operators.append(operator)
            return
        if keeps or self.listed(operator.name, self.black):
            item_bytes = 4
        elif self.listed(operator.name, self.white):
            item_bytes = 2
        else:
            item_bytes = max(self.floats(inputs), default=4)
        if operator.launches and operator.name != "cast":
            inputs = [self.cast(operator, key, item_bytes) for key in inputs]
        for key in operator.outputs:
            self.set_bytes(key, item_bytes)
        self.operators.append(dataclasses.replace(operator, inputs=inputs))

    def backward(self, operator, gradients) -> None:
        name = operator.name.replace("_grad", "")
        inputs = [self.casts.get((key, name), key) for key in operator.inputs]
        black = self.listed(name, self.black)
        item_bytes = 4 if black else min(self.floats(inputs), default=4)
        new = dataclasses.replace(operator, inputs=inputs, outputs=list(operator.outputs),
                                  unread={self.casts.get((key, name), key) for key in operator.unread})
        self.operators.append(new)
        for place, key in enumerate(operator.outputs):
            if name == "batch_norm" and place > 0:
                continue
            if key in gradients and item_bytes < 4:
                new.outputs[place] = (key, "half")
                self.values[new.outputs[place]] = self.values[key]._replace(item_bytes=item_bytes)
                self.operators.append(dataclasses.replace(operator, name="cast", inputs=[new.outputs[place]],
                                                          outputs=[key], unread=set()))
            else:
                self.set_bytes(key, item_bytes)


# Figures.


def figures(graph) -> Dict[str, float]:
    """Of one graph: operations, bytes and kernels, with those of the optimizer, and memory in MiB."""
    cost = load_cost()
    memory = cost.lives(graph)
    forward, backward = graph.operators[:graph.forward], graph.operators[graph.forward:]
    # Momentum reads gradient, velocity and parameter, and writes the latter two; then the gradient is cleared.
    kept = graph.parameter_bytes()
    return {
        "forward": sum(cost.flops(graph, operator) for operator in forward) / 1e9,
        "backward": sum(cost.flops(graph, operator) for operator in backward) / 1e9,
        "moved": (sum(cost.moved_bytes(graph, operator) for operator in graph.operators) + 6 * kept) / 1e9,
        "kernels": sum(operator.launches for operator in graph.operators) + 2 * len(graph.parameters),
        "saved": sum(life.bytes for life in cost.saved_for_backward(graph, memory)) / MIB,
        "peak": max(cost.live_bytes(graph, memory)) / MIB,
        "kept": (3 * kept + graph.buffer_bytes()) / MIB,
    }


def compute(side: str, recipe: str) -> Dict[str, Dict]:
    """{variant: {"fp32": figures, "fp16": figures}} of one recipe."""
    cost, (make, steps, images) = load_cost(), network(side, recipe)
    graphs = {variant: cost.capture(make, (images, 3, *CROP), NUM_CLASSES, step) for variant, step in steps.items()}
    if side == OURS:
        from tools.model_info import recompute_stages

        for variant, stages in RECOMPUTED.items():
            graphs[variant] = recompute_stages(graphs[COARSE], stages)
    float32_scopes = ("enc_module.encoding.0",) if side == OURS else ()
    return {variant: {"images": images, "fp32": figures(graph),
                      "fp16": figures(HalfPrecision(graph, float32_scopes).graph)} for variant, graph in graphs.items()}


# Checks.


def unfold_bytes(graph, operator) -> int:
    """What Paddle's convolution takes on a CPU, and only there, to lay out one image's windows."""
    if operator.name.replace("_grad", "") != "conv2d":
        return 0
    x, kernel = (graph.values[key] for key in operator.inputs[:2])
    out = graph.values[operator.inputs[-1] if operator.name.endswith("_grad") else operator.outputs[0]]
    if kernel.shape[2:] == (1, 1) and out.shape[2:] == x.shape[2:]:
        return 0
    return 4 * out.shape[2] * out.shape[3] * kernel.size // kernel.shape[0]


def computed_check(graph) -> Dict[str, float]:
    """The figures of a step on a CPU that isn't the first: the parameters have gradients."""
    cost = load_cost()
    live = cost.live_bytes(graph, cost.lives(graph))
    peak = max(bytes_ + unfold_bytes(graph, operator) for operator, bytes_ in zip(graph.operators, live)) / MIB
    return {"allocated after forward": live[graph.forward - 1] / MIB, "peak allocated": peak, "peak resident": peak,
            "kernels": sum(operator.launches for operator in graph.operators)}


def measured_check(side: str, size: Sequence[int]) -> Dict[str, float]:
    """The same of a real step, after one on a small image, which loads libraries and counts kernels."""
    from paddle.base import core

    def allocated(kind: str) -> int:
        return getattr(core, f"host_memory_stat_{kind}_value")("Allocated", 0)

    make, steps, images = network(side, CHECKED)
    step, model = next(iter(steps.values())), make()
    model.train()
    small = random_batch(1, 32, 64)
    kernels = count_kernels(lambda: step(model, *small)[0].backward())
    before = allocated("current")
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    reset_peak()
    resident = peak_mib()
    batch = random_batch(images, *size)
    loss, logits = step(model, *batch)
    after_forward = allocated("current")
    loss.backward()
    return {"allocated after forward": (after_forward - before) / MIB,
            "peak allocated": (allocated("peak") - before) / MIB, "peak resident": peak_mib() - resident,
            "kernels": kernels}


def random_batch(images: int, height: int, width: int) -> Tuple:
    """image, label, present."""
    import paddle

    return (paddle.randn([images, 3, height, width]), paddle.randint(0, NUM_CLASSES, [images, height, width]),
            paddle.ones([images, NUM_CLASSES]))


def count_kernels(run) -> int:
    """Kernels that Paddle's profiler sees, but for those that only make views."""
    import tempfile
    from pathlib import Path

    from paddle import profiler

    watch = profiler.Profiler(targets=[profiler.ProfilerTarget.CPU], on_trace_ready=lambda profile: None)
    watch.start()
    run()
    watch.stop()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        watch.export(str(path), "json")
        events = json.loads(path.read_text())["traceEvents"]
    names = [event.get("name", "") for event in events]
    return sum(name.partition(" ")[0] not in load_cost().VIEWS for name in names if " kernel launch" in name)


def check(side: str, size: Sequence[int]) -> Dict[str, Dict]:
    """{"computed": …, "measured": …} for a step on a small image."""
    measured = measured_check(side, size)
    make, steps, images = network(side, CHECKED)
    graph = load_cost().capture(make, (images, 3, *size), NUM_CLASSES, next(iter(steps.values())))
    return {"computed": computed_check(graph), "measured": measured}


def resnet_multiply_adds() -> float:
    """10^9 multiply-adds of the plain ResNet-101 at 224 x 224."""
    import paddle

    cost = load_cost()

    def classify(model, image, label, present):
        logits = model(image)
        return logits.mean(), [logits]

    graph = cost.capture(paddle.vision.models.resnet101, (1, 3, 224, 224), NUM_CLASSES, classify)
    forward = graph.operators[:graph.forward]
    return sum(cost.multiply_adds(graph, operator) for operator in forward) / 1e9


# Tables.


def prepare(side: str, arguments: Dict):
    """In a side's process: all recipes, a check at one size, or the multiply-adds of ResNet-101."""
    if "size" in arguments:
        return lambda: check(side, arguments["size"])
    return lambda: {"recipes": {recipe: compute(side, recipe) for recipe in RECIPES},
                    "multiply_adds": resnet_multiply_adds()}


def ask(side: str, **arguments) -> Dict:
    """What a process of that side answers."""
    child = Child(__file__, side, Case(QUESTION, [side], {}, rounds=1, arguments=arguments))
    try:
        return child.measure()
    finally:
        child.close()


def step_table(answers: Dict[str, Dict]) -> Dict:
    """Operations, bytes, kernels and memory of every recipe and variant."""
    rows = []
    for recipe in RECIPES:
        for answer in answers.values():
            for variant, found in answer["recipes"][recipe].items():
                own = found["fp32"]
                rows.append([recipe.partition("/")[2], variant, *(round(own[name]) for name in (
                    "forward", "backward", "moved", "kernels", "saved", "peak", "kept"))])
    return {
        "title": "One step of one GPU in float32, images of 512 x 1024, 2 of them",
        "note": "Operations count 2 for a multiply-add of a convolution or matrix product, else 1 for each element. "
                "Bytes are each operator's operands, once each. Kernels are operators that compute. Peak: activations "
                "and gradients that live at once, beside the kept bytes: parameters, their gradients and momentum. "
                "\"ours\" takes the losses from the heads' own logits, as train.py does. PaddleSeg has the same "
                "network for encnet_resnet101_os8 alone; else it is the nearest one: with a wider auxiliary head than "
                "encnet_cityscapes and encnet_r101_d8, and an FCN with a 1x1 head and no auxiliary one.",
        "columns": ["recipe", "side", "GFLOP forward", "GFLOP backward", "GB moved", "kernels",
                    "MiB kept for backward", "MiB peak", "MiB kept"],
        "rows": rows}


def need_mib(found: Dict) -> float:
    return found["peak"] + found["kept"] + CONTEXT_MIB + WORKSPACE_MIB


def verdict(need: float, has: int) -> str:
    if need * MARGIN <= has:
        return "fits"
    return "barely" if need <= has else "too large"


def v100_table(answers: Dict[str, Dict]) -> Dict:
    """The memory that a V100 needs, and whether it has it."""
    rows = []
    for recipe in RECIPES:
        for answer in answers.values():
            for variant, found in answer["recipes"][recipe].items():
                row = [recipe.partition("/")[2], variant]
                for precision in ("fp32", "fp16"):
                    need = need_mib(found[precision])
                    row += [round(need / 1024, 1), *(verdict(need, has) for has in V100_MIB.values())]
                rows.append(row)
    return {
        "title": "Memory on a V100, per GPU",
        "note": f"The peak and the kept bytes above, {WORKSPACE_MIB} MiB that cuDNN may take (Paddle's limit for one "
                f"convolution) and {CONTEXT_MIB} MiB assumed for the CUDA context. \"fits\" leaves {MARGIN - 1:.0%} "
                "for what the allocator can't use, \"barely\" doesn't. fp16 is mixed precision O1, estimated by "
                "Paddle's lists of operators; bf16 has the same sizes, but a V100 doesn't compute in it.",
        "columns": ["recipe", "side", *(f"{precision} {what}" for precision in ("fp32", "fp16")
                                        for what in ("GiB", *V100_MIB))],
        "rows": rows}


def check_table(checks: Sequence[Tuple[str, Sequence[int], Dict]], multiply_adds: float) -> Dict:
    """Computed against measured."""
    rows = [["plain ResNet-101", "224 x 224, 1 image", "10^9 multiply-adds", round(multiply_adds, 3), PUBLISHED,
             f"{multiply_adds / PUBLISHED - 1:+.1%}"]]
    for side, size, found in checks:
        for name, computed in found["computed"].items():
            measured = found["measured"][name]
            rows.append([side, f"{size[0]} x {size[1]}, 2 images", name + (", MiB" if name != "kernels" else ""),
                         round(computed), round(measured), f"{computed / measured - 1:+.1%}"])
    return {
        "title": "How far this can be trusted",
        "note": f"A step of {CHECKED.partition('/')[2]} on a CPU, losses of resized logits; parameters have "
                "gradients before it. Allocated is what Paddle's allocator counts, resident what Linux does (VmHWM), "
                "with what the allocator can't use again. Computed for the CPU: with the unfolded windows of a "
                "convolution, which don't exist on a GPU. PaddleSeg's Encoding takes one more (N, HW, K, C) tensor "
                "within an operator, which no graph shows. Kernels: without the optimizer's; Paddle's profiler counts.",
        "columns": ["what", "size", "figure", "computed", "measured", "error"],
        "rows": rows}


def main() -> None:
    args = parse(__doc__)
    if args.side:
        serve(prepare, args.side[0], json.loads(args.side[1]))
        return
    sides = [side for side in (OURS, THEIRS) if not why_missing(side)]
    answers = {side: ask(side) for side in sides}
    checks = [(side, size, ask(side, size=size)) for side in sides for size in CHECKED_SIZES]
    tables = [step_table(answers), v100_table(answers), check_table(checks, answers[OURS]["multiply_adds"])]
    for table in tables:
        print(f"{table['title']}\n  {' | '.join(table['columns'])}")
        for row in table["rows"]:
            print("  " + " | ".join(map(str, row)))
    for side in (OURS, THEIRS):
        if side not in sides:
            print(f"{side}: {why_missing(side)}")
    save(__file__, QUESTION, rows=[], tables=tables)


if __name__ == "__main__":
    main()
