"""A trial: one run of `jaxdet train` in a folder of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxdet.config.mask_rcnn import check, has_start
from jaxdet.config.published_weights import how_to_get
from jaxdet.config.values import unknown_key, validate
from jaxdet.errors import UserError


class Base(NamedTuple):
    """What trials share: arguments of `jaxdet train`, and the config that they stand for."""

    arguments: tuple[str, ...]
    config: ConfigDict


@dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
        name: of its folder.
        arguments: what `jaxdet train` is called with, but for the folder.
        config: what these stand for.
    """

    name: str
    folder: Path
    arguments: tuple[str, ...]
    config: ConfigDict = field(compare=False)

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def command(self) -> list[str]:
        main = [sys.executable, "-m", "jaxdet.main"]
        return [*main, *self.arguments, f"--workdir={self.folder}"]


def make_trial(
    workdir: Path, name: str, base: Base, overrides: Mapping[str, Any] | None = None
) -> Trial:
    """A trial in `workdir`: the base with some keys of its config, such as "optim.lr", changed.

    Raises:
        UserError: the config has no such key, or one of another type; the base's arguments set it.
    """
    overrides = overrides or {}
    for argument in base.arguments:
        key = argument.partition("=")[0].removeprefix("--config.")
        if key in overrides:
            raise UserError(f"the trials differ in config.{key}; leave out {argument}")
    config = base.config.copy_and_resolve_references()
    for key, value in overrides.items():
        message = unknown_key(config, key)
        if message:
            raise UserError(message)
        try:
            config.update_from_flattened_dict({key: value})
        except TypeError as error:
            raise UserError(f"config.{key}={value}: {error}") from error
    arguments = (f"--config.{key}={_text(value)}" for key, value in overrides.items())
    return Trial(name, workdir / name, (*base.arguments, *arguments), config)


def _text(value: Any) -> str:
    return str(value).replace(" ", "") if isinstance(value, tuple) else str(value)


def check_trial(trial: Trial, needs_weights: bool) -> None:
    """Raises UserError where the trial's run would not start.

    Args:
        needs_weights: whether the initial weights must be there already.
    """
    config = trial.config.copy_and_resolve_references()
    if not needs_weights:
        config.init = None
    elif config.initialisation != "random" and not has_start(config):
        raise UserError(
            f"the weights to start {config.initialisation} from are not given: "
            f"{how_to_get(config)} (or --weights)"
        )
    check(config)
    validate(config, "early_stop", config.early_stop == 0, "be 0 where trials are compared")
