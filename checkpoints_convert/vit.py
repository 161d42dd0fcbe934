"""A plain ViT under timm's names into arrays under jaxdet's paths, and back.

Every layout is first renamed to what timm calls the tensors of a ViT
(`blocks.0.attn.qkv.weight`), since most pre-trainings descend from its code.
"""

from __future__ import annotations

import itertools
import re

import numpy as np

from checkpoints_convert.conversion_plan import ConversionPlan, Options, TensorReader
from checkpoints_convert.relative_position import plan_relative_position, resize_bicubic
from checkpoints_convert.tensors import State, Tensor
from jaxdet.errors import UserError

LEFT_OUT = (
    (r"^cls_token$", "the detector has no class token"),
    (r"^(dist_token|reg_token|register_tokens)$", "the detector has no extra tokens"),
    (r"^(norm|fc_norm)\.", "the detector takes the blocks' outputs, before the final norm"),
    (r"^(head|head_dist|pre_logits|attn_pool)\.", "a head of the pre-training"),
    (r"^(mask_token|masked_embed)$", "stands for masked patches in the pre-training"),
    (r"relative_position_index$", "an index that follows from the grid"),
)
"""What a detector's backbone never takes, as patterns of timm's names with the reason."""


def plan_backbone(reader: TensorReader, options: Options, activation: str) -> ConversionPlan:
    """The backbone's arrays.

    Args:
        reader: tensors under timm's names.
        activation: the MLP's, where the tensors do not imply another.

    Raises:
        UserError: a tensor is missing or of a wrong shape, or the ViT is one jaxdet does not have.
    """
    width, channels, patch, patch_width = reader.shape("patch_embed.proj.weight", 4)
    if channels != 3 or patch != patch_width:
        raise UserError(
            f"patch_embed.proj.weight has the shape {(width, channels, patch, patch_width)}; "
            "jaxdet takes square patches of 3 channels"
        )
    depth, pre_norm = _depth(reader), "norm_pre.weight" in reader
    plan = ConversionPlan()
    _plan_embedding(plan, reader, options, width, patch)
    heads = plan_relative_position(plan, reader, options, depth)
    if pre_norm:
        plan.arrays |= _norm(reader, "backbone.norm_pre", "norm_pre", width)
    _plan_blocks(plan, reader, depth, width, activation)
    sizes = {"width": width, "depth": depth, "patch": options.patch or patch}
    plan.keys |= {f"model.vit.{key}": size for key, size in sizes.items()}
    plan.keys["model.vit.pre_norm"] = pre_norm
    if heads:
        plan.keys["model.vit.heads"] = heads
    else:
        plan.notes.append("the number of heads is not in the file; the config's is not checked")
    plan.size = {
        "width": width,
        "depth": depth,
        "heads": heads,
        "patch": sizes["patch"],
        **plan.size,
    }
    return plan


def _depth(reader: TensorReader) -> int:
    indices = {int(match[1]) for name in reader if (match := re.match(r"blocks\.(\d+)\.", name))}
    depth = next(i for i in itertools.count() if i not in indices)
    if depth <= max(indices, default=0):
        raise UserError(f"the file lacks block {depth}; it is incomplete: download it again")
    return depth


def _plan_blocks(
    plan: ConversionPlan, reader: TensorReader, depth: int, width: int, activation: str
) -> None:
    """The blocks' arrays, and the keys on what a block consists of."""
    has_packed_mlp = "blocks.0.mlp.w12.weight" in reader
    first, second = ("mlp.w12", "mlp.w3") if has_packed_mlp else ("mlp.fc1", "mlp.fc2")
    inner = reader.shape(f"blocks.0.{first}.weight", 2)[0]
    hidden = reader.shape(f"blocks.0.{second}.weight", 2)[1]
    activation = "swiglu" if inner == 2 * hidden else activation
    qkv_bias = _qkv_bias(reader)
    vectors = _layer_scales(reader)
    plan.size["mlp_hidden"] = hidden
    plan.keys |= {
        "model.vit.mlp_ratio": _mlp_ratio(width, hidden, activation),
        "model.vit.qkv_bias": qkv_bias,
        "model.vit.layer_scale": bool(vectors),
        "model.vit.activation": activation,
    }
    if qkv_bias == "qv":
        vectors |= {"attn.q_bias": "attn.q_bias", "attn.v_bias": "attn.v_bias"}
    linears = {
        "attn.qkv": ("attn.qkv", width, 3 * width),
        "attn.proj": ("attn.proj", width, width),
        "mlp.fc1": (first, width, inner),
        "mlp.fc2": (second, hidden, width),
    }
    for i in range(depth):
        path, name = f"backbone.blocks.{i}", f"blocks.{i}"
        for norm in ("norm1", "norm2"):
            plan.arrays |= _norm(reader, f"{path}.{norm}", f"{name}.{norm}", width)
        for ours, (theirs, inputs, outputs) in linears.items():
            weight = reader.expect(f"{name}.{theirs}.weight", (outputs, inputs))
            plan.arrays[f"{path}.{ours}.kernel"] = weight.transpose(1, 0)
            if ours != "attn.qkv" or qkv_bias == "qkv":
                bias = reader.expect(f"{name}.{theirs}.bias", (outputs,))
                plan.arrays[f"{path}.{ours}.bias"] = bias
        for ours, theirs in vectors.items():
            plan.arrays[f"{path}.{ours}"] = reader.expect(f"{name}.{theirs}", (width,))


def _qkv_bias(reader: TensorReader) -> str:
    if "blocks.0.attn.q_bias" in reader:
        return "qv"
    return "qkv" if "blocks.0.attn.qkv.bias" in reader else "none"


def _layer_scales(reader: TensorReader) -> dict[str, str]:
    """Our names and the file's of a block's layer scales, where it has them."""
    for first, second in (("gamma_1", "gamma_2"), ("ls1.gamma", "ls2.gamma")):
        if f"blocks.0.{first}" in reader:
            return {"gamma1": first, "gamma2": second}
    return {}


def _norm(reader: TensorReader, path: str, name: str, width: int) -> State:
    return {
        f"{path}.scale": reader.expect(f"{name}.weight", (width,)),
        f"{path}.bias": reader.expect(f"{name}.bias", (width,)),
    }


def _mlp_ratio(width: int, hidden: int, activation: str) -> float:
    """The ratio that gives this hidden width; SwiGLU takes two thirds of it, in steps of 8."""
    if activation != "swiglu":
        return hidden / width
    for ratio in (4.0, 1.5 * hidden / width):
        if swiglu_hidden(width, ratio) == hidden:
            return ratio
    raise UserError(f"a SwiGLU of {hidden} hidden channels at width {width} is none jaxdet has")


def swiglu_hidden(width: int, ratio: float) -> int:
    """Hidden channels of DINOv2's SwiGLU for an MLP ratio."""
    return (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8


def _plan_embedding(
    plan: ConversionPlan, reader: TensorReader, options: Options, width: int, patch: int
) -> None:
    """The patch projection and the absolute position embedding."""
    new_patch = options.patch or patch
    weight = reader.expect("patch_embed.proj.weight", (width, 3, patch, patch))
    if new_patch != patch:
        weight = _resample_patches(weight, new_patch)
        plan.notes.append(f"patches resampled from {patch} to {new_patch} pixels (bicubic)")
    kernel = weight.transpose(2, 3, 1, 0).reshape(3 * new_patch**2, width)
    plan.arrays["backbone.patch_embed.kernel"] = kernel
    plan.arrays["backbone.patch_embed.bias"] = reader.expect("patch_embed.proj.bias", (width,))
    if "pos_embed" not in reader:
        plan.notes.append("the file has no absolute position embedding")
        return
    _, count, _ = reader.shape("pos_embed", 3)
    grid, extra = _grid(count)
    position = _without_first(reader.expect("pos_embed", (1, count, width)), extra, grid)
    if new_patch != patch:
        # The grid that an image of the pre-training's size has in the new patches.
        new_grid = round(grid * patch / new_patch)
        position = _resize_position(position, new_grid)
        plan.notes.append(f"position embedding resampled from {grid} to {new_grid} (bicubic)")
        grid = new_grid
    plan.arrays["backbone.pos_embed"] = position
    plan.size["position_grid"] = grid


def _grid(positions: int) -> tuple[int, int]:
    """Side of the square grid of an embedding, and how many other tokens come first."""
    for extra in (1, 0, 2, 5):
        side = round(max(positions - extra, 0) ** 0.5)
        if side and side * side == positions - extra:
            return side, extra
    raise UserError(
        f"pos_embed has {positions} positions, which are no square grid with a class token; "
        "jaxdet takes square pre-training images"
    )


def _without_first(position: Tensor, extra: int, grid: int) -> Tensor:
    shape = (grid, grid, position.shape[2])
    return position.map(shape, lambda values: values[0, extra:].reshape(shape))


def _resize_position(position: Tensor, grid: int) -> Tensor:
    shape = (grid, grid, position.shape[2])
    return position.map(shape, lambda values: resize_bicubic(values, (grid, grid)))


def _resample_patches(weight: Tensor, patch: int) -> Tensor:
    """Resamples [width, 3, p, p] kernels as ViTDet does for its ViT-H."""
    width, channels, side, _ = weight.shape

    def values(kernels: np.ndarray) -> np.ndarray:
        planes = kernels.reshape(-1, side, side).transpose(1, 2, 0)
        resized = resize_bicubic(planes, (patch, patch))
        return resized.transpose(2, 0, 1).reshape(width, channels, patch, patch)

    return weight.map((width, channels, patch, patch), values)


def to_timm(arrays: State) -> State:
    """The backbone's arrays under jaxdet's paths as tensors under timm's names.

    Tables of relative positions that timm has no name for keep jaxdet's.
    """
    state = {}
    for path, array in arrays.items():
        name = path.removeprefix("backbone.")
        if name == "patch_embed.kernel":
            inputs, width = array.shape
            side = round((inputs / 3) ** 0.5)
            kernel = array.reshape(side, side, 3, width).transpose(3, 2, 0, 1)
            state["patch_embed.proj.weight"] = kernel
            continue
        if name == "pos_embed":
            height, columns, width = array.shape
            state[name] = array.reshape(1, height * columns, width)
            continue
        if name.endswith(".kernel"):
            array = array.transpose(1, 0)
        for pattern, replacement in TO_TIMM:
            name = re.sub(pattern, replacement, name)
        state[name] = array
    return state


TO_TIMM = (
    (r"^patch_embed\.bias$", "patch_embed.proj.bias"),
    (r"\.(kernel|scale)$", ".weight"),
    (r"\.gamma([12])$", r".ls\1.gamma"),
    (r"\.rel_pos\.height$", ".rel_pos_h"),
    (r"\.rel_pos\.width$", ".rel_pos_w"),
)
