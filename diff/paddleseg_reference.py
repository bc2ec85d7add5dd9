"""Reference `paddleseg`: PaddleSeg 2.8.0's own code, in a process of its own.

Its package has this toolkit's name, so the two can't share a process: `Worker` starts this file as a script
with PaddleSeg's folder first on sys.path, and exchanges pickled dicts with it. The Makefile installs it.

What is done to PaddleSeg, which is of 2023, and nothing else:
    scikit-learn, which only its area under the ROC curve needs, is an empty module;
    ResNet18_vd, which it defines, is registered, so that a recipe can name it;
    its CrossEntropyLoss multiplies float32 masks by int64 ones, which Paddle 3 refuses: both are made in the
    default dtype;
    tensors without a dimension, which Paddle has had since 2.5, are given one where its metrics concatenate them;
    every dropout rate is 0, since the masks of two processes can't agree;
    in training steps the 1e-8 that its CrossEntropyLoss adds to its divisor is 0 (the losses on their own keep
    it). It changes the first float64 step by 1e-8, and ten steps make 2e-5 of that; without it all agree to 1e-14.
"""

import contextlib
import os
import pickle
import random
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "configs/encnet/encnet_resnet101_os8_cityscapes_1024x512_80k.yml"
FOLDER = ".venv-paddleseg"  # where the Makefile puts it


# The caller's half, in the process of this toolkit.


def find_folder(folder: Optional[str] = None) -> str:
    """The folder that holds PaddleSeg's package: the given one, or FOLDER.

    Raises:
        RunError: there is no PaddleSeg in it; says how to install it.
    """
    from paddleseg.cvlibs.errors import RunError

    folder = os.path.abspath(folder or ROOT / FOLDER)
    if not os.path.isfile(os.path.join(folder, "paddleseg", "models", "encnet.py")):
        raise RunError(f"{folder} holds no PaddleSeg; `make align-env` puts it into {FOLDER}")
    return folder


def load_recipe() -> Dict:
    """PaddleSeg's recipe as this toolkit's YAML states it, with no default added and no initial weights."""
    from paddleseg.cvlibs.config import load_config, plain

    config = plain(load_config(str(ROOT / RECIPE)).tree)
    del config["model"]["backbone"]["pretrained"]
    return config


def configuration(setup) -> Dict:
    """The recipe for an inputs.Setup."""
    config = load_recipe()
    config["model"]["backbone"]["type"] = f"ResNet{setup.depth}_vd"
    config["model"]["mid_channels"] = setup.mid_channels
    config["iters"] = setup.iters
    config["lr_scheduler"]["learning_rate"] = setup.learning_rate
    return config


class Worker:
    """A process that runs PaddleSeg; as a context manager, it ends with the block.

    Args:
        folder: that holds PaddleSeg's package; None for the default.

    Raises:
        RunError: PaddleSeg isn't there.
    """

    def __init__(self, folder: Optional[str] = None):
        folder = find_folder(folder)
        self._scratch = tempfile.TemporaryDirectory(prefix="paddleseg_")
        self.scratch = self._scratch.name
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self._printed = Path(self.scratch, "printed.txt")
        with open(self._printed, "w") as printed:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), folder], cwd=self.scratch, env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=printed)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._scratch.cleanup()

    def ask(self, job: str, **request):
        """Ask PaddleSeg's half for a job: a method of Network, or one of OTHER_JOBS.

        Raises:
            RunError: the job failed, with the last line that PaddleSeg's process printed.
        """
        from paddleseg.cvlibs.errors import RunError

        try:
            pickle.dump((job, request), self._process.stdin)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (BrokenPipeError, EOFError):
            self._process.wait()
            printed = self._printed.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise RunError(f"PaddleSeg's process failed at {job}: {printed[-1]}") from None


class Side:
    """PaddleSeg's ENCNet with given weights; the methods are those of `ours.PaddleSide`.

    The weights go to PaddleSeg as a file of this toolkit and must come back, from a file that PaddleSeg saved,
    bit for bit: so either reads the other's.

    Args:
        setup: the network and its schedule, an inputs.Setup.
        weights: every parameter and buffer, in our names, which are PaddleSeg's.
        dtype: float32 or float64.
        folder: that holds PaddleSeg's package; None for the default.
        threads: CPU threads; None for all cores that the process may use.
    """

    def __init__(self, setup, weights: Mapping[str, np.ndarray], dtype: str, folder: Optional[str] = None,
                 threads: Optional[int] = None):
        from paddleseg.utils.cores import usable_cores

        self._worker = Worker(folder)
        self._setup = setup
        self._weights = {name: np.asarray(value, dtype if value.dtype.kind == "f" else None)
                         for name, value in weights.items()}
        self._has_model = False
        self._worker.ask("configure", config=configuration(setup), dtype=dtype, threads=threads or usable_cores())

    def _ask(self, job: str, **request) -> Dict:
        """Ask for what needs the network; the losses don't, and building it takes seconds."""
        if not self._has_model:
            self._exchange_weights()
            self._has_model = True
        return self._worker.ask(job, **request)

    def _exchange_weights(self) -> None:
        """Build PaddleSeg's network from a file of ours, and read the file that it saves."""
        from paddleseg.cvlibs.errors import ConfigError, WeightsError
        from paddleseg.weights.load import read_weights
        from paddleseg.weights.write import write_weights

        if self._setup.base_channels != 64:
            raise ConfigError(f"base_channels {self._setup.base_channels}: PaddleSeg's ResNet has 64")
        ours, theirs = (os.path.join(self._worker.scratch, f"{name}.pdparams") for name in ("ours", "theirs"))
        write_weights(ours, self._weights)
        self._worker.ask("build", load_from=ours, save_to=theirs)
        returned = read_weights(theirs)
        differing = [name for name in sorted({*returned, *self._weights})
                     if not (name in returned and name in self._weights
                             and np.array_equal(returned[name], self._weights[name]))]
        if differing:
            raise WeightsError(f"PaddleSeg's file differs from ours in {len(differing)} of {len(returned)} arrays, "
                               f"the first is {differing[0]}")
        os.remove(ours)
        os.remove(theirs)

    def forward(self, images: np.ndarray, train: bool) -> Dict[str, np.ndarray]:
        return self._ask("forward", images=images, train=train)

    def losses(self, logits: Mapping[str, np.ndarray], label: np.ndarray) -> Dict[str, float]:
        return self._worker.ask("losses", logits=dict(logits), label=label)

    def backward(self, images: np.ndarray, label: np.ndarray) -> Dict[str, float]:
        return self._ask("backward", images=images, label=label)

    def gradients(self) -> Dict[str, np.ndarray]:
        return self._ask("gradients")

    def update(self) -> float:
        return self._ask("update")

    def state(self) -> Dict[str, np.ndarray]:
        return self._ask("state")

    def predict(self, images: np.ndarray) -> np.ndarray:
        return self.forward(images, train=False)["seg"].argmax(axis=1)


def learning_rates(setup, folder: Optional[str] = None) -> np.ndarray:
    """The rate of each iteration, by the schedule that PaddleSeg builds, stepped that often."""
    with Worker(folder) as worker:
        return worker.ask("learning_rates", config=configuration(setup))


# PaddleSeg's half. Nothing below may import this toolkit.


class PatchedPaddle:
    """The name `paddle` as a file of PaddleSeg sees it, with `functions` in the place of Paddle's."""

    def __init__(self, **functions: Callable):
        vars(self).update(functions)

    def __getattr__(self, name: str):
        import paddle
        return getattr(paddle, name)


def prepare(folder: str) -> None:
    """Make PaddleSeg importable and repair what today's Paddle refuses."""
    sys.path.insert(0, folder)
    for name in ("sklearn", "sklearn.metrics"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["sklearn"].metrics = sys.modules["sklearn.metrics"]
    import paddle

    from paddleseg.cvlibs import manager
    from paddleseg.models.backbones import resnet_vd
    from paddleseg.models.losses import cross_entropy_loss
    from paddleseg.utils import metrics

    manager.BACKBONES.add_component(resnet_vd.ResNet18_vd)
    cross_entropy_loss.paddle = PatchedPaddle(
        cast=lambda x, dtype: paddle.cast(x, paddle.get_default_dtype() if dtype == "float32" else dtype),
        ones_like=lambda x: paddle.ones_like(x, dtype=paddle.get_default_dtype()))
    metrics.paddle = PatchedPaddle(
        concat=lambda tensors: paddle.concat([tensor.reshape([1]) for tensor in tensors]))


def make_builder(config: Dict):
    """PaddleSeg's builder on a configuration, through its own reading and checks of a YAML file."""
    import yaml

    from paddleseg.cvlibs import Config, SegBuilder

    path = os.path.abspath("recipe.yml")
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(config, file)
    return SegBuilder(Config(path))


class Network:
    """The network's jobs; `configure` comes first, then, but for `losses`, `build`."""

    def __init__(self):
        sys.path.append(str(ROOT))  # after PaddleSeg's package, which has the toolkit's name
        from diff import stages

        self.stages = stages

    def configure(self, config: Dict, dtype: str, threads: int) -> None:
        """Take PaddleSeg's configuration, the dtype of everything, and the number of CPU threads."""
        import paddle

        paddle.base.core.set_num_threads(threads)
        paddle.set_default_dtype(dtype)
        self.builder = make_builder(config)

    def build(self, load_from: str, save_to: str) -> None:
        """Build the model, load its weights from one .pdparams file, save them by paddle.save to another."""
        import paddle

        from paddleseg.utils import utils

        paddle.seed(0)
        self.model = self.builder.model
        for layer in self.model.sublayers():
            if isinstance(layer, (paddle.nn.Dropout, paddle.nn.Dropout2D)):
                layer.p = 0.0
        utils.load_entire_model(self.model, load_from)  # it only warns; the caller compares what is saved
        paddle.save(self.model.state_dict(), save_to)

    def forward(self, images: np.ndarray, train: bool) -> Dict[str, np.ndarray]:
        return self.stages.paddle_stages(self.model, images, train)

    def losses(self, logits: Dict[str, np.ndarray], label: np.ndarray) -> Dict[str, float]:
        """Return each loss times its coefficient, and their sum as "total"."""
        import paddle

        return self._terms([paddle.to_tensor(logits[name]) for name in self.stages.TERMS], label)[0]

    def _terms(self, logits: List, label: np.ndarray) -> Tuple[Dict[str, float], object]:
        """(losses by name, their sum), by the function that PaddleSeg trains with."""
        import paddle

        from paddleseg.core.train import loss_computation

        terms = loss_computation(logits, paddle.to_tensor(label), None, self.builder.loss)
        total = sum(terms)
        return {name: value.item() for name, value in zip((*self.stages.TERMS, "total"), (*terms, total))}, total

    def backward(self, images: np.ndarray, label: np.ndarray) -> Dict[str, float]:
        """Return the losses of a training batch, which has a labelled pixel; leave the gradients."""
        import paddle

        for loss in self.builder.loss["types"]:
            if hasattr(loss, "EPS"):
                loss.EPS = 0.0
        self.model.train()
        losses, total = self._terms(self.model(paddle.to_tensor(images)), label)
        total.backward()
        return losses

    def gradients(self) -> Dict[str, np.ndarray]:
        return self.stages.paddle_gradients(self.model)

    def update(self) -> float:
        """Step the optimizer and the schedule, as PaddleSeg's loop does; return the learning rate of the step."""
        lr = self.builder.optimizer.get_lr()
        self.builder.optimizer.step()
        self.builder.lr_scheduler.step()
        self.model.clear_gradients()
        return lr

    def state(self) -> Dict[str, np.ndarray]:
        return self.stages.paddle_state(self.model)


def run_learning_rates(config: Dict) -> np.ndarray:
    """Return the rates of all iterations, in float64."""
    builder = make_builder(config)
    rates = np.zeros(config["iters"])
    for iteration in range(config["iters"]):
        rates[iteration] = builder.lr_scheduler.get_lr()
        builder.lr_scheduler.step()
    return rates


# Random decisions.


def _spy(function: Callable, name: str, drawn: List[Tuple[str, object]]) -> Callable:
    def spied(*args, **kwargs):
        value = function(*args, **kwargs)
        # A shuffle returns nothing: what it decides is the new order of its argument.
        drawn.append((name, list(args[0]) if name == "shuffle" else value))
        return value
    return spied


@contextlib.contextmanager
def recorded_draws() -> Iterator[List[Tuple[str, object]]]:
    """List every (function, value) that is drawn from NumPy's and Python's global generators, in order."""
    drawn: List[Tuple[str, object]] = []
    places = [(module, name) for module in (np.random, random) for name in
              ("uniform", "randint", "random", "random_sample", "rand", "choice", "shuffle") if hasattr(module, name)]
    originals = [getattr(module, name) for module, name in places]
    try:
        for (module, name), original in zip(places, originals):
            setattr(module, name, _spy(original, name, drawn))
        yield drawn
    finally:
        for (module, name), original in zip(places, originals):
            setattr(module, name, original)


def _distort_decision(transform, drawn: Iterator) -> List[Tuple[str, float]]:
    """RandomDistort: the order of the changes, then for each a toss and, if it fell so, the amount."""
    decision = []
    for function in next(drawn):
        name = function.__name__
        if next(drawn) < getattr(transform, f"{name}_prob"):
            decision.append((name, float(next(drawn))))
    return decision


def _crop_decision(transform, drawn: Iterator) -> Tuple[int, int]:
    """RandomPaddingCrop: (top, left); an image of the crop's own size draws nothing."""
    return int(next(drawn, 0)), int(next(drawn, 0))


# {transform: its decision in the form of this toolkit's `apply`, from the transform and what it drew}
DECISIONS = {
    "ResizeStepScaling": lambda transform, drawn: float(next(drawn)[0]),
    "RandomPaddingCrop": _crop_decision,
    "RandomHorizontalFlip": lambda transform, drawn: bool(next(drawn) < transform.prob),
    "RandomDistort": _distort_decision,
}


class Recording:
    """A transform whose random decision is put into a dict under the transform's name."""

    def __init__(self, transform: Callable, decide: Callable, decisions: Dict):
        self.transform = transform
        self.decide = decide
        self.decisions = decisions

    def __call__(self, data: Dict) -> Dict:
        name = type(self.transform).__name__
        with recorded_draws() as drawn:
            data = self.transform(data)
        values = iter([value for _, value in drawn])
        self.decisions[name] = self.decide(self.transform, values)
        left = list(values)
        if left:
            raise ValueError(f"{name} drew more than its decision explains: {left}")
        return data


def recording(transforms: List[Callable], deciders: Dict[str, Callable], decisions: Dict) -> List[Callable]:
    """The transforms, those that `deciders` names recording into `decisions`."""
    return [Recording(transform, deciders[type(transform).__name__], decisions)
            if type(transform).__name__ in deciders else transform for transform in transforms]


def run_data(config: Dict, num_scenes: int, seed: int) -> List[Dict]:
    """Run the training pipeline on the first scenes of the configuration's train_dataset.

    Returns:
        For each scene its "path", "decisions" ({transform: decision}), "image" (3, H, W) float32 and "label" (H, W)
        uint8.
    """
    dataset = make_builder(config).train_dataset
    transforms = dataset.transforms.transforms
    scenes = []
    for index in range(num_scenes):
        decisions: Dict = {}
        dataset.transforms.transforms = recording(transforms, DECISIONS, decisions)
        np.random.seed(seed + index)
        random.seed(seed + index)
        sample = dataset[index]
        scenes.append({"path": dataset.file_list[index][0], "decisions": decisions,
                       "image": np.ascontiguousarray(sample["img"]), "label": np.ascontiguousarray(sample["label"])})
    return scenes


def run_metric(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> Dict[str, np.ndarray]:
    """Compute PaddleSeg's scores of (N, H, W) int64 images, their areas summed as in its evaluation.

    Returns:
        The areas in int64 and the scores in float64, by name. A class that occurs nowhere has the scores 0 and enters
        the means.
    """
    import paddle

    from paddleseg.utils import metrics

    totals = [0, 0, 0]
    for prediction, label in zip(predictions, labels):
        areas = metrics.calculate_area(paddle.to_tensor(prediction), paddle.to_tensor(label), num_classes)
        totals = [total + area for total, area in zip(totals, areas)]
    iou, miou = metrics.mean_iou(*totals)
    accuracy, precision, recall = metrics.class_measurement(*totals)
    scores = {"iou": iou, "miou": miou, "precision": precision, "recall": recall, "accuracy": accuracy,
              "kappa": metrics.kappa(*totals)}
    return {**{name: area.numpy() for name, area in zip(("intersection", "prediction", "label"), totals)},
            **{name: np.asarray(value, np.float64) for name, value in scores.items()}}


NETWORK_JOBS = ("configure", "build", "forward", "losses", "backward", "gradients", "update", "state")
OTHER_JOBS = {"data": run_data, "metric": run_metric, "learning_rates": run_learning_rates}


def answer_requests(folder: str) -> None:
    """Answer each pickled (job, request) on standard input with a pickled reply on standard output."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what PaddleSeg prints goes where its errors go
    prepare(folder)
    network = Network()
    jobs = {**OTHER_JOBS, **{name: getattr(network, name) for name in NETWORK_JOBS}}
    with contextlib.suppress(EOFError):
        while True:
            job, request = pickle.load(sys.stdin.buffer)
            pickle.dump(jobs[job](**request), replies)
            replies.flush()


if __name__ == "__main__":
    # The folder of this file holds names such as data and metric, which PaddleSeg's imports must not find.
    sys.path.pop(0)
    answer_requests(sys.argv[1])
