"""Options of a training run; standard library only, so that `train.py --help` answers at once."""

from dataclasses import dataclass, field, fields
from typing import Any, Dict, Optional, Sequence

from paddleseg.cvlibs.errors import ConfigError

_REQUIRED = object()


def _option(text: str, default: Any = _REQUIRED, minimum: Optional[int] = None, choices: Sequence[str] = (),
            mutable: bool = False, flag: bool = True) -> Any:
    """Declare an option, the one place where it is described.

    Args:
        text: its help.
        minimum: the smallest value that is legal.
        mutable: a resumed run may change it and is still the same run.
        flag: train.py has a flag for it that is made from this; others have one from add_common_flags, or none.
    """
    metadata = {"help": text, "minimum": minimum, "choices": choices, "mutable": mutable, "flag": flag}
    return field(metadata=metadata) if default is _REQUIRED else field(default=default, metadata=metadata)


@dataclass
class TrainOptions:
    """The run itself: top-level keys of the YAML, flags of the same names, and what a resumed run is compared by."""

    batch_size: int = _option("images per process and step", minimum=1)
    iters: int = _option("optimizer steps", minimum=1)
    accum_iters: int = _option("batches whose gradients are averaged for one step", 1, minimum=1)
    effective_batch: Optional[int] = _option("images per step that the schedule was made for; another number warns",
                                             None, minimum=1, mutable=True, flag=False)
    seed: int = _option("of weights, order, augmentation and dropout", 42, minimum=0)
    do_eval: bool = _option("evaluate at each checkpoint and keep the best model", False, mutable=True)
    early_stop_intervals: Optional[int] = _option("end after so many evaluations in a row without a better mIoU", None,
                                                  minimum=1, mutable=True)
    use_ema: bool = _option("average the weights over the iterations too; evaluate and save both", False)
    save_interval: int = _option("iterations between checkpoints", 1000, minimum=1, mutable=True)
    log_iters: int = _option("iterations between lines of the log", 10, minimum=1, mutable=True)
    keep_checkpoint_max: int = _option("checkpoints to keep", 5, minimum=1, mutable=True)
    num_workers: Optional[int] = _option("processes that read data; None chooses by the cores, 0 reads in the main "
                                         "process", None, minimum=0, mutable=True, flag=False)
    use_vdl: bool = _option("write VisualDL's files to --save_dir", False, mutable=True)
    repeats: int = _option("times that each sample is seen in an epoch", 1, minimum=1)
    # "auto" may find another device when a run is resumed; the one found is compared.
    device: str = _option("auto, cpu or gpu", "auto", mutable=True, flag=False)
    precision: str = _option("of the computation; without a GPU it is fp32", "fp32", choices=("fp32", "fp16", "bf16"))
    amp_level: str = _option("with fp16 and bf16: O1 keeps weights in float32, O2 in half precision too", "O1",
                             choices=("O1", "O2"))
    threads: Optional[int] = _option("CPU threads; None takes this process's share of the cores", None, minimum=1,
                                     flag=False)

    def __post_init__(self):
        for option in fields(self):
            value, minimum = getattr(self, option.name), option.metadata["minimum"]
            if minimum is not None and value is not None and value < minimum:
                raise ConfigError(f"{option.name} {value}: must be at least {minimum}")
        check_precision(self.precision, self.amp_level)
        from paddleseg.utils import device  # imports NumPy

        self.num_workers = device.default_workers() if self.num_workers is None else self.num_workers
        self.threads = device.default_threads() if self.threads is None else self.threads

    def fingerprint(self) -> Dict[str, Any]:
        """Return the options that must be the same for a resumed run to be the same run."""
        return {option.name: getattr(self, option.name) for option in fields(self) if not option.metadata["mutable"]}

    def check_early_stop(self) -> None:
        """Raise ConfigError where evaluations are to be counted and there are none."""
        if self.early_stop_intervals is not None and not self.do_eval:
            raise ConfigError(f"early_stop_intervals {self.early_stop_intervals} counts evaluations, and there are "
                              f"none; add --do_eval (do_eval: True)")


MUTABLE_KEYS = tuple(option.name for option in fields(TrainOptions) if option.metadata["mutable"])


def check_precision(precision: str, level: str) -> None:
    """Raise ConfigError if there is no such precision or level, or the level has no effect."""
    known = {option.name: option.metadata["choices"] for option in fields(TrainOptions)}
    for name, value in (("precision", precision), ("amp_level", level)):
        if value not in known[name]:
            raise ConfigError(f"{name} {value!r} must be one of {', '.join(known[name])}")
    if precision == "fp32" and level != "O1":
        raise ConfigError(f"amp_level {level} takes effect only with precision fp16 or bf16")


def add_option_flags(parser) -> None:
    """Add a flag for each option that `add_common_flags` doesn't have; one that isn't given is None."""
    for option in fields(TrainOptions):
        text, default = option.metadata["help"], option.default
        if not option.metadata["flag"]:
            continue
        if option.type is bool:
            parser.add_argument(f"--{option.name}", action="store_true", default=None, help=text)
            continue
        text += f" (default: {default})" if isinstance(default, (int, str)) else ""
        if option.metadata["choices"]:
            parser.add_argument(f"--{option.name}", choices=option.metadata["choices"], help=text)
        else:
            parser.add_argument(f"--{option.name}", type=int, metavar="N", help=text)
