"""Plugins in tests: what they register, and what they leave in Python, lasts for one test."""

import contextlib
import sys
from unittest import mock

from paddleseg import plugins
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.config import Resolver, annotate


@contextlib.contextmanager
def fresh_plugins():
    """No plugin loaded before, none after."""
    before = [dict(registry.components_dict) for registry in plugins._REGISTRIES], set(sys.modules)
    with mock.patch.object(plugins, "_loaded", {}), mock.patch.object(sys, "path", list(sys.path)):
        yield
    for registry, components in zip(plugins._REGISTRIES, before[0]):
        registry.components_dict.clear()
        registry.components_dict.update(components)
    for name in set(sys.modules) - before[1]:
        del sys.modules[name]


def build_dataset(section: dict):
    """The data set that a section of a config describes."""
    node = annotate(section, "a test")
    return Resolver({"transforms": manager.TRANSFORMS}).resolve(manager.DATASETS, node, "dataset").build()
