"""A web page that shows the classes a network sees in any image dropped on it.

    python tools/demo_server.py --config output/inference_model/deploy.yaml
    python tools/demo_server.py --config configs/quick_start/encnet_resnet18_scenes.yml \\
        --model_path output/demo/best_model/model.pdparams --port 8080

The first form runs what tools/export.py wrote, the second a config with trained weights. Open the address that it
prints. Only this machine can reach it unless --host says otherwise; it has no password. No image is kept. A photo is
turned as its EXIF orientation says, which predict.py doesn't do. Needs Flask: pip install flask

Programs may ask too; the answer is JSON:

    curl --data-binary @street.jpg http://127.0.0.1:8000/segment
"""

import argparse
import base64
import io
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.cvlibs.errors import ConfigError, ImageReadError, RunError, SegError
from paddleseg.utils.cli import add_debug_flag, add_plugins_flag, run_main

MAX_REQUESTS = 32  # at the same time, each with a file in memory
SILENCE_SEC = 30  # after which a connection is given up
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="FILE",
                        help="the deploy.yaml of an exported model or, with --model_path, a config")
    parser.add_argument("--model_path", metavar="FILE", help="the weights to a config")
    parser.add_argument("--opts", nargs="+", action="extend", metavar="KEY=VALUE", default=[],
                        help="override values of the config, such as test_config.is_slide=True")
    parser.add_argument("--device", choices=["cpu", "gpu"], help="default: the config's; cpu for an exported model")
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

class TrainedModel:
    """A config with weights, called as deploy.infer.Predictor is.

    Raises:
        SegError: the config or the weights can't be used.
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


def load_model(args: argparse.Namespace) -> Callable:
    """Load the model that the flags name: callable, with `palette` and `class_names`.

    Raises:
        SegError: naming the bad file.
    """
    from deploy.infer import DeployError, Predictor

    if args.model_path is not None:
        return TrainedModel(args)
    for flag in ("opts", "plugins"):
        if getattr(args, flag):
            raise ConfigError(f"--{flag} belongs to a config, which needs --model_path; an exported model is as it is")
    try:
        return Predictor(args.config, args.device or "cpu", args.threads)
    except DeployError as error:
        raise RunError(f"{error}; a config needs --model_path") from error

def decode(data: bytes, max_pixels: float):
    """Decode an image file to uint8 (H, W, 3) RGB, turned as EXIF says; of too many pixels, only its header is read.

    Raises:
        HTTPException: it is no image, a damaged one, or too large.
    """
    import numpy as np
    from PIL import Image, ImageOps
    from werkzeug.exceptions import abort

    from paddleseg.transforms import image_io

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            height, width = image_io.image_size(file.name)
            if height * width > max_pixels:
                abort(413, f"The image has more than {max_pixels / 1e6:g} million pixels; make it smaller.")
            image = image_io.read_image(file.name)
        except ImageReadError as error:
            abort(415, str(error).replace(file.name, "The image") + ".")
        if image_io.has_exif_rotation(file.name):
            turned = Image.fromarray(image)
            with Image.open(file.name) as picture:
                turned.getexif().update(picture.getexif())
            image = np.array(ImageOps.exif_transpose(turned))
        return image


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


def segment(model: Callable, data: bytes, args: argparse.Namespace) -> Dict:
    """Answer an image file: the colors as a PNG, and the classes by their share of the pixels.

    Raises:
        HTTPException: the image, or what the model makes of it, is no good.
    """
    import numpy as np
    from PIL import Image
    from werkzeug.exceptions import abort

    from deploy.infer import DeployError

    start, image = time.perf_counter(), decode(data, args.max_megapixels * 1e6)
    try:
        pred = model(shrink(image, args.model_megapixels * 1e6))
    except (DeployError, SegError) as error:
        abort(422, f"The model can't take this image: {error}.")
    mask = io.BytesIO()
    Image.fromarray(model.palette[pred]).save(mask, "PNG", compress_level=1)
    counts = np.bincount(pred.ravel(), minlength=len(model.class_names))
    classes = [{"name": model.class_names[index], "color": "#" + bytes(model.palette[index]).hex(),
                "share": counts[index] / pred.size} for index in np.argsort(-counts, kind="stable") if counts[index]]
    return {"height": pred.shape[0], "width": pred.shape[1], "image_height": image.shape[0],
            "image_width": image.shape[1], "classes": classes, "seconds": time.perf_counter() - start,
            "mask": "data:image/png;base64," + base64.b64encode(mask.getvalue()).decode()}

def import_flask():
    try:
        import flask
    except ImportError as error:
        raise RunError(f"the page needs Flask, which can't be imported ({error}): pip install flask") from error
    return flask


def make_app(model: Callable, args: argparse.Namespace, worker: ThreadPoolExecutor):
    """Make the page at / and its answers, POST /segment.

    Args:
        model: gives class indices (H, W) of an RGB image (H, W, 3); has `palette` and `class_names`.
        worker: of one thread, the one that built the model: Paddle's state is each thread's own.
    """
    flask = import_flask()
    from werkzeug.exceptions import HTTPException, abort

    app = flask.Flask("demo_server", static_folder=None, template_folder=str(Path(__file__).resolve().parent))
    app.config["MAX_CONTENT_LENGTH"] = int(args.max_mib * 2 ** 20)
    places = threading.BoundedSemaphore(MAX_REQUESTS)

    @app.get("/")
    def page():
        return flask.render_template("demo_server.html", num_classes=len(model.class_names), max_mib=args.max_mib)

    @app.post("/segment")
    def answer():
        if not places.acquire(blocking=False):
            abort(503, "Too many images are waiting; try again in a minute.")
        try:
            return worker.submit(segment, model, flask.request.get_data(), args).result()
        finally:
            places.release()

    @app.errorhandler(HTTPException)
    def refuse(error):
        return {"error": error.description}, error.code

    @app.errorhandler(Exception)
    def report_fault(error):
        app.logger.exception("an image couldn't be answered")
        return {"error": "Something went wrong here; the server's terminal says what."}, 500

    return app


def make_server(app, args: argparse.Namespace):
    """Make a server that listens already, with a thread for each request."""
    from werkzeug import serving

    class Handler(serving.WSGIRequestHandler):
        timeout = SILENCE_SEC

    return serving.make_server(args.host, args.port, app, threaded=True, request_handler=Handler)


def main(args: argparse.Namespace) -> int:
    from paddleseg.utils import logger

    import_flask()
    logger.setup_logging(0)
    worker = ThreadPoolExecutor(1)
    model = worker.submit(load_model, args).result()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Paddle's handler reports a crash
    server = make_server(make_app(model, args, worker), args)
    if args.host not in LOOPBACK:
        logger.warning(f"--host {args.host}: whoever reaches this address can use the page, without a password")
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"open http://{host}:{server.port}/   (Ctrl-C ends)", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, parse_args()))
