"""The contact sheet of training samples."""

from __future__ import annotations

import numpy as np
from PIL import Image

from jaxdet.data import show


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
    mask = np.zeros((14, 14), np.uint8)
    mask[:, :7] = 1
    pasted = show._paste(mask, np.array([4.0, 2.0, 12.0, 8.0]), (10, 16))
    expected = np.zeros((10, 16), bool)
    expected[2:8, 4:8] = True
    np.testing.assert_array_equal(pasted, expected)
