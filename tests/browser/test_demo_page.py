"""The page of tools/demo_server.py in a real browser: images are dropped on it as a person does."""

import base64
import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from chromium import DESKTOP, Loaded, chromium, needs_chromium
from PIL import Image

from tools import demo_server

flask = pytest.importorskip("flask", reason="the page needs Flask: pip install flask")
pytestmark = needs_chromium

NARROW = (500, 2600)  # no window can be narrower

# Runs in the page: drops files one after the other, and sends what the page shows of each. The browser ends when all is
# loaded, and /held loads no sooner than that was sent.
PROBE = """<script>
const until = async condition => { while (!condition()) await new Promise(go => setTimeout(go, 20)); };
const at2 = id => document.getElementById(id);
async function drop(name, base64) {
  const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0)), items = new DataTransfer();
  items.items.add(new File([bytes], name));
  at2("said").textContent = "";
  at2("drop").dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: items}));
  await until(() => !["", "looking …"].includes(at2("said").textContent));
  const hidden = at2("result").hidden, image = at2("image"), mask = at2("mask");
  if (!hidden) await Promise.all([image.decode(), mask.decode()]);
  return {said: at2("said").textContent, isError: at2("said").className === "error", hidden,
    legend: [...at2("legend").rows].map(row => [...row.cells].map(cell => cell.textContent)),
    colors: [...document.querySelectorAll(".swatch")].map(swatch => getComputedStyle(swatch).backgroundColor),
    natural: [image.naturalWidth, image.naturalHeight, mask.naturalWidth, mask.naturalHeight],
    sides: [image, mask].map(it => it.getBoundingClientRect()).map(box => [box.x, box.y, box.width, box.height]),
    page: document.documentElement.scrollWidth, window: innerWidth};
}
(async () => {
  const answer = [];
  for (const [name, base64] of %s) answer.push(await drop(name, base64));
  const fade = value => {
    at2("opacity").value = value;
    at2("opacity").dispatchEvent(new Event("input"));
    return getComputedStyle(at2("mask")).opacity;
  };
  const opacity = [getComputedStyle(at2("mask")).opacity, fade(0), fade(100)];
  await fetch("answer", {method: "POST", body: JSON.stringify({answer, opacity})});
})();
</script><script src="held"></script>"""


def by_brightness(image):
    """Class 1 where the red channel is above 127, else class 0."""
    return (image[:, :, 0] > 127).astype(np.uint8)


by_brightness.palette = np.array([[0, 0, 200], [250, 128, 1], [9, 9, 9]], np.uint8)
by_brightness.class_names = ["dark <b>", "bright", "absent"]


def image_file(width, height, kind="PNG", **options):
    """The left quarter is bright."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :width // 4] = 200
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def show(files, folder, size=DESKTOP, *flags):
    """Drop files, pairs of a name and bytes, on a running page.

    Returns: what was shown of each file, with the opacities that the slider gives; and the console's lines.
    """
    args = demo_server.parse_args(["--config", "x", "--port", "0", *flags])
    app = demo_server.make_app(by_brightness, args, ThreadPoolExecutor(1))
    encoded = json.dumps([[name, base64.b64encode(data).decode()] for name, data in files])
    sent, answers = threading.Event(), []

    @app.post("/answer")
    def take():
        answers.append(flask.request.get_json(force=True))
        sent.set()
        return ""

    @app.get("/held")
    def held():
        sent.wait(60)
        return "", {"Content-Type": "text/javascript"}

    @app.after_request
    def probe(response):
        if response.mimetype == "text/html":
            text = response.get_data(as_text=True)
            response.set_data(text.replace("</body>", PROBE % encoded + "</body>"))
        return response

    server = demo_server.make_server(app, args)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        done = chromium("--dump-dom", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                        f"http://127.0.0.1:{server.port}/", size=size, profile=folder / "profile")
    finally:
        server.shutdown()
        thread.join()
    assert answers, done.stdout[-500:] + done.stderr[-2000:]
    return Loaded(answers[0], re.findall(r"CONSOLE[^\]]*\] (.*)", done.stderr))


@pytest.mark.parametrize("size", [DESKTOP, NARROW], ids=["wide", "narrow"])
def test_overlay_and_legend(tmp_path, size):
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    loaded = show([("a b.png", image_file(96, 48)), ("é.jpg", image_file(64, 32, "JPEG", exif=turned, quality=95))],
                  tmp_path, size)
    assert loaded.console == []
    first, second = loaded.answer["answer"]
    assert first["said"].startswith("96 × 48 pixels") and not first["isError"] and not first["hidden"]
    assert first["legend"] == [["", "dark <b>", "75.0 %"], ["", "bright", "25.0 %"]]
    assert first["colors"] == ["rgb(0, 0, 200)", "rgb(250, 128, 1)"]
    assert first["natural"] == [96, 48, 96, 48]
    assert second["said"].startswith("32 × 64 pixels") and second["natural"] == [32, 64, 32, 64]
    for shown in (first, second):
        assert shown["sides"][0] == pytest.approx(shown["sides"][1], abs=0.5) and shown["sides"][0][2] > 100
        assert shown["page"] <= shown["window"] == size[0]
    assert loaded.answer["opacity"] == ["0.5", "0", "1"]


def test_what_is_refused_is_said_and_nothing_old_is_shown(tmp_path):
    files = [("a.png", image_file(96, 48)), ("notes.txt", b"no image"), ("large.png", bytes(40000)),
             ("again.png", image_file(401, 99))]
    loaded = show(files, tmp_path, DESKTOP, "--max_mib", "0.03125", "--model_megapixels", "0.01")
    first, text, large, again = loaded.answer["answer"]
    assert [shown["hidden"] for shown in (first, text, large, again)] == [False, True, True, False]
    assert text["isError"] and "PNG" in text["said"]
    assert large["isError"] and "0.03125 MiB" in large["said"]
    assert not again["isError"] and again["said"].endswith("; shrunk to 201 × 49 for the network")
    assert again["natural"] == [401, 99, 201, 49] and again["sides"][0] == pytest.approx(again["sides"][1], abs=0.5)
    assert [line for line in loaded.console if "status of 415" not in line] == []  # the browser's own word on the text
