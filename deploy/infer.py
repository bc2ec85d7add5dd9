"""Write the classes that an exported model sees in images; needs none of the training code.

    python deploy/infer.py --config output/inference_model/deploy.yaml --image_path street.png --save_dir output/result
    … --device gpu
    … --threads 4 --backend native

deploy.yaml and the files beside it are what tools/export.py writes. Each image gives an overlay (added_prediction/), a
colour map (pseudo_color_prediction/) and the class indices (label/), as predict.py's. This file needs NumPy, OpenCV,
Pillow and PyYAML, and Paddle or ONNX Runtime, whichever the model was exported for.

Letters: N images, C classes, H, W size of the image. Sizes are (height, width).
"""

import argparse
import hashlib
import io
import os
import re
import sys
import traceback
import warnings
from collections import Counter
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import yaml
from PIL import Image, UnidentifiedImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
KNOWN_START = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|BM|II[*+]\0|MM\0[*+]|RIFF....WEBP|P[1-6]\s", re.DOTALL)
PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
MAX_PIXELS = 1 << 27
BACKENDS = {"paddle": ("onednn", "native"), "onnx": ("onnxruntime",)}
INTERPOLATIONS = {"NEAREST": cv2.INTER_NEAREST, "LINEAR": cv2.INTER_LINEAR, "CUBIC": cv2.INTER_CUBIC,
                  "AREA": cv2.INTER_AREA, "LANCZOS4": cv2.INTER_LANCZOS4}
Change = Tuple[str, Tuple[int, int]]  # "resize" or "padding", and the (height, width) before it
Run = Callable[[np.ndarray], np.ndarray]


class DeployError(Exception):
    """An error that a person at the command line can act on, in one line."""


DataError = DeployError  # the toolkit's name in the copies at the end


# ---- what deploy.yaml says ----------------------------------------------------------------------------

def read_description(path: str) -> Dict:
    """The `Deploy` section of a deploy.yaml, whose files are there and undamaged.

    Raises:
        DeployError: naming the bad file.
    """
    try:
        with open(path, encoding="utf-8") as file:
            section = yaml.safe_load(file)["Deploy"]
        named = [section["model"], *([section["params"]] if section["format"] == "paddle" else [])]
        checksums = {name: section["sha256"][name] for name in named}
        if section["format"] not in BACKENDS:
            raise KeyError(f"format {section['format']}")
    except OSError as error:
        raise DeployError(f"{path} can't be read: {error.strerror}; tools/export.py writes it") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise DeployError(f"{path} is no deploy.yaml of tools/export.py ({type(error).__name__}: "
                          f"{' '.join(str(error).split())}); export the model again") from error
    for name, expected in checksums.items():
        file = os.path.join(os.path.dirname(path), name)
        if not os.path.isfile(file):
            raise DeployError(f"{file} is missing; {path} names it")
        if sha256(file) != expected:
            raise DeployError(f"{file} is damaged: it isn't the file whose checksum {path} holds")
    return section


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# ---- runtimes -----------------------------------------------------------------------------------------

def load_graph(folder: str, section: Dict, device: str = "cpu", threads: Optional[int] = None,
               backend: str = "auto") -> Run:
    """The exported graph as a function from images (N, 3, H, W) float32 to its output.

    Args:
        folder: of the files that `section`, the description, names.
        threads: on the CPU; None for all cores that the process may use.
        backend: onednn or native, the kernels of Paddle Inference on a CPU; onnxruntime; auto for the fastest one that
            tools/export.py found to compute correctly.

    Raises:
        DeployError: the runtime is missing, or isn't of this model.
    """
    known = BACKENDS[section["format"]]
    if backend == "auto":
        backend = known[0] if section.get("onednn", True) else "native"
    if backend not in known:
        raise DeployError(f"--backend {backend} doesn't run a model of format {section['format']}; choose from "
                          f"{', '.join(known)}, or export it for another --format")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    start = onnx_session if backend == "onnxruntime" else paddle_predictor
    return start(folder, section, device, threads or cores, backend)


def paddle_predictor(folder: str, section: Dict, device: str, threads: int, backend: str) -> Run:
    # Paddle's import sets this variable to 1, where it is unset, for all libraries of the process.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        import paddle
        import paddle.inference as inference
    except ImportError as error:
        raise DeployError(f"Paddle can't be imported ({error}): pip install paddlepaddle=={section['paddle']}, or "
                          f"paddlepaddle-gpu") from error
    is_new = int(paddle.__version__.split(".")[0]) >= 3
    if section["model"].endswith(".json") and not is_new:
        raise DeployError(f"{section['model']} is of Paddle {section['paddle']}, and this Paddle {paddle.__version__} "
                          f"can't read it; install Paddle 3, or export the model with this one")
    config = inference.Config(*(os.path.join(folder, section[key]) for key in ("model", "params")))
    config.disable_glog_info()
    if device == "gpu":
        if not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count()):
            raise DeployError(f"--device gpu: this Paddle {paddle.__version__} sees no GPU; use --device cpu")
        config.enable_use_gpu(512, 0)  # MB to begin with
        # TF32 would round the factors of products to 10 bits, too few for the Encoding layer's squared distances.
        paddle.base.core.set_cublas_switch(False)
    else:
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads)
        # Paddle 2 has these under oneDNN's old name.
        enable, disable = ((config.enable_onednn, config.disable_onednn) if is_new else
                           (config.enable_mkldnn, config.disable_mkldnn))
        (enable if backend == "onednn" else disable)()
    if not is_new:
        config.enable_memory_optim()  # less memory; Paddle 3.3 can't start with it
    predictor = inference.create_predictor(config)
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    target = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(images: np.ndarray) -> np.ndarray:
        source.copy_from_cpu(np.ascontiguousarray(images, np.float32))
        predictor.run()
        return target.copy_to_cpu()

    return run


def onnx_session(folder: str, section: Dict, device: str, threads: int, backend: str) -> Run:
    if device == "gpu":  # no TF32, see `paddle_predictor`; NVIDIA's libraries read this when they are loaded
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    try:
        import onnxruntime
    except ImportError as error:
        raise DeployError("a model of format onnx needs ONNX Runtime: pip install onnxruntime, or onnxruntime-gpu"
                          ) from error
    provider = "CUDAExecutionProvider" if device == "gpu" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise DeployError("--device gpu: this ONNX Runtime is a CPU build: pip install onnxruntime-gpu in its place")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; it warns of every constant that it folds
    session = onnxruntime.InferenceSession(os.path.join(folder, section["model"]), options, providers=[provider])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: np.ascontiguousarray(images, np.float32)})[0]


# ---- images -------------------------------------------------------------------------------------------

def read_image(path: str) -> np.ndarray:
    """uint8 (H, W, 3) RGB, as training reads it.

    Raises:
        DeployError: the file can't be read, is cut off or damaged, or is no image.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DeployError(f"{path} can't be read: {error.strerror}") from error
    damage = find_damage(data)
    if damage:
        raise DeployError(f"{path} {damage}")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DeployError(f"{path} is not an image that OpenCV can decode")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def scaled(size: Sequence[int], scale: float) -> Tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize(image: np.ndarray, size: Sequence[int], interp: str = "LINEAR") -> np.ndarray:
    return cv2.resize(image.astype(np.float32), (size[1], size[0]), interpolation=INTERPOLATIONS[interp])


def resize_to(image: np.ndarray, target_size: Sequence[int], keep_ratio: bool, size_divisor: Optional[int],
              interp: str) -> np.ndarray:
    size, before = tuple(target_size[::-1]), image.shape[:2]
    if keep_ratio:
        size = scaled(before, min(max(size) / max(before), min(size) / min(before)))
    if size_divisor is not None:
        size = tuple(-(-side // size_divisor) * size_divisor for side in size)
    return resize(image, size, interp)


def resize_by_short(image: np.ndarray, short_size, max_size: float) -> np.ndarray:
    target, short, long = np.ravel(short_size)[0].item(), min(image.shape[:2]), max(image.shape[:2])
    if target / short * long > max_size:
        target = int(max_size / long * short)
    return resize(image, scaled(image.shape[:2], target / short))


def normalize(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(image / 255 - mean) / std, with training's order of operations."""
    offset, divisor = ((np.asarray(values, np.float64) * 255).astype(np.float32) for values in (mean, std))
    return (image.astype(np.float32) - offset) / divisor


def pad(image: np.ndarray, target_size: Sequence[int], im_padding_value) -> np.ndarray:
    width, height = target_size
    if image.shape[0] > height or image.shape[1] > width:
        raise DeployError(f"an image of {image.shape[1]}x{image.shape[0]} is larger than Padding's target_size, "
                          f"{width}x{height}")
    padded = np.empty((height, width, 3), np.float32)
    padded[:] = im_padding_value
    padded[:image.shape[0], :image.shape[1]] = image
    return padded


# The transforms of a val_dataset that can be done here; arguments are as in deploy.yaml, where all are written out.
TRANSFORMS = {
    "Resize": lambda image, args: resize_to(image, args["target_size"], args["keep_ratio"], args["size_divisor"],
                                            args["interp"]),
    "ResizeByLong": lambda image, args: resize(image, scaled(image.shape, args["long_size"] / max(image.shape[:2]))),
    "ResizeByShort": lambda image, args: resize_by_short(image, args["short_size"], args["max_size"]),
    "Padding": lambda image, args: pad(image, args["target_size"], args["im_padding_value"]),
    "Normalize": lambda image, args: normalize(image, args["mean"], args["std"]),
}


def undeployable(transform: Dict) -> bool:
    """Return True if a transform can't be done here: it is unknown, or random."""
    return (transform["type"] not in TRANSFORMS or transform.get("interp") == "RANDOM"
            or np.size(transform.get("short_size", 0)) > 1)


def prepare(image: np.ndarray, transforms: Sequence[Dict]) -> Tuple[np.ndarray, List[Change]]:
    """Return the graph's input, (1, 3, H, W) float32, and the changes of size made to get it."""
    changes: List[Change] = []
    for args in transforms:
        before, kind = image.shape[:2], args["type"]
        image = TRANSFORMS[kind](image, args)
        if kind == "Padding" or kind.startswith("Resize"):
            changes.append(("padding" if kind == "Padding" else "resize", before))
    return np.ascontiguousarray(image.transpose(2, 0, 1)[np.newaxis], np.float32), changes


def finish(output: np.ndarray, changes: Sequence[Change]) -> np.ndarray:
    """Classes (H, W) at the size of the image file, from one image's labels (H, W) or scores (C, H, W).

    Scores are resized before their argmax is taken, as predict.py does it; labels by nearest neighbour.
    """
    is_label = output.ndim == 2
    picture = output.astype(np.uint16) if is_label else output.transpose(1, 2, 0)
    for name, (height, width) in reversed(changes):
        if name == "padding":
            picture = picture[:height, :width]
        elif picture.shape[:2] != (height, width):
            how = cv2.INTER_NEAREST_EXACT if is_label else cv2.INTER_LINEAR
            picture = cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=how)
    return (picture if is_label else picture.argmax(axis=2)).astype(np.uint8)


# ---- the command --------------------------------------------------------------------------------------

class Predictor:
    """An exported model with what goes before and after it; deploy.yaml describes both.

    Attributes:
        palette: uint8 (C, 3), RGB.
        class_names: of each class.

    Raises:
        DeployError: as `read_description` and `load_graph` do.
    """

    def __init__(self, config: str, device: str = "cpu", threads: Optional[int] = None, backend: str = "auto"):
        self.section = read_description(config)
        self.run = load_graph(os.path.dirname(config), self.section, device, threads, backend)
        self.palette = np.array(self.section["palette"], np.uint8)
        self.class_names = self.section["class_names"]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Class indices, uint8 (H, W), of an RGB image, uint8 (H, W, 3)."""
        images, changes = prepare(image, self.section["transforms"])
        for given, expected in zip(images.shape, self.section["input_shape"]):
            if expected not in (-1, given):
                raise DeployError(f"the model was exported for inputs of {self.section['input_shape']}, and this image "
                                  f"gives {list(images.shape)}; export it without --input_shape")
        return finish(self.run(images)[0], changes)


def save_result(image: np.ndarray, pred: np.ndarray, palette: np.ndarray, save_dir: str, name: str) -> None:
    """Write overlay, colour map and class indices."""
    overlay = Image.fromarray(cv2.addWeighted(image, 0.6, palette[pred], 0.4, 0))
    colors = Image.fromarray(pred)
    colors.putpalette(palette.tobytes())
    pictures = {"added_prediction": overlay, "pseudo_color_prediction": colors, "label": Image.fromarray(pred)}
    for folder, picture in pictures.items():
        target = os.path.join(save_dir, folder, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        picture.save(target)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="FILE", help="the exported model's deploy.yaml")
    parser.add_argument("--image_path", required=True, metavar="PATH", help="an image, a directory, or a list file")
    parser.add_argument("--save_dir", default="output/result", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--backend", choices=["auto", "onednn", "native", "onnxruntime"], default="auto",
                        help="onednn or native: which kernels Paddle uses on a CPU; auto (default): the fastest "
                             "that the export found to compute correctly")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    if args.threads is not None and args.threads < 1:
        parser.error("--threads must be at least 1")
    return args


def main(args: argparse.Namespace) -> int:
    try:
        images, root = list_images(args.image_path)
        predictor = Predictor(args.config, args.device, args.threads, args.backend)
        for path, name in zip(images, result_names(images, root)):
            image = read_image(path)
            save_result(image, predictor(image), predictor.palette, args.save_dir, name)
    except (DeployError, OSError) as error:
        if args.debug:
            traceback.print_exc()
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{len(images)} predictions are in {args.save_dir}")
    return 0


# ---- copies from the toolkit ------------------------------------------------------------------------------
# of paddleseg/datasets/listing.py and paddleseg/transforms/image_io.py, word for word

def files_below(folder: str, endings: Sequence[str] = IMAGE_SUFFIXES) -> List[str]:
    """The files in a folder, and in all below it, whose names end so, by path; capitals don't count."""
    found = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names
             if name.lower().endswith(tuple(endings))]
    return sorted(found, key=lambda path: path.split(os.sep))


def list_images(path: str) -> Tuple[List[str], str]:
    """The images that `--image_path` means, and the directory that their results' paths are relative to.

    Args:
        path: an image, a directory (with all below it), or a list file with an image a line, relative to
            the list's directory; what follows the first blank or comma of a line (a label) is ignored.

    Raises:
        DataError: nothing is there.
    """
    if os.path.isdir(path):
        images = files_below(path)
        if not images:
            raise DataError(f"{path}: no image below it (looked for {', '.join(IMAGE_SUFFIXES)})")
        return images, path
    if not os.path.exists(path):
        raise DataError(f"--image_path {path}: no such image, directory or list file")
    if path.lower().endswith(IMAGE_SUFFIXES):
        return [path], os.path.dirname(path)
    images = read_image_list(path)
    folders = [os.path.dirname(os.path.abspath(name)) for name in (path, *images)]
    root = folders[0]
    if os.path.commonpath(folders) != root:  # a list may lie elsewhere than its images
        root = os.path.commonpath(folders[1:])
    return images, root


def read_image_list(path: str) -> List[str]:
    """The image of each line of a list file: all of it, or what stands before a comma or a blank and the label."""
    root, images = os.path.dirname(path), []
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        lines = [line.strip() for line in file]
    for number, line in enumerate(lines, 1):
        names = [line, line.split(",")[0].strip(), *line.split()[:1]]
        found = [os.path.join(root, name) for name in names if name and os.path.isfile(os.path.join(root, name))]
        if line and not found:
            raise DataError(f"{path}:{number}: {names[-1]} is not an image below {root or '.'}")
        images += found[:1]
    if not images:
        raise DataError(f"{path}: the list names no image")
    return images


def result_names(images: Sequence[str], root: str) -> List[str]:
    """Return each image's result path below an output directory: its path below `root`, as PNG.

    a.jpg becomes a.png; where a.jpg and a.bmp stand side by side, a.jpg.png and a.bmp.png. If a.jpg.png stands there
    too, every name is made so.
    """
    relative = [os.path.relpath(image, root or ".") for image in images]
    files = set(relative)  # a list may name an image twice
    stems = Counter(os.path.splitext(path)[0] for path in files)
    name_of = {path: (os.path.splitext(path)[0] if stems[os.path.splitext(path)[0]] == 1 else path) + ".png"
               for path in files}
    if len(set(name_of.values())) < len(files):
        name_of = {path: path + ".png" for path in files}
    return [name_of[path] for path in relative]


def find_damage(data: bytes) -> Optional[str]:
    """Say why the bytes aren't a whole image file of a known format and a bounded size; None if they are."""
    if not KNOWN_START.match(data):
        return "is no PNG, JPEG, BMP, TIFF, WebP or PNM file" if data else "is empty (0 bytes)"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of it is an error below
            picture = Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)
            width, height = picture.size
            if not 0 < width * height <= MAX_PIXELS:
                return (f"is too large, or damaged: it states a size of {height}x{width} (height x width); up to "
                        f"{MAX_PIXELS >> 20} million pixels are read, so cut it into tiles")
            if picture.format == "PNG":
                picture.verify()  # compares the checksums of its chunks, in a few percent of the time to decode it
            elif not (picture.format == "JPEG" and data.rstrip(b"\x00\n").endswith(b"\xff\xd9")):
                picture.load()
    except UnidentifiedImageError:  # whose text is an address in memory
        return "has a damaged header, or is a TIFF of several channels of more than 8 bits; save it with 8 bits"
    except Exception as error:  # on damaged data, Pillow's decoders raise anything
        return f"is truncated or damaged: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}"
    return None


if __name__ == "__main__":
    sys.exit(main(parse_args()))
