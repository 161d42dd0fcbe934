"""Shows a config, with what each key means, or in what two configs differ.

    jaxdet config vitb_mae --print
    jaxdet config vitb_mae --config.epochs=25 --diff vitdet_b_mae
    jaxdet config --markdown > docs/config.md

Keys of the first config can be set as in training.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxdet.config.files import apply_overrides, load_config
from jaxdet.config.keys import DetectorConfig, PretrainingConfig
from jaxdet.config.old_names import RENAMED
from jaxdet.config.schema import ROLES, Key, keys, sections
from jaxdet.config.values import schema_of, value_of
from jaxdet.errors import UserError
from jaxdet.flags import Parser, run_main

NARROWEST = 60
"""Columns that a line has at least, however narrow the terminal is."""

INTRODUCTION = """\
# Config keys

Every key can be set in a config file (`config.optim.lr = 1e-4`) and on the command line
(`--config.optim.lr=1e-4`; tuples as `"(0.9,1.1)"` or `0.9,1.1`). `jaxdet config NAME` prints a
config with all its values, `jaxdet config NAME --diff OTHER` in what two differ. This page is
written by `jaxdet config --markdown`.

The last column says where a key may differ, or why it may:
"""

RECIPE = """\
A detector's key of none of these roles, or of `test` and `finetune` alone, is part of the recipe:
the report compares runs that agree in all such keys.
"""

TABLE_HEAD = "| key | default | must be | meaning | roles |\n|---|---|---|---|---|"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> None:
    parser = Parser("jaxdet config", __doc__)
    parser.add_argument("name", nargs="?", help="a config's name, or a Python file")
    parser.add_argument("--print", action="store_true", help="show it; so does the name alone")
    parser.add_argument("--diff", metavar="OTHER", help="show the keys in which OTHER differs")
    parser.add_argument("--markdown", action="store_true", help="write the reference of all keys")
    options, rest = parser.parse_known_args(arguments)
    if options.markdown:
        sys.stdout.write(markdown())
        return
    if options.name is None:
        raise UserError("give the name of a config, such as vitb_mae")
    config = load_config(options.name)
    apply_overrides(config, rest)
    if options.print or options.diff is None:
        print("\n".join(key_lines(config)))
    if options.diff is not None:
        print("\n".join(difference_lines(config, load_config(options.diff))))


def key_lines(config: ConfigDict) -> list[str]:
    """Every key of a config with its value and meaning, by section, for the terminal."""
    width = max(NARROWEST, shutil.get_terminal_size().columns)
    lines = []
    for name, (about, section) in _by_section(schema_of(config)).items():
        shown = {key.name: readable(value_of(config, key.name)) for key in section}
        left = max(len(f"{key.leaf}={shown[key.name]}") for key in section if _is_short(shown, key))
        lines += ["", f"{_dotted(name)}: {about}"]
        for key in section:
            first = f"  {key.leaf}={shown[key.name]}"
            indent = " " * (left + 4)
            meaning = textwrap.wrap(_meaning(key), width - len(indent))
            if not _is_short(shown, key):
                lines += [first, *(f"{indent}{line}" for line in meaning)]
                continue
            lines.append(f"{first:<{len(indent)}}{meaning[0]}")
            lines += [f"{indent}{line}" for line in meaning[1:]]
    return lines[1:]


def _is_short(shown: dict[str, str], key: Key) -> bool:
    """Whether a key and its value leave room for the meaning beside them."""
    return len(f"{key.leaf}={shown[key.name]}") <= 34


def difference_lines(config: ConfigDict, other: ConfigDict) -> list[str]:
    """The keys in which two configs differ, with the first's value and the other's.

    Raises:
        UserError: one is a detector's and the other a pre-training's.
    """
    schema = schema_of(config)
    if schema_of(other) is not schema:
        raise UserError("one of the configs is a detector's and the other a pre-training's")
    pairs = ((name, value_of(config, name), value_of(other, name)) for name in keys(schema))
    rows = [
        (_dotted(name), readable(ours), readable(theirs))
        for name, ours, theirs in pairs
        if ours != theirs
    ]
    if not rows:
        return ["the configs are equal"]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name:<{widths[0]}}  {ours:<{widths[1]}}  {theirs}" for name, ours, theirs in rows]


def readable(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, tuple | list):
        elements = [repr(each) if isinstance(each, str) else readable(each) for each in value]
        return f"({', '.join(elements)}{',' if len(elements) == 1 else ''})"
    return str(value)


def markdown() -> str:
    """The reference of all keys."""
    return "\n".join(_markdown_lines()) + "\n"


def _markdown_lines() -> Iterator[str]:
    yield INTRODUCTION
    yield from (f"- `{role}`: {meaning}" for role, meaning in ROLES.items())
    yield f"\n{RECIPE}"
    for title, schema in (("Detectors", DetectorConfig), ("Pre-training", PretrainingConfig)):
        yield f"## {title}"
        for name, (about, section) in _by_section(schema).items():
            yield f"\n### {_dotted(name)}\n\n{about}\n\n{TABLE_HEAD}"
            yield from map(_row, section)
        yield ""
    yield "## Old names\n\nAccepted until the next release, with a note.\n\n| was | is |\n|---|---|"
    yield from (f"| `{old}` | `{new}` |" for old, new in RENAMED.items())


def _row(key: Key) -> str:
    default, roles = readable(key.default), ", ".join(sorted(key.roles))
    return f"| `{key.leaf}` | `{default}` | {key.allowed} | {_meaning(key)} | {roles} |"


def _meaning(key: Key) -> str:
    return f"{key.meaning.removesuffix('.')} ({key.unit})." if key.unit else key.meaning


def _dotted(name: str) -> str:
    return f"config.{name}" if name else "config"


def _by_section(schema: type) -> dict[str, tuple[str, list[Key]]]:
    """What each section is, in a sentence, and the keys that are directly in it."""
    return {
        name: (
            " ".join(content.__doc__.split()),
            [key for key in keys(schema).values() if key.name.rpartition(".")[0] == name],
        )
        for name, content in sections(schema).items()
    }


if __name__ == "__main__":
    sys.exit(main())
