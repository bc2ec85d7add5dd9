"""Read the pickles of Paddle and PyTorch as data: nothing that a file names is ever called.

Every global of a file is looked up in a short table and replaced by a stand-in of this module that checks
its arguments and keeps numbers; a name outside the table is refused. Memory stays in proportion to the file:
a shape is compared with the bytes that are there before anything is allocated, and arrays are views of those
bytes (so they may be read-only).
"""

import io
import os
import zipfile
from typing import Any, BinaryIO, Callable, Dict, Optional, Tuple

import numpy as np

from paddleseg.cvlibs.errors import WeightsError
from paddleseg.utils import archive
from paddleseg.utils.cli import printable
from paddleseg.weights.pickle_machine import FileDict, Global, Machine, Refused, StandIn, refused_global, set_items

_DTYPE_CODES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
_STORAGE_DTYPES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1",
    "ByteStorage": "u1", "BoolStorage": "b1",
}
_TORCH_LEGACY_MAGIC = 0x1950a86a20f9469cfc6c
_TORCH_LEGACY_PROTOCOL = 1001
_MAX_DEPTH = 32
_MAX_DIMS = 16


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """The float32 values, exact, of bfloat16 numbers given as uint16; the shape is kept."""
    return np.left_shift(bits.astype(np.uint32), 16).view(np.float32)


class _Dtype(StandIn):
    __slots__ = ("dtype",)

    def __init__(self, code, align=False, copy=False):
        if not isinstance(code, str) or code not in _DTYPE_CODES:
            raise Refused(f"holds an array of dtype {code!r:.40}; only numbers and booleans are read")
        self.dtype = np.dtype(code)

    def set_state(self, state):
        if state[1] not in ("<", "|", "="):
            raise Refused("holds a big-endian array; write it again on a little-endian machine")


class _Array(StandIn):
    """An ndarray: empty when the file creates it, filled when the file gives its state."""

    __slots__ = ("spend", "array")

    def __init__(self, spend: Callable[[int], None]):
        self.spend = spend
        self.array = None

    def set_state(self, state):
        shape, dtype, is_fortran, data = state[-4:]
        if isinstance(data, str):  # bytes of Python 2
            self.spend(len(data))
            data = data.encode("latin-1")
        if not (isinstance(dtype, _Dtype) and isinstance(data, bytes) and _are_sizes(shape)):
            raise Refused("holds an array with a damaged description")
        expected_bytes = _product(shape) * dtype.dtype.itemsize
        if expected_bytes != len(data):
            raise Refused(f"holds an array of shape {shape} ({expected_bytes} bytes) "
                          f"with {len(data)} bytes of values")
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if is_fortran else "C")

    def resolve(self) -> np.ndarray:
        if self.array is None:
            raise Refused("holds an array without values")
        return self.array


class _Storage(StandIn):
    """The values that one or several tensors of PyTorch look at; read when first asked for."""

    __slots__ = ("dtype_code", "key", "size", "read", "values")

    def __init__(self, dtype_code: str, key: str, size: int, read: Callable[["_Storage"], np.ndarray]):
        self.dtype_code = dtype_code
        self.key = key
        self.size = size
        self.read = read
        self.values = None

    @property
    def stored_dtype(self) -> np.dtype:
        return np.dtype("u2" if self.dtype_code == "bfloat16" else self.dtype_code)

    @property
    def nbytes(self) -> int:
        return self.size * self.stored_dtype.itemsize

    def resolve(self) -> np.ndarray:
        if self.values is None:
            values = self.read(self)
            self.values = bfloat16_to_float32(values) if self.dtype_code == "bfloat16" else values
        return self.values


class _StoragePart(StandIn):
    __slots__ = ("root", "offset", "size")

    def __init__(self, root: _Storage, offset: int, size: int):
        self.root = root
        self.offset = offset
        self.size = size

    def resolve(self) -> np.ndarray:
        return self.root.resolve()[self.offset:self.offset + self.size]


class _Tensor(StandIn):
    """A strided look at a storage; offset and strides are in elements."""

    __slots__ = ("storage", "offset", "size", "stride")

    def __init__(self, storage, offset, size, stride):
        self.storage = storage
        self.offset = offset
        self.size = size
        self.stride = stride

    def resolve(self) -> np.ndarray:
        if not (isinstance(self.storage, (_Storage, _StoragePart)) and _are_sizes((self.offset,))
                and _are_sizes(self.size) and _are_sizes(self.stride) and len(self.size) == len(self.stride)):
            raise Refused("holds a tensor with a damaged description")
        count = _product(self.size)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride))
        if count and (count > self.storage.size or last >= self.storage.size):
            raise Refused(f"holds a tensor of shape {self.size} that reaches beyond "
                          f"the {self.storage.size} values stored for it")
        values = self.storage.resolve()
        if not count:
            return np.empty(self.size, values.dtype)
        strides = [step * values.itemsize for step in self.stride]
        return np.ndarray(self.size, values.dtype, values, self.offset * values.itemsize, strides)


def _are_sizes(sizes) -> bool:
    return (isinstance(sizes, tuple) and len(sizes) <= _MAX_DIMS
            and all(type(size) is int and size >= 0 for size in sizes))


def _product(sizes) -> int:
    """Exact, where np.prod would wrap around."""
    product = 1
    for size in sizes:
        product *= size
    return product


class _LogHistory(StandIn):
    """mmengine's HistoryBuffer, beside the weights in its checkpoints: nothing of it is kept."""

    __slots__ = ()

    def set_state(self, state):
        """Keep nothing of it."""


class _Reader(Machine):
    """One pickle of Paddle or NumPy; `file_bytes` bounds what its calls may copy."""

    def __init__(self, stream: BinaryIO, file_bytes: int):
        super().__init__(stream, file_bytes)
        self._budget_bytes = file_bytes
        self._ndarray = Global("numpy.ndarray")
        self._globals = self._table()

    def _table(self) -> Dict[Tuple[str, str], Global]:
        builds = {
            ("numpy", "dtype"): _Dtype,
            ("collections", "OrderedDict"): self._ordered_dict,
            ("builtins", "tuple"): _tuple,
            ("__builtin__", "tuple"): _tuple,
            ("__builtin__", "bytes"): _no_bytes,
            ("_codecs", "encode"): self._encode,
        }
        for package in ("numpy.core.multiarray", "numpy._core.multiarray"):
            builds[package, "_reconstruct"] = self._reconstruct
            builds[package, "scalar"] = _scalar
        table = {key: Global(".".join(key), build) for key, build in builds.items()}
        table["numpy", "ndarray"] = self._ndarray
        return table

    def find_global(self, module: str, name: str) -> Global:
        return self._globals.get((module, name)) or super().find_global(module, name)

    def spend(self, count: int) -> None:
        """Refuse a file whose calls would copy more than the file itself holds."""
        self._budget_bytes -= count
        if self._budget_bytes < 0:
            raise Refused("would take more memory than its size: refused")

    def _reconstruct(self, subtype, shape, typecode) -> _Array:
        if subtype is not self._ndarray:
            raise Refused("holds an array of another class than numpy.ndarray: refused")
        return _Array(self.spend)

    def _ordered_dict(self, pairs=()) -> FileDict:
        self.spend(len(pairs))
        mapping = FileDict()
        set_items(mapping, pairs)
        return mapping

    def _encode(self, text, codec) -> bytes:
        """How protocol 2 writes bytes."""
        if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
            raise Refused(f"encodes with {codec!r:.40}: refused; a weights file is data")
        self.spend(len(text))
        return text.encode("latin-1")


def _tuple(values=()) -> tuple:
    """Paddle writes tuple((name, array)); anything but a tuple would be a copy."""
    if not isinstance(values, tuple):
        raise Refused("makes a tuple of something else: refused")
    return values


def _no_bytes() -> bytes:
    """How protocol 2 writes the values of an empty array."""
    return b""


def _scalar(dtype, data):
    if isinstance(data, str):
        data = data.encode("latin-1")
    if not (isinstance(dtype, _Dtype) and isinstance(data, bytes) and len(data) == dtype.dtype.itemsize):
        raise Refused("holds a damaged number")
    return np.frombuffer(data, dtype.dtype)[0].item()


class _Box(StandIn):
    """The array without dimensions in which np.save wraps a mapping."""

    __slots__ = ("value",)

    def __init__(self):
        self.value = None

    def set_state(self, state):
        _, shape, dtype, _, values = state
        if shape != () or not isinstance(dtype, _ObjectDtype) or type(values) is not list or len(values) != 1:
            raise Refused("holds something else than one mapping")
        self.value = values[0]


class _ObjectDtype(StandIn):
    __slots__ = ()

    def set_state(self, state):
        """Keep nothing of it; without this method pickle would set attributes."""


class _NpyReader(_Reader):
    """The pickle in an .npy file of np.save(path, mapping): a box around the mapping."""

    def __init__(self, stream: BinaryIO, file_bytes: int):
        super().__init__(stream, file_bytes)
        self._is_boxed = False

    def _table(self):
        table = super()._table()
        table["numpy", "dtype"] = Global("numpy.dtype", self._dtype)
        return table

    def _dtype(self, code, align=False, copy=False):
        return _ObjectDtype() if code == "O8" else _Dtype(code, align, copy)

    def _reconstruct(self, subtype, shape, typecode):
        array = super()._reconstruct(subtype, shape, typecode)
        if self._is_boxed:
            return array
        self._is_boxed = True
        return _Box()


class _TorchReader(_Reader):
    """The pickle of a PyTorch file; `storages` collects by key what its tensors look at."""

    def __init__(self, stream: BinaryIO, file_bytes: int, read_storage: Callable):
        super().__init__(stream, file_bytes)
        self.storages = {}
        self._read_storage = read_storage

    def _table(self):
        table = super()._table()
        builds = {
            ("torch._utils", "_rebuild_tensor"): _Tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            ("torch", "Size"): _tuple,
            ("builtins", "getattr"): self._log_method,
            ("__builtin__", "getattr"): self._log_method,
            ("mmengine.logging.history_buffer", "HistoryBuffer"): _LogHistory,
        }
        table.update({key: Global(".".join(key), build) for key, build in builds.items()})
        for package in ("torch", "torch.cuda"):  # files before 1.6 name the device in the class
            table.update({(package, name): Global(name) for name in _STORAGE_DTYPES})
        return table

    def _log_method(self, owner, name) -> Global:
        """A HistoryBuffer lists its methods, which protocol 2 writes as getattr(HistoryBuffer, name)."""
        if owner is not self._globals["mmengine.logging.history_buffer", "HistoryBuffer"]:
            raise refused_global("builtins.getattr")
        return Global(f"HistoryBuffer.{name}")

    def load_persistent(self, pid):
        if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"):
            raise Refused("refers to something else than a storage: refused")
        kind, key, _, size = pid[1:5]
        code = _STORAGE_DTYPES.get(kind.name) if isinstance(kind, Global) else None
        if code is None or not isinstance(key, str) or not _are_sizes((size,)):
            raise Refused("holds a storage with a damaged description")
        storage = self.storages.setdefault(key, _Storage(code, key, size, self._read_storage))
        if (storage.dtype_code, storage.size) != (code, size):
            raise Refused(f"describes the storage {key:.40} in two ways")
        view = pid[5] if len(pid) == 6 else None
        return storage if view is None else _view(storage, view)


def _rebuild_tensor_v2(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor, requires_grad, hooks):
    return tensor


def _view(root: _Storage, view) -> "_StoragePart":
    """A part of a storage: (key, offset, size), written by PyTorch before 1.6."""
    _, offset, size = view
    if not _are_sizes((offset, size)) or offset + size > root.size:
        raise Refused("holds a part of a storage that reaches beyond it")
    return _StoragePart(root, offset, size)


def plain(value: Any, depth: int = 0, memo: Optional[dict] = None) -> Any:
    """`value` with dicts, lists, tuples, arrays, numbers and strings only.

    Paddle's (name, array) pairs become the array. What the file shares stays shared.
    """
    memo = {} if memo is None else memo
    if value is None or isinstance(value, (str, bytes, int, float)):
        return value
    if id(value) in memo:
        return memo[id(value)]
    if depth > _MAX_DEPTH:
        raise Refused(f"is nested deeper than {_MAX_DEPTH} levels: refused")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise Refused("holds a mapping whose keys aren't text, not named arrays")
        result = {key: plain(item, depth + 1, memo) for key, item in value.items()}
    elif isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], _Array):
        result = plain(value[1], depth + 1, memo)
    elif isinstance(value, (list, tuple)):
        result = type(value)(plain(item, depth + 1, memo) for item in value)
    elif isinstance(value, (_Array, _Tensor)):
        result = value.resolve()
    else:
        name = value.name if isinstance(value, Global) else type(value).__name__
        raise Refused(f"holds {name} as a value; only arrays, numbers and text are read")
    memo[id(value)] = result
    return result


def _read_torch_zip(path: str, select: Callable) -> Any:
    """PyTorch 1.6 and later: data.pkl, and one entry of raw values for each storage."""
    with zipfile.ZipFile(path) as opened:
        names = opened.namelist()
        prefix = next(name for name in names if is_torch_entry(name))[:-len("data.pkl")]
        if prefix + "constants.pkl" in names:
            raise Refused("is a TorchScript program, not a weights file")
        if prefix + "byteorder" in names and _entry(opened, prefix + "byteorder") != b"little":
            raise Refused("holds big-endian values; write it again on a little-endian machine")

        def read_storage(storage: _Storage) -> np.ndarray:
            reader.spend(storage.nbytes)
            data = _entry(opened, f"{prefix}data/{storage.key}")
            if len(data) != storage.nbytes:
                raise Refused(f"states {storage.nbytes} bytes for a storage and holds {len(data)}")
            return np.frombuffer(data, storage.stored_dtype)

        stream = io.BytesIO(_entry(opened, prefix + "data.pkl"))
        reader = _TorchReader(stream, os.path.getsize(path), read_storage)
        return plain(select(reader.load()))


def _entry(opened: zipfile.ZipFile, name: str) -> bytes:
    """PyTorch doesn't compress, so no entry may be larger than the file."""
    info = opened.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise Refused(f"holds {name:.80} compressed, which PyTorch doesn't do: refused")
    return opened.read(info)


def is_torch_entry(name: str) -> bool:
    """Whether an archive with this entry was written by PyTorch."""
    return name == "data.pkl" or name.count("/") == 1 and name.endswith("/data.pkl")


def _read_torch_legacy(stream: BinaryIO, select: Callable) -> Any:
    """PyTorch before 1.6, after the magic number: four more pickles, then the raw storages."""
    file_bytes = os.fstat(stream.fileno()).st_size
    offsets = {}

    def read_storage(storage: _Storage) -> np.ndarray:
        if storage.key not in offsets:
            raise Refused(f"lacks the values of the storage {storage.key:.40}")
        stream.seek(offsets[storage.key])
        return np.fromfile(stream, storage.stored_dtype, storage.size)

    if _Reader(stream, file_bytes).load() != _TORCH_LEGACY_PROTOCOL:
        raise Refused("is written in an unknown protocol of PyTorch")
    system = _Reader(stream, file_bytes).load()
    if not system["little_endian"]:
        raise Refused("holds big-endian values; write it again on a little-endian machine")
    reader = _TorchReader(stream, file_bytes, read_storage)
    value = reader.load()
    for key in _Reader(stream, file_bytes).load():
        storage = reader.storages[key]
        size = int.from_bytes(stream.read(8), "little", signed=True)
        offsets[key] = stream.tell()
        if size != storage.size or offsets[key] + storage.nbytes > file_bytes:
            raise Refused(f"is truncated or damaged: {storage.size} values stated for "
                          f"the storage {key:.40}, {size} stored")
        stream.seek(storage.nbytes, os.SEEK_CUR)
    return plain(select(value))


def _read_npy(path: str) -> Any:
    with open(path, "rb") as stream:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise Refused(f"is an .npy file of version {version}; np.save writes a mapping in (1, 0)")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        if shape != () or not dtype.hasobject:
            raise Refused("is an .npy file of an array, not of a mapping")
        box = _NpyReader(stream, os.path.getsize(path)).load()
        if not isinstance(box, _Box):
            raise Refused("is an .npy file without a mapping")
        return plain(box.value)


def _read(path: str, select: Callable) -> Any:
    if archive.is_zip(path):
        return _read_torch_zip(path, select)
    with open(path, "rb") as stream:
        value = _Reader(stream, os.path.getsize(path)).load()
        if isinstance(value, int) and value == _TORCH_LEGACY_MAGIC:
            return _read_torch_legacy(stream, select)
    return plain(select(value))


def read(path: str, select: Callable[[Any], Any] = lambda value: value) -> Any:
    """The content of a file of `paddle.save` or `torch.save` as dicts, lists, arrays, numbers, text.

    `select` is given what the file holds and returns the part that is wanted; only its arrays are read.
    bfloat16 becomes float32 in a PyTorch file; Paddle stores it as uint16, which stays.

    Raises:
        WeightsError: missing, damaged, of another format, or holding anything but data.
    """
    return _guarded(path, "a weights file", lambda: _read(path, select))


def read_npy(path: str) -> Any:
    """The mapping in a file of np.save(path, mapping), as `read` returns it; raises as `read` does."""
    return _guarded(path, "an .npy file", lambda: _read_npy(path))


def _guarded(path: str, kind: str, read_file: Callable[[], Any]) -> Any:
    """What `read_file` returns; its failures become a WeightsError about `path`, which was to be `kind`."""
    try:
        return read_file()
    except Refused as reason:
        raise WeightsError(f"{path} {printable(str(reason))}") from None
    except FileNotFoundError:
        raise WeightsError(f"{path} doesn't exist") from None
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = printable(f"{type(error).__name__}: {error}")
        raise WeightsError(f"{path} is truncated, damaged or not {kind} ({reason:.120})") from error
