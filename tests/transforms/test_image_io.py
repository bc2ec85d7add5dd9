import struct
import zlib

import cv2
import numpy as np
import pytest
from odd_images import DEEP, GREY, RGB, chunk, encode, write_odd_images
from PIL import Image

from paddleseg.cvlibs.errors import ImageReadError, LabelValueError, RunError, SegError
from paddleseg.transforms import image_io
from paddleseg.transforms.image_io import has_exif_rotation, image_size, read_image, read_label, write_png


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The folder of odd files, and whether each is readable as an image."""
    folder = tmp_path_factory.mktemp("odd")
    return folder, write_odd_images(folder)


@pytest.mark.filterwarnings("error")
def test_whole_files_are_read_and_others_are_refused_in_one_line_that_names_them(odd):
    folder, readable = odd
    for name, is_readable in readable.items():
        for read in (read_image, read_label):
            if is_readable and read is read_image:
                image = read(folder / name)
                assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
                assert image_size(folder / name) == image.shape[:2]
            elif not is_readable:
                with pytest.raises(ImageReadError) as error:
                    read(str(folder / name))
                assert name in str(error.value) and str(error.value).isprintable(), name


@pytest.mark.parametrize("name, expected", [
    ("grey.png", GREY[..., None]), ("rgb.png", RGB[..., ::-1]), ("rgb.bmp", RGB[..., ::-1]),
    ("rgb.tiff", RGB[..., ::-1]), ("rgb.ppm", RGB[..., ::-1]), ("alpha.png", RGB[..., ::-1]),
    ("deep.png", (DEEP >> 8)[..., None]), ("bilevel.png", np.where(GREY > 99, 255, 0)[..., None]),
    ("palette.png", GREY[..., None])])
def test_pixels(odd, name, expected):
    """OpenCV wrote the color files, as BGR."""
    image = read_image(odd[0] / name)
    np.testing.assert_array_equal(image, np.broadcast_to(expected, (13, 17, 3)))
    np.testing.assert_array_equal(read_image(odd[0] / name, to_rgb=False), image[..., ::-1])


def test_a_jpeg_is_decoded_as_opencv_does(odd):
    np.testing.assert_array_equal(read_image(odd[0] / "photo.jpg", to_rgb=False), cv2.imread(str(odd[0] / "photo.jpg")))


@pytest.mark.parametrize("kind, turned", [("jpg", True), ("webp", True), ("tif", False)])
def test_exif_orientation_is_known_but_not_applied(odd, kind, turned):
    path = odd[0] / f"turned.{kind}"
    assert has_exif_rotation(path) == turned and (read_image(path).shape == RGB.shape) == turned
    assert not has_exif_rotation(odd[0] / "photo.jpg") and not has_exif_rotation(odd[0] / "none.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_tiff_is_applied_to_image_and_label_alike(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "image.tif", exif=exif)
    Image.fromarray(GREY).save(tmp_path / "label.tif", exif=exif)
    image = read_image(tmp_path / "image.tif")
    np.testing.assert_array_equal(read_label(tmp_path / "label.tif"), image[..., 0])
    assert image_size(tmp_path / "image.tif") == image.shape[:2]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_labels(tmp_path, dtype):
    label = np.array([[0, 1], [255, 7]]).astype(dtype)
    Image.fromarray(label).save(tmp_path / "label.png")
    read = read_label(str(tmp_path / "label.png"))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, label)


def test_a_palette_gives_indices_as_label_and_colours_as_image(tmp_path):
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = np.random.default_rng(0).integers(0, 256, (12, 3), dtype=np.uint8)
    write_png(tmp_path / "palette.png", indices, palette)
    np.testing.assert_array_equal(read_label(tmp_path / "palette.png"), indices)
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), palette[indices])


@pytest.mark.parametrize("mode, name", [("RGB", "label.png"), ("RGBA", "label.png"), ("LA", "label.png"),
                                        ("F", "label.tiff")])
def test_a_label_of_another_mode_is_refused(tmp_path, mode, name):
    Image.fromarray(RGB).convert("L" if mode == "F" else "RGB").convert(mode).save(tmp_path / name)
    with pytest.raises(ImageReadError, match=f"{name} is a picture of mode {mode}, .*tools/index_masks.py"):
        read_label(tmp_path / name)


def test_instance_ids_are_no_label(tmp_path):
    (tmp_path / "ids.png").write_bytes(encode(np.array([[7, 26001]], np.uint16), ".png"))
    with pytest.raises(LabelValueError, match="ids.png .* 7 to 26001"):
        read_label(tmp_path / "ids.png")


@pytest.mark.parametrize("name, reason", [("damaged.png", "checksum"), ("huge.jpg", "12000x12000"),
                                          ("empty.png", "0 bytes"), ("none.png", "No such file"),
                                          ("directory.png", "Is a directory"), ("image.gif", "PNG, JPEG, BMP")])
def test_the_reason_is_given(odd, name, reason):
    with pytest.raises(ImageReadError, match=reason):
        read_image(odd[0] / name)


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("error", [RuntimeError("a\nb"), KeyError(258), struct.error("x"), MemoryError()])
def test_whatever_a_decoder_raises(odd, read, error, monkeypatch):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageReadError, match=f"rgb.bmp .*{type(error).__name__}") as raised:
        read(odd[0] / "rgb.bmp")
    assert str(raised.value).isprintable()


# ---- plain PNG files, decoded by kornia-rs ----------------------------------------------------------------

CHANNELS, SIZE = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}, (40, 50)


def png(colour, *extra, size=SIZE, depth=8, interlaced=0, rows=None, filters=range(5)):
    """A PNG file of random rows; whatever the filter, any bytes are valid."""
    rng = np.random.default_rng([colour, *size])
    width = -(-size[1] * CHANNELS[colour] * depth // 8)
    rows = rows or b"".join(bytes([filters[row % len(filters)]]) + rng.bytes(width) for row in range(size[0]))
    header = struct.pack(">IIBBBBB", size[1], size[0], depth, colour, 0, 0, interlaced)
    return b"".join([image_io.PNG_START, chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)),
                     chunk(b"IEND", b"")])


def outcome(read, path):
    """The pixels, or the class of the error."""
    try:
        return read(path).tobytes(), read(path).shape
    except SegError as error:
        return type(error)


@pytest.mark.skipif(image_io.decode_image_png_u8 is None, reason="kornia-rs is not installed")
@pytest.mark.parametrize("colour", CHANNELS)
@pytest.mark.parametrize("arguments", [
    *({"filters": [number]} for number in range(5)), {"size": (1, 1)}, {"size": (9, 1)}, {"size": (200, 333)},
    {"depth": 16}, {"interlaced": 1}, {"rows": b"\x09" * 99}, {"rows": b"short"},
    {"extra": chunk(b"gAMA", b"\0\0\xb1\x8f")},
    {"extra": chunk(b"tRNS", b"\0\1\0\1\0\1")}, {"extra": chunk(b"PLTE", bytes(range(30)))},
    {"extra": chunk(b"sBIT", b"\5\5\5")}, {"extra": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0")}], ids=str)
def test_the_fast_decoder_changes_nothing(tmp_path, monkeypatch, colour, arguments):
    others = {key: value for key, value in arguments.items() if key != "extra"}
    (tmp_path / "image.png").write_bytes(png(colour, arguments.get("extra", b""), **others))
    for read in (read_image, read_label):
        fast = outcome(read, tmp_path / "image.png")
        with monkeypatch.context() as patch:
            patch.setattr(image_io, "decode_image_png_u8", None)
            assert outcome(read, tmp_path / "image.png") == fast


@pytest.mark.skipif(image_io.decode_image_png_u8 is None, reason="kornia-rs is not installed")
def test_the_fast_decoder_is_used(odd, monkeypatch):
    used = []
    decode = image_io.decode_image_png_u8
    monkeypatch.setattr(image_io, "decode_image_png_u8", lambda *args: used.append(args[2]) or decode(*args))
    read_image(odd[0] / "rgb.png"), read_image(odd[0] / "remark.png"), read_label(odd[0] / "grey.png")
    assert used == ["rgb", "rgb", "mono"]


# ---- writing ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["with space.png", "straße_图像.png", "%d.png", "quote'\".png"])
def test_write_png_by_any_name(tmp_path, name):
    write_png(tmp_path / name, RGB[:, ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / name), RGB[:, ::-1])
    write_png(tmp_path / name, GREY)
    np.testing.assert_array_equal(read_label(tmp_path / name), GREY)


def test_write_png_to_nowhere(tmp_path):
    with pytest.raises(RunError, match="colour.png can't be written: No such file or directory"):
        write_png(tmp_path / "missing" / "colour.png", RGB)
