"""Every format of weights is read as data, and nothing else is read."""

import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import paddle
import pytest
from hostile_files import (
    call,
    finished,
    hostile_files,
    literal,
    make_tar,
    make_zip,
    mapping,
    name,
    storage,
    tensor,
    torch_legacy,
    torch_zip,
)

from paddleseg.cvlibs.errors import WeightsError
from paddleseg.weights import unpickle
from paddleseg.weights.load import read_weights
from paddleseg.weights.write import write_weights

ARRAYS = {
    "a.weight": np.arange(6, dtype="float32").reshape(2, 3),
    "b": np.array(2.5),
    "c": np.array([[1, 2], [3, 4]], dtype="int64").T,
    "d": np.array([True, False]),
    "e": np.zeros([0, 4], "float16"),
}
TORCH = pytest.mark.parametrize("make", [torch_zip, torch_legacy])
ARCHIVES = pytest.mark.parametrize("suffix", ["tar.gz", "tar", "zip"])


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("PADDLESEG_HOME", str(home))
    return home / "unpacked"


def save(path, content):
    path.write_bytes(content)
    return str(path)


def expect_equal(read, expected):
    assert list(read) == list(expected)
    for key, value in expected.items():
        assert read[key].dtype == value.dtype
        np.testing.assert_array_equal(read[key], value)


def expect_refusal(path, word=""):
    with pytest.raises(WeightsError) as caught:
        read_weights(str(path))
    message = str(caught.value)
    assert str(path) in message and message.isprintable() and word in message


# ---- Paddle

def test_written_weights_are_read_back_and_by_paddle(tmp_path):
    path = str(tmp_path / "new" / "model.pdparams")
    write_weights(path, ARRAYS)
    expect_equal(read_weights(path), ARRAYS)
    loaded = paddle.load(path)
    assert list(loaded) == list(ARRAYS)
    assert all(isinstance(value, paddle.Tensor) for value in loaded.values())
    np.testing.assert_array_equal(loaded["c"].numpy(), ARRAYS["c"])
    with pytest.raises(WeightsError, match="object"):
        write_weights(path, {"a": np.array([None])})
    assert os.listdir(tmp_path / "new") == ["model.pdparams"]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_what_paddle_and_pickle_save(tmp_path, protocol):
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 1), paddle.nn.BatchNorm2D(4))
    expected = {key: value.numpy() for key, value in layer.state_dict().items()}
    plain, nested = str(tmp_path / "plain.pdparams"), str(tmp_path / "nested.pdparams")
    paddle.save(layer.state_dict(), plain, protocol=protocol)
    paddle.save({"model": layer.state_dict(), "epoch": 3}, nested, protocol=protocol)
    expect_equal(read_weights(plain), expected)
    expect_equal(read_weights(nested), expected)
    expect_equal(read_weights(save(tmp_path / "x", pickle.dumps(ARRAYS, protocol))), ARRAYS)
    values = np.array([[0.0, -0.0, 1.5], [-3.0, np.inf, 2.0 ** -130]], "float32")
    paddle.save({"x": paddle.to_tensor(values).astype("bfloat16")}, plain)
    expect_equal(read_weights(plain), {"x": values})


def test_reads_the_optimizer_state_of_paddle_and_shared_values(tmp_path):
    layer = paddle.nn.Linear(3, 2)
    optimizer = paddle.optimizer.AdamW(paddle.optimizer.lr.PolynomialDecay(0.1, 10), parameters=layer.parameters())
    layer(paddle.ones([1, 3])).sum().backward()
    optimizer.step()
    path = str(tmp_path / "model.pdopt")
    paddle.save(optimizer.state_dict(), path)
    read = unpickle.read(path)
    assert read["LR_Scheduler"] == {"last_epoch": 0, "last_lr": 0.1}
    for key, value in optimizer.state_dict().items():
        if isinstance(value, paddle.Tensor):
            np.testing.assert_array_equal(read[key], value.numpy())
    shared = np.ones(2)
    content = pickle.dumps({"a": shared, "b": [shared, np.float32(0.5), None, "c"]}, 4)
    read = unpickle.read(save(tmp_path / "x", content))
    assert read["a"] is read["b"][0] and read["b"][1:] == [0.5, None, "c"]


# ---- PyTorch

@TORCH
def test_reads_pytorch(tmp_path, make):
    values = np.arange(12, dtype="float32")
    stored = storage("FloatStorage", "7", 12, *([None] if make is torch_legacy else []))
    body = mapping({
        "plain": tensor(stored, 0, (3, 4), (4, 1)),
        "transposed": tensor(stored, 0, (4, 3), (1, 4)),
        "part": tensor(stored, 5, (2, 2), (4, 2)),
        "parameter": call(name("torch._utils", "_rebuild_parameter"), tensor(stored, 11, (), ()),
                          literal(True), call(name("collections", "OrderedDict"))),
        "empty": tensor(stored, 0, (0, 4), (4, 1)),
    })
    table = values.reshape(3, 4)
    expect_equal(read_weights(save(tmp_path / "x.pth", make(body, {"7": values.tobytes()}))), {
        "plain": table, "transposed": table.T, "part": values[[[5, 7], [9, 11]]],
        "parameter": np.array(11, "float32"), "empty": np.zeros([0, 4], "float32")})


@TORCH
@pytest.mark.parametrize("kind, stored, expected", [
    ("DoubleStorage", np.array([1.5, -2]), None), ("HalfStorage", np.array([1.5, -2], "float16"), None),
    ("LongStorage", np.array([1, -2]), None), ("ByteStorage", np.array([1, 200], "uint8"), None),
    ("BoolStorage", np.array([True, False]), None),
    ("BFloat16Storage", np.array([0x3FC0, 0xC040], "uint16"), np.array([1.5, -3.0], "float32"))])
def test_storage_types(tmp_path, make, kind, stored, expected):
    options = {"itemsize": stored.itemsize} if make is torch_legacy else {}
    body = mapping({"x": tensor(storage(kind, "0", 2), 0, (2,), (1,))})
    read = read_weights(save(tmp_path / "x.pth", make(body, {"0": stored.tobytes()}, **options)))
    expect_equal(read, {"x": stored if expected is None else expected})


def test_views_and_cuda_storages_of_old_pytorch(tmp_path):
    part = storage("FloatStorage", "0", 6, ("view", 2, 3), package="torch.cuda")
    body = mapping({"x": tensor(part, 1, (2,), (1,))})
    content = torch_legacy(body, {"0": np.arange(6, dtype="float32").tobytes()})
    expect_equal(read_weights(save(tmp_path / "x.pth", content)), {"x": np.array([3, 4], "float32")})


@TORCH
@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_unwraps_a_training_checkpoint(tmp_path, make, wrapper):
    inner = mapping({"x": tensor(storage("FloatStorage", "0", 1), 0, (), ())})
    buffer = name("mmengine.logging.history_buffer", "HistoryBuffer")
    history = buffer + b")\x81" + mapping({"min": call(name("__builtin__", "getattr"), buffer, literal("min"))}) + b"b"
    body = mapping({"epoch": literal(3), "message_hub": mapping({"loss": history}), wrapper: inner})
    content = make(body, {"0": np.float32(5).tobytes()})
    expect_equal(read_weights(save(tmp_path / "x.pth", content)), {"x": np.array(5, "float32")})


@TORCH
@pytest.mark.parametrize("stored, offset, size, stride", [
    *(([3], *view) for view in [
        (0, (4,), (1,)), (1, (3,), (1,)), (0, (2, 2), (2, 1)), (-1, (2,), (1,)), (0, (2,), (-1,)),
        (0, (10 ** 12,), (0,)), (0, (2 ** 32, 2 ** 32), (0, 0)), (0, (2,), (1, 1)), (0, (2.0,), (1,)),
        (2 ** 63, (1,), (1,)), (0, (1,) * 70, (1,) * 70)]),
    ([2], 0, (1,), (1,)), ([4], 0, (1,), (1,)), ([10 ** 15], 0, (1,), (1,)), ([3, ("view", 2, 2)], 0, (1,), (1,))])
def test_tensors_beyond_their_storage_and_storages_beyond_the_file_are_refused(tmp_path, make, stored, offset, size,
                                                                               stride):
    body = mapping({"x": tensor(storage("FloatStorage", "0", *stored), offset, size, stride)})
    expect_refusal(save(tmp_path / "x.pth", make(body, {"0": bytes(12)})))


def test_compressed_and_script_files_of_pytorch_are_refused(tmp_path):
    body = mapping({"x": tensor(storage("FloatStorage", "0", 9999), 0, (1,), (1,))})
    content = torch_zip(body, {"0": bytes(9999 * 4)}, compression=zipfile.ZIP_DEFLATED)
    expect_refusal(save(tmp_path / "a.pth", content), "compressed")
    content = make_zip({"archive/data.pkl": finished(body), "archive/constants.pkl": finished(b")")})
    expect_refusal(save(tmp_path / "b.pt", content), "TorchScript")


# ---- hostile and damaged files

@pytest.mark.parametrize("case", hostile_files("/"))
def test_hostile_files_are_refused_and_nothing_runs(tmp_path, cache, case):
    canary, intact = tmp_path / "canary", pickle.dumps(ARRAYS)
    path = save(tmp_path / "x.bin", hostile_files(str(canary), intact)[case])
    if not case.startswith("tricky"):  # a name that leads elsewhere does no harm where it is cut
        expect_refusal(path)
    else:
        try:
            expect_equal(read_weights(path), ARRAYS)
        except WeightsError as error:
            assert str(error).isprintable()
    assert os.listdir(tmp_path) == ["x.bin"]
    assert not cache.exists() or all(entry.suffix == ".pdparams" for entry in cache.iterdir())


def test_a_careless_reader_lets_the_canary_sing(tmp_path):
    pickle.loads(hostile_files(str(tmp_path / "canary"))["opcode: REDUCE"])
    assert (tmp_path / "canary").exists()


def test_the_refusal_names_the_global_without_control_characters(tmp_path):
    expect_refusal(save(tmp_path / "x", finished(call(name("os", "system"), literal("true")))), "os.system")
    expect_refusal(save(tmp_path / "x", finished(b"\x8c\x04a\x1b\nb\x8c\x01c\x93")), "a??b.c")


@pytest.mark.parametrize("content", [b"", b"\x80", b"garbage", b"\x00" * 600, b"PK\x03\x04" + b"\x00" * 99,
                                     b"\x1f\x8b" + b"\x00" * 50, pickle.dumps([1, 2]), pickle.dumps({"x": 1}),
                                     pickle.dumps({"x": ["y"]}), pickle.dumps({1: np.ones(1)}),
                                     pickle.dumps(ARRAYS)[:-30]])
def test_files_that_are_no_weights(tmp_path, content):
    expect_refusal(save(tmp_path / "x.pdparams", content))


@TORCH
def test_truncated_files_of_pytorch_missing_ones_and_folders(tmp_path, make):
    body = mapping({"x": tensor(storage("FloatStorage", "0", 500), 0, (500,), (1,))})
    content = make(body, {"0": bytes(2000)})
    for size in range(1, len(content), 97):
        expect_refusal(save(tmp_path / "x.pth", content[:size]))
    expect_refusal(tmp_path / "absent.pdparams", "doesn't exist")
    expect_refusal(tmp_path, "directory")


# ---- archives and safetensors

def make_archive(suffix, members):
    if suffix == "zip":
        return make_zip(members, zipfile.ZIP_DEFLATED)
    return make_tar([(tarfile.TarInfo(key), value) for key, value in members.items()],
                    "w:gz" if suffix == "tar.gz" else "w")


@ARCHIVES
def test_an_archive_of_one_weights_file(tmp_path, cache, suffix):
    path, content = tmp_path / f"resnet.{suffix}", pickle.dumps(ARRAYS)
    members = {"resnet/readme.txt": b"text", "resnet/._model.pdparams": b"", "resnet/model.pdparams": content}
    save(path, make_archive(suffix, members))
    expect_equal(read_weights(str(path)), ARRAYS)
    unpacked, = cache.iterdir()
    assert unpacked.read_bytes() == content and os.listdir(tmp_path) == [path.name]
    before = unpacked.stat().st_mtime_ns
    expect_equal(read_weights(str(path)), ARRAYS)
    assert unpacked.stat().st_mtime_ns == before
    save(path, make_archive(suffix, {"model.pdparams": pickle.dumps({"x": np.ones(1)})}))
    os.utime(path, (0, 0))  # another version, though older
    expect_equal(read_weights(str(path)), {"x": np.ones(1)})


@ARCHIVES
@pytest.mark.parametrize("members, word", [
    ({"readme": b"x"}, "0 .pdparams"), ({"a.pdparams": b"x", "b.pdparams": b"x"}, "2 .pdparams"),
    ({"model.pdparams": bytes(50 << 20)}, "MiB"), ({"model.pdparams": make_zip({"model.pdparams": b""})}, "archive")])
def test_archives_that_are_refused(tmp_path, cache, suffix, members, word):
    if suffix == "tar" and len(members.get("model.pdparams", b"")) > 1000:
        pytest.skip("it is as large itself")
    expect_refusal(save(tmp_path / "x", make_archive(suffix, members)), word)
    assert os.listdir(tmp_path) == ["x"]


def test_damaged_archives_and_headers_that_fill_memory_or_time_are_refused(tmp_path, cache):
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 1 << 20
        expect_refusal(save(tmp_path / "x", info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)), "oversized header")
    first = tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT)
    back = bytearray(first)  # leads back to itself
    back[124:136] = (-512).to_bytes(12, "big", signed=True)
    back[148:156] = b"%06o\0 " % (sum(back[:148]) + 8 * 32 + sum(back[156:]))
    expect_refusal(save(tmp_path / "x", first + bytes(back) + bytes(1 << 15)))
    content = make_archive("tar.gz", {"model.pdparams": os.urandom(5000)})
    expect_refusal(save(tmp_path / "x", content[:3000]))
    assert not list(cache.iterdir())


def test_safetensors(tmp_path):
    path = str(tmp_path / "x.safetensors")
    try:
        from safetensors.numpy import save_file
    except ImportError:
        expect_refusal(path, "pip install safetensors")
        return
    save_file({"x": np.arange(4, dtype="float32")}, path)
    expect_equal(read_weights(path), {"x": np.arange(4, dtype="float32")})
    expect_refusal(save(tmp_path / "x.safetensors", b"garbage"))


def test_npy(tmp_path):
    stream = io.BytesIO()
    np.save(stream, ARRAYS)
    expect_equal(unpickle.read_npy(save(tmp_path / "x.npy", stream.getvalue())), ARRAYS)
    for content in (stream.getvalue()[:-30], hostile_files("/canary")["wrapped: an .npy"]):
        with pytest.raises(WeightsError):
            unpickle.read_npy(save(tmp_path / "x.npy", content))
