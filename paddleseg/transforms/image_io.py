"""Read images and labels from files, and write PNG files.

Paths may hold any character the file system allows: files are read by Python and decoded from memory. A file
that is cut off or damaged raises, whatever the decoder makes of it: OpenCV may fill the rest with grey. Only
formats are read whose damage doesn't crash the decoders: PNG, JPEG, BMP, TIFF, WebP and PNM.
"""

import io
import os
import re
import warnings
import zlib
from typing import Optional, Tuple, Union

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from paddleseg.cvlibs.errors import ImageReadError, LabelValueError, RunError
from paddleseg.transforms.fast_png import START as PNG_START
from paddleseg.transforms.fast_png import decode_png

PathLike = Union[str, os.PathLike]

_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_TIFF_START = (b"II*\0", b"MM\0*")
_KNOWN_START = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|BM|II[*+]\0|MM\0[*+]|RIFF....WEBP|P[1-6]\s", re.DOTALL)
_PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
_ORIENTATION, _UPRIGHT = 0x0112, 1  # of EXIF
# A few damaged bytes may state a size that no memory holds. Pillow's own limit is a third higher.
_MAX_PIXELS = 1 << 27
_STATED = "it states a size of "


def read_image(path: PathLike, to_rgb: bool = True) -> np.ndarray:
    """Read an image as uint8 (H, W, 3), RGB or BGR.

    16 bits are reduced to their upper 8, alpha is dropped, grey is repeated, and a palette is looked up. An
    EXIF orientation is not applied, because the label's file doesn't know of it; except that of a TIFF, image or
    label, which all decoders apply.

    Raises:
        ImageReadError: missing, empty, truncated, damaged, or not an image.
    """
    data = _read_complete(path)
    image = decode_png(data, channels=3)
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
    """Read a label as uint8 (H, W) class indices; a palette file gives its indices, not its colours.

    Raises:
        ImageReadError: missing, empty, truncated, damaged, not an image, or with several channels.
        LabelValueError: 16-bit values above 255.
    """
    data = _read_complete(path)
    label = decode_png(data, channels=1)
    if label is not None:
        return label
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
            values = np.asarray(picture)
    except UnidentifiedImageError as error:  # whose text is an address in memory
        raise ImageReadError(f"{path} is not an image that Pillow can decode as a label") from error
    except Exception as error:  # on damaged data, Pillow's decoders raise anything
        raise ImageReadError(f"{path} can't be decoded as a label: {_one_line(error)}") from error
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
            with Image.open(path, formats=_PILLOW_FORMATS) as picture:
                return picture.size[::-1]
    except Exception:  # whatever it was, reading the file says what is wrong with it
        return read_image(path).shape[:2]


def is_turned(path: PathLike) -> bool:
    """Whether EXIF says to show a JPEG or WebP turned or mirrored, which `read_image` doesn't do."""
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


def _read_complete(path: PathLike) -> bytes:
    """The file's bytes, once they are known to be a whole image file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ImageReadError(f"{path} can't be read: {error.strerror or error}") from error
    if not data:
        raise ImageReadError(f"{path} is empty (0 bytes)")
    if not _KNOWN_START.match(data):
        raise ImageReadError(f"{path} can't be decoded: it is no PNG, JPEG, BMP, TIFF, WebP or PNM file")
    if data.startswith(PNG_START):
        fault = _png_fault(data)
    else:
        ends = data.startswith(_JPEG_START) and data.rstrip(b"\x00\n").endswith(_JPEG_END)
        fault = _pillow_fault(data, decode=not ends)
    if fault:
        what = "too large, or damaged" if fault.startswith(_STATED) else "truncated or damaged"
        raise ImageReadError(f"{path} is {what}: {fault}")
    return data


def _png_fault(data: bytes) -> Optional[str]:
    """What is wrong with the chunks of a PNG file, or None; costs a few percent of decoding it.

    A chunk is a length (4 bytes), a type (4), the content and a checksum (4). Decoders skip a damaged chunk
    whose type starts with a small letter, so only the others count.
    """
    view = memoryview(data)
    start = len(PNG_START)
    while True:
        length, kind = int.from_bytes(view[start:start + 4], "big"), bytes(view[start + 4:start + 8])
        end = start + 12 + length
        if end > len(data):
            return f"it ends after {len(data)} bytes, before the PNG's last chunk does"
        checksum = int.from_bytes(view[end - 4:end], "big")
        if kind[:1].isupper() and zlib.crc32(view[start + 4:end - 4]) != checksum:
            return f"the checksum of the chunk at byte {start} is wrong"
        if start == len(PNG_START):
            if kind != b"IHDR" or length != 13:
                return "it doesn't begin with a PNG's header"
            fault = _size_fault(*(int.from_bytes(view[at:at + 4], "big") for at in (start + 8, start + 12)))
            if fault:
                return fault
        if kind == b"IEND":
            return None
        start = end


def _pillow_fault(data: bytes, decode: bool) -> Optional[str]:
    """What Pillow has against a file, by its header or by decoding it, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of it is an error below
            try:
                picture = Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
            except UnidentifiedImageError:
                return _tiff_fault(data)
            fault = _size_fault(*picture.size)
            if decode and not fault:
                picture.load()
            return fault
    except Exception as error:  # on damaged data, Pillow's decoders raise anything
        return _one_line(error)


def _tiff_fault(data: bytes) -> Optional[str]:
    """Of a TIFF that Pillow doesn't know and OpenCV does: several channels of 16 bits, or of numbers."""
    if not data.startswith(_TIFF_START):
        return "its header makes no sense"
    stream = io.BytesIO(data)
    directory = ImageFileDirectory_v2(stream.read(8))
    stream.seek(directory.next)
    directory.load(stream)
    return _size_fault(directory[256], directory[257])


def _size_fault(width: int, height: int) -> Optional[str]:
    if 0 < width * height <= _MAX_PIXELS:
        return None
    return (f"{_STATED}{height}x{width} (height x width); up to {_MAX_PIXELS >> 20} million pixels are "
            "read, so cut it into tiles")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
