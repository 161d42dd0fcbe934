"""Labels in any script: letters that are there, honest words where they are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, features

from jaxdet import lettering
from jaxdet.visualize import LONGEST, _drawn_name, draw_detections

needs_fonts = pytest.mark.skipif(not lettering._font_files(), reason="without manimgx-fonts")
needs_opencv = pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="OpenCV 4 has no such font")


def ink(text: str) -> np.ndarray:
    return np.asarray(lettering.letter(text, 24))


@pytest.mark.parametrize(
    "name",
    [
        *(
            pytest.param(name, marks=needs_fonts)
            for name in (
                "แมวน้ำ",
                "हिन्दी",
                "🐈",
                "👨\u200d👩\u200d👧",
                "தமிழ்",
                "বাংলা",
                "ქართული",
                "አማርኛ",
                "Հայ",
                "ខ្មែរ",
                "سيارة",
                "עברית",
                "Tiếng Việt",
                "Ђак",
            )
        ),
        *(
            pytest.param(name, marks=needs_opencv)
            for name in ("干净", "ネコ", "한국어", "Fußgänger")
        ),
    ],
)
def test_names_in_many_scripts_have_letters(name):
    assert lettering.without_letters(name) == ""
    drawn = ink(name)
    assert drawn.max() > 200
    for other in ("?" * len(name), "".join(f"U+{ord(c):04X}" for c in name)):
        assert drawn.shape != ink(other).shape or np.any(drawn != ink(other))


@needs_fonts
def test_letters_of_one_script_are_one_stretch():
    def pieces(text: str) -> list[str]:
        return [piece for _, piece in lettering._stretches(text)]

    assert pieces("แมวน้ำ") == ["แมวน้ำ"]
    assert pieces("हिन्दी क्षत्रिय 0.95") == ["हिन्दी क्षत्रिय", " 0.95"]
    assert pieces("אב גד, 0.90") == ["אב גד", ", 0.90"]
    assert pieces("Fußgänger") == ["Fußgänger"]
    assert pieces("🐈 cat") == ["🐈", " cat"]


@needs_fonts
@pytest.mark.skipif(not features.check("raqm"), reason="Pillow without libraqm")
def test_letters_join_and_run_from_right_to_left():
    forth, back = ink("אב"), ink("בא")
    assert forth.shape != back.shape or np.any(forth != back)
    alone = [lettering.letter(letter, 24).width for letter in "कष"]
    assert lettering.letter("क्ष", 24).width < sum(alone)  # one sign of two letters


def test_letters_that_no_font_has_are_said_once(capsys):
    assert lettering.without_letters("ཀ cat") == "ཀ"
    assert list(lettering._stretches("ཀ")) == [("", "U+0F40")]
    _drawn_name.cache_clear()
    image = np.zeros((30, 40, 3), np.uint8)
    boxes = np.array([[5, 5, 20, 20.0]])
    drawn = [
        draw_detections(image, boxes, np.array([1]), np.array([0.9]), None, ["a", name])
        for name in ("ཀ", "ཀ", "class 1")
    ]
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert capsys.readouterr().out == (
        "warning: no font here has TIBETAN LETTER KA; the class 'ཀ' is drawn as 'class 1'\n"
    )


def test_without_any_font_accents_are_dropped(monkeypatch):
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    monkeypatch.setattr(lettering, "_font_files", tuple)
    lettering._font_of.cache_clear()
    drawn, plain = ink("é"), ink("e")
    assert lettering.without_letters("é猫") == "猫"
    lettering._font_of.cache_clear()
    np.testing.assert_array_equal(drawn, plain)


def test_nothing_to_draw_is_an_empty_mask():
    assert isinstance(lettering.letter("", 24), Image.Image)
    assert lettering.letter("\u00a0", 24).getbbox() is None


def test_drawings_of_thin_images_are_bounded():
    image = np.zeros((1, 20_000, 3), np.uint8)
    masks = np.ones((1, 1, 20_000), bool)
    found = np.array([[5, 0, 100, 1.0]]), np.array([0]), np.array([0.9]), masks, ["é"]
    assert draw_detections(image, *found).shape == image.shape
    small = draw_detections(image[:, :100], found[0], found[1], found[2], masks[..., :100], ["é"])
    assert max(small.shape) == LONGEST
