"""Names of the version before, accepted until the next release with a note on stderr."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

RENAMED = {
    "canvas": "image_size",
    "data.slots": "data.max_instances",
    "model.vit.taps": "model.vit.out_indices",
    "batch_statistics=part": "batch_statistics=microbatch",
}
"""Keys, and values of keys, that have a new name in the same section."""

OLD_CONFIGS = {
    "imted_10shot_b": "imted_fewshot:10",
    "imted_30shot_b": "imted_fewshot:30",
    "imted_base_b": "imted_base",
    **{
        f"imted_{kind}_{size}": f"imted_{kind}:{size}"
        for kind in ("faster", "mask")
        for size in "sbl"
    },
    "imted_mask_l_100ep": "imted_mask:l_100ep",
    **{
        f"imted_ladder_{step}": f"imted_ladder:{step}"
        for step in ("baseline", "pyramid", "pyramid_random", "encoder", "modulated")
    },
}
"""Configs that have become arguments of others."""

OLD_MODULES = {
    "jaxdet.config_imted": "jaxdet.config.imted",
    "jaxdet.config_mae": "jaxdet.config.mae",
    "jaxdet.config_mini": "jaxdet.config.shapes",
    "jaxdet.official_weights": "jaxdet.config.published_weights",
}
"""Modules that config files of the version before import from."""


@functools.cache
def note(old: str, new: str) -> None:
    """Tells the user once of a new name."""
    print(f"note: {old} is now {new}", file=sys.stderr)


def present_key(name: str) -> str:
    """Today's name of a dotted key, with a note if it had another."""
    new = RENAMED.get(name, name)
    if new != name:
        note(f"config.{name}", f"config.{new}")
    return new


def present_value(name: str, value: Any) -> Any:
    """Today's name of the value of a dotted key, with a note if it had another."""
    old = f"{name}={value}"
    if not isinstance(value, str) or old not in RENAMED:
        return value
    note(f"config.{old}", f"config.{RENAMED[old]}")
    return RENAMED[old].partition("=")[2]


class Config(ConfigDict):
    """A config, or a section of it, that knows its keys by their old names too."""

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(self._present(name))

    def __setitem__(self, name: str, value: Any) -> None:
        name = self._present(name)
        super().__setitem__(name, present_value(name, value))

    def _present(self, name: str) -> str:
        if name not in self._fields:
            for old, new in RENAMED.items():
                leaf = new.rpartition(".")[2]
                if old.rpartition(".")[2] == name and leaf in self._fields:
                    present_key(old)
                    return leaf
        return name


def renamed(plain: dict[str, Any], section: str = "") -> dict[str, Any]:
    """A plain config, or a section of one, under today's names.

    Args:
        plain: nested dictionaries, or one of dotted keys.
        section: what it is the content of, such as "data.".
    """
    present = {}
    for name, value in plain.items():
        old = f"{section}{name}"
        new = RENAMED.get(old, old)
        if isinstance(value, dict):
            value = renamed(value, f"{old}.")
        elif isinstance(value, str):
            value = RENAMED.get(f"{new}={value}", f"={value}").partition("=")[2]
        present[new.removeprefix(section)] = value
    return present


@contextlib.contextmanager
def old_modules() -> Iterator[None]:
    """Within it, modules of OLD_MODULES can be imported by their old names."""
    finder = _OldModules()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _OldModules(MetaPathFinder, Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(name, self) if name in OLD_MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        new = OLD_MODULES[module.__name__]
        note(module.__name__, new)
        content = vars(importlib.import_module(new))
        vars(module).update({n: v for n, v in content.items() if not n.startswith("__")})
