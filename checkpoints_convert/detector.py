"""What whole detectors share, whoever wrote them: PyTorch's tensors in jaxdet's order of axes."""

from __future__ import annotations

from collections.abc import Collection

from checkpoints_convert.conversion_plan import ConversionPlan
from checkpoints_convert.tensors import Tensor
from jaxdet.errors import UserError

LEAVES = {"bias": "bias", "running_mean": "mean", "running_var": "var"}
"""PyTorch's names and ours of what a layer has beside its weight."""


def plan_leaf(plan: ConversionPlan, path: str, tensor: Tensor) -> None:
    """Plans a weight, bias or statistic under its path, in jaxdet's order of axes.

    Args:
        path: ours, but for the last name, which is PyTorch's; anything else than these is ignored.
    """
    part, _, leaf = path.rpartition(".")
    if leaf == "weight":
        is_norm = len(tensor.shape) == 1
        plan.arrays[f"{part}.{'scale' if is_norm else 'kernel'}"] = from_torch(part, tensor)
    elif leaf in LEAVES:
        plan.arrays[f"{part}.{LEAVES[leaf]}"] = tensor


def from_torch(part: str, tensor: Tensor) -> Tensor:
    """A weight as [rows, columns, inputs, outputs] or [inputs, outputs]; a norm's as it is.

    That of a transposed convolution ("up" in its name) becomes [inputs, rows, columns, outputs].
    """
    if len(tensor.shape) == 4:
        return tensor.transpose(0, 2, 3, 1) if ".up" in part else tensor.transpose(2, 3, 1, 0)
    return tensor.transpose(1, 0) if len(tensor.shape) == 2 else tensor


def to_torch(part: str, tensor: Tensor) -> Tensor:
    """The inverse of `from_torch`."""
    if len(tensor.shape) == 4:
        return tensor.transpose(0, 3, 1, 2) if ".up" in part else tensor.transpose(3, 2, 0, 1)
    return tensor.transpose(1, 0) if len(tensor.shape) == 2 else tensor


def validate_complete(absent: Collection[str]) -> None:
    """Raises UserError where a detector lacks any array."""
    if absent:
        raise UserError(
            f"the file lacks what becomes {min(absent)} ({len(absent)} tensors in all); "
            "it is incomplete: download it again"
        )


def describe_classes(plan: ConversionPlan, classes: int) -> None:
    plan.size["classes"] = classes
    plan.notes.append(
        f"a whole detector of {classes} classes: its labels are in its training set's order"
    )
