"""Images as a command line names them, and categories from a file."""

from __future__ import annotations

import pytest

from jaxdet.errors import UserError
from jaxdet.inference.prediction_files import find_images, read_categories

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


@pytest.mark.parametrize("content", ["", "[]", '{"categories": []}', '{"categories": [1]}', TWICE])
def test_a_file_without_categories_is_rejected(content, tmp_path):
    path = tmp_path / "categories.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"categories\.json lists no categories"):
        read_categories(path)
