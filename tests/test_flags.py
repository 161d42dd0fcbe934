"""Command lines: how flags may be spelt, and how commands end."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from jaxdet.errors import PreemptedError, UserError
from jaxdet.flags import Parser, count, local_path, positive, run_main, share, switch


@pytest.fixture
def parser():
    parser = Parser("jaxdet try", "Tries.")
    parser.add_argument("--peak-tflops", type=positive)
    parser.add_argument("--distributed", type=switch, nargs="?", const=True, default=False)
    return parser


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (["--peak-tflops=2"], ""),
        (["--peak-tflops", "2"], ""),
        (["--peak_tflops=2"], "note: --peak_tflops=2 is now spelt --peak-tflops=2\n"),
        (["--peak_tflops", "2"], "note: --peak_tflops is now spelt --peak-tflops\n"),
        (["-peak_tflops=2"], "note: -peak_tflops=2 is now spelt --peak-tflops=2\n"),
    ],
)
def test_earlier_spellings_are_read_with_a_note(parser, arguments, note, capsys):
    assert parser.parse_args(arguments).peak_tflops == 2
    assert capsys.readouterr().err == note


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], False),
        (["--distributed"], True),
        (["--distributed=true"], True),
        (["--distributed=False"], False),
        (["--nodistributed"], False),
    ],
)
def test_a_switch_may_stand_alone(parser, arguments, expected):
    assert parser.parse_args(arguments).distributed is expected


@pytest.mark.parametrize(
    "arguments", [["--peak=2"], ["--fly"], ["--peak-tflops=x"], ["--peak-tflops=-1"], ["on"]]
)
def test_a_mistake_is_a_user_error_that_names_help(parser, arguments):
    with pytest.raises(UserError, match="jaxdet try --help lists the flags"):
        parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (positive, "0"),
        (positive, "inf"),
        (positive, "nan"),
        (share, "1.1"),
        (share, "0"),
        (count, "0"),
        (count, "1.5"),
        (switch, "maybe"),
    ],
)
def test_numbers_out_of_range_are_rejected(parser, kind, bad):
    parser.add_argument("--x", type=kind)
    with pytest.raises(UserError, match="--x"):
        parser.parse_args([f"--x={bad}"])


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (None, 0, ""),
        (UserError("x must be 1"), 2, "error: x must be 1\n"),
        (PreemptedError("saved"), 143, "saved\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_every_command_ends_in_one_way(error, status, printed, capsys):
    def command():
        if error is not None:
            raise error

    assert run_main(command) == status
    assert capsys.readouterr().err == printed


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "x cannot be used (No space left"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 9000), "File name too long"),
        (UserError("x" * 9000 + "; give a shorter one"), "; give a shorter one"),
        (UserError("a\nb\x1b[31m"), "a b [31m"),
        (RecursionError("maximum"), "nested too deeply"),
    ],
)
def test_no_error_is_longer_than_a_line(error, said, capsys):
    def command():
        raise error

    assert run_main(command) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.startswith("error: ")
    assert printed.endswith("\n")
    assert printed.count("\n") == 1
    assert len(printed) <= 500


def test_an_error_of_the_program_keeps_its_traceback():
    def command():
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        run_main(command)


def test_a_path_may_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/runs") == tmp_path / "runs"
    assert local_path("~") == tmp_path
    assert local_path("runs/~x") == Path("runs/~x")


@pytest.mark.parametrize(
    "text",
    [
        "gs://b/x",
        "gs:/b/x",
        "s3://b/x",
        "https://x/y",
        "a" * 256,
        "a/" * 3000,
        "~nosuchuser/x",
        "a\0b",
    ],
)
def test_what_can_be_no_path_here_is_rejected(parser, text):
    parser.add_argument("--x", type=local_path)
    with pytest.raises(UserError, match=r"--x: .*(is an address|can be no path|is unknown)"):
        parser.parse_args([f"--x={text}"])


def test_a_command_s_own_status_is_kept():
    assert run_main(lambda: 1) == 1


def test_what_resumes_says_so(capsys):
    def interrupt():
        raise KeyboardInterrupt

    assert run_main(interrupt, resumes=True) == 130
    assert "the same command resumes where it stopped" in capsys.readouterr().err
