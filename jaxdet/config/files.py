"""Config files: found by name from any folder, run, and changed from the command line."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from jaxdet.config.old_names import OLD_CONFIGS, note, old_modules
from jaxdet.config.values import override, unknown_key, value_of
from jaxdet.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = (PACKAGE / "configs", PACKAGE.parent / "configs")
"""Where the configs that come with jaxdet lie: as installed, and in a clone."""


def find_config(name: str) -> Path:
    """The file that a name such as "vitb_mae" or "mini/mae", or a path, stands for.

    A name is looked up in `configs/` of the current folder, then among those that come with jaxdet;
    so is a path into `configs/` that does not exist here.

    Raises:
        UserError: there is no such file.
    """
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return path
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    file = inside.with_name(f"{inside.name.removesuffix('.py')}.py") if inside.name else inside
    if not inside.is_absolute() and ".." not in inside.parts:
        for folder in (Path("configs"), *SHIPPED):
            if (folder / file).is_file():
                return folder / file
    if path.suffix == ".py":
        raise UserError(f"config file {path} does not exist; --config takes a name or a file")
    close = difflib.get_close_matches(name, shipped_names(), 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(shipped_names())}"
    raise UserError(f"there is no config {name!r}; {hint}")


def shipped_names() -> list[str]:
    """Names of the configs that come with jaxdet."""
    folder = next(folder for folder in SHIPPED if folder.is_dir())
    names = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py"))
    return sorted(name.as_posix() for name in names)


def config_stem(name: str) -> str:
    """What runs of a config are called by default: "mini/mae" is "mae", "own:b" is "own_b", and
    "any:weights/mae.npz" is "any_mae".
    """
    file, colon, argument = name.partition(":")
    stem = Path(file).name.removesuffix(".py")
    argument = Path(argument).name.removesuffix(".npz")
    return f"{stem}_{argument}" if colon else stem


def load_config(name: str | Path) -> ConfigDict:
    """Runs a config file and returns what its get_config() returns.

    Args:
        name: see `find_config`; what follows a colon is the argument of get_config().

    Raises:
        UserError: there is no such file, it cannot be run, or it has no get_config().
    """
    file, colon, argument = _present_name(str(name)).partition(":")
    path = find_config(file)
    spec = importlib.util.spec_from_file_location("jaxdet_config", path)
    try:
        module = importlib.util.module_from_spec(spec)
        with old_modules():
            spec.loader.exec_module(module)
            config = module.get_config(argument) if colon else module.get_config()
    except UserError as error:
        raise UserError(f"config file {path}: {error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a config file may raise anything, SystemExit among it
        raise UserError(
            f"config file {path} cannot be used: {type(error).__name__}: {_message_of(error)}"
        ) from None
    if not isinstance(config, ConfigDict):
        raise UserError(f"config file {path}: get_config() must return a ConfigDict")
    return config


def _message_of(error: BaseException) -> str:
    """What an exception of anyone's making says; its own methods may raise in turn."""
    try:
        return f"{error}"[:300]
    except BaseException:
        return "it cannot say what is wrong"


def _present_name(name: str) -> str:
    """Today's name of a config that came with the version before, with a note if it had another."""
    path = Path(name)
    stem = path.name.removesuffix(".py")
    if stem not in OLD_CONFIGS or path.is_file() or path.parent.name not in ("", "configs"):
        return name
    note(f"--config={name}", f"--config={OLD_CONFIGS[stem]}")
    return OLD_CONFIGS[stem]


def apply_overrides(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Sets the keys that arguments such as --config.optim.lr=1e-4 name.

    Also --config.optim.lr 1e-4, --config.data.flip and --noconfig.data.flip.

    Raises:
        UserError: one of them is no such argument, names no key or has a value of another type.
    """
    remaining = list(arguments)
    while remaining:
        name, equals, text = remaining.pop(0).partition("=")
        prefix, dot, key = name.lstrip("-").partition(".")
        if not name.startswith("-") or prefix not in ("config", "noconfig") or not dot:
            raise UserError(
                f"{name!r} is not a flag; flags start with -- and take = before their value"
            )
        if prefix == "noconfig":
            text = "false"
        elif not equals:
            is_switch = not unknown_key(config, key) and isinstance(value_of(config, key), bool)
            text = "true" if is_switch or not remaining else remaining.pop(0)
        override(config, key, text)
