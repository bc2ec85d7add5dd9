"""Files that a stranger may hand over as weights: they call code, fill memory, or reach out of their folder.

A payload tries to create the file `canary`.
"""

import functools
import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from typing import Dict

import numpy as np

EXTENSION = 0x1234


class Call:
    """Pickled, it is a call of os.system."""

    def __init__(self, canary: str):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


# ---- a small assembler of pickles, so that files of PyTorch and hostile ones need neither PyTorch nor luck

def literal(value) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def finished(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def mapping(items: Dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(literal(key) + value for key, value in items.items()) + b"u"


def array(shape: tuple, data: bytes, dtype: str = "f4") -> bytes:
    made = call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), literal((0,)), literal("b"))
    values = b"C" + bytes([len(data)]) + data
    return (made + b"(" + literal(1) + literal(shape) + call(name("numpy", "dtype"), literal(dtype)) + literal(False)
            + values + b"tb")


def storage(kind: str, key: str, size: int, *view, package: str = "torch") -> bytes:
    items = [literal("storage"), name(package, kind), *map(literal, (key, "cpu", size, *view))]
    return b"(" + b"".join(items) + b"tQ"


def tensor(stored: bytes, offset: int, size: tuple, stride: tuple) -> bytes:
    hooks = call(name("collections", "OrderedDict"))
    return call(name("torch._utils", "_rebuild_tensor_v2"), stored, literal(offset), literal(size), literal(stride),
                literal(False), hooks)


def make_zip(entries: Dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return stream.getvalue()


def torch_zip(body: bytes, storages: Dict[str, bytes], **options) -> bytes:
    """A file of torch.save since 1.6."""
    entries = {f"archive/data/{key}": values for key, values in storages.items()}
    return make_zip({"archive/data.pkl": finished(body), "archive/byteorder": b"little", **entries}, **options)


def torch_legacy(body: bytes, storages: Dict[str, bytes], itemsize: int = 4) -> bytes:
    """A file of torch.save before 1.6."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    heads = b"".join(pickle.dumps(head, 2) for head in (0x1950a86a20f9469cfc6c, 1001, system))
    values = b"".join(struct.pack("<q", len(data) // itemsize) + data for data in storages.values())
    return heads + finished(body) + pickle.dumps(list(storages), 2) + values


# ---- pickles that call code

def opcodes(canary: str) -> Dict[str, bytes]:
    """Each opcode by which a pickle can call something."""
    command = literal(f"touch {canary}")
    arguments = b"(" + literal(["touch", canary]) + b"t"
    bodies = {
        "REDUCE": name("os", "system") + b"(" + command + b"tR",
        "INST": b"(" + command + b"ios\nsystem\n",
        "OBJ": b"(" + name("subprocess", "Popen") + literal(["touch", canary]) + b"o",
        "NEWOBJ": name("subprocess", "Popen") + arguments + b"\x81" + b"0" + b"(" + command + b"ios\nsystem\n",
        "NEWOBJ_EX": name("subprocess", "Popen") + arguments + b"}\x92" + b"0" + b"(" + command + b"ios\nsystem\n",
        "STACK_GLOBAL": literal("os") + literal("system") + b"\x93" + command + b"\x85R",
        "getattr": name("builtins", "getattr") + b"(" + name("os", "path") + literal("os") + b"tR0"
                   + name("os", "system") + command + b"\x85R",
        "a call after a whole mapping": b"}0" + name("os", "system") + command + b"\x85R0}",
    }
    files = {name: finished(body, 4) for name, body in bodies.items()}
    files["EXT2"] = finished(b"\x83" + struct.pack("<H", EXTENSION) + command + b"\x85R")
    files["EXT4"] = finished(b"\x84" + struct.pack("<I", EXTENSION) + command + b"\x85R")
    files["a persistent id"] = finished(command + b"Q")
    files["a persistent id in text"] = b"Ptouch " + canary.encode() + b"\n."
    return files


def nested(canary: str) -> Dict[str, bytes]:
    """The call where weights, or what stands beside them, are expected."""
    call, array = Call(canary), np.ones(3, "float32")
    objects = np.empty(1, object)
    objects[0] = call
    contents = {
        "among weights": {"a": array, "b": call},
        "beside state_dict": {"state_dict": {"a": array}, "optimizer": call},
        "in the table of names": {"a": array, "StructuredToParameterName@@": call},
        "as a key": {call: array},
        "in an array of objects": {"a": objects},
    }
    return {name: pickle.dumps(content, 4) for name, content in contents.items()}


# ---- other formats around a pickle that calls code

def make_tar(members, mode: str = "w") -> bytes:
    """Write a tar archive of (TarInfo, content) pairs."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def wrapped(canary: str) -> Dict[str, bytes]:
    """The call inside the formats of PyTorch and NumPy, and inside archives."""
    evil = pickle.dumps({"a": Call(canary)}, 2)
    stream = io.BytesIO()
    np.save(stream, np.array({"a": Call(canary)}, object), allow_pickle=True)
    return {
        "torch.save's zip": make_zip({"archive/data.pkl": evil, "archive/version": b"3\n"}),
        "torch.save's old format": torch_legacy(evil[2:-1], {}),
        "torch.save's first format, a tar": make_tar([(tarfile.TarInfo("pickle"), evil)]),
        "an .npy": stream.getvalue(),
        "a .tar.gz": make_tar([(tarfile.TarInfo("x/model.pdparams"), evil)], "w:gz"),
        "a .zip": make_zip({"model.pdparams": evil}, zipfile.ZIP_DEFLATED),
    }


# ---- what would fill memory, disk or time

def _one(value: bytes) -> bytes:
    return finished(b"}" + literal("a") + value + b"s", 4)


@functools.cache
def greedy() -> Dict[str, bytes]:
    """Claims beyond what is there, and little that unfolds to much."""
    laughs = b"]\x940" + b"".join(b"](" + (b"h" + bytes([level])) * 10 + b"e\x940" for level in range(60)) + b"h\x3c"
    equal_hashes = b"".join(b"\x8a\x0b" + (index * (2 ** 61 - 1)).to_bytes(11, "little") + b"N"
                            for index in range(1, 200_000))
    header = tarfile.TarInfo("model.pdparams")
    header.size = 1 << 43
    name_of_gigabytes = tarfile.TarInfo("x")
    name_of_gigabytes.type, name_of_gigabytes.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    shared = tensor(storage("BFloat16Storage", "0", 1 << 18), 0, (1 << 18,), (1,))
    return {
        "many arrays of the same values": torch_zip(
            mapping({str(index): shared for index in range(1000)}), {"0": bytes(1 << 19)}),
        "a shape of 10^12": _one(array((10 ** 12,), b"1234")),
        "a tensor that repeats one value 10^12 times": torch_zip(
            mapping({"a": tensor(storage("FloatStorage", "0", 1), 0, (10 ** 12,), (0,))}), {"0": b"1234"}),
        "a storage of 10^15": torch_zip(
            mapping({"a": tensor(storage("FloatStorage", "0", 10 ** 15), 0, (1,), (1,))}), {"0": b"1234"}),
        "text of 10^12": finished(b"\x8d" + struct.pack("<Q", 10 ** 12) + b"x", 4),
        "a frame of 10^15": b"\x80\x04\x95" + struct.pack("<Q", 10 ** 15) + b"N.",
        "a memo of 4 billion": _one(b"]r\xff\xff\xff\xff"),
        "billion laughs": _one(laughs),
        "a list in itself": _one(b"]\x94h\x00a"),
        "lists in lists": _one(b"]" * 100_000 + b"a" * 99_999),
        "a deep key": finished(b"})" + b"\x85" * 400_000 + b"Ns", 4),
        "keys of equal hash": finished(b"}(" + equal_hashes + b"u", 4),
        "millions of marks": finished(b"(" * 5_000_000, 4),
        "a zip bomb": make_zip({"model.pdparams": bytes(32 << 20)}, zipfile.ZIP_DEFLATED),
        "a zip bomb for PyTorch": make_zip({"archive/data.pkl": bytes(32 << 20)}, zipfile.ZIP_DEFLATED),
        "a gzip bomb": gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(32 << 20), 9),
        "a gzip bomb without a name": gzip.compress(name_of_gigabytes.tobuf(tarfile.GNU_FORMAT) + bytes(32 << 20), 9),
        "a tar of terabytes": header.tobuf(tarfile.GNU_FORMAT) + bytes(1024),
    }


def odd(canary: str) -> Dict[str, bytes]:
    """Pickles of the allowed names and opcodes, put together as no writer does it."""
    encode, ordered, deep = name("_codecs", "encode"), name("collections", "OrderedDict"), b")" + b"\x85" * 300_000
    bodies = {
        "an array of another class": call(name("numpy.core.multiarray", "_reconstruct"), ordered, literal((0,)),
                                          literal("b")),
        "another codec": call(encode, literal("x"), literal("zip")),
        "attributes of a name": encode + literal({"__code__": 1}) + b"b",
        "an array without values": call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"),
                                        literal((0,)), literal("b")),
        "an array of objects": array((), b"", "O8"),
        "a call of a number": b"J\x01\x00\x00\x00R",
        "a name that isn't text": deep + literal("x") + b"\x93",
        "copies": b"]\x94(" + b"NN\x86" * 500 + b"e0](" + call(ordered, b"h\x00") * 50 + b"e",
        "a tuple of a list": call(name("builtins", "tuple"), literal([1])),
        "a log with deep keys": call(name("mmengine.logging.history_buffer", "HistoryBuffer"),
                                     b"](" + deep + b"N\x86e"),
        "a name as a value": mapping({"x": ordered}),
        "an endless name": b"c" + b"x" * 1000,
    }
    return {name: finished(body, 4) for name, body in bodies.items()}


# ---- paths that lead out of the archive's folder

def tricky(canary: str, weights: bytes) -> Dict[str, bytes]:
    """Archives of a whole weights file and of something that unpacks elsewhere, to `canary` where it can."""
    good = {"model.pdparams": weights}
    up = "../" * 30 + canary.lstrip("/")
    names = {"..": up, ".. further in": f"a/{up}", "an absolute path": canary, "backslashes": up.replace("/", "\\"),
             "an escape": "a\x1b[2Jb.txt", "a NUL": "model.txt\0/../../x"}
    files = {}
    for what, name in names.items():
        # zipfile cuts names at a NUL; so another name of the same length is written, and replaced.
        place = "#" * len(name.encode())
        files[f"a zip with {what}"] = make_zip({**good, place: b"x"}).replace(place.encode(), name.encode())
        info = tarfile.TarInfo(name)
        info.pax_headers = {"path": name}
        files[f"a tar with {what}"] = make_tar([(tarfile.TarInfo("model.pdparams"), weights), (info, b"x")])
    inside = tarfile.TarInfo(f"a/{os.path.basename(canary)}")
    kinds = {"a symbolic link": tarfile.SYMTYPE, "a hard link": tarfile.LNKTYPE, "a device": tarfile.CHRTYPE}
    for what, kind in kinds.items():
        info = tarfile.TarInfo("a")
        info.type, info.linkname, info.devmajor, info.devminor = kind, os.path.dirname(canary), 1, 5
        files[f"a tar with {what}"] = make_tar([
            (info, b""), (inside, b"x"), (tarfile.TarInfo("model.pdparams"), weights)])
    return files


def hostile_files(canary: str, weights: bytes = b"") -> Dict[str, bytes]:
    """All of them, by family and name; `weights` is a file that would be read."""
    families = {"opcode": opcodes(canary), "nested": nested(canary), "wrapped": wrapped(canary), "greedy": greedy(),
                "odd": odd(canary), "tricky": tricky(canary, weights)}
    return {f"{family}: {name}": file for family, files in families.items() for name, file in files.items()}
