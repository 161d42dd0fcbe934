"""A plain ViT under timm's names into arrays under jaxdet's paths, and back.

Every layout is first renamed to what timm calls the tensors of a ViT
(`blocks.0.attn.qkv.weight`), since most pre-trainings descend from its code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from checkpoints_convert.plan import Options, Plan, Supply
from checkpoints_convert.relative_position import resize_bicubic, resize_table, table_side
from checkpoints_convert.tensors import State, Tensor, mean
from jaxdet.config.mask_rcnn import quarter_ends
from jaxdet.errors import UserError

SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"
BLOCK_TABLE = "blocks.{}.attn.relative_position_bias_table"

LEFT_OUT = (
    (r"^cls_token$", "the detector has no class token"),
    (r"^(dist_token|reg_token|register_tokens)$", "the detector has no extra tokens"),
    (r"^(norm|fc_norm)\.", "the detector takes the blocks' outputs, before the final norm"),
    (r"^(head|head_dist|pre_logits|attn_pool)\.", "a head of the pre-training"),
    (r"^(mask_token|masked_embed)$", "stands for masked patches in the pre-training"),
    (r"relative_position_index$", "an index that follows from the grid"),
)
"""What a detector's backbone never takes, as patterns of timm's names with the reason."""


def plan_backbone(supply: Supply, options: Options, activation: str) -> Plan:
    """The backbone's arrays.

    Args:
        supply: tensors under timm's names.
        activation: the MLP's, where the tensors do not tell another.

    Raises:
        UserError: a tensor is missing or of a wrong shape, or the ViT is one jaxdet does not have.
    """
    width, channels, patch, patch_width = supply.shape("patch_embed.proj.weight", 4)
    if channels != 3 or patch != patch_width:
        raise UserError(
            f"patch_embed.proj.weight has the shape {(width, channels, patch, patch_width)}; "
            "jaxdet takes square patches of 3 channels"
        )
    indices = {int(match[1]) for name in supply if (match := re.match(r"blocks\.(\d+)\.", name))}
    depth = max(indices, default=-1) + 1
    if indices != set(range(depth)) or not depth:
        missing = sorted(set(range(depth)) - indices)[:1] or ["any"]
        raise UserError(f"the file lacks block {missing[0]}; it is incomplete: download it again")

    plan = Plan()
    _plan_embedding(plan, supply, options, width, patch)
    heads = _plan_relative_position(plan, supply, options, depth)
    qkv_bias = "qkv"
    if "blocks.0.attn.q_bias" in supply:
        qkv_bias = "qv"
    elif "blocks.0.attn.qkv.bias" not in supply:
        qkv_bias = "none"
    gammas = _layer_scale_names(supply)
    mlp = ("mlp.w12", "mlp.w3") if "blocks.0.mlp.w12.weight" in supply else ("mlp.fc1", "mlp.fc2")
    hidden = supply.shape(f"blocks.0.{mlp[1]}.weight", 2)[1]
    inner = supply.shape(f"blocks.0.{mlp[0]}.weight", 2)[0]
    if inner == 2 * hidden:
        activation = "swiglu"

    def linear(path: str, name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        plan.arrays[f"{path}.kernel"] = supply.take(f"{name}.weight", (outputs, inputs)).transpose(
            1, 0
        )
        if bias:
            plan.arrays[f"{path}.bias"] = supply.take(f"{name}.bias", (outputs,))

    def norm(path: str, name: str) -> None:
        plan.arrays[f"{path}.scale"] = supply.take(f"{name}.weight", (width,))
        plan.arrays[f"{path}.bias"] = supply.take(f"{name}.bias", (width,))

    pre_norm = "norm_pre.weight" in supply
    if pre_norm:
        norm("backbone.norm_pre", "norm_pre")
    for i in range(depth):
        name, path = f"blocks.{i}", f"backbone.blocks.{i}"
        norm(f"{path}.norm1", f"{name}.norm1")
        linear(f"{path}.attn.qkv", f"{name}.attn.qkv", width, 3 * width, qkv_bias == "qkv")
        if qkv_bias == "qv":
            for part in ("q_bias", "v_bias"):
                plan.arrays[f"{path}.attn.{part}"] = supply.take(f"{name}.attn.{part}", (width,))
        linear(f"{path}.attn.proj", f"{name}.attn.proj", width, width)
        norm(f"{path}.norm2", f"{name}.norm2")
        linear(f"{path}.mlp.fc1", f"{name}.{mlp[0]}", width, inner)
        linear(f"{path}.mlp.fc2", f"{name}.{mlp[1]}", hidden, width)
        for ours, theirs in zip(("gamma1", "gamma2"), gammas, strict=False):
            plan.arrays[f"{path}.{ours}"] = supply.take(f"{name}.{theirs}", (width,))

    plan.words |= {
        "model.vit.width": width,
        "model.vit.depth": depth,
        "model.vit.mlp_ratio": _mlp_ratio(width, hidden, activation),
        "model.vit.patch": options.patch or patch,
        "model.vit.qkv_bias": qkv_bias,
        "model.vit.layer_scale": bool(gammas),
        "model.vit.activation": activation,
        "model.vit.pre_norm": pre_norm,
    }
    if heads:
        plan.words["model.vit.heads"] = heads
    else:
        plan.notes.append("the number of heads is not in the file; the config's is not checked")
    plan.size = {
        "width": width,
        "depth": depth,
        "heads": heads,
        "mlp_hidden": hidden,
        "patch": options.patch or patch,
        **plan.size,
    }
    return plan


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


def _layer_scale_names(supply: Supply) -> tuple[str, ...]:
    for names in (("gamma_1", "gamma_2"), ("ls1.gamma", "ls2.gamma")):
        if f"blocks.0.{names[0]}" in supply:
            return names
    return ()


def _plan_embedding(plan: Plan, supply: Supply, options: Options, width: int, patch: int) -> None:
    """The patch projection and the absolute position embedding."""
    new_patch = options.patch or patch
    weight = supply.take("patch_embed.proj.weight", (width, 3, patch, patch))
    if new_patch != patch:
        weight = _resample_patches(weight, new_patch)
        plan.notes.append(f"patches resampled from {patch} to {new_patch} pixels (bicubic)")
    kernel = weight.transpose(2, 3, 1, 0).reshape(3 * new_patch**2, width)
    plan.arrays["backbone.patch_embed.kernel"] = kernel
    plan.arrays["backbone.patch_embed.bias"] = supply.take("patch_embed.proj.bias", (width,))
    if "pos_embed" not in supply:
        plan.notes.append("the file has no absolute position embedding")
        return
    _, count, _ = supply.shape("pos_embed", 3)
    grid, extra = _grid(count)
    position = _without_first(supply.take("pos_embed", (1, count, width)), extra, grid)
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


def _plan_relative_position(plan: Plan, supply: Supply, options: Options, depth: int) -> int | None:
    """The relative positions of whichever kind the file has; returns the heads its tables have."""
    if "blocks.0.attn.rel_pos_h" in supply:
        for i in range(depth):
            for ours, theirs in (("height", "rel_pos_h"), ("width", "rel_pos_w")):
                name = f"blocks.{i}.attn.{theirs}"
                plan.arrays[f"backbone.blocks.{i}.attn.rel_pos.{ours}"] = supply.take(
                    name, supply.shape(name, 2)
                )
        return None
    paths = {"window": "backbone.rel_pos_window.table", "global": "backbone.rel_pos_global.table"}
    ready = [kind for kind in paths if f"rel_pos_{kind}.table" in supply]
    if ready:
        for kind in ready:
            name = f"rel_pos_{kind}.table"
            plan.arrays[paths[kind]] = supply.take(name, supply.shape(name, 2))
        return supply.shape(f"rel_pos_{ready[0]}.table", 2)[1]

    if SHARED_TABLE in supply:
        table = supply.take(SHARED_TABLE, supply.shape(SHARED_TABLE, 2))
        tables = {"window": table, "global": table}
    elif BLOCK_TABLE.format(0) in supply:
        shape = supply.shape(BLOCK_TABLE.format(0), 2)
        blocks = [supply.take(BLOCK_TABLE.format(i), shape) for i in range(depth)]
        tables = _means_by_kind(blocks)
        plan.notes.append(
            "every block of the file has a table of its own: the windowed blocks' shared table is "
            "the mean of theirs, the global blocks' the mean of theirs"
        )
    else:
        return None
    rows, heads = next(iter(tables.values())).shape
    try:
        side = table_side(rows)
    except ValueError as error:
        raise UserError(f"{error}; the file is damaged or not BEiT's") from error
    grids = {"window": options.window, "global": options.global_grid}
    for kind, table in tables.items():
        plan.arrays[paths[kind]] = resize_table(table, grids[kind], options.rel_pos_resize)
    plan.notes.append(
        f"relative positions resized from a grid of {(side + 1) // 2} to {options.window} for the "
        f"windows and {options.global_grid} for the global blocks ({options.rel_pos_resize})"
    )
    plan.size["window"], plan.size["global_grid"] = options.window, options.global_grid
    return heads


def _means_by_kind(tables: Sequence[Tensor]) -> dict[str, Tensor]:
    """Of tables one a block: the mean over the blocks that attend within windows, and globally."""
    ends = quarter_ends(len(tables))
    windowed = [table for i, table in enumerate(tables) if i not in ends]
    means = {"window": mean(windowed)} if windowed else {}
    return means | {"global": mean([tables[i] for i in ends])}


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
