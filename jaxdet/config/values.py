"""Configs as `ConfigDict`s: made of a schema, read, completed, and set from text."""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
from argparse import ArgumentTypeError
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict, config_dict

from jaxdet.config.keys import DetectorConfig, PretrainingConfig
from jaxdet.config.old_names import Config, present_key, present_value, renamed
from jaxdet.config.schema import Key, defaults, keys
from jaxdet.errors import UserError
from jaxdet.flags import local_path

COMMANDS = {DetectorConfig: "jaxdet train", PretrainingConfig: "jaxdet pretrain"}
Value = TypeVar("Value")

TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def build(schema: type) -> Config:
    """A schema's defaults as a locked config."""
    declared = keys(schema)

    def nest(values: dict[str, Any], section: str = "") -> Config:
        content = {}
        for name, value in values.items():
            dotted = f"{section}{name}"
            if isinstance(value, dict):
                content[name] = nest(value, f"{dotted}.")
            elif declared[dotted].optional:
                content[name] = config_dict.placeholder(declared[dotted].type)
            else:
                content[name] = value
        return Config(content)

    return nest(defaults(schema)).lock()


def schema_of(config: Mapping[str, Any] | ConfigDict) -> type:
    """The schema that a config, plain or not, is of."""
    return DetectorConfig if "initialisation" in config else PretrainingConfig


def check_keys(config: ConfigDict, schema: type) -> None:
    """Raises UserError for a config of another schema, and for a key that is missing or wrong."""
    if schema_of(config) is not schema:
        right = COMMANDS[schema_of(config)]
        raise UserError(f"this config is for another command; give it to `{right}`")
    for name, key in keys(schema).items():
        missing = unknown_key(config, name)
        if missing:
            raise UserError(missing)
        key.validate(value_of(config, name))


def validate(config: ConfigDict, name: str, holds: bool, rule: str) -> None:
    """Raises UserError with what a key's value must be where it is not."""
    if not holds:
        raise UserError(f"config.{name}={value_of(config, name)!r} must {rule}")


def value_of(config: ConfigDict, name: str) -> Any:
    """The value of a dotted key such as "model.vit.width"."""
    for part in name.split("."):
        config = config[part]
    return config


def unknown_key(config: ConfigDict, name: str) -> str | None:
    """A sentence about the first part of a name the config does not have; None if it has it all.

    Args:
        name: dotted, such as "model.vit.width", without the leading "config.".
    """
    section, walked = config, "config"
    for part in name.split("."):
        if not isinstance(section, ConfigDict) or part not in section:
            known = sorted(section) if isinstance(section, ConfigDict) else []
            close = difflib.get_close_matches(part, known, 1)
            hint = f"did you mean {walked}.{close[0]}?" if close else f"it has {', '.join(known)}"
            if not known:
                hint = f"{walked} is a single value"
            return f"{walked} has no key {part!r}; {hint}"
        section, walked = section[part], f"{walked}.{part}"
    return None


def completed(plain: dict[str, Any]) -> dict[str, Any]:
    """A stored config under today's names; keys that are newer than it have their default.

    Args:
        plain: nested dictionaries of JSON values; not changed.
    """
    plain = renamed(plain)
    known = json.loads(json.dumps(defaults(schema_of(plain))))
    return _filled(known, plain)


def _filled(known: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    filled = {**known, **given}
    for name, value in known.items():
        if isinstance(value, dict) and isinstance(filled[name], dict):
            filled[name] = _filled(value, filled[name])
    return filled


def variant(table: Mapping[str, Value], name: str) -> Value:
    """What a config file's table has for the argument of its get_config().

    Raises:
        UserError: there is no such variant.
    """
    if name not in table:
        raise UserError(f"there is no variant {name!r}; give one of {', '.join(table)}")
    return table[name]


def config_digest(config: Mapping[str, Any]) -> str:
    """The SHA-256 of a plain config's canonical JSON, by which results name it."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def override(config: ConfigDict, name: str, text: str) -> None:
    """Sets a key as the command line gives it.

    Args:
        config: a whole config.
        name: dotted, without the leading "config."; an old name is noted.
        text: a number, true or false, a text as it is, none where there may be none, or a tuple
            such as "(0.9,1.1)", "0.9,1.1" or "0.9"; of texts, "one,two" where these are choices.

    Raises:
        UserError: there is no such key, or the text is not of its type.
    """
    name = present_key(name)
    unknown = unknown_key(config, name)
    if unknown:
        raise UserError(unknown)
    section = value_of(config, name)
    if isinstance(section, ConfigDict):
        raise UserError(f"config.{name} is a section; set one of its keys, {', '.join(section)}")
    key = keys(schema_of(config))[name]
    text = present_value(name, text)
    try:
        value = parse(key, text)
    except (ValueError, SyntaxError, OverflowError, RecursionError, MemoryError) as error:
        raise UserError(f"config.{name}={text:.200} must be {key.allowed}") from error
    if "files" in key.roles and isinstance(value, str) and not name.startswith("weights."):
        try:
            located = str(local_path(value))
        except ArgumentTypeError as error:
            raise UserError(f"config.{name}: {error}") from error
        value = located if value.startswith("~") else value
    parent, _, leaf = name.rpartition(".")
    (value_of(config, parent) if parent else config)[leaf] = value


def parse(key: Key, text: str) -> Any:
    """A key's value from text; see `override`.

    Raises:
        ValueError, SyntaxError, OverflowError, RecursionError, MemoryError: the text is not of the
            key's type.
    """
    if key.optional and text.lower() == "none":
        return None
    if key.length is not None:
        if key.type is not str:
            return _parse_numbers(key.type, text)
        plain = tuple(text.split(","))
        return plain if {*plain} <= {*key.choices} else _parse_texts(text)
    if key.type is bool:
        if text.lower() not in TRUTH:
            raise ValueError(text)
        return TRUTH[text.lower()]
    return key.type(text)


def _parse_numbers(kind: type, text: str) -> tuple[int | float, ...]:
    found = ast.literal_eval(text)
    elements = tuple(found) if isinstance(found, tuple | list) else (found,)
    for element in elements:
        if isinstance(element, bool) or not isinstance(element, int | kind):
            raise ValueError(text)
    return tuple(kind(element) for element in elements)


def _parse_texts(text: str) -> tuple[str, ...]:
    """A tuple or list of quoted texts, or one text as it is."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        found = text
    elements = tuple(found) if isinstance(found, tuple | list) else (found,)
    is_literal = all(isinstance(element, str) for element in elements)
    elements = elements if is_literal else (text,)
    return () if elements == ("",) else elements
