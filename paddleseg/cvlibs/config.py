"""YAML to a config in which every value knows its origin, and from there to checked constructors.

A config is a tree of dict, list and Leaf. A list without a mapping in it (a crop size, say) is one Leaf, so that it is
replaced whole. `Resolver` returns the same tree with Components in it, which hold every argument and only need a call.
"""

import inspect
import itertools
import math
import os
import re
import typing
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import yaml

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError

DEFAULT = "default"
_BASE_KEY = "_base_"
_INHERIT_KEY = "_inherited_"
# No config needs as much, but a damaged or hostile file may.
_MAX_BYTES = 1 << 18
_MAX_VALUES = 10_000
_MAX_DEPTH = 32
_MAX_INT = 2 ** 63 - 1
_MAX_DIGITS = 32  # more than any number's; Python refuses to print some thousands
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", dict: "a mapping",
          list: "a list", type(None): "None"}


@dataclass
class Leaf:
    """A value and its origin: a file, a flag, or "default"."""

    value: Any
    origin: str


class Component(dict):
    """A section that fits its constructor: argument -> part of the tree, the defaults included.

    Attributes:
        constructor: the class or function that the arguments are for.
    """

    def __init__(self, constructor: Callable):
        super().__init__()
        self.constructor = constructor

    def build(self, **supplied) -> Any:
        """Call the constructor, nested components first; `supplied` go before what the section says.

        Raises:
            ConfigError: the constructor refuses the values.
        """
        arguments = {key: build(node) for key, node in self.items() if key not in ("type", *supplied)}
        try:
            return self.constructor(**arguments, **supplied)
        except (ValueError, TypeError, IndexError, ArithmeticError, AssertionError) as error:
            values = ", ".join(f"{key}={node.value!r}" for key, node in self.items() if isinstance(node, Leaf))
            raise ConfigError(f"{self.constructor.__name__} can't be built from {values}: {type(error).__name__}: "
                              f"{error}") from error


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 and None as people mean them."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
                              list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^None$"), ["N"])


class Config:
    """A config: `config["model"]` is plain data, `origin("model.type")` tells where a value came from."""

    def __init__(self, path: str, tree: dict):
        self.path = path
        self.tree = tree

    def __getitem__(self, key: str) -> Any:
        return plain(self.tree[key])

    def __contains__(self, key: str) -> bool:
        return key in self.tree

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default

    def plain(self) -> dict:
        """The whole config without origins."""
        return plain(self.tree)

    def node(self, dotted: str) -> Any:
        """The part of the tree at a dotted key, as dict, list or Leaf; KeyError if there is none."""
        node = self.tree
        for part in dotted.split("."):
            node = node[int(part)] if isinstance(node, list) else node[part]
        return node

    def origin(self, dotted: str) -> str:
        return origin_of(self.node(dotted))

    def set(self, dotted: str, value: Any, origin: str) -> None:
        """Set the value at a dotted key; list items go by number; parents are made."""
        node, parts = self.tree, dotted.split(".")
        for depth, part in enumerate(parts, 1):
            here = ".".join(parts[:depth])
            if isinstance(node, list):
                if part not in map(str, range(len(node))):
                    raise ConfigError(f"{origin}: {here} is not an item of that list; it has items 0 to "
                                      f"{len(node) - 1}")
                part = int(part)
            elif node.get(part) is None:
                node[part] = {}
            if depth == len(parts):
                node[part] = annotate(value, origin)
            elif isinstance(node[part], Leaf) and node[part].value in (None, {}):
                node[part] = {}
            elif isinstance(node[part], Leaf):
                raise ConfigError(f"{origin}: {here} is the value {_shown(node[part].value)}, it has no keys below it")
            node = node[part]

    def dump(self) -> str:
        """The config as YAML, each value's origin in a comment behind it."""
        lines = list(_dump(self.tree, ""))
        width = min(60, max((len(line) for line, _ in lines), default=0))
        return "\n".join(f"{line:<{width}}  # {_one_line(origin)}" if origin else line for line, origin in lines) + "\n"


def load_config(path: str, opts: Iterable[str] = (), flags: Iterable[Tuple[str, str, Any]] = ()) -> Config:
    """Read a YAML file with its bases, then apply `--opts`, then flags.

    Args:
        path: the YAML file.
        opts: items "a.b=value"; the value is read as YAML.
        flags: (flag, dotted key, value); a value of None, a flag not given, changes nothing.

    Raises:
        ConfigError: a file is missing or isn't YAML, bases form a circle, or an override has no place.
    """
    config = Config(path, _read_with_bases(path, (), {}))
    for item in opts:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"--opts {item}: write key=value, such as --opts batch_size=1 model.num_codes=16")
        if re.fullmatch(r"[-+.\deE]+(,[-+.\deE]+)+", text):  # PaddleSeg's users write scales=0.5,1.0 for a list
            text = f"[{text}]"
        try:
            value = _parse(text)
        except ValueError as error:
            raise ConfigError(f"--opts {item}: the value can't be read as YAML ({error})") from error
        config.set(key, value, "--opts")
    for flag, dotted, value in flags:
        if value is not None:
            config.set(dotted, value, flag)
    return config


def _parse(text: str) -> Any:
    """YAML to dicts, lists, text, numbers, booleans and None.

    Raises:
        ValueError: it is something else; the message is one line.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _check_nodes(node, itertools.count(1))
        return None if node is None else loader.construct_document(node)
    except Exception as error:  # on tags that don't fit their values, PyYAML raises anything
        raise ValueError(_one_line(error)) from error


def _check_nodes(node: Optional[yaml.Node], counter: Iterator[int], depth: int = 0) -> None:
    """Refuse what no config holds, before it is constructed.

    An alias counts as what it stands for: a few lines of them could otherwise stand for more than any memory holds.
    """
    if node is None:  # an empty file
        return
    children, error = [], None
    if depth > _MAX_DEPTH:
        error = f"nested deeper than {_MAX_DEPTH} levels"
    elif next(counter) > _MAX_VALUES:
        error = f"more than {_MAX_VALUES} values"
    elif node.tag not in _TAGS:
        error = f"{node.tag.rpartition(':')[2]} is neither text nor a number; if it is meant as text, put it in quotes"
    elif isinstance(node, yaml.MappingNode):
        keys, children = [key.value for key, _ in node.value], [part for pair in node.value for part in pair]
        if not all(isinstance(key, str) for key in keys):
            error = "a key must be a word"
        elif len(set(keys)) < len(keys):
            error = f"the key {next(key for key in keys if keys.count(key) > 1)} stands twice"
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    elif _CONTROL.search(node.value):
        error = f"text with a control character: {_shown(node.value)}"
    elif node.tag.endswith("int") and len(node.value) > _MAX_DIGITS:
        error = f"a whole number of more than {_MAX_DIGITS} digits"
    if error:
        raise yaml.MarkedYAMLError(None, None, error, node.start_mark)
    for child in children:
        _check_nodes(child, counter, depth + 1)


def _read_with_bases(path: str, children: Tuple[str, ...], known: Dict[str, dict]) -> dict:
    """The tree of a file over those of its bases; `known` holds what was read already, by path."""
    if len(children) > _MAX_DEPTH:
        raise ConfigError(f"{path}: {_BASE_KEY} leads through more than {_MAX_DEPTH} files, or in a circle")
    if path not in known:
        content, base_tree = _read_yaml(path, children), {}
        bases = content.pop(_BASE_KEY, [])
        bases = [bases] if isinstance(bases, str) else bases
        if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
            raise ConfigError(f"{path}: {_BASE_KEY} must be the path of a file, or a list of paths")
        for base in bases:  # as in PaddleSeg, an earlier base wins over a later one, and the file over all
            base_path = os.path.normpath(os.path.join(os.path.dirname(path), base))
            base_tree = _merge(_read_with_bases(base_path, (*children, path), known), base_tree)
        known[path] = _merge(base_tree, annotate(content, path) if content else {})
    return known[path]


def _read_yaml(path: str, children: Tuple[str, ...]) -> dict:
    """The mapping in a file; `children` name it as their base."""
    try:
        if children and os.path.exists(path) and not os.path.isfile(path):
            raise OSError("not a file")
        with open(path, encoding="utf-8") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES >> 10} KiB, which no config has")
        content = _parse(text)
    except OSError as error:
        named = f" (named as {_BASE_KEY} in {children[-1]})" if children else ""
        raise ConfigError(f"{path}: {error.strerror or error}{named}") from error
    except ValueError as error:  # UnicodeDecodeError is one
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no mapping of keys to values")
    return content


def _merge(base: dict, over: dict) -> dict:
    """`over` wins over `base` key by key, or whole where it says `_inherited_: False`."""
    inherits = over.get(_INHERIT_KEY, Leaf(True, ""))
    merged = {} if isinstance(inherits, Leaf) and inherits.value is False else dict(base)
    for key, value in over.items():
        if isinstance(value, dict):
            below = merged.get(key)
            value = _merge(below if isinstance(below, dict) else {}, value) or Leaf({}, origin_of(value))
        if key != _INHERIT_KEY:
            merged[key] = value
    return merged


def annotate(value: Any, origin: str) -> Any:
    """Plain data to a tree of Leafs that all bear `origin`."""
    if isinstance(value, dict) and value:
        return {str(key): annotate(item, origin) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, dict) for item in value):
            return [annotate(item, origin) for item in value]
        return Leaf(list(value), origin)
    return Leaf(value, origin)


def plain(node: Any) -> Any:
    """A tree back to plain data."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    return [plain(value) for value in node] if isinstance(node, list) else node.value


def build(node: Any) -> Any:
    """A resolved tree to the objects that it describes; what isn't a component is plain data."""
    if isinstance(node, Component):
        return node.build()
    return [build(item) for item in node] if isinstance(node, list) else plain(node)


def origin_of(node: Any) -> str:
    """The origin of a Leaf, or of the first Leaf in a part of the tree."""
    while not isinstance(node, Leaf):
        node = next(iter(node.values() if isinstance(node, dict) else node))
    return node.origin


# ---- sections against constructors ----------------------------------------------------------------

Reader = Union[manager.ComponentManager, Callable]


@dataclass
class Resolver:
    """Reads sections by the signatures of their constructors.

    Attributes:
        readers: what reads the mappings below a key; other keys are read by what reads the mapping around them. A
            registry reads a mapping by its `type`, a function one that has no type.
        shared: for each reader, arguments and the Leafs that stand in for the constructor's own defaults.
    """

    readers: Mapping[str, Reader] = field(default_factory=dict)
    shared: Mapping[Reader, Mapping[str, Leaf]] = field(default_factory=dict)

    def resolve(self, reader: Reader, node: Any, dotted: str, supplied: Sequence[str] = ()) -> Component:
        """Check keys and types of a section against a signature, nested ones too; the tree stays as it is.

        Args:
            supplied: arguments that come at the call.

        Raises:
            ConfigError: naming file, dotted key and the nearest valid name.
        """
        constructor, kind = reader, None
        if isinstance(reader, manager.ComponentManager):
            kind = node.get("type") if isinstance(node, dict) else None
            if not isinstance(kind, Leaf) or not isinstance(kind.value, str):
                raise ConfigError(f"{origin_of(kind or node)}: {dotted} needs a mapping with a type, one of {reader!r}")
            try:
                constructor = reader[kind.value]
            except ConfigError as error:
                raise ConfigError(f"{kind.origin}: {dotted}.type: {error}") from error
        elif not isinstance(node, dict):
            raise ConfigError(f"{origin_of(node)}: {dotted} must be a mapping, not {_shown(plain(node))}")
        return self._resolve_arguments(constructor, reader, kind, node, dotted, supplied)

    def _resolve_arguments(self, constructor, reader, kind: Optional[Leaf], node: dict, dotted: str, supplied):
        name, prefix = kind.value if kind else dotted or "a config", f"{dotted}." if dotted else ""
        parameters = inspect.signature(constructor).parameters
        hints = typing.get_type_hints(constructor.__init__ if inspect.isclass(constructor) else constructor)
        valid = [key for key, parameter in parameters.items() if key not in supplied
                 and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)]
        open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        if open_ended and reader is manager.MODELS:  # PaddleSeg's DDRNet_23(**kwargs) hands num_classes on
            valid += [key for key in self.shared.get(reader, {}) if key not in valid]
        resolved = Component(constructor)
        for key, child in node.items():
            below = prefix + key
            if key in valid and not matches(child, hints.get(key, Any)):
                raise ConfigError(f"{origin_of(child)}: {below} of {name} must be {describe(hints[key])}, not "
                                  f"{_shown(plain(child))} ({type(plain(child)).__name__})")
            if key not in valid and not open_ended and not (kind and key == "type"):
                raise ConfigError(_unknown_key(below, child, valid, name, kind))
            resolved[key] = self._resolve_child(self.readers.get(key, reader), child, below)
        for key in (key for key in valid if key not in node):
            default = self.shared.get(reader, {}).get(key) or parameters[key].default
            if default is inspect.Parameter.empty:
                raise ConfigError(f"{origin_of(node)}: {prefix}{key} is missing; {name} needs it")
            if not isinstance(default, Leaf):
                default = annotate(default, DEFAULT)
            if type(plain(default)) in _WORDS:  # a plugin's may be a class, which no file can say
                resolved[key] = default
        return resolved

    def _resolve_child(self, reader: Reader, child: Any, dotted: str) -> Any:
        if isinstance(child, list):
            items = [self.resolve(reader, item, f"{dotted}.{number}") for number, item in enumerate(child)]
            return items if isinstance(reader, manager.ComponentManager) else list(map(dict, items))
        return self.resolve(reader, child, dotted) if isinstance(child, dict) and "type" in child else child


def _unknown_key(dotted: str, child: Any, valid: List[str], name: str, kind: Optional[Leaf]) -> str:
    near = manager.nearest_name(dotted.rpartition(".")[2], valid)
    hint = f"did you mean {near}?" if near else f"its arguments are {', '.join(valid) or 'none'}"
    message = f"{origin_of(child)}: {dotted} is not an argument of {name}; {hint}"
    # A base may have set what only another type takes, such as momentum before AdamW.
    if not near and kind and kind.origin != origin_of(child):
        message += f" ({_INHERIT_KEY}: False under {dotted.rpartition('.')[0]} drops what a base sets)"
    return message


def matches(node: Any, hint: Any) -> bool:
    """Return True if a part of a tree, or plain data, fits a type hint.

    An int fits float, a list fits any sequence; NaN and infinity fit nothing. A mapping with a type stands for an
    object, of a class that only its registry knows.
    """
    value = node.value if isinstance(node, Leaf) else node
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin is typing.Union:
        return any(matches(value, option) for option in arguments)
    if isinstance(value, dict) and "type" in value:
        return origin is None and hint not in _WORDS
    if hint is float and isinstance(value, float):
        return math.isfinite(value)
    if hint in (int, float):
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _MAX_INT
    if hint in _WORDS:
        return isinstance(value, hint)
    if origin is dict or not hasattr(origin, "__iter__"):  # a mapping, or an object that plain data can't be
        return origin is dict and isinstance(value, dict)
    if origin is tuple and Ellipsis not in arguments:
        return (isinstance(value, (list, tuple)) and len(value) == len(arguments)
                and all(map(matches, value, arguments)))
    return isinstance(value, (list, tuple)) and all(matches(item, (*arguments, Any)[0]) for item in value)


def describe(hint: Any) -> str:
    """A type hint in words for a message."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union:
        return " or ".join(describe(option) for option in arguments)
    if origin is not None:
        inner = [describe(argument) for argument in arguments if argument is not Ellipsis]
        sized = origin is tuple and Ellipsis not in arguments
        many = "a mapping" if origin is dict else f"{len(inner)} values" if sized else "a list"
        return f"{many} of {inner[0]}" if inner else many
    return _WORDS.get(hint, f"a mapping with a type ({getattr(hint, '__name__', hint)})")


# ---- writing ------------------------------------------------------------------------------------

def _dump(node: Union[dict, list], indent: str) -> Iterator[Tuple[str, str]]:
    """(text, origin) of each line of a part of a tree."""
    for key, child in node.items() if isinstance(node, dict) else ((None, item) for item in node):
        head = f"{indent}-" if key is None else f"{indent}{key}:"
        if isinstance(child, Leaf):
            yield f"{head} {_scalar(child.value)}", child.origin
            continue
        lines = _dump(child, indent + "  ")
        if key is None:  # the first line stands behind the dash
            text, origin = next(lines)
            yield f"{head} {text.lstrip()}", origin
        else:
            yield head, ""
        yield from lines


def _scalar(value: Any) -> str:
    return yaml.safe_dump([value], default_flow_style=True, width=10 ** 6, allow_unicode=True).strip()[1:-1]


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
