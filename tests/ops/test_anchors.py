from __future__ import annotations

import numpy as np
import pytest

from jaxdet.ops.anchors import pyramid_anchors

STRIDES = (4, 8, 16, 32, 64)
SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)


def test_agrees_with_reference_exactly(reference):
    stored = reference("anchors.npz")
    height, width = stored["image_size"].tolist()
    grids = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    levels = pyramid_anchors(grids, STRIDES, SIZES, (0.5, 1.0, 2.0))
    for number, anchors in enumerate(levels, start=2):
        assert anchors.dtype == np.float32
        np.testing.assert_array_equal(anchors, stored[f"anchors_p{number}"])


def test_locations_run_by_row_then_column_then_shape():
    (anchors,) = pyramid_anchors([(2, 3)], [16], [32.0], [0.5, 2.0])
    centers = ((anchors[:, :2] + anchors[:, 2:]) / 2).reshape(2, 3, 2, 2)
    np.testing.assert_array_equal(centers[1, 2], [[32, 16], [32, 16]])
    wide, tall = (anchors[:2, 2:] - anchors[:2, :2]) / 32
    np.testing.assert_allclose(wide, [2**0.5, 0.5**0.5], rtol=1e-6)
    np.testing.assert_allclose(tall, [0.5**0.5, 2**0.5], rtol=1e-6)


def test_levels_must_agree():
    with pytest.raises(ValueError, match="zip"):
        pyramid_anchors([(2, 3)], [16, 32], [32.0, 64.0], [1.0])


def test_a_level_of_several_sizes_has_them_one_after_the_other_at_each_location():
    ratios, sizes = (0.5, 1.0), (8.0, 32.0)
    (both,) = pyramid_anchors([(2, 3)], [16], [sizes], ratios)
    each = [pyramid_anchors([(2, 3)], [16], [size], ratios)[0].reshape(6, 2, 4) for size in sizes]
    np.testing.assert_array_equal(both.reshape(6, 4, 4), np.concatenate(each, 1))
