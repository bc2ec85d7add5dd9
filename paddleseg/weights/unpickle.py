"""Read the pickles of Paddle, PyTorch and NumPy as data: no code of a file ever runs.

Unpickling executes any callable that a file names. Python's own unpickler, however restricted, can be crashed by a
file of some hundred kilobytes (a deep tuple as a key) or kept busy for hours (numbers of equal hash as keys). This one
interprets the few opcodes that weights files consist of. A name stands for what a table says, or ends the reading; keys
are text or small numbers; a shape is compared with the bytes that are there before anything is allocated, and
arrays are views of those bytes (so they may be read-only). Memory and time stay in proportion to the file.
"""

import contextlib
import io
import math
import os
import pickle
import pickletools
import zipfile
from dataclasses import dataclass
from typing import Any, BinaryIO, Callable, Dict, Iterator, Optional, Tuple

import numpy as np

from paddleseg.cvlibs.errors import DataError, WeightsError
from paddleseg.utils import download
from paddleseg.utils.cli import printable

_MAX_OPCODES = 1 << 20
_MAX_KEY = 2 ** 31 - 1
_MAX_DEPTH = 32
_MAX_DIMS = 16
_DTYPE_CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "O8")
_STORAGE_DTYPES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "u2",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1",
    "ByteStorage": "u1", "BoolStorage": "b1",
}
_TORCH_LEGACY_MAGIC = 0x1950a86a20f9469cfc6c
_TORCH_LEGACY_PROTOCOL = 1001
_BIG_ENDIAN = "holds big-endian values; write it again on a little-endian machine"
_BAD_ARRAY = "holds an array with a damaged description"
_DATA_ONLY = "refused; a weights file is data"


class Refused(Exception):
    """The reason why a file isn't read; the caller puts the file's name before it."""


def require(condition: bool, otherwise: str) -> None:
    """Refuse the file, for the reason given, unless the condition holds."""
    if not condition:
        raise Refused(otherwise)


class Placeholder:
    """An object of a file, until `to_plain` replaces it by what it holds."""

    def set_state(self, state: Any) -> None:
        raise Refused(f"sets the attributes of an object: {_DATA_ONLY}")


@dataclass(eq=False)
class Global(Placeholder):
    """A name that a file may hold; `build` makes the object that the file gets for calling it."""

    name: str
    build: Optional[Callable] = None

    def call(self, arguments: Any) -> Any:
        require(self.build is not None and isinstance(arguments, tuple), f"calls {self.name}: {_DATA_ONLY}")
        return self.build(*arguments)


class FileDict(dict, Placeholder):
    """A mapping made by a call: an OrderedDict, or mmengine's HistoryBuffer, of which nothing is read."""

    def set_state(self, state: Any) -> None:
        """Keep nothing of the attributes, such as PyTorch's `_metadata`."""


class Dtype(Placeholder):
    def __init__(self, code, align=False, copy=False):
        require(isinstance(code, str) and code in _DTYPE_CODES,
                "holds an array of text, dates or objects; only numbers and booleans are read")
        self.dtype = np.dtype(code)

    def set_state(self, state):
        require(state[1] in ("<", "|", "="), _BIG_ENDIAN)


@dataclass(eq=False)
class Array(Placeholder):
    """An ndarray: empty when the file creates it, filled when the file gives its state."""

    charge: Callable[[int], None]
    content: Any = None

    def set_state(self, state):
        shape, dtype, is_fortran, data = state[-4:]
        if isinstance(data, str):  # bytes of Python 2
            self.charge(len(data))
            data = data.encode("latin-1")
        require(isinstance(dtype, Dtype) and _are_sizes(shape), _BAD_ARRAY)
        if dtype.dtype.hasobject and shape == () and type(data) is list and len(data) == 1:
            self.content = data[0]  # np.save wraps a mapping in an array without dimensions
            return
        require(isinstance(data, bytes) and not dtype.dtype.hasobject, _BAD_ARRAY)
        require(math.prod(shape) * dtype.dtype.itemsize == len(data),
                f"holds an array of shape {shape} with {len(data)} bytes of values")
        self.content = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if is_fortran else "C")


@dataclass(eq=False)
class Storage(Placeholder):
    """The values that tensors of PyTorch are views of; read when first asked for."""

    dtype: np.dtype
    size: int
    read: Callable[["Storage"], np.ndarray]
    values: Optional[np.ndarray] = None

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def resolve(self) -> np.ndarray:
        if self.values is None:
            self.values = self.read(self)
        return self.values


@dataclass(eq=False)
class Tensor(Placeholder):
    """A strided view of a storage; offset and strides are in elements."""

    storage: Any
    offset: Any
    size: Any
    stride: Any
    requires_grad: Any = False
    hooks: Any = None
    metadata: Any = None

    def resolve(self) -> np.ndarray:
        require(isinstance(self.storage, Storage) and _are_sizes((self.offset,)) and _are_sizes(self.size)
                and _are_sizes(self.stride) and len(self.size) == len(self.stride),
                "holds a tensor with a damaged description")
        count = math.prod(self.size)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride))
        require(not count or max(count, last + 1) <= self.storage.size,
                f"holds a tensor of shape {self.size} that reaches beyond the {self.storage.size} values stored for it")
        values = self.storage.resolve()
        if not count:
            return np.empty(self.size, values.dtype)
        strides = [step * values.itemsize for step in self.stride]
        return np.ndarray(self.size, values.dtype, values, self.offset * values.itemsize, strides)


def _are_sizes(sizes) -> bool:
    return (isinstance(sizes, tuple) and len(sizes) <= _MAX_DIMS
            and all(type(size) is int and size >= 0 for size in sizes))


def _set_items(mapping: dict, pairs) -> None:
    """Set (key, value) pairs; only text, whose hashes no file can foresee, and small numbers are hashed."""
    for key, value in pairs:
        require(type(key) is str or type(key) is int and abs(key) <= _MAX_KEY,
                "holds a mapping with keys that are neither text nor small whole numbers")
        mapping[key] = value


def _tuple(values=()) -> tuple:
    """Paddle writes tuple((name, array)); of anything but a tuple it would be a copy."""
    require(isinstance(values, tuple), "makes a tuple of something else: refused")
    return values


def _scalar(dtype, data):
    if isinstance(data, str):
        data = data.encode("latin-1")
    require(isinstance(dtype, Dtype) and isinstance(data, bytes) and len(data) == dtype.dtype.itemsize,
            "holds a damaged number")
    return np.frombuffer(data, dtype.dtype)[0].item()


class Unpickler:
    """Reads one pickle of a stream, and not a byte beyond it.

    Args:
        stream: at the pickle's first byte.
        file_bytes: the calls of the pickle may copy no more than that.
        read_storage: returns the values of a key's storage; None where the file can't have storages.
    """

    def __init__(self, stream: BinaryIO, file_bytes: int,
                 read_storage: Optional[Callable[[str, Storage], np.ndarray]] = None):
        self.stream = stream
        self.budget_bytes = file_bytes
        self.read_storage = read_storage
        self.storages: Dict[str, Storage] = {}
        self.stack, self.marks, self.memo = [], [], {}
        self.globals = self._make_globals()

    def _make_globals(self) -> Dict[Tuple[str, str], Global]:
        builds = {
            "numpy.dtype": Dtype,
            "numpy.ndarray": None,
            "collections.OrderedDict": self._ordered_dict,
            "_codecs.encode": self._encode,
            "torch._utils._rebuild_tensor": Tensor,
            "torch._utils._rebuild_tensor_v2": Tensor,
            "torch._utils._rebuild_parameter": lambda tensor, requires_grad, hooks: tensor,
            "torch.Size": _tuple,
            "__builtin__.bytes": lambda: b"",  # the values of an empty array in protocol 2
            "mmengine.logging.history_buffer.HistoryBuffer": lambda: FileDict(),
        }
        for package in ("builtins", "__builtin__"):
            builds.update({f"{package}.tuple": _tuple, f"{package}.getattr": self._log_method})
        for package in ("numpy.core.multiarray", "numpy._core.multiarray"):
            builds.update({f"{package}._reconstruct": self._reconstruct, f"{package}.scalar": _scalar})
        for package in ("torch", "torch.cuda"):  # files before 1.6 name the device in the class
            builds.update({f"{package}.{name}": None for name in _STORAGE_DTYPES})
        return {tuple(name.rsplit(".", 1)): Global(name, build) for name, build in builds.items()}

    # The calls that a file may make.

    def charge(self, count: int) -> None:
        """Refuse a file whose calls would copy more than the file itself holds."""
        self.budget_bytes -= count
        require(self.budget_bytes >= 0, "would take more memory than its size: refused")

    def _reconstruct(self, subtype, shape, typecode) -> Array:
        require(subtype is self.globals["numpy", "ndarray"], "holds an array of another class than numpy.ndarray")
        return Array(self.charge)

    def _ordered_dict(self, pairs=()) -> FileDict:
        self.charge(len(pairs))
        mapping = FileDict()
        _set_items(mapping, pairs)
        return mapping

    def _encode(self, text, codec) -> bytes:
        """Bytes as protocol 2 writes them."""
        require(isinstance(text, str) and codec in ("latin1", "latin-1"),
                f"encodes with something else than latin-1: {_DATA_ONLY}")
        self.charge(len(text))
        return text.encode("latin-1")

    def _log_method(self, owner, name) -> Global:
        """A HistoryBuffer lists its methods, which protocol 2 writes as getattr(HistoryBuffer, name)."""
        require(owner is self.globals["mmengine.logging.history_buffer", "HistoryBuffer"],
                f"holds the pickle global builtins.getattr: {_DATA_ONLY}")
        return Global(f"HistoryBuffer.{name}")

    def load_persistent(self, identity: Any) -> Storage:
        """Return the storage of ("storage", class, key, device, size[, view]); PyTorch before 1.6 writes views."""
        require(self.read_storage is not None and isinstance(identity, tuple) and len(identity) in (5, 6)
                and identity[0] == "storage", "refers to something else than a storage: refused")
        kind, key, _, size = identity[1:5]
        code = _STORAGE_DTYPES.get(kind.name.rpartition(".")[2]) if isinstance(kind, Global) else None
        require(code is not None and isinstance(key, str) and _are_sizes((size,)),
                "holds a storage with a damaged description")
        new = Storage(np.dtype(code), size, lambda storage: self.read_storage(key, storage))
        root = self.storages.setdefault(key, new)
        require((root.dtype, root.size) == (new.dtype, size), f"describes the storage {key:.40} in two ways")
        if len(identity) == 5 or identity[5] is None:
            return root
        _, offset, size = identity[5]
        require(_are_sizes((offset, size)) and offset + size <= root.size,
                "holds a part of a storage that reaches beyond it")
        return Storage(root.dtype, size, lambda _: root.resolve()[offset:offset + size])

    def load(self) -> Any:
        """Return the object that the pickle describes.

        Raises:
            Refused: it holds what weights files don't.
            Exception: of any kind; it is damaged.
        """
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.stream)):
            require(count < _MAX_OPCODES, "holds too many pickle opcodes: refused")
            if opcode.name in _VALUES:
                self.stack.append(argument)
            elif opcode.name in _PUSHES:
                self.stack.append(_PUSHES[opcode.name](self, argument))
            elif opcode.name in _CHANGES:
                _CHANGES[opcode.name](self, argument)
            else:
                raise Refused(f"holds the pickle opcode {opcode.name}: {_DATA_ONLY}")
        return self.stack.pop()

    # Parts of opcodes.

    def pop_to_mark(self) -> list:
        return self.pop_items(len(self.stack) - self.marks.pop())

    def pop_items(self, count: int) -> list:
        start = len(self.stack) - count
        if start < 0 or count < 0:
            raise ValueError("an opcode of a pickle lacks an argument")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def append_all(self, items: list) -> None:
        require(type(self.stack[-1]) is list, "appends to what is no list: refused")
        self.stack[-1].extend(items)

    def set_all(self, items: list) -> None:
        require(isinstance(self.stack[-1], dict), "sets items of what is no mapping: refused")
        if len(items) % 2:
            raise ValueError("a key of a pickle lacks its value")
        _set_items(self.stack[-1], zip(items[::2], items[1::2]))

    def pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def find_global(self, module: Any, name: Any) -> Global:
        require(isinstance(module, str) and isinstance(name, str), "names something by what is no text: refused")
        require((module, name) in self.globals, f"holds the pickle global {f'{module}.{name}':.80}: {_DATA_ONLY}")
        return self.globals[module, name]

    def call(self) -> Any:
        """Execute REDUCE or NEWOBJ, which both make an object of a name and arguments."""
        target, arguments = self.pop_items(2)
        require(isinstance(target, Global), f"calls what is no name: {_DATA_ONLY}")
        return target.call(arguments)

    def build(self) -> None:
        state = self.stack.pop()
        require(isinstance(self.stack[-1], Placeholder), f"sets the attributes of an object: {_DATA_ONLY}")
        self.stack[-1].set_state(state)


# Opcodes that push what follows them in the file.
_VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
           "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
# Opcodes that push what these functions of the machine and the opcode's argument return.
_PUSHES: Dict[str, Callable[[Unpickler, Any], Any]] = {
    "NONE": lambda machine, _: None,
    "NEWTRUE": lambda machine, _: True,
    "NEWFALSE": lambda machine, _: False,
    "EMPTY_TUPLE": lambda machine, _: (),
    "TUPLE1": lambda machine, _: tuple(machine.pop_items(1)),
    "TUPLE2": lambda machine, _: tuple(machine.pop_items(2)),
    "TUPLE3": lambda machine, _: tuple(machine.pop_items(3)),
    "TUPLE": lambda machine, _: tuple(machine.pop_to_mark()),
    "EMPTY_LIST": lambda machine, _: [],
    "EMPTY_DICT": lambda machine, _: {},
    "BINGET": lambda machine, index: machine.memo[index],
    "LONG_BINGET": lambda machine, index: machine.memo[index],
    "GLOBAL": lambda machine, names: machine.find_global(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.find_global(*machine.pop_items(2)),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "BINPERSID": lambda machine, _: machine.load_persistent(machine.stack.pop()),
}
# Opcodes that change the machine or what is on its stack. (Only readers in blocks need the lengths of frames.)
_CHANGES: Dict[str, Callable[[Unpickler, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "APPEND": lambda machine, _: machine.append_all(machine.pop_items(1)),
    "APPENDS": lambda machine, _: machine.append_all(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_all(machine.pop_items(2)),
    "SETITEMS": lambda machine, _: machine.set_all(machine.pop_to_mark()),
    "BINPUT": Unpickler.put,
    "LONG_BINPUT": Unpickler.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BUILD": lambda machine, _: machine.build(),
}


def to_plain(value: Any, depth: int = 0, memo: Optional[dict] = None) -> Any:
    """Return `value` with dicts, lists, tuples, arrays, numbers and strings only.

    Paddle's (name, array) pairs become the array. What the file shares stays shared.
    """
    memo = {} if memo is None else memo
    if value is None or isinstance(value, (str, bytes, int, float, np.ndarray)):
        return value
    if id(value) in memo:
        return memo[id(value)]
    require(depth <= _MAX_DEPTH, f"is nested deeper than {_MAX_DEPTH} levels: refused")
    if isinstance(value, dict):
        require(all(isinstance(key, str) for key in value), "holds a mapping whose keys aren't text, not named arrays")
        result = {key: to_plain(item, depth + 1, memo) for key, item in value.items()}
    elif isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Array):
        result = to_plain(value[1], depth + 1, memo)
    elif isinstance(value, (list, tuple)):
        result = type(value)(to_plain(item, depth + 1, memo) for item in value)
    elif isinstance(value, Array) and value.content is not None:
        result = to_plain(value.content, depth + 1, memo)
    elif isinstance(value, Tensor):
        result = value.resolve()
    else:
        name = value.name if isinstance(value, Global) else type(value).__name__
        raise Refused(f"holds {name} as a value; only arrays, numbers and text are read")
    memo[id(value)] = result
    return result


def _torch_prefix(opened: zipfile.ZipFile) -> Optional[str]:
    """Return what the names of PyTorch's own zip begin with; None if it isn't one."""
    for name in opened.namelist():
        if name == "data.pkl" or name.count("/") == 1 and name.endswith("/data.pkl"):
            return name[:-len("data.pkl")]
    return None


def _read_torch_zip(opened: zipfile.ZipFile, prefix: str, file_bytes: int, select: Callable) -> Any:
    """Read PyTorch 1.6 and later: data.pkl, and one entry of raw values for each storage."""
    def entry(name: str) -> bytes:
        info = opened.getinfo(prefix + name)
        require(info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size,
                f"holds {name:.80} compressed, which PyTorch doesn't do: refused")
        return opened.read(info)

    def read_storage(key: str, storage: Storage) -> np.ndarray:
        unpickler.charge(storage.nbytes)
        data = entry(f"data/{key}")
        require(len(data) == storage.nbytes, f"states {storage.nbytes} bytes for a storage and holds {len(data)}")
        return np.frombuffer(data, storage.dtype)

    names = opened.namelist()
    require(prefix + "constants.pkl" not in names, "is a TorchScript program, not a weights file")
    require(prefix + "byteorder" not in names or entry("byteorder") == b"little", _BIG_ENDIAN)
    unpickler = Unpickler(io.BytesIO(entry("data.pkl")), file_bytes, read_storage)
    return to_plain(select(unpickler.load()))


def _read_torch_legacy(stream: BinaryIO, file_bytes: int, select: Callable) -> Any:
    """Read PyTorch before 1.6, after the magic number: four more pickles, then the raw storages."""
    offsets = {}

    def read_storage(key: str, storage: Storage) -> np.ndarray:
        require(key in offsets, f"lacks the values of the storage {key:.40}")
        stream.seek(offsets[key])
        return np.fromfile(stream, storage.dtype, storage.size)

    require(Unpickler(stream, file_bytes).load() == _TORCH_LEGACY_PROTOCOL, "is in an unknown protocol of PyTorch")
    require(Unpickler(stream, file_bytes).load()["little_endian"], _BIG_ENDIAN)
    unpickler = Unpickler(stream, file_bytes, read_storage)
    value = unpickler.load()
    for key in Unpickler(stream, file_bytes).load():
        storage = unpickler.storages[key]
        size = int.from_bytes(stream.read(8), "little", signed=True)
        offsets[key] = stream.tell()
        require(size == storage.size and offsets[key] + storage.nbytes <= file_bytes,
                f"is truncated or damaged: {storage.size} values stated for the storage {key:.40}, {size} stored")
        stream.seek(storage.nbytes, os.SEEK_CUR)
    return to_plain(select(value))


def _read(path: str, select: Callable, is_unpacked: bool = False) -> Any:
    file_bytes = os.path.getsize(path)
    with open(path, "rb") as stream:
        head = stream.read(512)
        kind = None if head.startswith(pickle.PROTO) else download.archive_kind(head)
        stream.seek(0)
        if kind == "zip":
            with zipfile.ZipFile(stream) as opened:
                prefix = _torch_prefix(opened)
                if prefix is not None:
                    return _read_torch_zip(opened, prefix, file_bytes, select)
        if kind is None:
            value = Unpickler(stream, file_bytes).load()
            if isinstance(value, int) and value == _TORCH_LEGACY_MAGIC:
                return _read_torch_legacy(stream, file_bytes, select)
            return to_plain(select(value))
    require(not is_unpacked, "is an archive within an archive: refused")
    return _read(download.unpack_single(path, ".pdparams"), select, is_unpacked=True)


def read(path: str, select: Callable[[Any], Any] = lambda value: value) -> Any:
    """Return the content of a file of Paddle or PyTorch as dicts, lists, arrays, numbers, text.

    An archive of one `.pdparams` is unpacked into the download cache. bfloat16 comes as uint16.

    Args:
        select: is given the file's object and returns the part that is wanted; only its arrays are read.

    Raises:
        WeightsError: missing, damaged, of another format, or holding anything but data.
    """
    with errors_of(path, "a weights file"):
        return _read(path, select)


def read_npy(path: str) -> Any:
    """Return the mapping in a file of np.save(path, mapping), as `read` does; raises as `read` does."""
    with errors_of(path, "an .npy file"), open(path, "rb") as stream:
        version = np.lib.format.read_magic(stream)
        require(version == (1, 0), f"is an .npy file of version {version}; np.save writes a mapping in (1, 0)")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        require(shape == () and dtype.hasobject, "is an .npy file of an array, not of a mapping")
        return to_plain(Unpickler(stream, os.path.getsize(path)).load())


@contextlib.contextmanager
def errors_of(path: str, kind: str) -> Iterator[None]:
    """Inside, any failure becomes a WeightsError about `path`, which was expected to be `kind`."""
    try:
        yield
    except Refused as reason:
        raise WeightsError(f"{path} {printable(str(reason))}") from None
    except DataError as reason:
        raise WeightsError(str(reason)) from None
    except FileNotFoundError:
        raise WeightsError(f"{path} doesn't exist") from None
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = printable(f"{type(error).__name__}: {error}")
        raise WeightsError(f"{path} is truncated, damaged or not {kind} ({reason:.120})") from error
