"""The `jaxdet` command: its subcommands, their help, and that a mistake does not wait for JAX."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jaxdet import __version__, cli

PROBE = """
import contextlib, io, json, sys
from jaxdet.cli import COMMANDS, main

def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue(), err.getvalue(), "jax" in sys.modules

found = {}
for name in COMMANDS:
    found[name] = run(*name.split(), "--help"), run(*name.split(), "--fly=1")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers():
    """Of every command: status, stdout, stderr and whether JAX was loaded, for --help and --fly."""
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=True)
    return json.loads(probe.stdout)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_lists_the_flags_without_jax(answers, name):
    (status, out, err, has_jax), _ = answers[name]
    assert (status, err, has_jax) in ((0, "", False), (None, "", False))
    assert out.startswith(f"usage: jaxdet {name} ")
    assert "--help" in out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_wrong_flag_is_one_sentence_without_jax(answers, name):
    _, (status, _, err, has_jax) = answers[name]
    assert status == 2
    assert not has_jax
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 500


def test_without_a_command_all_are_listed(capsys):
    assert cli.main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"jaxdet {name} " in listed for name in cli.COMMANDS)


def test_a_group_lists_its_commands(capsys):
    assert cli.main(["data"]) == 0
    listed = capsys.readouterr().out
    assert "jaxdet data check" in listed
    assert "jaxdet sweep" not in listed


def test_the_version_is_the_package_s(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["trian"], "did you mean jaxdet train?"),
        (["data", "chek"], "did you mean jaxdet data check?"),
        (["qqq"], "jaxdet --help lists the commands"),
    ],
)
def test_an_unknown_command_names_a_close_one(arguments, hint, capsys):
    assert cli.main(arguments) == 2
    assert hint in capsys.readouterr().err
