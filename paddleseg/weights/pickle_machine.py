"""Take a pickle apart without `pickle`: an interpreter of the few opcodes that weights files consist of.

`pickle` calls whatever a file names; a file of some hundred kilobytes can crash it (a deep tuple as a key) or keep it
busy for hours (numbers of equal hash as keys). Here a name stands for what a table says, or ends the reading; keys are
text or small numbers; and time and memory are in proportion to the file.
"""

import pickletools
import struct
from typing import Any, BinaryIO, Callable, Optional

_MAX_OPCODES = 1 << 21
_MAX_PROTOCOL = 5
_MAX_NAME_BYTES = 256
_MAX_KEY = 2 ** 31 - 1


class Refused(Exception):
    """The reason why a file isn't read; the caller puts the file's name before it."""


class StandIn:
    """An object of a file."""

    __slots__ = ()

    def set_state(self, state: Any) -> None:
        """What a file gives an object after it was made."""
        raise Refused("sets the attributes of an object: refused; a weights file is data")


class Global(StandIn):
    """A name that a file may hold; `build` makes what the file gets where it calls the name."""

    __slots__ = ("name", "build")

    def __init__(self, name: str, build: Optional[Callable] = None):
        self.name = name
        self.build = build

    def call(self, arguments: Any) -> Any:
        if self.build is None or not isinstance(arguments, tuple):
            raise Refused(f"calls {self.name}: refused; a weights file is data")
        return self.build(*arguments)


class FileDict(dict, StandIn):
    """A mapping that the file makes by a call, such as an OrderedDict."""

    __slots__ = ()

    def set_state(self, state: Any) -> None:
        """Keep nothing: PyTorch adds attributes to it (`_metadata`)."""


def refused_global(name: str) -> Refused:
    return Refused(f"holds the pickle global {name:.80}: refused; a weights file is data")


def set_items(mapping: dict, pairs) -> None:
    """Set (key, value) pairs; what is hashed is text, whose hashes no file can foresee, or a small number."""
    for key, value in pairs:
        if type(key) is not str and not (type(key) is int and abs(key) <= _MAX_KEY):
            raise Refused("holds a mapping with keys that are neither text nor small whole numbers")
        mapping[key] = value


class Machine:
    """Reads one pickle of a stream, and not a byte beyond it.

    Args:
        stream: stands at the pickle's first byte.
        file_bytes: nothing in the pickle can be longer.
    """

    def __init__(self, stream: BinaryIO, file_bytes: int):
        self.stream = stream
        self.file_bytes = file_bytes
        self.stack, self.marks, self.memo = [], [], {}

    def find_global(self, module: str, name: str) -> Global:
        """What a name stands for; a subclass has more."""
        raise refused_global(f"{module}.{name}")

    def load_persistent(self, identity: Any) -> Any:
        raise Refused("refers to data outside the pickle: refused")

    def load(self) -> Any:
        """The object that the pickle describes.

        Raises:
            Refused: it holds what weights files don't.
            Exception: of any kind; it is damaged.
        """
        for _ in range(_MAX_OPCODES):
            code = self.read(1)
            if code == b".":
                return self.stack.pop()
            if code not in _OPCODES:
                known = pickletools.code2op.get(code.decode("latin-1"))
                raise Refused(f"holds the pickle opcode {known.name if known else code!r}: refused; "
                              "a weights file is data")
            _OPCODES[code](self)
        raise Refused(f"holds more than {_MAX_OPCODES} pickle opcodes: refused")

    def read(self, count: int) -> bytes:
        data = self.stream.read(count) if 0 <= count <= self.file_bytes else b""
        if len(data) != count:
            raise EOFError("a pickle ends early")
        return data

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.read(size), "little", signed=signed)

    def name(self) -> str:
        line = self.stream.readline(_MAX_NAME_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError("a name in a pickle doesn't end")
        return line[:-1].decode()

    def since_mark(self) -> list:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def pop_arguments(self, count: int) -> list:
        arguments = self.stack[-count:]
        if len(arguments) != count:
            raise ValueError("an opcode of a pickle lacks an argument")
        del self.stack[-count:]
        return arguments

    # Opcodes that take what stands on the stack.

    def append_all(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused("appends to what is no list: refused")
        self.stack[-1].extend(items)

    def set_all(self, items: list) -> None:
        if not isinstance(self.stack[-1], dict):
            raise Refused("sets items of what is no mapping: refused")
        if len(items) % 2:
            raise ValueError("a key of a pickle lacks its value")
        set_items(self.stack[-1], zip(items[::2], items[1::2]))

    def call(self) -> None:
        """REDUCE and NEWOBJ: both make an object of a name and arguments."""
        target, arguments = self.pop_arguments(2)
        if not isinstance(target, Global):
            raise Refused("calls what is no name: refused; a weights file is data")
        self.stack.append(target.call(arguments))

    def build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], StandIn):
            raise Refused("sets the attributes of an object: refused; a weights file is data")
        self.stack[-1].set_state(state)

    def check_protocol(self) -> None:
        if self.number(1) > _MAX_PROTOCOL:
            raise Refused("is a pickle of an unknown protocol")

    def pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


def _push(value: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(value(machine))


def _tuple_of(count: int) -> Callable[[Machine], None]:
    return _push(lambda machine: tuple(machine.pop_arguments(count)))


def _text(size: int) -> Callable[[Machine], None]:
    return _push(lambda machine: machine.read(machine.number(size)).decode("utf-8", "surrogatepass"))


def _text_of_python_2(size: int) -> Callable[[Machine], None]:
    return _push(lambda machine: machine.read(machine.number(size)).decode("latin-1"))


def _bytes(size: int) -> Callable[[Machine], None]:
    return _push(lambda machine: machine.read(machine.number(size)))


def _named(machine: Machine) -> None:
    module, name = machine.pop_arguments(2)
    if not (isinstance(module, str) and isinstance(name, str)):
        raise Refused("names something by what is no text: refused")
    machine.stack.append(machine.find_global(module, name))


_OPCODES = {
    b"\x80": Machine.check_protocol,
    b"\x95": lambda machine: machine.read(8),  # the length of a frame: of use to a reader in blocks
    b"(": lambda machine: machine.marks.append(len(machine.stack)),
    b"0": Machine.pop,
    b"1": Machine.since_mark,
    # numbers
    b"N": _push(lambda machine: None),
    b"\x88": _push(lambda machine: True),
    b"\x89": _push(lambda machine: False),
    b"K": _push(lambda machine: machine.number(1)),
    b"M": _push(lambda machine: machine.number(2)),
    b"J": _push(lambda machine: machine.number(4, signed=True)),
    b"\x8a": _push(lambda machine: machine.number(machine.number(1), signed=True)),
    b"G": _push(lambda machine: struct.unpack(">d", machine.read(8))[0]),
    # text and bytes, after their length
    b"\x8c": _text(1), b"X": _text(4), b"\x8d": _text(8),
    b"U": _text_of_python_2(1), b"T": _text_of_python_2(4),
    b"C": _bytes(1), b"B": _bytes(4), b"\x8e": _bytes(8),
    # tuples, lists and mappings
    b")": _push(lambda machine: ()),
    b"\x85": _tuple_of(1), b"\x86": _tuple_of(2), b"\x87": _tuple_of(3),
    b"t": _push(lambda machine: tuple(machine.since_mark())),
    b"]": _push(lambda machine: []),
    b"a": lambda machine: machine.append_all(machine.pop_arguments(1)),
    b"e": lambda machine: machine.append_all(machine.since_mark()),
    b"}": _push(lambda machine: {}),
    b"s": lambda machine: machine.set_all(machine.pop_arguments(2)),
    b"u": lambda machine: machine.set_all(machine.since_mark()),
    # what is used again
    b"q": lambda machine: machine.put(machine.number(1)),
    b"r": lambda machine: machine.put(machine.number(4)),
    b"\x94": lambda machine: machine.put(len(machine.memo)),
    b"h": _push(lambda machine: machine.memo[machine.number(1)]),
    b"j": _push(lambda machine: machine.memo[machine.number(4)]),
    # names and what is made of them
    b"c": _push(lambda machine: machine.find_global(machine.name(), machine.name())),
    b"\x93": _named,
    b"R": Machine.call,
    b"\x81": Machine.call,
    b"b": Machine.build,
    b"Q": _push(lambda machine: machine.load_persistent(machine.stack.pop())),
}
