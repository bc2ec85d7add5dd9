import argparse
import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pytest
from fake_weights import make_weights
from PIL import Image, ImageFile

from tools import demo_server

pytest.importorskip("flask", reason="the page needs Flask: pip install flask")

ROOT = Path(__file__).resolve().parents[2]
QUICK = "configs/quick_start/encnet_resnet18_scenes.yml"


class ByBrightness:
    """Class 1 where the red channel is above 127, else class 0; remembers the images that it was given."""

    palette = np.array([[0, 0, 0], [250, 128, 1], [9, 9, 9]], np.uint8)
    class_names = ["dark <b>", "bright", "absent"]

    def __init__(self):
        self.seen = []

    def __call__(self, image):
        self.seen.append(image)
        return (image[:, :, 0] > 127).astype(np.uint8)


@pytest.fixture
def model():
    return ByBrightness()


@pytest.fixture
def client(model):
    return client_of(model)


def client_of(model, *flags):
    return demo_server.make_app(model, demo_server.parse_args(["--config", "x", *flags])).test_client()


def picture(height=4, width=6, mode="RGB"):
    """The left third is bright."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, :width // 3] = 200
    return Image.fromarray(pixels).convert(mode, dither=Image.Dither.NONE)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ask(client, data, content_type=demo_server.BODY, **options):
    return client.post("/segment", data=data, content_type=content_type, **options)


def refusal(response):
    """Status and sentence of a refusal, which is one of plain text."""
    sentence = response.get_json()["error"]
    assert sentence[0].isupper() and sentence.endswith(".") and "\n" not in sentence and "Error" not in sentence
    return response.status_code, sentence


# ---- what is answered ---------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, mode", [("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "LA"),
                                        ("JPEG", "RGB"), ("JPEG", "CMYK"), ("BMP", "RGB"), ("WEBP", "RGB"),
                                        ("PNG", "1")])
def test_classes_and_mask(client, kind, mode):
    answer = ask(client, encode(picture(48, 96, mode), kind)).get_json()
    assert [(item["name"], item["color"]) for item in answer["classes"]] == [("dark <b>", "#000000"),
                                                                             ("bright", "#fa8001")]
    assert [item["share"] for item in answer["classes"]] == pytest.approx([2 / 3, 1 / 3], abs=0.01)
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["mask"].partition(",")[2]))))
    assert mask.shape == (48, 96, 3) and (answer["height"], answer["width"]) == (48, 96)
    assert mask[5, 3].tolist() == [250, 128, 1] and mask[5, 90].tolist() == [0, 0, 0]


def test_16_bits_become_the_upper_8(client, model):
    ask(client, encode(Image.fromarray(np.full((3, 4), 0xAB12, np.uint16))))
    assert np.unique(model.seen[0]).tolist() == [0xAB] and model.seen[0].dtype == np.uint8


def test_a_photo_is_turned_as_exif_says(client, model):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    answer = ask(client, encode(picture(30, 60), "JPEG", exif=exif)).get_json()
    assert (answer["image_height"], answer["image_width"]) == model.seen[0].shape[:2] == (60, 30)


def test_a_large_image_is_shrunk_and_that_is_said(model):
    answer = ask(client_of(model, "--model_megapixels", "0.001"), encode(picture(40, 120))).get_json()
    assert (answer["image_height"], answer["image_width"]) == (40, 120)
    assert (answer["height"], answer["width"]) == model.seen[0].shape[:2] == (18, 54)


@pytest.mark.parametrize("height, width", [(1, 9000), (2, 90000), (9000, 1), (30, 40), (333, 77)])
def test_no_shape_goes_beyond_the_limit(height, width):
    shrunk = demo_server.shrink(np.zeros((height, width, 3), np.uint8), 1000)
    assert 0 < shrunk.shape[0] * shrunk.shape[1] <= 1000


# ---- what is refused ----------------------------------------------------------------------------------

def png_of_size(width, height):
    """A PNG file whose header states a size; the pixels are a few bytes."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9)))
            + chunk(b"IEND", b""))


@pytest.mark.parametrize("data, status, word", [
    (b"", 400, "empty"), (b"#!/bin/sh\necho hello\n", 415, "no image"), (b"<svg xmlns='x'/>", 415, "no image"),
    (b"%PDF-1.4 ", 415, "no image"), (encode(picture(), "GIF"), 415, "no image"),
    (encode(picture(), "TIFF"), 415, "no image"), (encode(picture(64, 64))[:-30], 415, "cut off"),
    (encode(picture(64, 64), "JPEG")[:400], 415, "cut off"), (encode(picture(64, 64), "WEBP")[:60], 415, "cut off"),
    (png_of_size(9000, 9000), 413, "50 million"), (png_of_size(60000, 60000), 413, "50 million"),
    (png_of_size(6000, 6000), 415, "cut off"), (encode(picture(64, 64))[:20], 415, "")],
    ids=lambda value: str(value)[:30])
def test_no_image_or_a_bad_one(client, model, data, status, word):
    found, sentence = refusal(ask(client, data))
    assert found == status and word in sentence and not model.seen


def test_a_bomb_is_refused_before_it_is_decoded(client, monkeypatch):
    bomb = encode(Image.new("1", (7200, 7200)))
    assert len(bomb) < 20000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    assert refusal(ask(client, bomb))[0] == 413


def test_a_file_that_is_too_large(model):
    client = client_of(model, "--max_mib", "0.015625")
    status, sentence = refusal(ask(client, bytes(20000)))
    assert status == 413 and "0.015625 MiB" in sentence
    assert refusal(ask(client, bytes(10000)))[0] == 415


def test_other_sites_pages_cannot_send_or_read(client):
    data = encode(picture())
    for content_type in ("image/png", "text/plain", "multipart/form-data; boundary=x",
                         "application/x-www-form-urlencoded", None):
        assert refusal(ask(client, data, content_type))[0] == 415  # all that needs no leave
    assert client.options("/segment").headers.get("Access-Control-Allow-Origin") is None
    for host in ("evil.example", "127.evil.example", "evil.example:8000", "[evil"):
        assert refusal(ask(client, data, headers={"Host": host}))[0] == 403
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert ask(client, data, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/../tools/demo_server.py", "/%2e%2e/%2e%2e/etc/passwd", "/static/x", "/segment/x",
                                  "/tools/demo_server.py", "/demo_server.html"])
def test_no_file_is_served(client, path):
    assert client.get(path).status_code == 404


def test_what_the_model_refuses_and_what_it_breaks_at(model):
    from deploy.infer import DeployError

    def refuse(image):
        raise DeployError("the model was exported for inputs of [1, 3, 64, 64]")

    def fail(image):
        raise ZeroDivisionError("division by zero at /home/someone")

    for function, status, word in ((refuse, 422, "exported for inputs"), (fail, 500, "terminal")):
        function.palette, function.class_names = model.palette, model.class_names
        found, sentence = refusal(ask(client_of(function), encode(picture())))
        assert found == status and word in sentence and "someone" not in sentence


def test_too_many_at_once_wait_and_then_are_refused(model, monkeypatch):
    monkeypatch.setattr(demo_server, "WAIT_SEC", 0.05)
    inside, release = threading.Semaphore(0), threading.Event()

    def slow(image):
        inside.release()
        release.wait(20)
        return model(image)

    slow.palette, slow.class_names = model.palette, model.class_names
    client, data = client_of(slow), encode(picture())
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(ask(client.application.test_client(), data).status_code))
               for _ in range(demo_server.AT_ONCE)]
    for thread in threads:
        thread.start()
        inside.acquire(timeout=20)
    assert refusal(ask(client, data))[0] == 503
    release.set()
    for thread in threads:
        thread.join()
    assert statuses == [200] * demo_server.AT_ONCE and ask(client, data).status_code == 200


# ---- the page -----------------------------------------------------------------------------------------

def test_the_page_needs_no_network(client):
    response = client.get("/")
    text = response.get_data(as_text=True)
    assert not re.findall(r"""(?:https?:)?//[a-z]|@import|url\(|(?:src|href)="(?!data:)""", text)
    policy = response.headers["Content-Security-Policy"]
    nonce = re.search("script-src 'nonce-([^']+)'", policy).group(1)
    assert "default-src 'none'" in policy and text.count(f'nonce="{nonce}"') == 2
    assert nonce not in client.get("/").get_data(as_text=True)
    assert "It knows 3 classes" in text and "{{" not in text


# ---- models -------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights"), QUICK)


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (8, 12, 3)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)


def exported(weights, folder):
    subprocess.run([sys.executable, "tools/export.py", "--config", QUICK, "--model_path", str(weights), "--save_dir",
                    str(folder), "--threads", "1"], cwd=ROOT, check=True, capture_output=True)
    return folder / "deploy.yaml"


def test_a_recipe_and_its_export_paint_the_same(weights, image, tmp_path):
    recipe = demo_server.parse_args(["--config", QUICK, "--model_path", str(weights), "--threads", "1"])
    export = demo_server.parse_args(["--config", str(exported(weights, tmp_path / "model")), "--threads", "1"])
    models = [demo_server.OneThread(lambda args=args: demo_server.load_model(args)) for args in (recipe, export)]
    preds = [model(image) for model in models]
    assert preds[0].shape == (64, 96) and (preds[0] != preds[1]).mean() <= 0.001
    assert len(np.unique(preds[0])) > 1
    assert models[0].class_names == models[1].class_names and models[0].class_names[0] == "road"
    np.testing.assert_array_equal(models[0].palette, models[1].palette)


def server(*flags, cwd=ROOT, **options):
    return subprocess.Popen([sys.executable, str(ROOT / "tools/demo_server.py"), *map(str, flags)], cwd=cwd, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


@pytest.fixture(scope="module")
def address(weights, tmp_path_factory):
    """A running server's address, and the folder that it could leave files in."""
    folder = tmp_path_factory.mktemp("cwd")
    process = server("--config", ROOT / QUICK, "--model_path", weights, "--port", "0", "--threads", "1", cwd=folder,
                     env={**os.environ, "TMPDIR": str(folder)})
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("open http"):
            break
    else:
        pytest.fail("".join(lines))
    yield re.search(r"http://127\.0\.0\.1:\d+", line).group(), folder
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in rest


def post(address, data):
    request = urllib.request.Request(f"{address}/segment", data, {"Content-Type": demo_server.BODY})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_over_http(address, image):
    url, folder = address
    status, answer = post(url, encode(Image.fromarray(image)))
    assert status == 200 and sum(item["share"] for item in answer["classes"]) == pytest.approx(1)
    assert post(url, b"no image")[0] == 415
    status, answer = post(url, bytes(21 << 20))
    assert status == 413 and "20 MiB" in answer["error"]  # and not a connection that breaks off
    with urllib.request.urlopen(url, timeout=60) as response:
        assert "What the network sees" in response.read().decode()
    assert list(folder.iterdir()) == []


def answer_to(port, request):
    """All that comes back on a connection of its own, which sends nothing after these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"POST /segment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
                           + request)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.mark.parametrize("body", [b"Content-Length: 1000\r\n\r\nsome", b"Content-Length: 99000000\r\n\r\nsome",
                                  b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"], ids=["slow", "large", "chunks"])
def test_a_body_that_never_ends_frees_its_place(client, monkeypatch, caplog, body):
    monkeypatch.setattr(demo_server, "SEND_SEC", 0.2)
    server = demo_server.make_server(client.application, argparse.Namespace(host="127.0.0.1", port=0))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        answers = [answer_to(server.port, body) for _ in range(demo_server.AT_ONCE + 1)]
    finally:
        server.shutdown()
        thread.join()
    said = b"413" if b"99000000" in body else b"400"
    assert all(answer.startswith(b"HTTP/1.1 " + said) for answer in answers) and "Traceback" not in caplog.text


def test_a_path_upwards_over_http(address):
    connection = http.client.HTTPConnection(address[0].removeprefix("http://"), timeout=60)
    connection.request("GET", "/../../../etc/passwd")
    assert connection.getresponse().status == 404


@pytest.mark.parametrize("flags, said", [
    (["--config", "none.yaml"], "none.yaml can't be read"),
    (["--config", QUICK], "is no deploy.yaml of tools/export.py"),
    (["--config", QUICK, "--model_path", "none.pdparams"], "none.pdparams"),
    (["--config", "x.yaml", "--opts", "a=1"], "--opts belongs to a recipe"),
    (["--config", "x.yaml", "--plugins", "mine.py"], "--plugins belongs to a recipe"),
])
def test_a_server_that_cannot_start_says_why(flags, said):
    process = server(*flags, "--port", "0")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode in (1, 2) and said in printed and "Traceback" not in printed


def test_a_port_that_is_taken(address, model):
    args = argparse.Namespace(host="127.0.0.1", port=int(address[0].rpartition(":")[2]))
    with pytest.raises(demo_server.RunError, match="--port .* in use; --port 0 takes a free one"):
        demo_server.make_server(None, args)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_listens_where_it_is_told(client, host):
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        pytest.skip(f"this machine has no {host}")
    server = demo_server.make_server(client.application, argparse.Namespace(host=host, port=0))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
        assert post(url, encode(picture()))[0] == 200
    finally:
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host, expected", [("127.0.0.1", True), ("localhost", True), ("::1", True),
                                            ("0.0.0.0", False), ("192.168.1.5", False)])
def test_loopback(host, expected):
    assert demo_server.is_loopback(host) == expected
    assert demo_server.parse_args(["--config", "x"]).host == "127.0.0.1"
