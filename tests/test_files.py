"""Files are written whole or not at all."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from jaxdet.data.image import open_image
from jaxdet.errors import UserError
from jaxdet.files import atomic_write, read_file


def test_what_is_written_takes_the_place_of_what_was(tmp_path):
    path = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with atomic_write(path) as partial:
            partial.write_text(text)
        assert path.read_text() == text
    assert [*path.parent.iterdir()] == [path]


def write_and_fail(path, beside=None):
    with atomic_write(path) as partial:
        partial.write_text("half")
        if beside is not None:
            beside.write_text("")
        raise ZeroDivisionError


def test_an_error_leaves_what_was_there_and_no_part(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError):
        write_and_fail(path)
    assert path.read_text() == "before"
    assert [*tmp_path.iterdir()] == [path]


def test_a_new_folder_goes_again_unless_others_use_it(tmp_path):
    path = tmp_path / "new" / "file"
    with pytest.raises(ZeroDivisionError):
        write_and_fail(path)
    assert not path.parent.exists()
    with pytest.raises(ZeroDivisionError):
        write_and_fail(path, beside=path.parent / "other")
    assert [*path.parent.iterdir()] == [path.parent / "other"]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/x cannot be written .*; free space or rights"):
        write_and_fail(tmp_path / "file" / "x")


def make(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.name if kind == "loop" else "/dev/zero")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("pipe", "it is a named pipe, not an ordinary file"),
        ("socket", "it is a socket, not an ordinary file"),
        ("device", "it is a device, not an ordinary file"),
        ("folder", "it is a folder, not an ordinary file"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_what_is_no_file_is_never_read(tmp_path, monkeypatch, kind, reason):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    make(Path("x.png"), kind)
    with pytest.raises(OSError, match=reason):
        read_file(Path("x.png"))
    with pytest.raises(UserError, match=rf"x\.png cannot be read as an image .*{reason}"):
        open_image(Path("x.png"))
