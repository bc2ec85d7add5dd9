"""The fast decoding of PNG files: the same pixels and the same refusals as without it."""

import os
import struct
import zlib

import numpy as np
import pytest

from paddleseg.cvlibs.errors import SegError
from paddleseg.transforms import fast_png, image_io
from paddleseg.transforms.image_io import read_image, read_label

pytestmark = pytest.mark.skipif(not fast_png.is_available(), reason="isal and kornia-rs are not installed")

READERS = {2: read_image, 0: read_label}  # by PNG's colour type
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
SIZE = 40, 50


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(colour, size=SIZE, depth=8, interlaced=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], depth, colour, 0, 0, interlaced))


def rows(colour, size=SIZE, filters=range(5), depth=8):
    """Random filtered rows; whatever the filter, any bytes are valid."""
    rng = np.random.default_rng([colour, *size])
    width = -(-size[1] * CHANNELS[colour] * depth // 8)
    return [bytes([filters[row % len(filters)]]) + rng.bytes(width) for row in range(size[0])]


def png(*chunks):
    return fast_png.START + b"".join(chunks) + chunk(b"IEND", b"")


def ordinary(colour, *remarks, size=SIZE):
    return png(header(colour, size), *remarks, chunk(b"IDAT", zlib.compress(b"".join(rows(colour, size)))))


def outcome(read, path):
    """The pixels, or the class and text of the error."""
    try:
        pixels = read(path)
    except SegError as error:
        return type(error), str(error)
    return pixels.shape, pixels.dtype, pixels.tobytes()


def outcomes(tmp_path, monkeypatch, read, data):
    """With the fast decoding and without it."""
    path = os.path.join(tmp_path, "image.png")
    with open(path, "wb") as file:
        file.write(data)
    fast = outcome(read, path)
    with monkeypatch.context() as patch:
        patch.setattr(image_io, "decode_png", lambda data, channels: None)
        return fast, outcome(read, path)


@pytest.mark.parametrize("colour", [0, 2])
@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (3, 5), (65, 80), (200, 333)])
def test_same_pixels(tmp_path, monkeypatch, colour, filters, size):
    data = png(header(colour, size), chunk(b"IDAT", zlib.compress(b"".join(rows(colour, size, filters)))))
    assert fast_png.decode_png(data, CHANNELS[colour]) is not None
    fast, plain = outcomes(tmp_path, monkeypatch, READERS[colour], data)
    assert fast == plain and fast[1] == np.uint8


@pytest.mark.parametrize("width", [65534, 65535, 65536 - 2])
def test_rows_about_as_long_as_a_stored_block(tmp_path, monkeypatch, width):
    data = ordinary(0, size=(3, width))
    assert fast_png.decode_png(data, 1) is not None
    fast, plain = outcomes(tmp_path, monkeypatch, read_label, data)
    assert fast == plain


@pytest.mark.parametrize("level, window", [(0, 15), (1, 15), (9, 9), (6, 12)])
def test_any_compression(tmp_path, monkeypatch, level, window):
    compressor = zlib.compressobj(level, zlib.DEFLATED, window)
    content = compressor.compress(b"".join(rows(2))) + compressor.flush()
    parts = [chunk(b"IDAT", content[start:start + 333]) for start in range(0, len(content), 333)]
    data = png(header(2), *parts)
    assert fast_png.decode_png(data, 3) is not None
    fast, plain = outcomes(tmp_path, monkeypatch, read_image, data)
    assert fast == plain


@pytest.mark.parametrize("colour", [0, 2])
@pytest.mark.parametrize("remark", [
    chunk(b"gAMA", struct.pack(">I", 20000)), chunk(b"pHYs", bytes(9)), chunk(b"sRGB", b"\0"),
    chunk(b"tIME", struct.pack(">HBBBBB", 2020, 1, 2, 3, 4, 5)), chunk(b"tEXt", b"Comment\0fine")])
def test_remarks_do_not_matter(tmp_path, monkeypatch, colour, remark):
    data = ordinary(colour, remark)
    assert fast_png.decode_png(data, CHANNELS[colour]) is not None
    fast, plain = outcomes(tmp_path, monkeypatch, READERS[colour], data)
    assert fast == plain


def test_bgr(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(ordinary(2))
    np.testing.assert_array_equal(read_image(path, to_rgb=False), read_image(path)[..., ::-1])


def compressed(colour):
    return zlib.compress(b"".join(rows(colour)))


# What isn't quite ordinary, by what it is: a function of the colour type.
ODD = {
    "16 bits": lambda colour: png(header(colour, depth=16),
                                  chunk(b"IDAT", zlib.compress(b"".join(rows(colour, depth=16))))),
    "interlaced": lambda colour: png(header(colour, (1, 1), interlaced=1),
                                     chunk(b"IDAT", zlib.compress(b"".join(rows(colour, (1, 1)))))),
    "palette": lambda colour: png(header(3), chunk(b"PLTE", bytes(768)), chunk(b"IDAT", compressed(3))),
    "4 bits": lambda colour: png(header(0, depth=4), chunk(b"IDAT", zlib.compress(b"".join(rows(0, depth=4))))),
    "alpha": lambda colour: ordinary(4 + colour),
    "the other kind": lambda colour: ordinary(2 - colour),
    "transparent colour": lambda colour: ordinary(colour, chunk(b"tRNS", b"\0\1" * CHANNELS[colour])),
    "suggested palette": lambda colour: ordinary(colour, chunk(b"PLTE", bytes(30))),
    "EXIF": lambda colour: ordinary(colour, chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6" + bytes(7))),
    "unknown": lambda colour: ordinary(colour, chunk(b"ABCD", b"x")),
    "short remark": lambda colour: ordinary(colour, chunk(b"gAMA", b"\0")),
    "damaged remark": lambda colour: ordinary(colour, chunk(b"tEXt", b"a\0b")[:-1] + b"?"),
    "second header": lambda colour: ordinary(colour, header(colour)),
    "filter 9": lambda colour: png(header(colour),
                                   chunk(b"IDAT", zlib.compress(b"".join([b"\x09" + rows(colour)[0][1:],
                                                                          *rows(colour)[1:]])))),
    "wrong Adler-32": lambda colour: png(header(colour), chunk(b"IDAT", compressed(colour)[:-1] + b"?")),
    "no Adler-32": lambda colour: png(header(colour), chunk(b"IDAT", compressed(colour)[:-4])),
    "damaged content": lambda colour: png(header(colour), chunk(b"IDAT", (
        compressed(colour)[:30] + bytes([compressed(colour)[30] ^ 255]) + compressed(colour)[31:]))),
    "wrong zlib header": lambda colour: png(header(colour), chunk(b"IDAT", b"\x79" + compressed(colour)[1:])),
    "half of the content": lambda colour: png(header(colour), chunk(b"IDAT", compressed(colour)[:500])),
    "no content": lambda colour: png(header(colour), chunk(b"IDAT", b"")),
    "no IDAT": lambda colour: png(header(colour)),
    "parted IDAT": lambda colour: png(header(colour), chunk(b"IDAT", compressed(colour)[:100]),
                                      chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", compressed(colour)[100:])),
    "something behind": lambda colour: png(header(colour), chunk(b"IDAT", compressed(colour) + b"more")),
    "rows too many": lambda colour: png(header(colour),
                                        chunk(b"IDAT", zlib.compress(b"".join(rows(colour) * 2)))),
    "a row missing": lambda colour: png(header(colour), chunk(b"IDAT", zlib.compress(b"".join(rows(colour)[1:])))),
    "bytes missing": lambda colour: png(header(colour), chunk(b"IDAT", zlib.compress(b"".join(rows(colour))[:-7]))),
    "no PNG": lambda colour: b"GIF89a" + ordinary(colour),
    "cut off": lambda colour: ordinary(colour)[:-30],
    "empty": lambda colour: b"",
}


@pytest.mark.parametrize("colour", [0, 2])
@pytest.mark.parametrize("odd", ODD)
def test_what_is_not_ordinary_is_read_or_refused_as_before(tmp_path, monkeypatch, colour, odd):
    data = ODD[odd](colour)
    assert fast_png.decode_png(data, CHANNELS[colour]) is None
    fast, plain = outcomes(tmp_path, monkeypatch, READERS[colour], data)
    assert fast == plain


def test_bytes_after_the_end_do_not_matter(tmp_path, monkeypatch):
    fast, plain = outcomes(tmp_path, monkeypatch, read_image, ordinary(2) + b"more")
    assert fast == plain and fast[0] == (*SIZE, 3)


def test_a_file_that_would_fill_the_memory_is_not_inflated():
    """It states 40 x 50 pixels, and its content is a thousand times that."""
    data = png(header(0), chunk(b"IDAT", zlib.compress(bytes(2 ** 21), 9)))
    assert fast_png.decode_png(data, 1) is None


def test_without_the_libraries(monkeypatch):
    monkeypatch.setattr(fast_png, "isal_zlib", None)
    assert not fast_png.is_available() and fast_png.decode_png(ordinary(2), 3) is None
