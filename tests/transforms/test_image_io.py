import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from paddleseg.cvlibs.errors import ImageReadError, LabelValueError, RunError
from paddleseg.transforms.image_io import image_size, is_turned, read_image, read_label, write_png


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)


def encode(array, extension):
    return cv2.imencode(extension, array)[1].tobytes()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tiff"])
def test_colour_is_rgb_or_bgr(tmp_path, rgb, extension):
    path = tmp_path / f"image{extension}"
    Image.fromarray(rgb).save(path)
    image = read_image(str(path))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, rgb)
    np.testing.assert_array_equal(read_image(path, to_rgb=False), rgb[..., ::-1])


def test_jpeg_is_what_opencv_decodes(tmp_path, rgb):
    path = tmp_path / "image.jpg"
    path.write_bytes(encode(rgb, ".jpg"))
    np.testing.assert_array_equal(read_image(path, to_rgb=False), cv2.imread(str(path)))


def test_grey_is_repeated(tmp_path, rgb):
    Image.fromarray(rgb[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.repeat(rgb[..., :1], 3, axis=2))


def test_alpha_is_dropped(tmp_path, rgb):
    alpha = np.zeros(rgb.shape[:2] + (1,), np.uint8)
    Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), rgb)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_keep_their_upper_8(tmp_path, channels):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 6, channels), dtype=np.uint16)
    (tmp_path / "deep.png").write_bytes(encode(deep, ".png"))
    expected = np.broadcast_to(deep >> 8, (5, 6, 3))
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png", to_rgb=False), expected)


def test_palette_gives_colours_as_image_and_indices_as_label(tmp_path):
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = np.random.default_rng(0).integers(0, 256, (12, 3), dtype=np.uint8)
    write_png(tmp_path / "palette.png", indices, palette)
    np.testing.assert_array_equal(read_label(tmp_path / "palette.png"), indices)
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), palette[indices])


def test_exif_orientation_is_not_applied(tmp_path, rgb):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == rgb.shape


@pytest.mark.parametrize("kind", ["jpg", "webp"])
@pytest.mark.parametrize("orientation, turned", [(None, False), (1, False), (3, True), (8, True)])
def test_exif_orientation_is_known(tmp_path, rgb, kind, orientation, turned):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(rgb).save(tmp_path / f"a.{kind}", exif=exif)
    assert is_turned(tmp_path / f"a.{kind}") == turned and not is_turned(tmp_path / "absent")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_tiff_is_applied_to_image_and_label_alike(tmp_path, rgb, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(tmp_path / "image.tif", exif=exif)
    Image.fromarray(rgb[..., 0]).save(tmp_path / "label.tif", exif=exif)
    image = read_image(tmp_path / "image.tif")
    np.testing.assert_array_equal(read_label(tmp_path / "label.tif"), image[..., 0])
    assert image_size(tmp_path / "image.tif") == image.shape[:2]
    assert (image.shape == rgb.shape) == (orientation < 5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_label(tmp_path, dtype):
    label = np.array([[0, 18], [255, 7]], dtype)
    (tmp_path / "label.png").write_bytes(encode(label, ".png"))
    read = read_label(str(tmp_path / "label.png"))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, label)


def test_bilevel_label(tmp_path):
    label = np.array([[0, 1], [1, 0]], np.uint8)
    Image.fromarray(label.astype(bool)).save(tmp_path / "label.png")
    np.testing.assert_array_equal(read_label(tmp_path / "label.png"), label)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_label_of_several_channels_says_what_to_do(tmp_path, rgb, mode):
    Image.fromarray(rgb).convert(mode).save(tmp_path / "label.png")
    with pytest.raises(ImageReadError, match=f"label.png is a picture of mode {mode}, .*save it as a grey"):
        read_label(tmp_path / "label.png")


def test_float_label(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "label.tiff")
    with pytest.raises(ImageReadError, match="label.tiff is a picture of mode F"):
        read_label(tmp_path / "label.tiff")


def test_instance_ids_are_no_label(tmp_path):
    (tmp_path / "ids.png").write_bytes(encode(np.array([[7, 26001]], np.uint16), ".png"))
    with pytest.raises(LabelValueError, match="ids.png holds values from 7 to 26001"):
        read_label(tmp_path / "ids.png")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp", ".tiff"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.97])
def test_truncated_file(tmp_path, read, extension, kept):
    whole = encode(np.random.default_rng(0).integers(0, 256, (64, 80), dtype=np.uint8), extension)
    path = tmp_path / f"cut{extension}"
    path.write_bytes(whole[:int(len(whole) * kept)])
    with pytest.raises(ImageReadError, match=f"cut{extension}"):
        read(path)


@pytest.mark.parametrize("read", [read_image, read_label])
def test_png_without_its_last_bytes(tmp_path, read):
    whole = encode(np.zeros((8, 8), np.uint8), ".png")
    (tmp_path / "cut.png").write_bytes(whole[:-1])
    with pytest.raises(ImageReadError, match=f"cut.png is truncated .* ends after {len(whole) - 1} bytes"):
        read(tmp_path / "cut.png")


@pytest.mark.parametrize("read", [read_image, read_label])
def test_png_with_a_damaged_byte(tmp_path, read):
    damaged = bytearray(encode(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8), ".png"))
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.png").write_bytes(damaged)
    with pytest.raises(ImageReadError, match="damaged.png .*checksum"):
        read(tmp_path / "damaged.png")


def test_png_with_a_damaged_remark_is_read(tmp_path):
    whole = encode(np.full((4, 4), 9, np.uint8), ".png")
    remark = bytearray(chunk(b"tEXt", b"Comment\0fine"))
    remark[-1] ^= 1
    header_end = 8 + 12 + 13
    (tmp_path / "remark.png").write_bytes(whole[:header_end] + bytes(remark) + whole[header_end:])
    assert (read_image(tmp_path / "remark.png") == 9).all()


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("kind, size, changed", [
    ("PNG", struct.pack(">II", 8, 8), struct.pack(">II", 12000, 12000)),
    ("JPEG", b"\x08" + struct.pack(">HH", 8, 8), b"\x08" + struct.pack(">HH", 12000, 12000)),
    ("BMP", struct.pack("<II", 8, 8), struct.pack("<II", 12000, 12000)), ("PPM", b"8 8", b"12000 12000")])
def test_a_size_that_no_memory_holds(tmp_path, read, kind, size, changed):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "image", format=kind)
    content = (tmp_path / "image").read_bytes().replace(size, changed, 1)
    if kind == "PNG":
        content = content[:29] + struct.pack(">I", zlib.crc32(content[12:29])) + content[33:]
    (tmp_path / "image").write_bytes(content)
    with pytest.raises(ImageReadError, match="is too large, or damaged: it states a size of 12000x12000.*128 mil"):
        read(tmp_path / "image")


def test_a_png_that_begins_with_something_else(tmp_path, rgb):
    whole = encode(rgb, ".png")
    (tmp_path / "odd.png").write_bytes(whole[:8] + chunk(b"tEXt", b"a\0b") + whole[8:])
    with pytest.raises(ImageReadError, match="doesn't begin with a PNG's header"):
        read_image(tmp_path / "odd.png")


def test_a_tiff_that_pillow_does_not_know(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 6, 3), dtype=np.uint16)
    content = bytearray(encode(deep, ".tiff"))
    (tmp_path / "deep.tif").write_bytes(content)
    np.testing.assert_allclose(read_image(tmp_path / "deep.tif", to_rgb=False), deep / 257, atol=1)
    first = struct.unpack_from("<I", content, 4)[0] + 2
    for entry in (first, first + 12):  # width and height
        struct.pack_into("<HII", content, entry + 2, 4, 1, 12000)
    (tmp_path / "deep.tif").write_bytes(content)
    with pytest.raises(ImageReadError, match="states a size of 12000x12000"):
        read_image(tmp_path / "deep.tif")


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("extension", [".jp2", ".exr", ".gif", ".hdr", ".ras"])
def test_formats_whose_decoders_may_crash(tmp_path, rgb, read, extension):
    starts = {".jp2": b"\0\0\0\x0cjP  \r\n\x87\n", ".exr": b"v/1\x01", ".gif": b"GIF89a"}
    (tmp_path / "image.png").write_bytes(starts[extension] + bytes(100) if extension in starts else
                                         encode(rgb.astype(np.float32), extension))
    with pytest.raises(ImageReadError, match="it is no PNG, JPEG, BMP, TIFF, WebP or PNM file"):
        read(tmp_path / "image.png")


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("error", [RuntimeError("a\nb"), KeyError(258), struct.error("x"), MemoryError(),
                                   NotImplementedError("y")])
def test_whatever_a_decoder_raises(tmp_path, rgb, read, error, monkeypatch):
    Image.fromarray(rgb).save(tmp_path / "image.bmp")

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageReadError, match=f"image.bmp .*{type(error).__name__}") as raised:
        read(tmp_path / "image.bmp")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("trailer", [b"\0\0\0", b"\n", b"trailing data of a camera"])
def test_jpeg_with_a_trailer_is_whole(tmp_path, rgb, trailer):
    whole = encode(rgb, ".jpg")
    (tmp_path / "camera.jpg").write_bytes(whole + trailer)
    assert read_image(tmp_path / "camera.jpg").shape == rgb.shape


def test_truncated_jpeg_with_a_whole_thumbnail(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole, thumbnail = encode(picture, ".jpg"), encode(picture[:8, :8], ".jpg")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    (tmp_path / "cut.jpg").write_bytes((whole[:2] + segment + whole[2:])[:-200])
    with pytest.raises(ImageReadError, match="cut.jpg is truncated"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("content, message", [(b"", "empty"), (b"not an image at all", "decode")])
def test_file_that_is_no_image(tmp_path, read, content, message):
    (tmp_path / "other.png").write_bytes(content)
    with pytest.raises(ImageReadError, match=f"other.png .*{message}"):
        read(tmp_path / "other.png")


@pytest.mark.parametrize("read", [read_image, read_label])
def test_missing_file_and_directory(tmp_path, read):
    with pytest.raises(ImageReadError, match="nowhere.png can't be read: No such file"):
        read(tmp_path / "nowhere.png")
    with pytest.raises(ImageReadError, match="can't be read: Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["with space.png", "straße_图像.png", "%d.png", "quote'\".png"])
def test_any_file_name(tmp_path, rgb, name):
    path = os.path.join(tmp_path, name)
    write_png(path, rgb)
    np.testing.assert_array_equal(read_image(path), rgb)


def test_write_png_modes(tmp_path, rgb):
    write_png(tmp_path / "grey.png", rgb[..., 0])
    np.testing.assert_array_equal(read_label(tmp_path / "grey.png"), rgb[..., 0])
    write_png(tmp_path / "colour.png", rgb[:, ::-1])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "colour.png")), rgb[:, ::-1])


def test_write_png_to_nowhere(tmp_path, rgb):
    with pytest.raises(RunError, match="colour.png can't be written: No such file or directory"):
        write_png(tmp_path / "missing" / "colour.png", rgb)


def test_messages_are_one_line(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    with pytest.raises(ImageReadError) as raised:
        read_image(tmp_path / "bad.png")
    assert "\n" not in str(raised.value)
