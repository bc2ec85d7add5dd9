"""YAML to a resolved configuration in which every value knows where it came from.

While files are merged the configuration is a tree of dict, list and Leaf. A list
without a mapping in it (a crop size, say) is one Leaf, so that it is replaced whole.
"""

import inspect
import math
import os
import re
import typing
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

import yaml

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError

DEFAULT = "default"
_BASE_KEY = "_base_"
_INHERIT_KEY = "_inherited_"
# What no recipe needs, but a damaged or hostile file may ask for.
_MAX_BYTES = 1 << 18
_MAX_VALUES = 10_000
_MAX_DEPTH = 32
_MAX_INT = 2 ** 63 - 1
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", dict: "a mapping",
          list: "a list", type(None): "None"}
_PLAIN = (bool, int, float, str, dict, list, tuple, type(None))
_CHILD_REGISTRIES = {"backbone": manager.BACKBONES, "transforms": manager.TRANSFORMS}


@dataclass
class Leaf:
    """A value and its origin: a file, a flag, or "default"."""

    value: Any
    origin: str


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads plain data alone, refuses a key twice, and reads 1e-4 and None as people mean them.

    Aliases count as what they stand for: a few lines of them could otherwise stand for more than any memory holds.
    """

    def __init__(self, stream):
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent, index):
        start = self.peek_event().start_mark
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {_MAX_DEPTH} levels", start)
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and not hasattr(node, "count"):  # it is being read
            raise yaml.composer.ComposerError(None, None, "an alias stands within what it stands for", start)
        if not is_alias:
            node.count = 1 + sum(child.count for child in _children(node))
        if node.count > _MAX_VALUES:
            raise yaml.composer.ComposerError(None, None, f"more than {_MAX_VALUES} values", start)
        return node

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value} stands twice", key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _children(node: yaml.Node) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return (child for pair in node.value for child in pair)
    return node.value if isinstance(node, yaml.SequenceNode) else ()


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
                              list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^None$"), ["N"])


class Config:
    """A resolved configuration.

    `config["model"]` is plain data; `origin("model.type")` tells where a value came from.
    """

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
        """The whole configuration without origins."""
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
        *parents, last = dotted.split(".")
        node = self.tree
        for depth, part in enumerate(parents):
            node = self._child(node, part, ".".join(parents[:depth + 1]), origin)
        node[self._index(node, last, dotted, origin) if isinstance(node, list) else last] = annotate(value, origin)

    @staticmethod
    def _index(node: list, part: str, dotted: str, origin: str) -> int:
        if not re.fullmatch("[0-9]{1,6}", part) or int(part) >= len(node):
            raise ConfigError(f"{origin}: {dotted} is not an item of that list; it has items 0 to {len(node) - 1}")
        return int(part)

    def _child(self, node, part: str, dotted: str, origin: str):
        key = self._index(node, part, dotted, origin) if isinstance(node, list) else part
        child = node[key] if isinstance(node, list) else node.get(key)
        if child is None or (isinstance(child, Leaf) and child.value is None):
            child = node[key] = {}
        if isinstance(child, Leaf):
            raise ConfigError(f"{origin}: {dotted} is the value {_shown(child.value)}, it has no keys below it")
        return child

    def dump(self) -> str:
        """The configuration as YAML, each value's origin in a comment behind it."""
        lines = []
        _dump_mapping(self.tree, "", lines)
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
        config.set(key, _parse_option(item, text), "--opts")
    for flag, dotted, value in flags:
        if value is not None:
            config.set(dotted, value, flag)
    _check_types(config.tree, "")
    return config


def _parse_option(item: str, text: str) -> Any:
    try:
        value = _load_plain(text)
        # PaddleSeg's users write scales=0.5,1.0,1.5 for a list.
        if isinstance(value, str) and re.fullmatch(r"[-+.\deE]+(,[-+.\deE]+)+", value):
            value = _load_plain(f"[{value}]")
        return value
    except ValueError as error:
        raise ConfigError(f"--opts {item}: the value can't be read as YAML ({error})") from error


def _load_plain(text: str) -> Any:
    """YAML to dicts, lists, text, numbers, booleans and None.

    Raises:
        ValueError: it is something else; the message is one line.
    """
    try:
        content = yaml.load(text, Loader=_Loader)
    except Exception as error:  # on tags that don't fit their values, PyYAML raises anything
        raise ValueError(_one_line(error)) from error
    _check_plain(content)
    return content


def _check_plain(content: Any) -> None:
    if isinstance(content, (dict, list)):
        for item in content:
            _check_plain(item)
        for item in content.values() if isinstance(content, dict) else ():
            _check_plain(item)
    elif isinstance(content, str):
        if _CONTROL.search(content):
            raise ValueError(f"text with a control character: {_shown(content)}")
    elif isinstance(content, int):
        if abs(content) > _MAX_INT:
            raise ValueError("a whole number of more than 64 bits")
    elif not isinstance(content, (float, type(None))):
        raise ValueError(f"{_shown(content)} is neither text nor a number; if it is meant as text, put it in quotes")


def _read_with_bases(path: str, children: Tuple[str, ...], known: Dict[str, dict]) -> dict:
    """The tree of a file over those of its bases; `known` holds what was read already, by real path."""
    try:
        real = os.path.realpath(path)
    except ValueError as error:
        raise ConfigError(f"{path!r}: {error}") from error
    if real in children:
        raise ConfigError(f"{path}: {_BASE_KEY} leads back to a file that is being read; break the circle")
    if len(children) > _MAX_DEPTH:
        raise ConfigError(f"{path}: {_BASE_KEY} leads through more than {_MAX_DEPTH} files")
    if real in known:
        return known[real]
    tree = annotate(_read_yaml(path, children), path)
    for base in _bases(tree.pop(_BASE_KEY, None), path):
        base_path = os.path.normpath(os.path.join(os.path.dirname(path), base))
        # As in PaddleSeg: the file wins over its bases, an earlier base over a later one.
        tree = _merge(_read_with_bases(base_path, (*children, real), known), tree)
    known[real] = {key: _without_inherit_keys(value) for key, value in tree.items() if key != _INHERIT_KEY}
    return known[real]


def _bases(node: Any, path: str) -> List[str]:
    if node is None:
        return []
    bases = [node.value] if isinstance(node, Leaf) and isinstance(node.value, str) else getattr(node, "value", None)
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: {_BASE_KEY} must be the path of a file, or a list of paths")
    return bases


def _read_yaml(path: str, children: Tuple[str, ...]) -> dict:
    try:
        if children and os.path.exists(path) and not os.path.isfile(path):
            raise OSError("not a file")
        with open(path, encoding="utf-8") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES >> 10} KiB, which no recipe has")
        content = _load_plain(text)
    except OSError as error:
        named = f" (named as {_BASE_KEY} in {children[-1]})" if children else ""
        raise ConfigError(f"{path}: {error.strerror or error}{named}") from error
    except ValueError as error:  # UnicodeDecodeError is one
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no mapping of keys to values")
    return content


def _merge(base: dict, over: dict) -> dict:
    if isinstance(over.get(_INHERIT_KEY), Leaf) and over[_INHERIT_KEY].value is False:
        return over
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _without_inherit_keys(node):
    if isinstance(node, dict):
        kept = {key: _without_inherit_keys(value) for key, value in node.items() if key != _INHERIT_KEY}
        return kept or Leaf({}, origin_of(node))
    if isinstance(node, list):
        return [_without_inherit_keys(value) for value in node]
    return node


def _check_types(node: Any, dotted: str) -> None:
    """Every `type` must be text, wherever it stands."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        if key == "type" and not (isinstance(child, Leaf) and isinstance(child.value, str)):
            raise ConfigError(f"{origin_of(child)}: {_join(dotted, key)} must be a name, not {_shown(plain(child))}")
        _check_types(child, _join(dotted, str(key)))


def annotate(value: Any, origin: str) -> Any:
    """Plain data to a tree of Leafs that all bear `origin`."""
    if isinstance(value, dict) and value:
        return {str(key): annotate(item, origin) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        return [annotate(item, origin) for item in value]
    return Leaf(value, origin)


def plain(node: Any) -> Any:
    """A tree back to plain data."""
    if isinstance(node, Leaf):
        return node.value
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    return [plain(value) for value in node]


def origin_of(node: Any) -> str:
    """The origin of a Leaf, or of the first Leaf in a part of the tree."""
    while not isinstance(node, Leaf):
        node = next(iter(node.values() if isinstance(node, dict) else node))
    return node.origin


# ---- checks -------------------------------------------------------------------------------------

def check_component(registry: manager.ComponentManager, node: Any, dotted: str, supplied: Iterable[str] = ()) -> None:
    """Check `type` and arguments of one section against the registered constructor, nested ones too.

    Defaults that the section leaves out are written into the tree, with the origin "default".

    Args:
        supplied: arguments that the builder passes itself.

    Raises:
        ConfigError: naming file, dotted key and the nearest valid name.
    """
    if not isinstance(node, dict) or not isinstance(node.get("type"), Leaf):
        raise ConfigError(f"{origin_of(node)}: {dotted} needs a mapping with a type, one of {registry!r}")
    name, origin = node["type"].value, node["type"].origin
    if not isinstance(name, str) or name not in registry:
        near = registry.nearest(name)
        hint = f"did you mean {near}?" if near else f"known are {', '.join(sorted(registry))}"
        raise ConfigError(f"{origin}: {dotted}.type: {name} is not one of {registry.name}; {hint}")
    check_arguments(registry[name], node, dotted, name, supplied, type_origin=origin)
    for key, child in list(node.items()):
        _check_nested(registry, child, f"{dotted}.{key}", _CHILD_REGISTRIES.get(key, registry))


def _check_nested(registry, child, dotted: str, child_registry) -> None:
    if isinstance(child, dict) and "type" in child:
        check_component(child_registry, child, dotted)
    elif isinstance(child, list):
        for number, item in enumerate(child):
            check_component(child_registry, item, f"{dotted}.{number}")


def check_arguments(function: Callable, node: dict, dotted: str, name: str, supplied: Iterable[str] = (),
                    type_origin: Optional[str] = None) -> None:
    """Check the keys of a mapping against a signature, and fill in its defaults.

    Raises:
        ConfigError: no mapping, an unknown key, a missing required key, or a value of the wrong type.
    """
    if not isinstance(node, dict):
        raise ConfigError(f"{origin_of(node)}: {dotted} must be a mapping, not {_shown(plain(node))}")
    supplied = set(supplied)
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    valid = [key for key, parameter in parameters.items() if key not in supplied
             and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)]
    for key, child in node.items():
        if key == "type" and type_origin is not None:
            continue
        if key in valid:
            _check_type(child, hints.get(key, Any), _join(dotted, key), name)
        elif not open_ended:
            raise ConfigError(_unknown_key(key, child, valid, dotted, name, type_origin))
    for key in valid:
        default = parameters[key].default
        if key in node:
            continue
        if default is inspect.Parameter.empty:
            raise ConfigError(f"{origin_of(node)}: {_join(dotted, key)} is missing; {name} needs it")
        if isinstance(default, _PLAIN):  # a plugin's may be a class, which no file can say
            node[key] = annotate(list(default) if isinstance(default, tuple) else default, DEFAULT)


def _join(dotted: str, key: str) -> str:
    return f"{dotted}.{key}" if dotted else key


def _unknown_key(key, child, valid: List[str], dotted: str, name: str, type_origin: Optional[str]) -> str:
    near = manager.nearest_name(key, valid)
    hint = f"did you mean {near}?" if near else f"its arguments are {', '.join(valid) or 'none'}"
    message = f"{origin_of(child)}: {_join(dotted, key)} is not an argument of {name}; {hint}"
    # A base may have set what only another type takes, such as momentum before AdamW.
    if not near and type_origin not in (None, origin_of(child)):
        message += f" ({_INHERIT_KEY}: False under {dotted} drops what a base sets)"
    return message


def _check_type(child: Any, hint: Any, dotted: str, name: str) -> None:
    if not _fits(child, hint):
        value = plain(child)
        raise ConfigError(f"{origin_of(child)}: {dotted} of {name} must be {describe(hint)}, "
                          f"not {_shown(value)} ({type(value).__name__})")


def _fits(node: Any, hint: Any) -> bool:
    """`matches` for a part of the tree: a mapping with a type is an object, of a class that the builder will know."""
    if isinstance(node, Leaf):
        return matches(node.value, hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin is typing.Union:
        return any(_fits(node, option) for option in arguments)
    if isinstance(node, list):
        return hint is list or _is_sequence(origin) and all(_fits(item, (*arguments, Any)[0]) for item in node)
    if "type" in node:
        return origin is None and hint not in _WORDS
    return hint is dict or origin is dict


def _is_sequence(origin: Any) -> bool:
    return origin is not None and hasattr(origin, "__iter__") and origin is not dict


def matches(value: Any, hint: Any) -> bool:
    """Whether plain data fits a type hint; int fits float, a list fits any sequence; NaN and infinity fit nothing."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin is typing.Union:
        return any(matches(value, option) for option in arguments)
    if hint is float and isinstance(value, float):
        return math.isfinite(value)
    if hint in (int, float):
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _MAX_INT
    if hint in (bool, str, dict, list, type(None)):
        return isinstance(value, hint)
    if origin is tuple and Ellipsis not in arguments:
        return (isinstance(value, (list, tuple)) and len(value) == len(arguments)
                and all(map(matches, value, arguments)))
    if _is_sequence(origin):
        element = arguments[0] if arguments else Any
        return isinstance(value, (list, tuple)) and all(matches(item, element) for item in value)
    # Anything else is an object that plain data can't be: a component must stand there.
    return origin is dict and isinstance(value, dict)


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

def _dump_mapping(tree: dict, indent: str, lines: list) -> None:
    for key, node in tree.items():
        if isinstance(node, Leaf):
            lines.append((f"{indent}{key}: {_scalar(node.value)}", node.origin))
        else:
            lines.append((f"{indent}{key}:", ""))
            _dump_node(node, indent + "  ", lines)


def _dump_node(node: Any, indent: str, lines: list) -> None:
    if isinstance(node, dict):
        return _dump_mapping(node, indent, lines)
    for item in node:
        start = len(lines)
        if isinstance(item, Leaf):
            lines.append((f"{indent}- {_scalar(item.value)}", item.origin))
            continue
        _dump_mapping(item, indent + "  ", lines)
        text, origin = lines[start]
        lines[start] = (f"{indent}- {text[len(indent) + 2:]}", origin)


def _scalar(value: Any) -> str:
    return yaml.safe_dump([value], default_flow_style=True, width=10 ** 6, allow_unicode=True).strip()[1:-1]


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
