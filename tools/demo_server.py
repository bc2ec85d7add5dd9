"""A web page that paints the classes of any image dropped on it.

    python tools/demo_server.py --config output/inference_model/deploy.yaml
    python tools/demo_server.py --config configs/quick_start/encnet_resnet18_scenes.yml \\
        --model_path output/demo/best_model/model.pdparams --port 8080

The first form runs what tools/export.py wrote, the second a recipe with trained weights. Open the address that it
prints. Only this machine can reach it unless --host says otherwise; it has no password. Images stay in memory and no
file is written. A photo is turned as its EXIF orientation says, which predict.py doesn't do. Needs Flask:
pip install flask

Programs may ask too; the answer is JSON:

    curl --data-binary @street.jpg -H 'Content-Type: application/octet-stream' http://127.0.0.1:8000/segment
"""

import argparse
import base64
import contextlib
import io
import re
import secrets
import signal
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Sequence
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError, RunError, SegError
from paddleseg.utils.cli import add_debug_flag, add_plugins_flag, run_main

BODY = "application/octet-stream"  # no other site's page may send it here without asking first, which is never granted
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
AT_ONCE = 4  # images in memory
WAIT_SEC = 60
CUT_OFF = "The file arrived cut off, or too slowly; send it again."
SEND_SEC = 120  # that an image may take to arrive; a client that sends byte by byte would hold one of the places


class Refused(Exception):
    """An image isn't taken: an HTTP status, and a sentence for the person who sent it."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="FILE",
                        help="the deploy.yaml of an exported model or, with --model_path, a recipe")
    parser.add_argument("--model_path", metavar="FILE", help="the weights to a recipe")
    parser.add_argument("--opts", nargs="+", action="extend", metavar="KEY=VALUE", default=[],
                        help="override values of the recipe, such as test_config.is_slide=True")
    parser.add_argument("--device", choices=["cpu", "gpu"], help="default: the recipe's; cpu for an exported model")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores that it may use)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--max_mib", type=float, default=20, metavar="X",
                        help="larger files are refused (default: %(default)s MiB)")
    parser.add_argument("--max_megapixels", type=float, default=50, metavar="X",
                        help="images of more pixels are refused (default: %(default)s million)")
    parser.add_argument("--model_megapixels", type=float, default=2.1, metavar="X",
                        help="images of more pixels are shrunk to as many (default: %(default)s million, 1024x2048)")
    add_plugins_flag(parser)
    add_debug_flag(parser)
    args = parser.parse_args(argv)
    for name in ("max_mib", "max_megapixels", "model_megapixels"):
        if not 0 < getattr(args, name) <= 1000:
            parser.error(f"--{name} must be above 0 and at most 1000")
    if not 0 <= args.port <= 65535:
        parser.error("--port must be from 0 to 65535")
    return args


# ---- models -------------------------------------------------------------------------------------------

class TrainedModel:
    """A recipe with weights, as deploy.infer.Predictor is an exported model.

    Raises:
        SegError: the recipe or the weights can't be used.
    """

    def __init__(self, args: argparse.Namespace):
        from paddleseg import builder
        from paddleseg.utils import device

        config = builder.read_config(args, builder.INFERENCE)
        options = builder.build_train_options(config)
        device.start_process(options.device, options.threads)
        self.model = builder.build_trained_model(config, args.model_path)
        self.transforms = builder.build_val_transforms(config)
        self.infer_options = builder.build_infer_options(config)
        self.palette = builder.dataset_palette(config)
        self.class_names = builder.dataset_class_names(config)

    def __call__(self, image):
        """Class indices (H, W) of an RGB image, uint8 (H, W, 3)."""
        import paddle

        from paddleseg.core.infer import predict_classes
        from paddleseg.core.val import evaluation_mode

        sample = self.transforms({"img": image, "path": "the image"})
        with evaluation_mode(self.model):
            tensor = paddle.to_tensor(sample["img"][None])
            return predict_classes(self.model, tensor, sample["trans_info"], self.infer_options).numpy()


def load_model(args: argparse.Namespace):
    """The model that the flags mean.

    Raises:
        SegError: naming the file at fault.
    """
    from deploy.infer import DeployError, Predictor

    if args.model_path is not None:
        return TrainedModel(args)
    for flag in ("opts", "plugins"):
        if getattr(args, flag):
            raise ConfigError(f"--{flag} belongs to a recipe, which needs --model_path; an exported model is as it is")
    try:
        return Predictor(args.config, args.device or "cpu", args.threads)
    except DeployError as error:
        raise RunError(f"{error}; a recipe needs --model_path") from error


class OneThread:
    """A model that is built and run by one thread, whoever asks; Paddle's state is each thread's own.

    Args:
        build: makes the model: callable, with `palette` and `class_names`.
    """

    def __init__(self, build: Callable):
        self._thread = ThreadPoolExecutor(1)
        self._model = self._thread.submit(build).result()
        self.palette, self.class_names = self._model.palette, self._model.class_names

    def __call__(self, image):
        return self._thread.submit(self._model, image).result()


# ---- images -------------------------------------------------------------------------------------------

def decode(data: bytes, max_pixels: float):
    """uint8 (H, W, 3) RGB of an image file, as people see it: 16 bits reduced to 8, turned as EXIF says.

    The size is looked at before anything is decoded.

    Raises:
        Refused: it is no image, a damaged one, or of too many pixels.
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    too_large = Refused(413, f"The image has more than {max_pixels / 1e6:g} million pixels; make it smaller.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of it is refused here
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            if picture.width * picture.height > max_pixels:
                raise too_large
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):
                grey = (np.asarray(picture) >> 8).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.array(picture.convert("RGB"))  # a copy, as Pillow's own can't be written to
    except UnidentifiedImageError as error:
        raise Refused(415, f"This is no image of a kind that is read here ({', '.join(FORMATS)}).") from error
    except Image.DecompressionBombError as error:
        raise too_large from error
    except Refused:
        raise
    except Exception as error:  # on damaged data, Pillow's decoders raise anything
        raise Refused(415, "The image is cut off or damaged.") from error


def shrink(image, max_pixels: float):
    """The image with at most so many pixels, its proportions kept."""
    import cv2

    height, width = image.shape[:2]
    scale = (max_pixels / (height * width)) ** 0.5
    if scale >= 1:
        return image
    size = [max(1, int(side * scale)) for side in (width, height)]
    size = [max(1, min(side, int(max_pixels / other))) for side, other in zip(size, size[::-1])]  # of a mere line
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def describe(pred, palette, class_names: Sequence[str]) -> Dict:
    """What the page shows of class indices (H, W): the colours as a PNG, and the classes by their share of pixels."""
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(palette[pred]).save(file, "PNG", compress_level=1)
    counts = np.bincount(pred.ravel(), minlength=len(class_names))
    classes = [{"name": class_names[index], "color": "#" + bytes(palette[index]).hex(),
                "share": counts[index] / pred.size} for index in np.argsort(-counts, kind="stable") if counts[index]]
    return {"height": pred.shape[0], "width": pred.shape[1], "classes": classes,
            "mask": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()}


def segment(model: Callable, data: bytes, args: argparse.Namespace) -> Dict:
    """The answer to an image file.

    Raises:
        Refused: the image, or what the model makes of it, is no good.
    """
    from deploy.infer import DeployError

    if not data:
        raise Refused(400, "The file is empty.")
    start, image = time.perf_counter(), decode(data, args.max_megapixels * 1e6)
    shrunk = shrink(image, args.model_megapixels * 1e6)
    try:
        pred = model(shrunk)
    except (DeployError, SegError) as error:
        raise Refused(422, f"The model can't take this image: {error}.") from error
    answer = describe(pred, model.palette, model.class_names)
    return {**answer, "seconds": time.perf_counter() - start, "image_height": image.shape[0],
            "image_width": image.shape[1]}


# ---- the server ---------------------------------------------------------------------------------------

def import_flask():
    try:
        import flask
    except ImportError as error:
        raise RunError(f"the page needs Flask, which can't be imported ({error}): pip install flask") from error
    return flask


@contextlib.contextmanager
def place(places: threading.Semaphore) -> Iterator[None]:
    """One of the places for images; Refused if none gets free in time."""
    if not places.acquire(timeout=WAIT_SEC):
        raise Refused(503, "Too many images are waiting; try again in a minute.")
    try:
        yield
    finally:
        places.release()


@contextlib.contextmanager
def hurried(connection) -> Iterator[None]:
    """Inside, a client that takes longer than SEND_SEC to send is not listened to any more.

    Args:
        connection: its socket, or None where there is none.
    """
    import socket

    def hang_up():
        with contextlib.suppress(OSError):
            if connection is not None:
                connection.shutdown(socket.SHUT_RD)

    timer = threading.Timer(SEND_SEC, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def read_body(request, max_bytes: int) -> bytes:
    """The bytes that were sent.

    Raises:
        Refused: too many, or something else than a file's bytes.
    """
    if request.mimetype != BODY:
        raise Refused(415, f"Send the image's bytes, with the header Content-Type: {BODY}.")
    too_large = Refused(413, f"The file is larger than {max_bytes / 2 ** 20:g} MiB; make it smaller.")
    try:
        if (request.content_length or 0) > max_bytes:
            # A browser shows the answer only after it has sent all, within reason.
            left = min(request.content_length, 8 * max_bytes)
            while left > 0 and (chunk := request.environ["wsgi.input"].read(min(left, 1 << 16))):
                left -= len(chunk)
            raise too_large
        data = request.stream.read(max_bytes + 1)
    except OSError as error:  # silence, or a body that isn't what its headers say
        raise Refused(400, CUT_OFF) from error
    if len(data) > max_bytes:
        raise too_large
    if len(data) < (request.content_length or 0):
        raise Refused(400, CUT_OFF)
    return data


def make_app(model: Callable, args: argparse.Namespace):
    """The page at / and what it asks, POST /segment; nothing else is served, least of all files.

    Args:
        model: gives class indices (H, W) of an RGB image (H, W, 3); has `palette` and `class_names`.
    """
    flask = import_flask()
    from werkzeug.exceptions import HTTPException

    app = flask.Flask("demo_server", static_folder=None, template_folder=str(Path(__file__).resolve().parent))
    max_bytes, places = int(args.max_mib * 2 ** 20), threading.BoundedSemaphore(AT_ONCE)

    @app.before_request
    def check_name():
        if is_loopback(args.host) and not is_loopback(name_in(flask.request.headers.get("Host", ""))):
            # Another site's name that leads here would let that site's page read the answers.
            raise Refused(403, "This page answers under the names of this machine alone, such as localhost.")

    @app.get("/")
    def page():
        nonce = secrets.token_urlsafe(16)
        response = flask.make_response(flask.render_template(
            "demo_server.html", nonce=nonce, max_bytes=max_bytes, body=BODY, num_classes=len(model.class_names),
            max_mib=args.max_mib, kinds=", ".join(FORMATS),
            accept=",".join(f"image/{name.lower()}" for name in FORMATS)))
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data: blob:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
        return response

    @app.post("/segment")
    def answer():
        with place(places):
            with hurried(flask.request.environ.get("werkzeug.socket")):
                data = read_body(flask.request, max_bytes)
            return segment(model, data, args)

    @app.errorhandler(Refused)
    def refused(error):
        return {"error": str(error)}, error.status

    @app.errorhandler(HTTPException)
    def no_such_page(error):
        return {"error": error.description}, error.code

    @app.errorhandler(Exception)
    def fault(error):
        app.logger.exception("an image couldn't be answered")
        return {"error": "Something went wrong here; the server's terminal says what."}, 500

    @app.after_request
    def guard(response):
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response

    return app


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host) is not None


def name_in(address: str) -> str:
    """The name or number in NAME:PORT; empty if there is none."""
    try:
        return urlsplit(f"//{address}").hostname or ""
    except ValueError:
        return ""


def make_server(app, args: argparse.Namespace):
    """A server that listens already; one thread for each request.

    Raises:
        RunError: it can't listen there.
    """
    import socket

    from werkzeug.serving import WSGIRequestHandler
    from werkzeug.serving import make_server as make

    class Handler(WSGIRequestHandler):
        timeout = 60  # seconds without a byte; a silent client would hold one of the places

    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((args.host, args.port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise RunError(f"--host {args.host} --port {args.port}: {error.strerror}; --port 0 takes a free one") from error
    with listening:  # the server listens at a copy of it
        return make(args.host, args.port, app, threaded=True, request_handler=Handler, fd=listening.fileno())


def interrupt(number, frame) -> None:
    raise KeyboardInterrupt


def main(args: argparse.Namespace) -> int:
    from paddleseg.utils import logger

    import_flask()
    logger.setup_logging(0)
    model = OneThread(lambda: load_model(args))
    signal.signal(signal.SIGTERM, interrupt)  # Paddle's handler reports a crash
    server = make_server(make_app(model, args), args)
    if not is_loopback(args.host):
        logger.warning(f"--host {args.host}: whoever reaches this address can use the page, without a password")
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"open http://{host}:{server.port}/   (Ctrl-C ends)", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, parse_args()))
