"""Images as a command line names them, and categories from a file."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from jaxdet.data.dataset import Category
from jaxdet.errors import UserError
from jaxdet.inference.prediction import Prediction
from jaxdet.inference.prediction_files import find_images, read_categories, write_predictions

TWICE = '{"categories": [{"id": 1, "name": "one"}, {"id": 1, "name": "two"}]}'


def test_a_folder_s_images_are_found_by_their_names(tmp_path):
    for name in ("b.JPG", "a.png", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    expected = [tmp_path / "a.png", tmp_path / "b.JPG"]
    assert find_images([str(tmp_path)]) == expected
    assert find_images([str(tmp_path / "c.txt"), str(tmp_path)]) == [
        tmp_path / "c.txt",
        *expected,
    ]
    assert find_images([str(tmp_path / "[ab].*"), str(expected[0])]) == expected


def test_patterns_of_any_folders_end_where_links_lead_in_circles(tmp_path, monkeypatch):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for folder in (tmp_path, inner, tmp_path / ".hidden"):
        (folder / "x.png").touch()
    (tmp_path / "linked.png").symlink_to("x.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for number in range(5):  # 5**40 ways
        (inner / f"up {number}").symlink_to(tmp_path)
    found = [tmp_path / "a" / "b" / "x.png", tmp_path / "linked.png", tmp_path / "x.png"]
    assert find_images([f"{tmp_path}/**/*.png"]) == found
    assert found[0] in find_images([f"{tmp_path}/a/**/x.png"])
    assert found[0] in find_images([f"{tmp_path}/*/**"])
    monkeypatch.chdir(tmp_path)
    assert find_images(["**/*.png"]) == [path.relative_to(tmp_path) for path in found]
    assert find_images(["x**g"]) == [path.relative_to(tmp_path) for path in found[2:]]


@pytest.mark.parametrize("name", ["loop", "a" * 5000, "a/" * 3000])
def test_what_can_be_no_path_is_one_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"must be an image|cannot be read") as raised:
        find_images([name])
    assert len(str(raised.value)) < 7000


@pytest.mark.parametrize("content", ["", "[]", '{"categories": []}', '{"categories": [1]}', TWICE])
def test_a_file_without_categories_is_rejected(content, tmp_path):
    path = tmp_path / "categories.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"categories\.json lists no categories"):
        read_categories(path)


class _FindsOne:
    """A detector that finds one object on every image."""

    at_once, orientation, categories = 2, "stored", (Category(3, "cat"),)

    def predict(self, images):
        result = {"image_id": 0, "category_id": 3, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.9}
        return [Prediction(image.pixels(), [dict(result)], self.categories) for image in images]


def test_numbers_are_written_before_any_drawing(tmp_path, monkeypatch):
    paths = [tmp_path / "seen" / f"{number}.png" for number in range(3)]
    paths[0].parent.mkdir()
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)

    def draw(_prediction, _score):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Prediction, "draw", draw)
    with pytest.raises(UserError, match="No space left on device"):
        write_predictions(_FindsOne(), paths, tmp_path / "out", 0.5)
    written = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [entry["file_name"] for entry in written] == [str(path) for path in paths]
    assert {entry["category_name"] for entry in written} == {"cat"}
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())["images"]) == 3
    monkeypatch.undo()
    assert write_predictions(_FindsOne(), paths, tmp_path / "out", 0.5)[0] == 3
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        "0.png",
        "1.png",
        "2.png",
    ]
