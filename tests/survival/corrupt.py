"""Ways to corrupt a file: each takes a random.Random and the content, and returns the corrupted content."""

import random
import re
import struct
import zlib
from typing import Callable, Dict, List, Tuple

Corruption = Callable[[random.Random, bytes], bytes]
HUGE = (0, 1, 3, 2 ** 14, 30_000, 65_500, 2 ** 24, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1)


# ---- any file

def flip_bits(rng, content):
    corrupted = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        corrupted[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(corrupted)


def flip_early_bits(rng, content):
    """Flip bits where a format keeps its description."""
    return flip_bits(rng, content[:200]) + content[200:]


def truncate(rng, content):
    return content[:rng.choice((0, rng.randrange(1, len(content)), -rng.randrange(1, min(len(content), 20))))]


def rearrange(rng, content):
    """Double a part, drop it, or swap it with the next one."""
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.choice((1, 4, 100, 5000)))
    other = min(len(content), end + rng.choice((1, 4, 100, 5000)))
    part = content[start:end]
    return content[:start] + rng.choice((part * 2 + content[end:other], content[end:other],
                                         content[end:other] + part)) + content[other:]


def overwrite(rng, content):
    start = rng.randrange(len(content))
    length = min(len(content) - start, rng.choice((1, 4, 100, 5000)))
    return content[:start] + rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length))) + content[
        start + length:]


def put_a_huge_number(rng, content):
    """Overwrite four early bytes, as a damaged length or size."""
    at = rng.randrange(max(1, min(len(content), 200) - 4))
    return content[:at] + struct.pack(rng.choice("<>") + "I", rng.choice(HUGE)) + content[at + 4:]


def append(rng, content):
    return content + rng.randbytes(rng.choice((1, 100, 5000)))


def replace_by_noise(rng, content):
    return rng.randbytes(len(content))


BYTES: List[Corruption] = [flip_bits, flip_early_bits, truncate, truncate, rearrange, rearrange, overwrite,
                           put_a_huge_number, append, replace_by_noise]


# ---- images, with checksums that are right again: from a broken writer, or a hostile one

def _png_chunks(content) -> List[Tuple[bytes, bytes]]:
    chunks, start = [], 8
    while start < len(content):
        length = int.from_bytes(content[start:start + 4], "big")
        chunks.append((content[start + 4:start + 8], content[start + 8:start + 8 + length]))
        start += 12 + length
    return chunks


def _png(chunks) -> bytes:
    written = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
               for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def change_png_header(rng, content):
    """Change size, bit depth, color type, compression, filter or interlace."""
    chunks = _png_chunks(content)
    header = list(struct.unpack(">IIBBBBB", chunks[0][1]))
    for field in rng.sample(range(7), rng.choice((1, 1, 2))):
        header[field] = rng.choice(HUGE) if field < 2 else rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    return _png([(chunks[0][0], struct.pack(">IIBBBBB", *header)), *chunks[1:]])


def rearrange_png_chunks(rng, content):
    chunks = _png_chunks(content)
    at = rng.randrange(len(chunks))
    palette = (b"PLTE", rng.randbytes(rng.choice((3, 6, 7, 300, 768, 900))))
    return _png(rng.choice(([*chunks[:at], *chunks[at + 1:]], [*chunks[:at + 1], *chunks[at:]],
                            rng.sample(chunks, len(chunks)), [chunks[0], palette, *chunks[1:]])))


def change_png_data(rng, content):
    """Corrupt the compressed pixels, or leave some out."""
    chunks = _png_chunks(content)
    at = rng.choice([number for number, (kind, _) in enumerate(chunks) if kind == b"IDAT"])
    chunks[at] = (b"IDAT", rng.choice((flip_bits, truncate, overwrite, rearrange))(rng, chunks[at][1]))
    return _png(chunks)


def change_jpeg_size(rng, content):
    start = re.search(rb"\xff[\xc0-\xc2]\x00.\x08", content, re.DOTALL).end()
    size = struct.pack(">HH", *(rng.choice(HUGE) & 0xffff for _ in range(2)))
    return content[:start] + size + content[start + 4:]


OF_FORMAT: Dict[str, List[Corruption]] = {
    ".png": [change_png_header, change_png_header, rearrange_png_chunks, change_png_data], ".jpg": [change_jpeg_size]}
