"""Resizing against Pillow's own, and images decoded at a smaller size."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from jaxdet.data.image import ArrayImage, EncodedImage
from jaxdet.data.resize import enlarge, resample


@pytest.fixture(scope="module")
def smooth() -> np.ndarray:
    """An image with edges and slopes, uint8 [90, 121, 3]."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    return np.array(coarse.resize((121, 90), Image.Resampling.BICUBIC))


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


@pytest.mark.parametrize("resized_hw", [(90, 121), (91, 122), (144, 200), (180, 242), (333, 444)])
@pytest.mark.parametrize("position", [0.0, 0.3, 0.7, 1.0])
def test_enlarging_equals_pillow(smooth, resized_hw, position):
    window_h, window_w = (min(side, 100) for side in resized_hw)
    y, x = (round((side - 100) * position) if side > 100 else 0 for side in resized_hw)
    out = np.zeros((110, 110, 3), np.uint8)
    enlarge(smooth, resized_hw, (x, y), out[:window_h, :window_w])
    whole = Image.fromarray(smooth).resize(resized_hw[::-1], Image.Resampling.BILINEAR)
    expected = np.asarray(whole)[y : y + window_h, x : x + window_w]
    difference = np.abs(out[:window_h, :window_w].astype(int) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.03
    assert not out[window_h:].any()
    assert not out[:, window_w:].any()


def test_enlarging_keeps_flat_colours():
    for level in (0, 1, 127, 254, 255):
        out = np.empty((50, 70, 3), np.uint8)
        enlarge(np.full((20, 30, 3), level, np.uint8), (50, 70), (0, 0), out)
        assert (out == level).all()


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("hw", [(90, 121), (89, 64), (9, 9), (1, 30)])
def test_jpeg_is_decoded_at_a_smaller_size(smooth, shrink, hw):
    pixels = np.ascontiguousarray(smooth[: hw[0], : hw[1]])
    encoded = EncodedImage(hw, jpeg(pixels), "a.jpg", "a.json")
    image, factor = encoded.decode(shrink)
    assert factor in (1, shrink)
    assert factor == shrink or min(hw) < shrink
    assert (image.height, image.width) == tuple(-(-side // factor) for side in hw)
    assert encoded.pixels().shape == (*hw, 3)


def test_pixels_and_pillow_decode_the_same(smooth):
    for pixels in (smooth, smooth[:, :, 0]):
        encoded = EncodedImage(smooth.shape[:2], jpeg(pixels), "a.jpg", "a.json")
        np.testing.assert_array_equal(encoded.pixels(), np.asarray(encoded.decode(1)[0]))


def test_scaled_decoding_changes_little(smooth):
    """Reducing five-fold: a JPEG decoded at half its size against the whole one."""
    large = np.array(Image.fromarray(smooth).resize((605, 450), Image.Resampling.BICUBIC))
    encoded = EncodedImage((450, 605), jpeg(large), "a.jpg", "a.json")
    decoded = ArrayImage(encoded.pixels())
    box = (3.0, 11.5, 601.0, 433.0)
    small, expected = (resample(source, box, (85, 120)) for source in (encoded, decoded))
    difference = np.abs(small.astype(int) - expected)
    assert 0 < difference.mean() < 0.6
    assert difference.max() < 12
