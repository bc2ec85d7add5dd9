"""Decoding of ordinary PNG files faster than OpenCV's, where two optional libraries are there: isal and kornia-rs.

Intel's ISA-L inflates faster than zlib and checks the result; kornia-rs then undoes PNG's filters. kornia-rs
alone would take a little less, but doesn't compare what it inflates with its checksum. So it gets a PNG file of the
inflated bytes, stored without compression.

Whatever isn't quite ordinary gives None, and is for the ordinary decoders to read or to refuse.
"""

import struct
from typing import Optional

import numpy as np

try:
    from isal import isal_zlib
    from kornia_rs.io import decode_image_png_u8
except ImportError:
    isal_zlib = None

START = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3}  # by PNG's colour type: grey and RGB
_MODES = {1: "mono", 3: "rgb"}
# Chunks without influence on the pixels, and their lengths.
_REMARKS = {b"gAMA": (4,), b"pHYs": (9,), b"sRGB": (1,), b"tIME": (7,), b"tEXt": range(1 << 12)}
_LONGEST_SIDE = 1 << 16
_STORED = 65535  # bytes of a stored block, at most


def is_available() -> bool:
    return isal_zlib is not None


def decode_png(data: bytes, channels: int) -> Optional[np.ndarray]:
    """The pixels of a whole PNG file of 8 bits, uint8 (H, W, 3) RGB or (H, W); None if it isn't quite ordinary.

    Args:
        data: the file.
        channels: 3 for an RGB file, 1 for a grey one; another kind of file gives None.
    """
    if isal_zlib is None or len(data) < 33 or not data.startswith(START):
        return None
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", data[16:29])
    if depth != 8 or any(methods) or _CHANNELS.get(colour) != channels or max(width, height) > _LONGEST_SIDE:
        return None
    try:
        compressed = _compressed_pixels(data)
        if compressed is None:
            return None
        size = height * (width * channels + 1)
        inflater = isal_zlib.decompressobj()
        filtered = inflater.decompress(compressed, size + 1)
        if len(filtered) != size or not inflater.eof or inflater.unused_data:
            return None
        pixels = decode_image_png_u8(_stored_png(data[8:33], filtered, compressed[-4:]), (height, width),
                                     _MODES[channels])
        return pixels.reshape(height, width) if channels == 1 else pixels
    except Exception:  # of whatever class: the ordinary decoders say what is wrong
        return None


def _compressed_pixels(data: bytes) -> Optional[bytes]:
    """The content of the IDAT chunks, if nothing else in the file can matter."""
    view, parts, start, previous = memoryview(data), [], 33, b"IHDR"
    while True:
        length, kind = struct.unpack_from(">I4s", view, start)
        end = start + 12 + length
        content = view[start + 8:end - 4]
        if kind == b"IEND":
            return b"".join(parts)
        if kind == b"IDAT":
            if parts and previous != b"IDAT":
                return None
            parts.append(content)
        elif (length not in _REMARKS.get(kind, ())
              or isal_zlib.crc32(view[start + 4:end - 4]) != int.from_bytes(view[end - 4:end], "big")):
            return None
        start, previous = end, kind


def _stored_png(header: bytes, filtered: bytes, adler: bytes) -> bytes:
    """A PNG file of the same pixels whose zlib stream is of stored blocks.

    Args:
        header: the IHDR chunk.
        adler: zlib's checksum of `filtered`.
    """
    view, parts = memoryview(filtered), [b"IDAT\x78\x01"]
    for start in range(0, len(filtered), _STORED):
        block = view[start:start + _STORED]
        parts += struct.pack("<BHH", start + _STORED >= len(filtered), len(block), len(block) ^ 0xffff), block
    content = b"".join([*parts, adler])
    checksum = struct.pack(">I", isal_zlib.crc32(content))
    return b"".join([START, header, struct.pack(">I", len(content) - 4), content, checksum, b"\0\0\0\0IEND\xaeB`\x82"])
