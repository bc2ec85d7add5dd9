"""Registries that map the `type` of a YAML section to the class behind it."""

import difflib
from typing import Callable, Iterable, Optional

from paddleseg.cvlibs.errors import ConfigError


def nearest_name(name: str, known: Iterable[str]) -> Optional[str]:
    """The one of `known` that `name` was most likely meant to be, or None."""
    by_lower = {}
    for candidate in known:  # of names that differ in case alone, the first is the component's own
        by_lower.setdefault(candidate.lower(), candidate)
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def hint(name: str, known: Iterable[str], else_say: str = "known are") -> str:
    """The nearest of `known` for a message about a wrong name, or all of them."""
    near = nearest_name(name, known)
    return f"did you mean {near}?" if near else f"{else_say} {', '.join(sorted(known)) or 'none'}"


class ComponentManager:
    """A registry: name -> class or function.

    Use `add_component` as a decorator, or call it with a component or a sequence
    of them. The name is the component's own; `aliases` add further names.
    """

    def __init__(self, name: str):
        self.name = name
        self.components_dict = {}

    def add_component(self, components=None, *, aliases: Iterable[str] = ()):
        """Register a component, or several; returns what it was given.

        Raises:
            ValueError: the name is taken by another component.
        """
        if components is None:
            return lambda component: self.add_component(component, aliases=aliases)
        several = isinstance(components, (list, tuple))
        for component in components if several else [components]:
            for name in (component.__name__, *aliases):
                self._add(name, component)
        return components

    def _add(self, name: str, component: Callable) -> None:
        taken = self.components_dict.get(name)
        if taken is not None and taken is not component:
            raise ValueError(f"{self.name}: {name} is registered by {taken.__module__} already; "
                             f"{component.__module__} must choose another name")
        self.components_dict[name] = component

    def __getitem__(self, name: str) -> Callable:
        if name not in self.components_dict:
            raise ConfigError(f"{name} is not one of {self.name}; {hint(name, self)}")
        return self.components_dict[name]

    def __contains__(self, name: str) -> bool:
        return name in self.components_dict

    def __iter__(self):
        return iter(self.components_dict)

    def __len__(self) -> int:
        return len(self.components_dict)

    def __repr__(self) -> str:
        return f"{self.name}: {', '.join(sorted(self.components_dict))}"


MODELS = ComponentManager("models")
BACKBONES = ComponentManager("backbones")
DATASETS = ComponentManager("datasets")
TRANSFORMS = ComponentManager("transforms")
LOSSES = ComponentManager("losses")
OPTIMIZERS = ComponentManager("optimizers")
LR_SCHEDULERS = ComponentManager("lr_schedulers")
