"""Read images and labels from files, and write PNG files: the one place that decides what a file becomes.

    file                    as an image, (H, W, 3)          as a label, (H, W)
    grey                    repeated                        its values
    palette                 its colours                     its indices
    alpha                   dropped                         refused, as RGB is
    16 bits                 the upper 8; of TIFF only grey  its values, up to 255
    EXIF orientation        not applied, but of a TIFF      the same
    damaged, cut off        refused                         refused

Only formats are read whose damage doesn't crash the decoders: PNG, JPEG, BMP, TIFF, WebP and PNM. Decoders are given
bytes, so paths may hold any character; and whole files only, as OpenCV may fill the rest with grey.

deploy/infer.py, which imports nothing of this package, has a copy of `find_damage`; tests/test_deploy.py holds them
equal.
"""

import io
import os
import re
import struct
import warnings
from typing import Optional, Tuple, Union

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from paddleseg.cvlibs.errors import ImageReadError, LabelValueError, RunError

try:  # optional: half the time of OpenCV's decoder
    from kornia_rs.io import decode_image_png_u8
except ImportError:
    decode_image_png_u8 = None

PathLike = Union[str, os.PathLike]

PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
KNOWN_START = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|BM|II[*+]\0|MM\0[*+]|RIFF....WEBP|P[1-6]\s", re.DOTALL)
PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
# A few damaged bytes may state a size that no memory holds. Pillow's own limit is a third higher.
MAX_PIXELS = 1 << 27
_ORIENTATION, _UPRIGHT = 0x0112, 1  # of EXIF
# Chunks of a PNG file with which every decoder makes the same pixels.
_PLAIN_CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"gAMA", b"pHYs", b"sRGB", b"tIME", b"tEXt"}
_GREY, _RGB = (8, 0), (8, 2)  # bits and colour type of a PNG file


def read_image(path: PathLike, to_rgb: bool = True) -> np.ndarray:
    """Read an image as uint8 (H, W, 3), RGB or BGR.

    Raises:
        ImageReadError: missing, empty, truncated, damaged, or not an image.
    """
    data = _read_whole(path)
    image = _decode_plain_png(data, _RGB)
    if image is not None:
        return image if to_rgb else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageReadError(f"{path} can't be decoded: {' '.join(str(error).split())}") from error
    if image is None:
        raise ImageReadError(f"{path} is not an image that OpenCV can decode; save it as PNG or JPEG")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if to_rgb else image


def read_label(path: PathLike) -> np.ndarray:
    """Read a label as uint8 (H, W) class indices.

    Raises:
        ImageReadError: missing, empty, truncated, damaged, not an image, or with several channels.
        LabelValueError: 16-bit values above 255.
    """
    data = _read_whole(path)
    label = _decode_plain_png(data, _GREY)
    if label is not None:
        return label[..., 0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=PILLOW_FORMATS)
            values = np.asarray(picture)
    except UnidentifiedImageError as error:
        raise ImageReadError(f"{path} is not an image that Pillow can decode as a label") from error
    except Exception as error:  # on damaged data, Pillow's decoders raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ImageReadError(f"{path} can't be decoded as a label: {reason}") from error
    if values.ndim != 2 or values.dtype.kind == "f":
        raise ImageReadError(f"{path} is a picture of mode {picture.mode}, but a label has one channel, of "
                             "class indices; save it as a grey or palette PNG of indices, which "
                             "tools/index_masks.py makes of its colors")
    if values.dtype.itemsize > 1 and (values.min() < 0 or values.max() > 255):
        raise LabelValueError(f"{path} holds values from {values.min()} to {values.max()}; class indices lie "
                              "in 0..255; save them with 8 bits (is it a file of instance ids?)")
    return values.astype(np.uint8)


def image_size(path: PathLike) -> Tuple[int, int]:
    """(height, width) of the image that `read_image` makes of a file, from the file's header where that suffices.

    Raises:
        ImageReadError: as `read_image`, where the header doesn't suffice.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=PILLOW_FORMATS) as picture:
                return picture.size[::-1]
    except Exception:  # whatever it was, reading the file says what is wrong with it
        return read_image(path).shape[:2]


def has_exif_rotation(path: PathLike) -> bool:
    """Return True if EXIF says to show a JPEG or WebP turned or mirrored, which `read_image` doesn't do."""
    try:
        with Image.open(path, formats=["JPEG", "WEBP"]) as picture:
            return picture.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT
    except Exception:  # neither, or what Pillow's parsers raise on damaged EXIF, which no reader applies then
        return False


def write_png(path: PathLike, array: np.ndarray, palette: Optional[np.ndarray] = None) -> None:
    """Write uint8 (H, W) indices or grey values, or (H, W, 3) RGB, as a PNG file.

    Args:
        palette: (n, 3) uint8 colours, n <= 256; makes a palette file of an (H, W) array.

    Raises:
        RunError: the file can't be written.
    """
    picture = Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8))
    if palette is not None:
        picture.putpalette(np.asarray(palette, np.uint8).tobytes())
    try:
        picture.save(path, format="PNG")
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror or error}") from error


def _read_whole(path: PathLike) -> bytes:
    """The file's bytes, once they are known to be a whole image file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ImageReadError(f"{path} can't be read: {error.strerror or error}") from error
    damage = find_damage(data)
    if damage:
        raise ImageReadError(f"{path} {damage}")
    return data


def _decode_plain_png(data: bytes, kind: Tuple[int, int]) -> Optional[np.ndarray]:
    """The pixels, (H, W, channels), of a PNG file of this kind, quickly; None leaves it to the ordinary decoders.

    Args:
        data: whole, as `find_damage` has it, since this decoder compares no checksums.
        kind: bits and colour type.
    """
    if decode_image_png_u8 is None or not data.startswith(PNG_START) or tuple(data[24:26]) != kind or any(data[26:29]):
        return None
    try:
        name, start = b"", len(PNG_START)
        while name != b"IEND":
            length, name = struct.unpack_from(">I4s", data, start)
            start += 12 + length
            if name not in _PLAIN_CHUNKS:
                return None
        width, height = struct.unpack_from(">II", data, 16)
        return decode_image_png_u8(data, (height, width), "rgb" if kind == _RGB else "mono")
    except Exception:  # of whatever class: the ordinary decoders say what is wrong
        return None


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
