"""Images of whatever people have."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxdet.data.image import as_image
from jaxdet.errors import UserError


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\] must be uint8 \[height"),
        (np.zeros((4, 4, 3)), r"float64 \[4, 4, 3\] must be"),
        (np.zeros((0, 4, 3), np.uint8), "must be uint8"),
        (None, "a NoneType is no image"),
    ],
)
def test_what_is_no_image_is_refused(image, expected):
    with pytest.raises(UserError, match=expected):
        as_image(image)


def test_arrays_and_pillow_s_images_are_taken_as_they_are(tmp_path):
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for given in (pixels, Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png")):
        image = as_image(given)
        assert image.hw == (4, 5)
        np.testing.assert_array_equal(image.pixels(), pixels)
