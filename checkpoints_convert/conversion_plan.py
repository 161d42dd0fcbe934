"""What a conversion will write, known and checked before a single value is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from checkpoints_convert.tensors import State, Tensor
from jaxdet.errors import UserError


@dataclass(frozen=True)
class Options:
    """What the user chooses.

    Attributes:
        window: side of the attention windows that relative-position tables are resized to.
        global_grid: side of the map of tokens that global blocks attend over, likewise.
        rel_pos_resize: "bicubic" or "geometric", see `relative_position.resize_table`.
        patch: side of a patch to resample the patch projection to, or None to keep the file's.
        activation: of the MLP, for layouts whose files lack it; None for the layout's own.
        target: "backbone", or "imted" for its class token and a decoder too.
        heads: attention heads, where the file does not say.
        rope_grid: config.model.vit.rope_grid, or None for the layout's.
    """

    window: int = 14
    global_grid: int = 64
    rel_pos_resize: str = "bicubic"
    patch: int | None = None
    activation: str | None = None
    target: str = "backbone"
    heads: int | None = None
    rope_grid: float | None = None


@dataclass(frozen=True)
class Known:
    """What is known of a ViT beside its tensors, from its layout, its config.json and the user.

    Attributes:
        activation: of the MLP, where the tensors do not imply another.
        heads: attention heads, or None where nothing says.
        heads_from: who says so, for the report.
        vit: keys of config.model.vit that its names do not say.
    """

    activation: str
    heads: int | None = None
    heads_from: str = ""
    vit: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class ConversionPlan:
    """The arrays a conversion writes and what it says about them.

    Attributes:
        arrays: by jaxdet's parameter path.
        keys: the values that config keys ("model.vit.width") must have for the arrays to fit.
        size: the ViT's numbers, for the report.
        notes: sentences the report repeats.
    """

    arrays: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    size: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class TensorReader:
    """Tensors by name, handed out only where they have the expected shape."""

    def __init__(self, state: State):
        self._state = state

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def axes(self, name: str) -> int:
        """How many axes a tensor that is there has."""
        return len(self._find(name).shape)

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """The shape of a tensor that must be there and have so many axes.

        Raises:
            UserError: it is missing or has another number of axes.
        """
        tensor = self._find(name)
        if len(tensor.shape) != axes:
            raise UserError(
                f"{_original_name(name, tensor)} has the shape {tensor.shape}, not {axes} axes; "
                "the file is no checkpoint of this layout"
            )
        return tensor.shape

    def expect(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor that must be there in this shape.

        Raises:
            UserError: it is missing, of another shape, or holds no floats.
        """
        tensor = self._find(name)
        if tensor.shape != shape:
            raise UserError(
                f"{_original_name(name, tensor)} has the shape {tensor.shape}, not {shape}; "
                "the file is damaged or no checkpoint of this layout"
            )
        if not tensor.is_float:
            raise UserError(
                f"{_original_name(name, tensor)} holds {tensor.dtype}, not floats; "
                "convert the original, not a quantised copy"
            )
        return tensor

    def expect_any(self, name: str, axes: int) -> Tensor:
        """A tensor that must be there with so many axes, of whatever size."""
        return self.expect(name, self.shape(name, axes))

    def _find(self, name: str) -> Tensor:
        if name not in self._state:
            raise UserError(
                f"the file lacks {name}; it is incomplete, or --from names its layout better"
            )
        return self._state[name]


def _original_name(name: str, tensor: Tensor) -> str:
    """The name in the user's file, where it is one."""
    return " and ".join(tensor.sources) or name
