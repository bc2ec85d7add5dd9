"""User code that registers its own components: `--plugins my_model.py package.module`.

A plugin is a Python file or a module; importing it runs it, so it is named on the command line alone. A config may
say which ones it needs, and then a run without them stops and shows the flag.
"""

import copy
import functools
import importlib
import importlib.util
import itertools
import os
import shlex
import sys
import sysconfig
import traceback
from types import ModuleType
from typing import Dict, List, Optional, Sequence

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError

_PREFIX = "paddleseg_plugin_"  # of the names that files have as modules

# Where no user's code lies.
_OTHERS = tuple(os.path.join(folder, "") for folder in {
    os.path.dirname(os.path.abspath(__file__)),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))})

_loaded: Dict[str, str] = {}  # what tells a plugin from others -> how it was named


def load_plugins(names: Sequence[str]) -> None:
    """Import plugins in order, each once; import the project's own components before.

    Args:
        names: files ending in .py, or dotted names of modules that can be imported from the working directory.

    Raises:
        ConfigError: one doesn't exist, fails, or registers a name that is taken; says the line.
    """
    for name in names:
        identity = _identity(name)
        if identity not in _loaded:
            adapters = {manager.TRANSFORMS: _adapt_transform, manager.DATASETS: _adapt_dataset}
            known = {component for registry in adapters for component in registry.components_dict.values()}
            _import(name, identity)
            for registry, adapt in adapters.items():
                for component in dict.fromkeys(registry.components_dict.values()):
                    # A plugin may be the first to import a module of this project.
                    own = component not in known and not component.__module__.startswith("paddleseg.")
                    if own and isinstance(component, type):
                        adapt(component)
            _loaded[identity] = name


def loaded_plugins() -> List[str]:
    """The plugins of this process as they were named."""
    return list(_loaded.values())


def check_named(value: Optional[object], origin: str, folder: str) -> None:
    """Stop a run whose config, which lies in `folder`, names plugins that the command line doesn't.

    Raises:
        ConfigError: shows the flag to add; or the value isn't a list of text.
    """
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{origin}: plugins must be a list of files and modules, such as [my_model.py]")
    beside = {name: os.path.join(folder, name) for name in names if _is_file(name) and not os.path.isfile(name)}
    names = [beside[name] if os.path.isfile(beside.get(name, "")) else name for name in names]
    missing = [shlex.quote(name) for name in names if _identity(name) not in _loaded]
    if missing:
        raise ConfigError(f"{origin} names plugins, and a config never runs code by itself; if you trust them, add "
                          f"--plugins {' '.join(missing)}")


def _is_file(name: str) -> bool:
    return name.endswith(".py") or os.sep in name


def _identity(name: str) -> str:
    return os.path.realpath(name) if _is_file(name) else name


def _import(name: str, identity: str) -> None:
    """Run a plugin; its own folder, or the working directory, comes last among those that modules are looked for in."""
    is_file = _is_file(name)
    if is_file and not (os.path.isfile(identity) and identity.endswith(".py")):
        raise ConfigError(f"--plugins {name}: there is no such .py file (looked from {os.getcwd()})")
    if not is_file and not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"--plugins {name}: neither a file, whose name ends in .py, nor a module, such as my.model")
    folder = os.path.dirname(identity) if is_file else os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        module = _run_file(identity) if is_file else importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        raise ConfigError(f"--plugins {name}: {_explain(error, name, identity)}") from error
    if getattr(module, "__path__", None) and not module.__file__:
        raise ConfigError(f"--plugins {name}: a folder without __init__.py, so nothing is run; name what is in it")


def _run_file(path: str) -> ModuleType:
    """Import a file under a name of its own, which pickled objects of its classes are found by."""
    stem = _PREFIX + os.path.splitext(os.path.basename(path))[0]
    names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
    module_name = next(name for name in names if name not in sys.modules)  # another folder may have a file of that name
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _explain(error: BaseException, name: str, identity: str) -> str:
    """file:line: what was raised; the last line that a user wrote, or else of what was called."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}: {type(error).__name__}: {error.msg}"
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and not _is_file(name) and f"{name}.".startswith(f"{missing}."):
        return f"there is no module {missing} (looked from {os.getcwd()}); the name of a file ends in .py"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if not frame.filename.startswith(("<frozen", importlib.__file__)) and frame.filename != __file__]
    written = [frame for frame in frames if os.path.realpath(frame.filename) == identity
               or not os.path.abspath(frame.filename).startswith(_OTHERS)]
    where = "".join(f"{_short(frame.filename)}:{frame.lineno}: " for frame in (written or frames)[-1:])
    message = " ".join(str(error).split()) or "no reason given"
    if "no known parent package" in message:
        message += "; import absolutely, or name the plugin as a module, such as package.module"
    return f"{where}{type(error).__name__}: {message}"


def _short(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def _adapt_transform(transform: type) -> None:
    """Let a transform written for PaddleSeg find what it expects: a float32 image, in arrays and a dict of its own.

    Those that are built on this project's `RandomTransform` keep to its rules, and stay as they are.
    """
    from paddleseg.transforms.base import RandomTransform

    call = getattr(transform, "__call__", None)  # noqa: B004
    if call is None or issubclass(transform, RandomTransform):
        return

    @functools.wraps(call)
    def call_with_own_arrays(self, data: dict) -> dict:
        data = {**data, "img": data["img"].astype("float32"), "trans_info": list(data["trans_info"])}
        for key in data["gt_fields"]:
            data[key] = data[key].copy()
        return call(self, data)

    transform.__call__ = call_with_own_arrays


def _adapt_dataset(dataset: type) -> None:
    """Let the loader read a data set written for PaddleSeg through its own `__getitem__`, with the sample's generator.

    Without `__getitem__` the files of its `file_list` are read as those of this project's data sets are; None stands
    for no label. Classes that it has no names for are called by their numbers.
    """
    if not hasattr(dataset, "class_names"):
        dataset.class_names = functools.cached_property(lambda self: [str(index) for index in range(self.num_classes)])
        dataset.class_names.__set_name__(dataset, "class_names")
    read_files = getattr(dataset, "read_files", None)

    def read_given_files(self, index: int):
        twin = copy.copy(self)
        twin.file_list = {index: [path for path in self.file_list[index] if path]}
        return read_files(twin, index)

    if read_files is not None:
        dataset.read_files = read_given_files
    own = vars(dataset).get("__getitem__")
    if own is None or "sample" in vars(dataset):
        return

    inherited = getattr(dataset, "sample", None)
    inherited = getattr(inherited, "inherited", inherited)  # a base's own, not what this function gave it

    def sample(self, index: int, rng) -> dict:
        twin, transforms = copy.copy(self), self.transforms
        twin.transforms = lambda data: transforms({**data, "rng": rng})
        if inherited is not None:  # super().__getitem__ of a data set that is built on this project's asks for it
            twin.sample = lambda index, _: inherited(self, index, rng)
        return own(twin, index)

    sample.inherited = inherited
    dataset.sample = sample
