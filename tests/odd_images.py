"""A folder of odd image files: what is in them, and which of them are readable."""

import struct
import zlib
from pathlib import Path
from typing import Dict

import cv2
import numpy as np
from PIL import Image

RGB = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
GREY, ALPHA = RGB[..., 0], np.zeros((13, 17, 1), np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (13, 17), dtype=np.uint16)


def encode(array: np.ndarray, extension: str) -> bytes:
    return cv2.imencode(extension, array)[1].tobytes()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def state_size(kind: str, width: int = 12000, height: int = 12000) -> bytes:
    """A file of 17x13 pixels that states another size."""
    change = {"png": (struct.pack(">II", 17, 13), struct.pack(">II", width, height)),
              "jpg": (b"\x08" + struct.pack(">HH", 13, 17), b"\x08" + struct.pack(">HH", height, width)),
              "bmp": (struct.pack("<II", 17, 13), struct.pack("<II", width, height)),
              "pgm": (b"17 13", f"{width} {height}".encode())}[kind]
    content = encode(GREY, f".{kind}").replace(*change, 1)
    if kind == "png":
        content = content[:29] + struct.pack(">I", zlib.crc32(content[12:29])) + content[33:]
    return content


def write_turned(folder: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(folder / f"turned.{kind}", exif=exif)


def write_odd_images(folder: Path) -> Dict[str, bool]:
    """Write the files; returns by name whether a file can be read as an image."""
    smooth = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8), (0, 0), 3)
    whole, jpeg = encode(smooth, ".png"), encode(smooth, ".jpg")
    thumbnail = encode(smooth[:8, :8], ".jpg")
    with_thumbnail = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + jpeg[2:]
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    readable = {"grey.png": encode(GREY, ".png"), "rgb.png": encode(RGB, ".png"), "rgb.bmp": encode(RGB, ".bmp"),
                "rgb.tiff": encode(RGB, ".tiff"), "rgb.ppm": encode(RGB, ".ppm"), "rgb.webp": encode(RGB, ".webp"),
                "photo.jpg": jpeg, "grey.jpg": encode(GREY, ".jpg"), "deep.png": encode(DEEP, ".png"),
                "deep_rgb.png": encode(np.stack([DEEP, DEEP.T.reshape(DEEP.shape), DEEP], axis=-1), ".png"),
                "alpha.png": encode(np.concatenate([RGB, ALPHA], axis=2), ".png"),
                "remark.png": whole[:33] + chunk(b"tEXt", b"Comment\0fine") + whole[33:],
                "name of another.jpg": whole, "trailer.jpg": jpeg + b"\0\0\n", "camera.jpg": jpeg + b"camera's own",
                "thumbnail.jpg": with_thumbnail}
    refused = {"empty.png": b"", "text.png": b"no image at all", "start.png": b"\x89PNG\r\n\x1a\nrest",
               "damaged.png": bytes(damaged), "cut_thumbnail.jpg": with_thumbnail[:-200],
               "odd.png": whole[:8] + chunk(b"tEXt", b"a\0b") + whole[8:],
               "image.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), "image.exr": b"v/1\x01" + bytes(100),
               "image.gif": b"GIF89a" + bytes(100), "image.hdr": encode(RGB.astype(np.float32), ".hdr"),
               **{f"huge.{kind}": state_size(kind) for kind in ("png", "jpg", "bmp", "pgm")},
               **{f"cut_{kept}.{kind}": data[:len(data) * kept // 100] for kept in (20, 60, 97) for kind, data in (
                   ("png", whole), ("jpg", jpeg), ("bmp", encode(smooth, ".bmp")), ("tiff", encode(smooth, ".tiff")))}}
    for name, content in {**readable, **refused}.items():
        (folder / name).write_bytes(content)
    for kind in ("jpg", "webp", "tif"):
        write_turned(folder, kind)
    Image.fromarray(GREY).convert("P").save(folder / "palette.png")
    Image.fromarray(GREY > 99).save(folder / "bilevel.png")
    (folder / "directory.png").mkdir()
    others = ("turned.jpg", "turned.webp", "turned.tif", "palette.png", "bilevel.png")
    return {**dict.fromkeys([*readable, *others], True),
            **dict.fromkeys([*refused, "directory.png", "none.png"], False)}
