"""Every kind of pixel that files have, as RGB of 8 bits."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image, features

from jaxdet.data.bit_depth import grey_levels
from jaxdet.data.image import EncodedImage, as_image, find_images, open_image, unusual
from jaxdet.errors import UserError

HW = (2, 2)


def grey(values, dtype) -> Image.Image:
    return Image.fromarray(np.array(values, dtype).reshape(HW))


def with_palette() -> Image.Image:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


ROWS = [
    # what, the image, its format, the first channel's pixels
    ("8 bits", grey([0, 1, 128, 255], np.uint8), "PNG", [0, 1, 128, 255]),
    ("12 bits", grey([0, 16, 2048, 4095], np.uint16), "PNG", [0, 1, 128, 255]),
    ("12 bits, TIFF", grey([0, 16, 2048, 4095], np.uint16), "TIFF", [0, 1, 128, 255]),
    ("16 bits", grey([0, 256, 32768, 65535], np.uint16), "PNG", [0, 1, 128, 255]),
    ("8 of 16 bits", grey([0, 1, 128, 255], np.uint16), "PNG", [0, 1, 128, 255]),
    ("32 bits", grey([-5, 2**24, 2**30, 2**31 - 1], np.int32), "TIFF", [0, 1, 64, 127]),
    ("16 of 32 bits", grey([0, 256, 32768, 65535], np.int32), "TIFF", [0, 1, 128, 255]),
    ("float to 1", grey([0, 0.5, 1, np.nan], np.float32), "TIFF", [0, 128, 255, 0]),
    ("float to 255", grey([0, 1, 128.4, 255], np.float32), "TIFF", [0, 1, 128, 255]),
    ("alpha", Image.new("RGBA", (2, 2), (10, 20, 30, 0)), "PNG", [10] * 4),
    ("grey and alpha", Image.new("LA", (2, 2), (10, 0)), "PNG", [10] * 4),
    ("palette", with_palette(), "PNG", [10] * 4),
    ("bits", Image.new("1", (2, 2), 1), "PNG", [255] * 4),
    ("CMYK", Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF", [255] * 4),
]


@pytest.mark.parametrize(("image", "kind", "expected"), [r[1:] for r in ROWS], ids=lambda v: "")
def test_a_kind_of_pixel(image, kind, expected):
    content = io.BytesIO()
    image.save(content, kind)
    encoded = EncodedImage(HW, content.getvalue(), "a", "the test")
    for pixels in (encoded.pixels(), np.asarray(encoded.decode(2)[0])):
        assert pixels.dtype == np.uint8
        assert pixels.shape == (2, 2, 3)
        assert pixels[..., 0].ravel().tolist() == expected


def test_infinite_and_huge_numbers_have_an_end():
    levels = grey_levels(np.array([np.inf, -np.inf, 1e30, 0.0]))
    assert levels.tolist() == [0, 0, 255, 0]
    assert grey_levels(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_colours_of_16_bits_are_scaled_by_the_range_that_they_use(tmp_path, suffix, channels, bits):
    levels = np.random.default_rng(0).integers(0, 256, (6, 8, channels))
    levels[0, 0, 0] = 255
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(path, (levels << (bits - 8)).astype(np.uint16)[..., [2, 1, 0, 3][:channels]])
    image = open_image(path)
    np.testing.assert_array_equal(image.pixels(), levels[..., :3])
    np.testing.assert_array_equal(np.asarray(image.decode(2)[0]), levels[..., :3])
    assert unusual(path) == ["have more than 8 bits a channel"]


def test_a_damaged_image_of_16_bits_is_a_user_error(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(path, np.random.default_rng(0).integers(0, 65536, (90, 90, 3), np.uint16))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UserError, match=r"a\.png cannot be read as an image"):
        open_image(path).pixels()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_of_several_frames_the_first_is_read(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), (level, level, level)) for level in (255, 0)]
    path = tmp_path / f"a.{kind.lower()}"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:])
    assert open_image(path).pixels().min() >= 250
    assert unusual(path) == ["have several frames or pages"]


@pytest.mark.parametrize(
    ("suffix", "kind", "library"),
    [("avif", "AVIF", "avif"), ("jp2", "JPEG2000", "jpg_2000"), ("jfif", "JPEG", "jpg")],
)
def test_formats_that_pillow_may_read(tmp_path, suffix, kind, library):
    path = tmp_path / f"a.{suffix}"
    if not features.check(library):
        pytest.skip(f"this Pillow has no {kind}")
    Image.new("RGB", (8, 8), (255, 255, 255)).save(path, kind)
    assert find_images(tmp_path) == [path]
    assert open_image(path).pixels().min() >= 250


def test_what_pillow_cannot_read_is_named(tmp_path):
    path = tmp_path / "a.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    assert find_images(tmp_path) == [path]
    for read in (lambda: open_image(path), EncodedImage((8, 8), path, "a.HEIC", "b.json").pixels):
        with pytest.raises(UserError, match="it is HEIC: save it as JPEG or PNG"):
            read()


def test_what_macos_keeps_beside_files_is_passed_over(tmp_path):
    (tmp_path / "._a.jpg").write_bytes(b"\0\5\x16\7")
    assert find_images(tmp_path) == []


@pytest.mark.parametrize("note", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_orientation_is_followed_where_it_is_asked_for(tmp_path, note, kind):
    """All ways to read a file see one frame; Pillow's own function is the reference."""
    from PIL import ImageOps

    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (3, 2, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = note
    path = tmp_path / "a.image"
    Image.fromarray(smooth).save(path, kind, exif=exif)
    with Image.open(path) as image:
        expected = {
            "stored": np.asarray(image),
            "exif": np.asarray(ImageOps.exif_transpose(image)),
        }
    for orientation, pixels in expected.items():
        listed = EncodedImage(pixels.shape[:2], path, "a", "b.json", orientation)
        given = as_image(path, orientation)
        for image in (listed, given):
            assert image.hw == pixels.shape[:2]
            np.testing.assert_array_equal(image.pixels(), pixels)
            small, shrink = image.decode(4)
            assert (small.height * shrink, small.width * shrink) == image.hw
            large = np.asarray(small.resize(image.hw[::-1], Image.Resampling.NEAREST), float)
            assert np.abs(large - pixels).mean() < 12
    assert unusual(path) == (["have an EXIF orientation note"] if note > 1 else [])


def test_a_size_listed_the_other_way_round_names_the_key(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    listed = EncodedImage((30, 20), tmp_path / "a.jpg", "a.jpg", "b.json")
    with pytest.raises(UserError, match=r"config\.data\.orientation='exif'"):
        listed.pixels()
