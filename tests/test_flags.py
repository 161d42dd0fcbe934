"""Command lines: how flags may be spelt, and how commands end."""

from __future__ import annotations

import pytest

from jaxdet.errors import PreemptedError, UserError
from jaxdet.flags import Parser, count, positive, run_main, share, switch


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


def test_a_command_s_own_status_is_kept():
    assert run_main(lambda: 1) == 1


def test_what_resumes_says_so(capsys):
    def interrupt():
        raise KeyboardInterrupt

    assert run_main(interrupt, resumes=True) == 130
    assert "the same command resumes where it stopped" in capsys.readouterr().err
