import io
import os
import pickle
import struct
import sys
import tarfile
import zipfile

import numpy as np
import paddle
import pytest

from paddleseg.cvlibs.errors import WeightsError
from paddleseg.weights import load as weights
from paddleseg.weights import unpickle, write
from paddleseg.weights.write import write_weights

# A small assembler of pickles, so that files of PyTorch and hostile ones need neither PyTorch nor luck.


def literal(value):
    return pickle.dumps(value, 2)[2:-1]


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def call(function, *arguments):
    return function + tuple_of(*arguments) + b"R"


def mapping(items):
    return b"}(" + b"".join(literal(key) + value for key, value in items.items()) + b"u"


def finished(body):
    return b"\x80\x02" + body + b"."


def storage(kind, key, size, *view, package="torch"):
    items = [literal("storage"), name(package, kind), literal(key), literal("cpu"), literal(size)]
    return tuple_of(*items, *map(literal, view)) + b"Q"


def tensor(stored, offset, size, stride):
    hooks = call(name("collections", "OrderedDict"))
    return call(name("torch._utils", "_rebuild_tensor_v2"), stored, literal(offset), literal(size),
                literal(stride), literal(False), hooks)


def write_torch_zip(path, body, storages, extra=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", finished(body))
        archive.writestr("archive/byteorder", "little")
        for key, values in storages.items():
            archive.writestr(f"archive/data/{key}", values.tobytes())
        for entry, content in extra:
            archive.writestr(entry, content)


def write_torch_legacy(path, body, storages):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4}}
    with open(path, "wb") as stream:
        for head in (0x1950a86a20f9469cfc6c, 1001, system):
            stream.write(pickle.dumps(head, 2))
        stream.write(finished(body))
        stream.write(pickle.dumps(list(storages), 2))
        for values in storages.values():
            stream.write(struct.pack("<q", values.size) + values.tobytes())


TORCH_WRITERS = pytest.mark.parametrize("write", [write_torch_zip, write_torch_legacy])


def expect_refusal(path, *words):
    """The read must fail with a one-line WeightsError that names the file and holds the words."""
    with pytest.raises(WeightsError) as caught:
        weights.read_weights(str(path))
    message = str(caught.value)
    assert str(path) in message and message.isprintable()
    for word in words:
        assert word in message


def expect_equal(read, expected):
    assert list(read) == list(expected)
    for key, value in expected.items():
        assert read[key].dtype == value.dtype
        np.testing.assert_array_equal(read[key], value)


ARRAYS = {
    "a.weight": np.arange(6, dtype="float32").reshape(2, 3),
    "b": np.array(2.5),
    "c": np.array([[1, 2], [3, 4]], dtype="int64").T,
    "d": np.array([True, False]),
    "e": np.zeros([0, 4], "float16"),
}


# ---- .pdparams and .pdopt

def test_written_weights_are_read_back_and_by_paddle(tmp_path):
    path = str(tmp_path / "new" / "model.pdparams")
    write_weights(path, ARRAYS)
    expect_equal(weights.read_weights(path), ARRAYS)
    loaded = paddle.load(path)
    assert list(loaded) == list(ARRAYS)
    assert all(isinstance(value, paddle.Tensor) for value in loaded.values())
    np.testing.assert_array_equal(loaded["c"].numpy(), ARRAYS["c"])
    assert os.listdir(tmp_path / "new") == ["model.pdparams"]


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = str(tmp_path / "model.pdparams")
    write_weights(path, ARRAYS)

    def fail_halfway(content, stream, protocol):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(write.pickle, "dump", fail_halfway)
        with pytest.raises(WeightsError, match="No space left"):
            write_weights(path, {"x": np.ones(3)})
    expect_equal(weights.read_weights(path), ARRAYS)
    assert os.listdir(tmp_path) == ["model.pdparams"]


def test_only_numbers_are_written(tmp_path):
    with pytest.raises(WeightsError, match="object"):
        write_weights(str(tmp_path / "x.pdparams"), {"a": np.array([None])})


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_what_paddle_saves(tmp_path, protocol):
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 1), paddle.nn.BatchNorm2D(4))
    expected = {key: value.numpy() for key, value in layer.state_dict().items()}
    plain, nested = str(tmp_path / "plain.pdparams"), str(tmp_path / "nested.pdparams")
    paddle.save(layer.state_dict(), plain, protocol=protocol)
    paddle.save({"model": layer.state_dict(), "epoch": 3}, nested, protocol=protocol)
    expect_equal(weights.read_weights(plain), expected)
    expect_equal(weights.read_weights(nested), expected)


def test_reads_the_optimizer_state_of_paddle(tmp_path):
    layer = paddle.nn.Linear(3, 2)
    schedule = paddle.optimizer.lr.PolynomialDecay(0.1, 10)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=layer.parameters())
    layer(paddle.ones([1, 3])).sum().backward()
    optimizer.step()
    path = str(tmp_path / "model.pdopt")
    paddle.save(optimizer.state_dict(), path)
    read = weights.read_pickle(path)
    assert read["LR_Scheduler"] == {"last_epoch": 0, "last_lr": 0.1}
    for key, value in optimizer.state_dict().items():
        if isinstance(value, paddle.Tensor):
            np.testing.assert_array_equal(read[key], value.numpy())


def test_bfloat16_of_paddle_is_read_as_float32(tmp_path):
    path = str(tmp_path / "model.pdparams")
    paddle.save({"x": paddle.to_tensor([1.5, -3.0]).astype("bfloat16")}, path)
    expect_equal(weights.read_weights(path), {"x": np.array([1.5, -3.0], "float32")})
    assert weights.read_pickle(path)["x"].dtype == np.uint16


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_a_plain_pickle_of_arrays(tmp_path, protocol):
    path = tmp_path / "x.pdparams"
    path.write_bytes(pickle.dumps(ARRAYS, protocol))
    expect_equal(weights.read_weights(str(path)), ARRAYS)


def test_shared_and_scalar_values(tmp_path):
    path = tmp_path / "x.pdopt"
    shared = np.ones(2)
    path.write_bytes(pickle.dumps({"a": shared, "b": [shared, np.float32(0.5), None, "text"]}, 4))
    read = weights.read_pickle(str(path))
    assert read["a"] is read["b"][0]
    assert read["b"][1:] == [0.5, None, "text"]


# ---- PyTorch

@TORCH_WRITERS
def test_reads_pytorch(tmp_path, write):
    values = np.arange(12, dtype="float32")
    stored = storage("FloatStorage", "7", 12, *([None] if write is write_torch_legacy else []))
    body = mapping({
        "plain": tensor(stored, 0, (3, 4), (4, 1)),
        "transposed": tensor(stored, 0, (4, 3), (1, 4)),
        "part": tensor(stored, 5, (2, 2), (4, 2)),
        "parameter": call(name("torch._utils", "_rebuild_parameter"), tensor(stored, 11, (), ()),
                          literal(True), call(name("collections", "OrderedDict"))),
        "empty": tensor(stored, 0, (0, 4), (4, 1)),
    })
    write(tmp_path / "x.pth", body, {"7": values})
    table = values.reshape(3, 4)
    expect_equal(weights.read_weights(str(tmp_path / "x.pth")), {
        "plain": table, "transposed": table.T, "part": values[[[5, 7], [9, 11]]],
        "parameter": np.array(11, "float32"), "empty": np.zeros([0, 4], "float32")})


@TORCH_WRITERS
@pytest.mark.parametrize("kind, values", [
    ("DoubleStorage", np.array([1.5, -2])), ("HalfStorage", np.array([1.5, -2], "float16")),
    ("LongStorage", np.array([1, -2])), ("ByteStorage", np.array([1, 200], "uint8")),
    ("BoolStorage", np.array([True, False]))])
def test_storage_types(tmp_path, write, kind, values):
    body = mapping({"x": tensor(storage(kind, "0", 2), 0, (2,), (1,))})
    write(tmp_path / "x.pth", body, {"0": values})
    expect_equal(weights.read_weights(str(tmp_path / "x.pth")), {"x": values})


@TORCH_WRITERS
def test_bfloat16_of_pytorch_is_read_as_float32(tmp_path, write):
    body = mapping({"x": tensor(storage("BFloat16Storage", "0", 2), 0, (2,), (1,))})
    write(tmp_path / "x.pth", body, {"0": np.array([0x3FC0, 0xC040], "uint16")})
    expect_equal(weights.read_weights(str(tmp_path / "x.pth")), {"x": np.array([1.5, -3.0], "float32")})


def test_views_and_cuda_storages_of_old_pytorch(tmp_path):
    part = storage("FloatStorage", "0", 6, ("view", 2, 3), package="torch.cuda")
    body = mapping({"x": tensor(part, 1, (2,), (1,))})
    write_torch_legacy(tmp_path / "x.pth", body, {"0": np.arange(6, dtype="float32")})
    expect_equal(weights.read_weights(str(tmp_path / "x.pth")), {"x": np.array([3, 4], "float32")})


@TORCH_WRITERS
@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_unwraps_a_training_checkpoint(tmp_path, write, wrapper):
    inner = mapping({"x": tensor(storage("LongStorage", "0", 1), 0, (), ())})
    history = name("mmengine.logging.history_buffer", "HistoryBuffer") + b")\x81" + mapping({
        "min": call(name("__builtin__", "getattr"),
                    name("mmengine.logging.history_buffer", "HistoryBuffer"), literal("min"))}) + b"b"
    body = mapping({"epoch": literal(3), "message_hub": mapping({"loss": history}), wrapper: inner})
    write(tmp_path / "x.pth", body, {"0": np.array([5])})
    expect_equal(weights.read_weights(str(tmp_path / "x.pth")), {"x": np.array(5)})


@TORCH_WRITERS
@pytest.mark.parametrize("offset, size, stride", [
    (0, (4,), (1,)), (1, (3,), (1,)), (0, (2, 2), (2, 1)), (-1, (2,), (1,)), (0, (2,), (-1,)),
    (0, (10 ** 12,), (0,)), (0, (2 ** 32, 2 ** 32), (0, 0)), (0, (2,), (1, 1)), (0, (2.0,), (1,)),
    (2 ** 63, (1,), (1,)), (0, (1,) * 70, (1,) * 70)])
def test_tensors_beyond_their_storage_are_refused(tmp_path, write, offset, size, stride):
    body = mapping({"x": tensor(storage("FloatStorage", "0", 3), offset, size, stride)})
    write(tmp_path / "x.pth", body, {"0": np.zeros(3, "float32")})
    expect_refusal(tmp_path / "x.pth", "tensor")


@TORCH_WRITERS
@pytest.mark.parametrize("stated", [2, 4, 10 ** 15])
def test_a_storage_of_another_size_is_refused(tmp_path, write, stated):
    body = mapping({"x": tensor(storage("FloatStorage", "0", stated), 0, (1,), (1,))})
    write(tmp_path / "x.pth", body, {"0": np.zeros(3, "float32")})
    expect_refusal(tmp_path / "x.pth")


@TORCH_WRITERS
def test_a_storage_that_is_absent_is_refused(tmp_path, write):
    body = mapping({"x": tensor(storage("FloatStorage", "../0", 3), 0, (1,), (1,))})
    write(tmp_path / "x.pth", body, {})
    expect_refusal(tmp_path / "x.pth")


def test_compressed_and_script_files_of_pytorch_are_refused(tmp_path):
    body = mapping({"x": tensor(storage("FloatStorage", "0", 9999), 0, (1,), (1,))})
    values = np.zeros(9999, "float32")
    write_torch_zip(tmp_path / "a.pth", body, {"0": values}, compression=zipfile.ZIP_DEFLATED)
    expect_refusal(tmp_path / "a.pth", "compressed")
    write_torch_zip(tmp_path / "b.pt", body, {}, extra=[("archive/constants.pkl", finished(b")"))])
    expect_refusal(tmp_path / "b.pt", "TorchScript")


# ---- hostile and damaged files

def empty_array(array_class):
    return call(name("numpy.core.multiarray", "_reconstruct"), array_class, literal((0,)), literal("b"))


def array_of(dtype, shape, data):
    state = tuple_of(literal(1), literal(shape), dtype, literal(False), data)
    return empty_array(name("numpy", "ndarray")) + state + b"b"


FLOAT = call(name("numpy", "dtype"), literal("f4"))
NUMBERS_OF_EQUAL_HASH = b"".join(b"\x8a\x0b" + (index * sys.hash_info.modulus).to_bytes(11, "little") + b"N"
                                 for index in range(1, 100_000))


def hostile_bodies(canary):
    """Bodies of pickles that call code, or would; each tries to create the file `canary`."""
    touch, code = literal(f"touch {canary}"), literal(f"open({canary!r}, 'w')")
    arguments = tuple_of(literal("touch"), literal(canary))
    return {
        "os.system": call(name("os", "system"), touch),
        "posix.system": call(name("posix", "system"), touch),
        "subprocess": call(name("subprocess", "check_output"), arguments),
        "eval": call(name("builtins", "eval"), code),
        "exec of Python 2": call(name("__builtin__", "exec"), code),
        "open": call(name("io", "open"), literal(canary), literal("w")),
        "stack global": literal("os") + literal("system") + b"\x93" + touch + b"\x85R",
        "dotted global": b"\x8c\x0bcollections\x8c\x20OrderedDict.fromkeys.__globals__\x93",
        "INST": b"(" + touch + b"ios\nsystem\n",
        "OBJ": b"(" + name("os", "system") + touch + b"o",
        "NEWOBJ": name("subprocess", "Popen") + tuple_of(arguments) + b"\x81",
        "getattr": call(name("builtins", "getattr"), name("collections", "OrderedDict"), literal("__init__")),
        "partial": call(name("functools", "partial"), name("os", "system"), touch),
        "import": call(name("importlib", "import_module"), literal("antigravity")),
        "numpy load": call(name("numpy", "load"), literal(canary)),
        "numpy memmap": call(name("numpy", "memmap"), literal(canary), literal("u1"), literal("w+")),
        "torch load": call(name("torch.storage", "_load_from_bytes"), literal(b"x")),
        "paddle generator": call(name("paddle.base.libpaddle", "GeneratorState")),
        "extension": b"\x82\x01",
        "persistent id": literal(canary) + b"Q",
        "reconstruct another class": empty_array(name("collections", "OrderedDict")),
        "call of ndarray": call(name("numpy", "ndarray"), literal((10 ** 9,))),
        "dtype of objects": call(name("numpy", "dtype"), literal("O")),
        "structured dtype": call(name("numpy", "dtype"), literal([("a", "O")])),
        "codec": call(name("_codecs", "encode"), literal("x"), literal("zip")),
        "attributes of a function": name("_codecs", "encode") + literal({"__code__": 1}) + b"b",
        "slots of a function": name("_codecs", "encode") + literal((None, {"build": 1})) + b"b",
        "array without values": empty_array(name("numpy", "ndarray")),
        "huge shape": array_of(FLOAT, (10 ** 12,), literal("x" * 4)),
        "shape that wraps around": array_of(FLOAT, (2 ** 62, 4), literal("")),
        "negative shape": array_of(FLOAT, (-1,), literal("")),
        "extension of 4 bytes": b"\x84\x01\x00\x00\x00",
        "NEWOBJ_EX": name("subprocess", "Popen") + tuple_of(arguments) + b"}\x92",
        "BUILD of a list": b"]" + mapping({"__setstate__": name("os", "system")}) + b"b",
        "set": b"\x8f(" + touch + b"\x90",
        "frozen set": b"(" + touch + b"\x91",
        "buffer": b"\x97",
        "crash by a deep key": b"})" + b"\x85" * 300_000 + b"Ns",
        "hours of equal hashes": b"}(" + NUMBERS_OF_EQUAL_HASH + b"u",
        "hours of equal hashes in a call": call(name("collections", "OrderedDict"), b"](" + b"".join(
            b"\x8a\x0b" + (index * sys.hash_info.modulus).to_bytes(11, "little") + b"N\x86"
            for index in range(1, 50_000)) + b"e"),
        "a billion marks": b"(" * (2 ** 21 + 1),
        "bytes that aren't there": b"\x8e" + struct.pack("<Q", 2 ** 40),
        "an endless name": b"c" + b"x" * 1000,
        "number by itself": b"J\x01\x00\x00\x00R",
        "copies": b"]q\x00(" + b"NN\x86" * 500 + b"e0](" + call(
            name("collections", "OrderedDict"), b"h\x00") * 50 + b"e",
        "tuple of a list": call(name("builtins", "tuple"), literal([1])),
        "object as a value": mapping({"x": name("collections", "OrderedDict")}),
        "endless": b"}" + literal("x") + b"0q\x01" + literal("x") + b"h\x01s",
        "deep": b"".join(b"}" + literal("x") for _ in range(99)) + b"N" + b"s" * 99,
    }


@pytest.mark.parametrize("case", hostile_bodies("/"))
@pytest.mark.parametrize("form", ["pdparams", "zip", "legacy"])
def test_hostile_pickles_are_refused_and_nothing_runs(tmp_path, case, form):
    canary = tmp_path / "canary"
    body, path = hostile_bodies(str(canary))[case], tmp_path / "x.pdparams"
    if form == "pdparams":
        path.write_bytes(finished(body))
    else:
        {"zip": write_torch_zip, "legacy": write_torch_legacy}[form](path, body, {})
    expect_refusal(path)
    with pytest.raises(WeightsError):
        weights.read_pickle(str(path))
    assert not canary.exists()


@pytest.mark.parametrize("index", [7, 2 ** 32 - 1])
def test_a_huge_number_of_a_shared_object_costs_nothing(tmp_path, index):
    number = struct.pack("<I", index)
    (tmp_path / "x.pdparams").write_bytes(finished(b"]r" + number + b"0}" + literal("a") + b"j" + number + b"s"))
    assert weights.read_pickle(str(tmp_path / "x.pdparams")) == {"a": []}


def test_the_canary_can_sing(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(finished(hostile_bodies(str(canary))["os.system"]))
    assert canary.exists()


def test_the_refusal_names_the_global(tmp_path):
    (tmp_path / "x.pdparams").write_bytes(finished(call(name("os", "system"), literal("true"))))
    expect_refusal(tmp_path / "x.pdparams",
                   "holds the pickle global os.system: refused; a weights file is data")


def test_control_characters_of_a_file_stay_out_of_the_message(tmp_path, layer):
    (tmp_path / "x.pdparams").write_bytes(finished(b"\x8c\x04a\x1b\nb\x8c\x01c\x93"))
    expect_refusal(tmp_path / "x.pdparams", "a??b.c")
    with pytest.raises(WeightsError, match=r"unexpected: a\?b$"):
        weights.load_into(layer, {**state_of(layer), "a\x1bb": np.ones(1)}, "x")


def test_stand_ins_are_the_same_after_a_hostile_file(tmp_path):
    for index, body in enumerate(hostile_bodies(str(tmp_path / "canary")).values()):
        (tmp_path / f"{index}").write_bytes(finished(body))
        expect_refusal(tmp_path / f"{index}")
    test_written_weights_are_read_back_and_by_paddle(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x80", b"garbage", b"\x00" * 600, b"PK\x03\x04" + b"\x00" * 99,
                                     b"\x1f\x8b" + b"\x00" * 50, pickle.dumps([1, 2]), pickle.dumps({"x": 1}),
                                     pickle.dumps({"x": ["y"]}), pickle.dumps({1: np.ones(1)}),
                                     pickle.dumps(ARRAYS)[:-30]])
def test_files_that_are_no_weights(tmp_path, content):
    (tmp_path / "x.pdparams").write_bytes(content)
    expect_refusal(tmp_path / "x.pdparams")


def test_missing_file_and_folder(tmp_path):
    expect_refusal(tmp_path / "absent.pdparams", "doesn't exist")
    expect_refusal(tmp_path, "directory")


@TORCH_WRITERS
def test_truncated_files_of_pytorch(tmp_path, write):
    body = mapping({"x": tensor(storage("FloatStorage", "0", 500), 0, (500,), (1,))})
    write(tmp_path / "x.pth", body, {"0": np.ones(500, "float32")})
    content = (tmp_path / "x.pth").read_bytes()
    for size in range(1, len(content), 97):
        (tmp_path / "x.pth").write_bytes(content[:size])
        expect_refusal(tmp_path / "x.pth")


# ---- archives and safetensors

def write_archive(path, members):
    """Members are (name, content); content None makes a symbolic link out of the folder."""
    if str(path).endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in members:
                info = zipfile.ZipInfo(entry)
                info.external_attr = (0o120777 if content is None else 0o100644) << 16
                archive.writestr(info, content or b"/etc/passwd")
        return
    with tarfile.open(path, "w:gz" if str(path).endswith("gz") else "w") as archive:
        for entry, content in members:
            info = tarfile.TarInfo(entry)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))


ARCHIVES = pytest.mark.parametrize("suffix", ["tar.gz", "tar", "zip"])


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("PADDLESEG_HOME", str(home))
    return home / "unpacked"


@ARCHIVES
def test_archive_of_one_weights_file(tmp_path, cache, suffix):
    path = tmp_path / f"resnet.{suffix}"
    content = pickle.dumps(ARRAYS)
    write_archive(path, [("resnet/readme.txt", b"text"), ("resnet/model.pdparams", content)])
    expect_equal(weights.read_weights(str(path)), ARRAYS)
    unpacked, = cache.iterdir()
    assert unpacked.read_bytes() == content and os.listdir(tmp_path) == [path.name]
    before = unpacked.stat().st_mtime_ns
    expect_equal(weights.read_weights(str(path)), ARRAYS)
    assert unpacked.stat().st_mtime_ns == before
    write_archive(path, [("model.pdparams", pickle.dumps({"x": np.ones(1)}))])
    os.utime(path, (0, 0))  # another version, though older
    expect_equal(weights.read_weights(str(path)), {"x": np.ones(1)})


@ARCHIVES
@pytest.mark.parametrize("members, word", [
    ([("../model.pdparams", b"x")], "outside"), ([("a/../../model.pdparams", b"x")], "outside"),
    ([("/tmp/model.pdparams", b"x")], "outside"), ([("C:/model.pdparams", b"x")], "outside"),
    ([("model.pdparams", b"x"), ("../other", b"x")], "outside"),
    ([("model.pdparams", None)], "link"), ([("a", None), ("model.pdparams", b"x")], "link"),
    ([("a\nb", b"x"), ("model.pdparams", b"x")], "control"), ([("a\x1b[2J.pdparams", b"x")], "control"),
    ([("readme", b"x")], "0 .pdparams"), ([("a.pdparams", b"x"), ("b.pdparams", b"x")], "2 .pdparams"),
    ([(str(i), b"") for i in range(1001)], "more than")])
def test_archives_that_are_refused(tmp_path, cache, suffix, members, word):
    folder = tmp_path / "in"
    folder.mkdir()
    write_archive(folder / f"x.{suffix}", members)
    expect_refusal(folder / f"x.{suffix}", word)
    assert os.listdir(folder) == [f"x.{suffix}"] and os.listdir(tmp_path) == ["in"] and not cache.exists()


def test_an_archive_that_states_a_huge_file_is_refused(tmp_path):
    info = tarfile.TarInfo("model.pdparams")
    info.size = 1 << 40
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    expect_refusal(tmp_path / "x.tar", "more than 1 MiB")


@pytest.mark.parametrize("suffix", ["tar.gz", "zip"])
def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path, cache, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model.pdparams", bytes(50 << 20))
    else:
        write_archive(path, [("model.pdparams", bytes(50 << 20))])
    expect_refusal(path, "more than 4 MiB")
    assert not cache.exists()


def test_a_size_below_zero_in_an_archive_is_refused(tmp_path):
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    (tmp_path / "x.tar").write_bytes(bytes(header) + bytes(1024))
    expect_refusal(tmp_path / "x.tar")


def test_a_name_in_an_archive_stays_on_one_line(tmp_path):
    write_archive(tmp_path / "x.tar", [("a\nb\x1b.pdparams", bytes(1 << 20))])
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:9000])
    expect_refusal(tmp_path / "x.tar")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE])
def test_archives_with_headers_that_fill_the_memory_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 1 << 20
    content = info.tobuf(tarfile.GNU_FORMAT) + b"\0" * (1 << 20)
    (tmp_path / "x.tar").write_bytes(content)
    expect_refusal(tmp_path / "x.tar", "oversized header")


def test_truncated_archive(tmp_path, cache):
    write_archive(tmp_path / "x.tar.gz", [("model.pdparams", os.urandom(5000))])
    (tmp_path / "x.tar.gz").write_bytes((tmp_path / "x.tar.gz").read_bytes()[:3000])
    expect_refusal(tmp_path / "x.tar.gz", "can't be unpacked")
    assert os.listdir(tmp_path) == ["x.tar.gz"] and not cache.exists()


def test_safetensors(tmp_path):
    path = str(tmp_path / "x.safetensors")
    try:
        from safetensors.numpy import save_file
    except ImportError:
        expect_refusal(path, "pip install safetensors")
        return
    save_file({"x": np.arange(4, dtype="float32")}, path)
    expect_equal(weights.read_weights(path), {"x": np.arange(4, dtype="float32")})
    (tmp_path / "x.safetensors").write_bytes(b"garbage")
    expect_refusal(path)


# ---- loading into a layer

@pytest.fixture
def layer():
    return paddle.nn.Sequential(paddle.nn.Conv2D(2, 3, 1), paddle.nn.BatchNorm2D(3))


@pytest.fixture
def fitting(layer):
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=value.shape).astype("float32") for key, value in layer.state_dict().items()}


def state_of(layer):
    return {key: value.numpy() for key, value in layer.state_dict().items()}


def test_load_sets_parameters_and_buffers(layer, fitting):
    assert weights.load_into(layer, fitting, "x") == 6
    expect_equal(state_of(layer), fitting)
    assert "1._variance" in fitting


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_load_casts_floats(layer, fitting, dtype):
    cast = {key: value.astype(dtype) for key, value in fitting.items()}
    weights.load_into(layer, cast, "x")
    expect_equal(state_of(layer), {key: value.astype("float32") for key, value in cast.items()})


def test_load_of_strided_arrays(layer, fitting):
    strided = {key: np.asfortranarray(value)[..., ::1] for key, value in fitting.items()}
    strided["0.bias"] = np.repeat(fitting["0.bias"], 2)[::2]
    weights.load_into(layer, strided, "x")
    expect_equal(state_of(layer), fitting)


def test_load_reports_everything_and_loads_nothing(layer, fitting):
    before = state_of(layer)
    del fitting["0.bias"], fitting["1._mean"]
    fitting["0.weight"] = np.zeros([3, 2, 3, 3], "float32")
    fitting["1.bias"] = np.zeros([3], "int64")
    fitting.update({f"extra{i}": np.zeros(1) for i in range(7)})
    with pytest.raises(WeightsError) as caught:
        weights.load_into(layer, fitting, "output/x.pdparams")
    assert str(caught.value) == (
        "output/x.pdparams fits 2 of 6 parameters; missing: 0.bias, 1._mean; "
        "unexpected: extra0, extra1, extra2, extra3, extra4, … (+2 more); "
        "mis-shaped: 0.weight (file 3x2x3x3 vs model 3x2x1x1); "
        "mis-typed: 1.bias (file int64 vs model float32)")
    expect_equal(state_of(layer), before)


def test_load_allowances(layer, fitting):
    bias = layer[0].bias.numpy()
    del fitting["0.bias"]
    fitting["fc.weight"] = np.zeros(1)
    with pytest.raises(WeightsError, match="missing: 0.bias$"):
        weights.load_into(layer, fitting, "x", allow_unexpected=["fc.*"])
    with pytest.raises(WeightsError, match="unexpected: fc.weight$"):
        weights.load_into(layer, fitting, "x", allow_missing=["0.*"])
    assert weights.load_into(layer, fitting, "x", ["*.bias"], ["fc.*"]) == 5
    np.testing.assert_array_equal(layer[0].bias.numpy(), bias)


@pytest.mark.parametrize("nothing", [None, "None", ""])
def test_from_scratch(layer, nothing, caplog):
    before = state_of(layer)
    with caplog.at_level("INFO"):
        assert weights.load_pretrained(layer, nothing) is None
    expect_equal(state_of(layer), before)


def test_pretrained_path_with_a_classifier(layer, fitting, tmp_path):
    path = str(tmp_path / "x.pdparams")
    write_weights(path, {**fitting, "fc.weight": np.zeros([3, 4])})
    assert weights.load_pretrained(layer, path) == path
    expect_equal(state_of(layer), fitting)
    write_weights(path, {**fitting, "head.weight": np.zeros([3, 4])})
    with pytest.raises(WeightsError, match="fits 6 of 6 parameters; unexpected: head.weight"):
        weights.load_pretrained(layer, path)


@pytest.mark.parametrize("pretrained, word", [
    ("absent/x.pdparams", "doesn't exist"), ("ftp://host/x", "https"), ("file:///etc/passwd", "https"),
    (".", "folder")])
def test_pretrained_that_cannot_be_found(layer, pretrained, word):
    with pytest.raises(WeightsError, match=word):
        weights.load_pretrained(layer, pretrained)


def test_bfloat16_bits():
    values = np.array([0.0, -0.0, 1.5, -3.0, np.inf, 2.0 ** -130], "float32").reshape(2, 3)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(unpickle.bfloat16_to_float32(bits), values)
