"""Read images and labels from files, and write PNG files.

Paths may hold any character the file system allows: files are read by Python and decoded from memory. A file
that is cut off or damaged raises, whatever the decoder makes of it: OpenCV may fill the rest with grey.
"""

import io
import os
import zlib
from typing import Optional, Union

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from paddleseg.cvlibs.errors import ImageReadError, LabelValueError, RunError

PathLike = Union[str, os.PathLike]

_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"

# All that Pillow's decoders raise on damaged data.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def read_image(path: PathLike, to_rgb: bool = True) -> np.ndarray:
    """Read an image as uint8 (H, W, 3), RGB or BGR.

    16 bits are reduced to their upper 8, alpha is dropped, grey is repeated, and a palette is looked up. An
    EXIF orientation is not applied, because the label's file doesn't know of it.

    Raises:
        ImageReadError: missing, empty, truncated, damaged, or not an image.
    """
    data = _read_complete(path)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageReadError(f"{path} can't be decoded: {' '.join(str(error).split())}") from error
    if image is None:
        raise ImageReadError(f"{path} is not an image that OpenCV can decode")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if to_rgb else image


def read_label(path: PathLike) -> np.ndarray:
    """Read a label as uint8 (H, W) class indices; a palette file gives its indices, not its colours.

    Raises:
        ImageReadError: missing, empty, truncated, damaged, not an image, or with several channels.
        LabelValueError: 16-bit values above 255.
    """
    data = _read_complete(path)
    try:
        picture = Image.open(io.BytesIO(data))
        values = np.asarray(picture)
    except _PILLOW_ERRORS as error:
        raise ImageReadError(f"{path} can't be decoded as a label: {error}") from error
    if values.ndim != 2 or values.dtype.kind == "f":
        raise ImageReadError(f"{path} is a picture of mode {picture.mode}, but a label has one channel, of "
                             "class indices; save it as a grey or palette PNG of indices")
    if values.dtype.itemsize > 1 and (values.min() < 0 or values.max() > 255):
        raise LabelValueError(f"{path} holds values from {values.min()} to {values.max()}; class indices lie "
                              "in 0..255 (is it a file of instance ids?)")
    return values.astype(np.uint8)


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
    if data.startswith(_PNG_START):
        fault = _png_fault(data)
    elif data.startswith(_JPEG_START) and data.rstrip(b"\x00\n").endswith(_JPEG_END):
        fault = None
    else:
        fault = _pillow_fault(data)
    if fault:
        raise ImageReadError(f"{path} is truncated or damaged: {fault}")
    return data


def _png_fault(data: bytes) -> Optional[str]:
    """What is wrong with the chunks of a PNG file, or None; costs a few percent of decoding it.

    A chunk is a length (4 bytes), a type (4), the content and a checksum (4). Decoders skip a damaged chunk
    whose type starts with a small letter, so only the others count.
    """
    view = memoryview(data)
    start = len(_PNG_START)
    while True:
        length, kind = int.from_bytes(view[start:start + 4], "big"), bytes(view[start + 4:start + 8])
        end = start + 12 + length
        if end > len(data):
            return f"it ends after {len(data)} bytes, before the PNG's last chunk does"
        checksum = int.from_bytes(view[end - 4:end], "big")
        if kind[:1].isupper() and zlib.crc32(view[start + 4:end - 4]) != checksum:
            return f"the checksum of the chunk at byte {start} is wrong"
        if kind == b"IEND":
            return None
        start = end


def _pillow_fault(data: bytes) -> Optional[str]:
    """What Pillow has against a file, by decoding it, or None; a format it doesn't know is left to OpenCV."""
    try:
        Image.open(io.BytesIO(data)).load()
    except UnidentifiedImageError:
        return None
    except _PILLOW_ERRORS as error:
        return str(error)
    return None
