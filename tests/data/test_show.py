"""The contact sheet of training samples."""

from __future__ import annotations

import numpy as np
from PIL import Image

from jaxdet.data import show
from jaxdet.data.training_masks import pasted_mask, write_coverage, write_outlines


def test_draws_the_samples_of_a_config(tmp_path, capsys):
    assert show.main([f"--workdir={tmp_path / 'run'}", "--config.data.shapes.train_images=12"]) == 0
    path = tmp_path / "run" / "samples.png"
    assert capsys.readouterr().out.strip() == str(path)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (8 + 3 * 488, 8 + 4 * 488, 3)
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000


def test_a_mistake_is_one_sentence(tmp_path, capsys):
    assert show.main(["--config=configs/coco_small.py", "--config.data.root=/nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: /nowhere: no such folder")


def test_masks_are_pasted_where_their_box_is():
    expected = np.zeros((40, 60), bool)
    expected[2:20, 4:8] = True
    left_half = write_coverage(expected[2:20, 4:12].astype(np.uint8), 14)  # of larger cells
    outline = write_outlines([np.array([(4, 2), (8, 2), (8, 20), (4, 20)], float)], 14)
    box = np.float32([4, 2, 12, 20])
    for mask, outlined in ((left_half, False), (outline, True)):
        pasted = pasted_mask(mask, outlined, box, (40, 60))
        np.testing.assert_array_equal(np.argwhere(pasted), np.argwhere(expected))
