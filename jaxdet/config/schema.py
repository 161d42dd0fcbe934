"""What a config key is: its type, default and bounds, what it means, and where it may differ.

A section of a config is a frozen dataclass of fields made by `key`, or by `section` for a section
within; the types are the annotations. A schema is the outermost section (see
`jaxdet.config.keys`), and `keys` lists all that is in it:

    @dataclass(frozen=True)
    class Optimizer:
        lr: float = key(1e-4, "Peak learning rate.", above=0, roles=("tuned",))
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from jaxdet.errors import UserError

ROLES = {
    "files": "only says where files lie or come from",
    "resume": "may change when a run resumes; its result does not depend on it",
    "test": "a trained detector may be evaluated with another value",
    "finetune": "few-shot fine-tuning may differ in it from its base run",
    "size": "belongs to the size of the ViT",
    "initialisation": "belongs to the initialisation",
    "tuned": "is tuned for each initialisation",
    "reported": "stands beside the recipe in the report",
    "neutral": "changes no result, but when the run looks at it",
}
"""What a key may be for. One that has none but "test" and "finetune" is part of the recipe: the
report compares runs in whose recipes all keys are equal."""

NOT_RECIPE = frozenset(ROLES) - {"test", "finetune"}

TYPE_NAMES = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
}


@dataclass(frozen=True)
class Key:
    """One key of a config.

    Attributes:
        name: dotted, such as "model.vit.width".
        type: of the value, or of each element of a tuple: int, float, bool or str.
        length: of a tuple; ANY_LENGTH where it may have any; None for a single value.
        optional: whether None may stand in place of a value.
        least, most: inclusive bounds of a number, or of each element; None for none.
        above, below: the same, exclusive.
        choices: all values there are; empty where there are no such.
        unit: of a number.
        roles: some of ROLES.
    """

    default: Any
    meaning: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    unit: str | None = None
    roles: frozenset[str] = frozenset()
    name: str = ""
    type: type = str
    length: int | None = None
    optional: bool = False

    @property
    def leaf(self) -> str:
        """The name within its section."""
        return self.name.rpartition(".")[2]

    @property
    def is_recipe(self) -> bool:
        """Whether runs are comparable only where they agree in it."""
        return not self.roles & NOT_RECIPE

    @property
    def allowed(self) -> str:
        """What the value must be, such as "2 numbers, each above 0 and at most 100"."""
        if self.type is bool:
            said = "true or false"
        elif self.choices:
            said = f"{'one' if self.length is None else 'some'} of {', '.join(self.choices)}"
        elif self.length is None:
            said = " ".join(filter(None, (TYPE_NAMES[self.type][0], self._bounds)))
        else:
            count = "" if self.length == ANY_LENGTH else f"{self.length} "
            each = self._bounds and f", each {self._bounds.removeprefix('of ')}"
            said = f"{count}{TYPE_NAMES[self.type][1]}{each}"
        return f"{said}, or none" if self.optional else said

    @property
    def _bounds(self) -> str:
        if self.least is not None and self.most is not None:
            return f"from {self.least:.12g} to {self.most:.12g}"
        bounds = (
            ("of at least", self.least),
            ("above", self.above),
            ("at most", self.most),
            ("below", self.below),
        )
        return " and ".join(f"{name} {bound:.12g}" for name, bound in bounds if bound is not None)

    def accepts(self, value: Any) -> bool:
        """Whether a value is of the key's type and length, and within its bounds."""
        if value is None:
            return self.optional
        if self.length is None:
            return self._accepts_element(value)
        return (
            isinstance(value, tuple | list)
            and self.length in (ANY_LENGTH, len(value))
            and all(self._accepts_element(element) for element in value)
        )

    def _accepts_element(self, value: Any) -> bool:
        if self.type in (bool, str):
            is_choice = not self.choices or value in self.choices
            return isinstance(value, self.type) and is_choice
        if isinstance(value, bool) or not isinstance(value, int | self.type):
            return False
        return (
            abs(value) < math.inf  # of any size, unlike math.isfinite
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def validate(self, value: Any) -> None:
        """Raises UserError with what the value must be where it is not."""
        if not self.accepts(value):
            raise UserError(f"config.{self.name}={value!r} must be {self.allowed}")


ANY_LENGTH = -1


def key(default: Any, meaning: str, *, roles: Sequence[str] = (), **bounds: Any) -> Any:
    """A field of a section; the arguments are attributes of `Key`."""
    declared = Key(default, meaning, roles=frozenset(roles), **bounds)
    return dataclasses.field(default=default, metadata={"key": declared})


def section(content: type, *, roles: Sequence[str] = ()) -> Any:
    """A field that is a section itself, all of whose keys have these roles too."""
    return dataclasses.field(default_factory=content, metadata={"roles": frozenset(roles)})


@functools.cache
def keys(schema: type) -> dict[str, Key]:
    """All keys of a schema by dotted name, in the order of their declaration."""
    return dict(_walk(schema, "", frozenset()))


def _walk(content: type, prefix: str, roles: Collection[str]) -> typing.Iterator[tuple[str, Key]]:
    annotations = typing.get_type_hints(content)
    for field in dataclasses.fields(content):
        name, annotation = f"{prefix}{field.name}", annotations[field.name]
        if "key" in field.metadata:
            declared = field.metadata["key"]
            yield (
                name,
                dataclasses.replace(
                    declared, name=name, roles=declared.roles | roles, **_typed(annotation)
                ),
            )
        else:
            yield from _walk(annotation, f"{name}.", roles | field.metadata["roles"])


def sections(schema: type) -> dict[str, type]:
    """All sections of a schema by dotted name, itself first, as ""."""
    found, annotations = {"": schema}, typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if "key" not in field.metadata:
            for name, content in sections(annotations[field.name]).items():
                found[f"{field.name}.{name}".removesuffix(".")] = content
    return found


def _typed(annotation: Any) -> dict[str, Any]:
    """What `int`, `str | None`, `tuple[float, float]` or `tuple[int, ...]` says of a key."""
    if isinstance(annotation, types.UnionType):
        (given,) = (each for each in typing.get_args(annotation) if each is not types.NoneType)
        return {"type": given, "optional": True}
    if typing.get_origin(annotation) is tuple:
        first, *others = typing.get_args(annotation)
        return {"type": first, "length": ANY_LENGTH if ... in others else 1 + len(others)}
    return {"type": annotation}


def defaults(schema: type) -> dict[str, Any]:
    """The default of every key, in nested dictionaries."""
    return dataclasses.asdict(schema())
