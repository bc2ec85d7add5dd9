"""Small single-purpose modules; import the submodule you need.

Names that code written for PaddleSeg takes from this package itself, as in `utils.load_entire_model`, are looked up in
utils.py at first use.
"""

import importlib

_IN_UTILS = ("download_pretrained_model", "load_entire_model", "load_pretrained_model", "seg_env")
_SUBMODULES = ("download", "logger", "utils")


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _IN_UTILS:
        return getattr(importlib.import_module(f"{__name__}.utils"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
