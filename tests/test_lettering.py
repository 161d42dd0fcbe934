"""Labels in scripts that Pillow's own font lacks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from jaxdet import lettering
from jaxdet.visualize import LONGEST, draw_detections

needs_font = pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="OpenCV 4 has no such font")


@needs_font
@pytest.mark.parametrize("name", ["干净", "浑浊", "سيارة", "Fußgänger", "Ђак", "עברית", "한국어"])
def test_names_in_many_scripts_have_letters(name):
    drawn = np.asarray(lettering.letter(name, 24))
    unknown = np.asarray(lettering.letter("🐈" * len(name), 24))  # drawn as "?"
    assert drawn.max() > 200
    assert drawn.shape != unknown.shape or np.any(drawn != unknown)


@needs_font
def test_hebrew_runs_from_right_to_left():
    word = "אב"
    forth, back = (np.asarray(lettering.letter(text, 24)) for text in (word, word[::-1]))
    assert forth.shape != back.shape or np.any(forth != back)
    assert lettering._runs("a אב") == [(False, "a "), (True, "אב")]


def test_without_the_font_accents_are_dropped(monkeypatch):
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    drawn, plain = (np.asarray(lettering.letter(text, 24)) for text in ("é", "e"))
    np.testing.assert_array_equal(drawn, plain)


def test_drawings_of_thin_images_are_bounded():
    image = np.zeros((1, 20_000, 3), np.uint8)
    masks = np.ones((1, 1, 20_000), bool)
    found = np.array([[5, 0, 100, 1.0]]), np.array([0]), np.array([0.9]), masks, ["é"]
    assert draw_detections(image, *found).shape == image.shape
    small = draw_detections(image[:, :100], found[0], found[1], found[2], masks[..., :100], ["é"])
    assert max(small.shape) == LONGEST
