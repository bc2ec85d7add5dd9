"""Plugins in tests: what they register, and what they leave in Python, lasts for one test."""

import contextlib
import sys
from unittest import mock

from paddleseg import plugins


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
