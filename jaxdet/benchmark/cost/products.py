"""FLOPs of a compiled program's instructions: two for each multiply-add of a product.

Products are matrix products, convolutions and fused attention, as XLA writes them or as the
libraries' kernels that it calls (cuBLAS, cuDNN, Pallas). All else is not counted: it is memory that
it waits for.
"""

from __future__ import annotations

import functools
import math
import re

import numpy as np

from jaxdet.benchmark.cost.hlo import Computation, Instruction, Program, Shape

_ATTENTION_PRODUCTS = {False: 2, True: 5}
"""Matrix products of queries by keys by channels in attention, forward and backward; the backward
pass computes the weights again."""


def flops_of(instruction: Instruction, computation: Computation, program: Program) -> int | None:
    """FLOPs of one instruction; of a fusion, those of all that is inside.

    Returns:
        None where a kernel does not say what it computes.
    """
    inputs = [one for name in instruction.operands for one in computation[name].results]
    if instruction.opcode == "fusion":
        return flops_inside(program.computations[instruction.called["calls"][0]], program)
    if instruction.opcode == "dot":
        contracted = instruction.numbers("lhs_contracting_dims")
        return _dot(instruction.results[0], inputs[0], contracted)
    if instruction.opcode == "convolution":
        return _convolution(instruction, inputs[0], inputs[1], instruction.results[0])
    if instruction.opcode.startswith("custom-call"):
        return _custom_call(instruction, inputs)
    return 0


def flops_inside(computation: Computation, program: Program) -> int:
    """FLOPs of all instructions of a computation, each once."""
    return sum(flops_of(one, computation, program) or 0 for one in computation)


def _dot(result: Shape, left: Shape, contracted: tuple[int, ...]) -> int:
    return 2 * result.size * math.prod(left.sides[axis] for axis in contracted)


def _convolution(instruction: Instruction, image: Shape, kernel: Shape, result: Shape) -> int:
    """Only the multiply-adds inside the image count, not those with its padding or its holes.

    XLA's TPU compiler writes batched products as convolutions whose windows mostly lie outside.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    in_labels, kernel_labels, out_labels = labels.groups()
    groups = instruction.number("feature_group_count", 1)
    batch_groups = instruction.number("batch_group_count", 1)
    flops = 2 * image.sides[in_labels.index("b")] // batch_groups
    flops *= image.sides[in_labels.index("f")] // groups * result.sides[out_labels.index("f")]
    window = _window(instruction.text, sum(label.isdigit() for label in kernel_labels))
    for axis, (size, stride, low, image_holes, kernel_holes) in enumerate(window):
        flops *= _valid_positions(
            image.sides[in_labels.index(str(axis))],
            size,
            result.sides[out_labels.index(str(axis))],
            stride,
            low,
            image_holes,
            kernel_holes,
        )
    return flops


def _window(text: str, axes: int) -> list[tuple[int, int, int, int, int]]:
    """Size, stride, padding before, dilation of the image and of the kernel, by spatial axis."""
    found = re.search(r"window=\{([^}]*)\}", text)
    given = dict(part.split("=") for part in found[1].split()) if found else {}

    def values(name: str, default: str) -> list[int]:
        parts = given.get(name, "x".join([default] * axes)).split("x")
        return [int(part.split("_")[0]) for part in parts] if axes else []

    return list(
        zip(
            values("size", "1"),
            values("stride", "1"),
            values("pad", "0_0"),
            values("lhs_dilate", "1"),
            values("rhs_dilate", "1"),
            strict=True,
        )
    )


@functools.lru_cache(maxsize=4096)
def _valid_positions(
    side: int, size: int, out: int, stride: int, low: int, image_holes: int, kernel_holes: int
) -> int:
    """Pairs of an output and a kernel position that meet a pixel, along one axis."""
    position = np.arange(out)[:, None] * stride + np.arange(size) * kernel_holes - low
    inside = (position >= 0) & (position < (side - 1) * image_holes + 1)
    return int((inside & (position % image_holes == 0)).sum())


def _custom_call(instruction: Instruction, inputs: list[Shape]) -> int | None:
    target, config = instruction.target, instruction.backend_config
    results = instruction.results
    if target.startswith("__cublas"):
        numbers = config["gemm_backend_config"]["dot_dimension_numbers"]
        contracted = tuple(int(n) for n in numbers["lhs_contracting_dimensions"])
        return _dot(results[0], inputs[0], contracted)
    if target.startswith("__cudnn$conv"):
        if "BackwardInput" in target:
            return _convolution(instruction, results[0], inputs[1], inputs[0])
        if "BackwardFilter" in target:
            return _convolution(instruction, inputs[0], results[0], inputs[1])
        return _convolution(instruction, inputs[0], inputs[1], results[0])
    if target.startswith("__cudnn$fmha"):
        weights = config["cudnn_fmha_backend_config"]["intermediate_tensor_shape"]["dimensions"]
        products = _ATTENTION_PRODUCTS["Backward" in target]
        return products * 2 * math.prod(int(n) for n in weights) * inputs[0].sides[-1]
    if target == "tpu_custom_call":
        return _pallas(config)
    return 0


def _pallas(config: dict) -> int | None:
    """What the kernel's author said that it costs, as `pl.CostEstimate`."""
    estimate = config.get("custom_call_config", {}).get("cost_estimate", {})
    return int(estimate["flops"]) if "flops" in estimate else None
