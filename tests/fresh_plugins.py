"""Plugins in tests: what they register, and what they leave in Python, lasts for one test."""

import contextlib
import sys
from unittest import mock

import paddleseg.builder  # noqa: F401  (registers every component)
from paddleseg import plugins
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.config import Resolver, annotate


@contextlib.contextmanager
def fresh_plugins():
    """No plugin loaded before, none after."""
    modules = set(sys.modules)
    with contextlib.ExitStack() as stack:
        for registry in vars(manager).values():
            if isinstance(registry, manager.ComponentManager):
                stack.enter_context(mock.patch.dict(registry.components_dict))
        stack.enter_context(mock.patch.dict(plugins._loaded, clear=True))
        stack.enter_context(mock.patch.object(sys, "path", list(sys.path)))
        yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def build_dataset(section: dict):
    """The data set that a section of a config describes."""
    node = annotate(section, "a test")
    return Resolver({"transforms": manager.TRANSFORMS}).resolve(manager.DATASETS, node, "dataset").build()
