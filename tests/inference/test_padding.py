"""Detection on images that are padded to rectangles and not to a square."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdet import parallel
from jaxdet.data.dataset import Category
from jaxdet.errors import UserError
from jaxdet.inference.coco_results import coco_results
from jaxdet.inference.detector import Detector, build_stateless, load
from jaxdet.inference.export import export_detector
from tests.tiny import get_config, without

CATEGORIES = [Category(number, f"class {number}") for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def make():
    """Makes a detector with relative positions that fit any map, of one model and its weights."""
    config = get_config()
    config.model.vit.relative_position = "decomposed"
    config.model.detector.score_threshold = 0.0
    mesh = parallel.data_mesh(8, 8)
    stateless = build_stateless(config, len(CATEGORIES), mesh)
    weights = jax.jit(stateless.init)(jax.random.key(0))
    params, stats = jax.device_put(weights, parallel.replicated(mesh))

    def detector(multiple: int) -> Detector:
        own = config.copy_and_resolve_references()
        own.model.detector.pad_multiple = multiple
        return Detector(own, CATEGORIES, params, stats, stateless, mesh, batch=8)

    return detector


def test_images_of_one_shape_are_detected_on_together(make, photo):
    square, padded = make(0), make(32)
    wide = photo.crop((0, 0, photo.width, photo.height // 2))
    images = [wide, photo, wide.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    found = padded.predict(images)
    assert padded._detect._cache_size() == 2
    # A square image is padded to the same square, by the same program.
    alone = square.predict(photo)
    assert len(alone.results) > 0
    assert without(found[1].results, "image_id") == without(alone.results, "image_id")
    # The others are what the detector finds on the upper half of the square.
    host = square.prepare(wide)
    assert padded.prepare(wide)["image"].shape == (1, 32, 64, 3)
    np.testing.assert_array_equal(padded.prepare(wide)["image"], host["image"][:, :32])
    rows = {name: np.repeat(values, 8, axis=0) for name, values in host.items()}
    rows["image"] = rows["image"][:, :32]
    batch = parallel.shard_batch(rows, padded.mesh)
    detections = padded._detect(padded.params, padded.stats, batch)
    assert padded._detect._cache_size() == 2
    known = {
        "image_id": np.zeros(1, np.int64),
        "image_hw": host["image_hw"],
        "original_hw": np.array([[wide.height, wide.width]]),
        "is_real": np.ones(1, bool),
    }
    expected = coco_results(parallel.local_rows(detections)._asdict(), known, [1, 2, 3])
    assert found[0].results == expected
    with pytest.raises(UserError, match="pad_multiple must be 0 for a StableHLO file"):
        export_detector(padded, 1)


def test_a_table_of_the_square_map_is_refused(finished):
    with pytest.raises(UserError, match=r"pad_multiple=32 must be 0 where .* is 'shared'"):
        load(finished[0].workdir, keys={"pad_multiple": "32"})
    with pytest.raises(UserError, match=r"pad_multiple=48 must be 0 or a multiple of 32"):
        load(finished[0].workdir, keys={"pad_multiple": "48"})
