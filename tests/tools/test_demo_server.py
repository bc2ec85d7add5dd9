import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fake_weights import make_weights
from odd_images import state_size
from PIL import Image

from tools import demo_server, export

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
    args = demo_server.parse_args(["--config", "x", *flags])
    return demo_server.make_app(model, args, ThreadPoolExecutor(1)).test_client()


def encode(height=4, width=6, kind="PNG", mode="RGB", **options):
    """An image file whose left third is bright."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, :width // 3] = 200
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode, dither=Image.Dither.NONE).save(file, kind, **options)
    return file.getvalue()


def ask(client, data):
    return client.post("/segment", data=data)


def refusal(response):
    """Status and sentence of a refusal, which is a line of plain text."""
    sentence = response.get_json()["error"]
    assert sentence[0].isupper() and sentence.endswith(".") and "\n" not in sentence and "/tmp" not in sentence
    return response.status_code, sentence


@pytest.mark.parametrize("kind, mode", [("PNG", "RGB"), ("PNG", "L"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("BMP", "RGB"),
                                        ("WEBP", "RGB")])
def test_classes_and_mask(client, kind, mode):
    answer = ask(client, encode(48, 96, kind, mode)).get_json()
    assert [(item["name"], item["color"]) for item in answer["classes"]] == [("dark <b>", "#000000"),
                                                                             ("bright", "#fa8001")]
    assert [item["share"] for item in answer["classes"]] == pytest.approx([2 / 3, 1 / 3], abs=0.01)
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["mask"].partition(",")[2]))))
    assert mask.shape == (48, 96, 3) and (answer["height"], answer["width"]) == (48, 96)
    assert mask[5, 3].tolist() == [250, 128, 1] and mask[5, 90].tolist() == [0, 0, 0]


@pytest.mark.parametrize("height, width, limit", [(40, 120, 1000), (1, 9000, 1000), (30, 40, 10000)])
def test_a_large_image_is_shrunk_and_that_is_said(model, height, width, limit):
    answer = ask(client_of(model, "--model_megapixels", str(limit / 1e6)), encode(height, width)).get_json()
    assert (answer["image_height"], answer["image_width"]) == (height, width)
    assert (answer["height"], answer["width"]) == model.seen[0].shape[:2]
    assert 0 < answer["height"] * answer["width"] <= limit


@pytest.mark.parametrize("data, status", [
    (b"", 415), (b"<svg xmlns='x'/>", 415), (encode(64, 64)[:-30], 415), (encode(64, 64, "JPEG")[:400], 415),
    (encode(64, 64)[:20], 415), (state_size("png", 9000, 9000), 413), (bytes(21 << 20), 413)],
    ids=lambda value: str(value)[:30])
def test_no_image_or_a_bad_one(client, model, data, status):
    """Send files that are no image, or whose header claims too many pixels."""
    assert refusal(ask(client, data))[0] == status and not model.seen


def test_what_the_model_refuses_and_what_it_breaks_at(model):
    from deploy.infer import DeployError

    def refuse(image):
        raise DeployError("the model was exported for inputs of [1, 3, 64, 64]")

    def fail(image):
        raise ZeroDivisionError("division by zero at /home/someone")

    for function, status, word in ((refuse, 422, "exported for inputs"), (fail, 500, "terminal")):
        function.palette, function.class_names = model.palette, model.class_names
        found, sentence = refusal(ask(client_of(function), encode()))
        assert found == status and word in sentence and "someone" not in sentence


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A running server's address, and the folder that it could leave files in."""
    weights, folder = make_weights(tmp_path_factory.mktemp("weights"), QUICK), tmp_path_factory.mktemp("cwd")
    command = [sys.executable, ROOT / "tools/demo_server.py", "--config", ROOT / QUICK, "--model_path", weights,
               "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env={**os.environ, "TMPDIR": str(folder)})
    lines = []
    while not lines or not lines[-1].startswith("open http"):
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)
    yield re.search(r"http://127\.0\.0\.1:\d+", lines[-1]).group(), folder
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in rest


def post(address, data):
    request = urllib.request.Request(f"{address}/segment", data, {"Content-Type": "application/octet-stream"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_over_http(address):
    url, folder = address
    status, answer = post(url, encode(64, 96))
    assert status == 200 and sum(item["share"] for item in answer["classes"]) == pytest.approx(1)
    assert post(url, b"no image")[0] == 415
    assert post(url, bytes(21 << 20))[0] == 413  # and not a connection that breaks off
    with urllib.request.urlopen(url, timeout=60) as response:
        assert "What the network sees" in response.read().decode()
    assert list(folder.iterdir()) == []


def test_a_config_and_its_export_label_the_same(tmp_path, monkeypatch):
    small = ["model.backbone.base_channels=4", "model.mid_channels=8", "model.num_codes=4"]
    config = ["--config", QUICK, "--model_path", str(make_weights(tmp_path, QUICK, small)), "--threads", "1", "--opts",
              *small]
    monkeypatch.setattr(export, "CHECK_SHAPES", ((2, 3, 40, 64),))
    assert export.main(export.parse_args([*config, "--save_dir", str(tmp_path / "model")])) == 0
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    models = [demo_server.load_model(demo_server.parse_args(flags)) for flags in (
        config, ["--config", str(tmp_path / "model" / "deploy.yaml"), "--threads", "1"])]
    preds = [model(image) for model in models]
    assert preds[0].shape == (64, 96) and (preds[0] != preds[1]).mean() <= 0.001 and len(np.unique(preds[0])) > 1
    assert models[0].class_names == models[1].class_names and models[0].class_names[0] == "road"
    np.testing.assert_array_equal(models[0].palette, models[1].palette)


@pytest.mark.parametrize("flags, said", [
    (["--config", "none.yaml"], "none.yaml"), (["--config", QUICK], "deploy.yaml"),
    (["--config", QUICK, "--model_path", "none.pdparams"], "none.pdparams"),
    (["--config", "x.yaml", "--opts", "a=1"], "--opts")])
def test_a_server_that_cannot_start_says_why(flags, said, capsys):
    args = demo_server.parse_args([*flags, "--port", "0"])
    assert demo_server.run_main(demo_server.main, args) in (1, 2)
    assert said in capsys.readouterr().err
