"""A plain ViT under timm's names into arrays under jaxdet's paths, and back.

Every layout is first renamed to what timm calls the tensors of a ViT
(`blocks.0.attn.qkv.weight`), since most pre-trainings descend from its code.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from checkpoints_convert.conversion_plan import ConversionPlan, Known, Options, TensorReader
from checkpoints_convert.relative_position import (
    BLOCK_TABLE,
    CLASS_TOKEN_ROWS,
    plan_relative_position,
    resize_bicubic,
)
from checkpoints_convert.tensors import State, Tensor, add, add_rows, concatenate, zeros
from checkpoints_convert.timm_model import is_beit, is_eva, table_grid, vit_keys
from jaxdet.config.mask_rcnn import quarter_ends
from jaxdet.errors import UserError

LEFT_OUT = (
    (r"^cls_token$", "the class token has a position of its own, which the file lacks"),
    (r"^fc_norm\.", "a norm behind the mean over the tokens"),
    (r"^(head|head_dist|pre_logits|attn_pool)\.", "a head of the pre-training"),
    (r"^(mask_token|masked_embed)$", "stands for masked patches in the pre-training"),
    (r"relative_position_index$", "an index that follows from the grid"),
)
"""What a detector's backbone never takes, as patterns of timm's names with the reason."""


def plan_backbone(reader: TensorReader, options: Options, known: Known) -> ConversionPlan:
    """The backbone's arrays.

    Args:
        reader: tensors under timm's names.
        known: what the tensors do not say.

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
    is_rms = "blocks.0.norm1.bias" not in reader
    norm = partial(_norm, reader, is_rms=is_rms)
    table_heads = plan_relative_position(plan, reader, options, depth)
    _plan_embedding(plan, reader, options, width, patch)
    for ours, theirs in (("norm_pre", "norm_pre"), ("patch_norm", "patch_embed.norm")):
        if f"{theirs}.weight" in reader:
            plan.arrays |= norm(f"backbone.{ours}", theirs, width)
    has_final_norm = "norm.weight" in reader
    if has_final_norm:
        plan.arrays |= norm("backbone.norm", "norm", width)
    heads = _heads(plan, reader, known, width, table_heads)
    _plan_blocks(plan, reader, depth, width, heads, known.activation, norm)
    sizes = {"width": width, "depth": depth, "patch": options.patch or patch}
    plan.keys |= {f"model.vit.{key}": size for key, size in sizes.items()}
    plan.keys |= {
        "model.vit.pre_norm": pre_norm,
        "model.vit.patch_norm": "patch_embed.norm.weight" in reader,
        "model.vit.final_norm": has_final_norm,
        "model.vit.norm": "rms" if is_rms else "layer",
        "model.vit.norm_eps": 1e-6,
        "model.vit.post_norm": False,
        "model.vit.rope": "none",
    }
    plan.keys |= {f"model.vit.{key}": value for key, value in known.vit.items()}
    _plan_rope(plan, options)
    if heads:
        plan.keys["model.vit.heads"] = heads
    plan.size = {
        "width": width,
        "depth": depth,
        "heads": heads,
        "patch": sizes["patch"],
        **plan.size,
    }
    return plan


def _heads(
    plan: ConversionPlan,
    reader: TensorReader,
    known: Known,
    width: int,
    table_heads: int | None,
) -> int | None:
    """The attention heads: the tensors' where these show them, else what is known, else a guess."""
    shown = table_heads
    for name, axes in (("blocks.0.attn.q_norm.weight", 1), ("blocks.0.attn.rel_pos_h", 2)):
        if name in reader and (channels := reader.shape(name, axes)[-1]) < width:
            shown = width // channels
    if shown is not None and known.heads not in (None, shown):
        raise UserError(
            f"{known.heads_from} says {known.heads} attention heads, and the file's tensors are of "
            f"{shown}; correct it"
        )
    heads = shown or known.heads
    if heads is None and width % 64 == 0:
        heads = width // 64
        plan.notes.append(
            f"the number of heads is a guess: {heads}, as of width {width} usual; the file does "
            "not say it, give --heads or the config.json that came with it"
        )
    if heads is None:
        plan.notes.append(
            f"the number of heads is not in the file and none is usual for width {width}: the "
            "config's is not checked; give --heads"
        )
    elif width % heads:
        raise UserError(f"{heads} attention heads must divide the width {width}; see --heads")
    return heads


def _plan_rope(plan: ConversionPlan, options: Options) -> None:
    """The grid that rotary positions are made for, where the rule has one."""
    rope, key = plan.keys["model.vit.rope"], "model.vit.rope_grid"
    if rope in ("none", "dinov3"):
        if options.rope_grid is not None:
            raise UserError("--rope-grid is of EVA-02 and the Perception Encoder alone")
        return
    grid = options.rope_grid or plan.keys.get(key) or plan.size["position_grid"]
    plan.keys[key] = float(grid)
    if options.rope_grid is None:
        plan.notes.append(
            f"rotary positions are made for a grid of {grid:g}, as in the published files; the "
            "file does not say it, see --rope-grid"
        )


def _depth(reader: TensorReader) -> int:
    indices = {int(match[1]) for name in reader if (match := re.match(r"blocks\.(\d+)\.", name))}
    depth = next(i for i in itertools.count() if i not in indices)
    if depth <= max(indices, default=0):
        raise UserError(f"the file lacks block {depth}; it is incomplete: download it again")
    return depth


def _plan_blocks(
    plan: ConversionPlan,
    reader: TensorReader,
    depth: int,
    width: int,
    heads: int | None,
    activation: str,
    norm: Callable[[str, str, int], State],
) -> None:
    """The blocks' arrays, and the keys on what a block consists of."""
    has_packed_mlp = "blocks.0.mlp.w12.weight" in reader
    first, second = ("mlp.w12", "mlp.w3") if has_packed_mlp else ("mlp.fc1", "mlp.fc2")
    inner = reader.shape(f"blocks.0.{first}.weight", 2)[0]
    hidden = reader.shape(f"blocks.0.{second}.weight", 2)[1]
    activation = "swiglu" if inner == 2 * hidden else activation
    qkv_bias = _qkv_bias(reader)
    vectors = _layer_scales(reader)
    has_bias = f"blocks.0.{second}.bias" in reader
    norms = {"norm1": width, "norm2": width} | {
        name: size
        for name, size in (
            ("attn.q_norm", width // heads if heads else 0),
            ("attn.k_norm", width // heads if heads else 0),
            ("attn.norm", width),
            ("mlp.norm", hidden),
        )
        if f"blocks.0.{name}.weight" in reader
    }
    plan.size["mlp_hidden"] = hidden
    plan.keys |= {
        **_mlp_keys(width, hidden, activation),
        "model.vit.qkv_bias": qkv_bias,
        "model.vit.bias": has_bias,
        "model.vit.layer_scale": bool(vectors),
        "model.vit.activation": activation,
        "model.vit.qk_norm": "attn.q_norm" in norms,
        "model.vit.attention_norm": "attn.norm" in norms,
        "model.vit.mlp_norm": "mlp.norm" in norms,
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
        for part, size in norms.items():
            plan.arrays |= norm(f"{path}.{part}", f"{name}.{part}", size)
        for ours, (theirs, inputs, outputs) in linears.items():
            weight = reader.expect(f"{name}.{theirs}.weight", (outputs, inputs))
            plan.arrays[f"{path}.{ours}.kernel"] = weight.transpose(1, 0)
            if qkv_bias == "qkv" if ours == "attn.qkv" else has_bias:
                bias = reader.expect(f"{name}.{theirs}.bias", (outputs,))
                plan.arrays[f"{path}.{ours}.bias"] = bias
        for ours, theirs in vectors.items():
            plan.arrays[f"{path}.{ours}"] = reader.expect(f"{name}.{theirs}", (width,))
        if f"{name}.residual.conv1.weight" in reader:
            plan.arrays |= _bottleneck(reader, path, name, width)
    conv_blocks = [i for i in range(depth) if f"blocks.{i}.residual.conv1.weight" in reader]
    if conv_blocks:
        plan.keys["model.vit.conv_blocks"] = conv_blocks
        plan.keys["model.vit.conv_kind"] = "bottleneck"


def _bottleneck(reader: TensorReader, path: str, name: str, width: int) -> State:
    """Detectron2's residual block of convolutions behind a block."""
    inner, arrays = width // 2, {}
    shapes = ((inner, width, 1, 1), (inner, inner, 3, 3), (width, inner, 1, 1))
    for i, shape in enumerate(shapes):
        weight = reader.expect(f"{name}.residual.conv{i + 1}.weight", shape)
        arrays[f"{path}.residual.convs.{i}.kernel"] = weight.transpose(2, 3, 1, 0)
        for ours, theirs in (("scale", "weight"), ("bias", "bias")):
            norm = reader.expect(f"{name}.residual.norm{i + 1}.{theirs}", shape[:1])
            arrays[f"{path}.residual.norms.{i}.{ours}"] = norm
    return arrays


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


def _norm(reader: TensorReader, path: str, name: str, width: int, *, is_rms: bool) -> State:
    arrays = {f"{path}.scale": reader.expect(f"{name}.weight", (width,))}
    if not is_rms:
        arrays[f"{path}.bias"] = reader.expect(f"{name}.bias", (width,))
    return arrays


def _mlp_keys(width: int, hidden: int, activation: str) -> dict[str, Any]:
    """The keys that give this hidden width; SwiGLU takes two thirds of a ratio's."""
    if activation != "swiglu":
        return {"model.vit.mlp_ratio": hidden / width}
    for ratio in (4.0, 1.5 * hidden / width):
        if swiglu_hidden(width, ratio) == hidden:
            return {"model.vit.mlp_ratio": ratio}
    return {"model.vit.mlp_hidden": hidden}


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
    has_bias = "patch_embed.proj.bias" in reader
    if has_bias:
        plan.arrays["backbone.patch_embed.bias"] = reader.expect("patch_embed.proj.bias", (width,))
    plan.keys["model.vit.patch_bias"] = has_bias
    if "pos_embed" not in reader:
        plan.notes.append("the file has no absolute position embedding")
        _plan_prefix(plan, reader, width, None, 0)
        return
    embedding = _flat_position(reader, width)
    prefix = [name for name in ("cls_token", *PREFIX) if name in reader]
    grid, extra = _grid(embedding.shape[1], sum(reader.shape(name, 3)[1] for name in prefix))
    _plan_prefix(plan, reader, width, embedding, extra)
    position = _without_first(embedding, extra, grid)
    if new_patch != patch:
        # The grid that an image of the pre-training's size has in the new patches.
        new_grid = round(grid * patch / new_patch)
        position = _resize_position(position, new_grid)
        plan.notes.append(f"position embedding resampled from {grid} to {new_grid} (bicubic)")
        grid = new_grid
    plan.arrays["backbone.pos_embed"] = position
    plan.size["position_grid"] = grid


def _flat_position(reader: TensorReader, width: int) -> Tensor:
    """The embedding as [1, positions, width]; SAM's is a map."""
    if "pos_embed" in reader and reader.axes("pos_embed") == 4:
        _, height, columns, _ = reader.shape("pos_embed", 4)
        embedding = reader.expect("pos_embed", (1, height, columns, width))
        return embedding.reshape(1, height * columns, width)
    _, count, _ = reader.shape("pos_embed", 3)
    return reader.expect("pos_embed", (1, count, width))


PREFIX = ("dist_token", "reg_token", "register_tokens")
"""Tokens between the class token and the patches, in their order."""


def _plan_prefix(
    plan: ConversionPlan, reader: TensorReader, width: int, embedding: Tensor | None, extra: int
) -> None:
    """Class token and registers, each with its position; a config may leave them aside.

    Args:
        extra: rows of the position embedding that come before the patches'.
    """
    has_class = "cls_token" in reader and not any("rel_pos" in path for path in plan.arrays)
    plan.keys |= {"model.vit.class_token": has_class, "model.vit.registers": 0}
    if not has_class and "cls_token" in reader:
        return
    names = [name for name in PREFIX if name in reader]
    tokens = [reader.expect_any(name, 3) for name in names]
    position = None
    if embedding is not None and extra:
        position = embedding.map((extra, width), lambda values: values[0, :extra])
    if has_class:
        plan.size["class_position"] = position is not None
        token = reader.expect("cls_token", (1, 1, width)).reshape(width)
        plan.arrays["backbone.class_token"] = token
        plan.arrays["backbone.class_pos_embed"] = (
            zeros(width) if position is None else position.map((width,), lambda rows: rows[0])
        )
    if tokens:
        count = sum(token.shape[1] for token in tokens)
        registers = concatenate([token.reshape(token.shape[1], width) for token in tokens])
        if position is not None and extra - has_class > 0:
            registers = add_rows(registers, position, int(has_class))
        plan.arrays["backbone.registers"] = registers
        plan.keys["model.vit.registers"] = count


def _grid(positions: int, prefix: int) -> tuple[int, int]:
    """Side of the square grid of an embedding, and how many other tokens come first.

    Args:
        prefix: tokens that the file has beside the patches, with positions or without.
    """
    for extra in (1, 0, 2, 5, prefix):
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


def to_timm(arrays: State, report: Mapping[str, Any]) -> State:
    """The backbone's arrays under jaxdet's paths as tensors under timm's names, as the class that
    `timm_model` names has them.

    Tables of relative positions that timm has no name for keep jaxdet's.

    Args:
        report: that they came with.
    """
    state, keys = {}, vit_keys(report)
    has_class_position = report["vit"].get("class_position", False)
    arrays = _with_patch_bias(arrays, keys["pre_norm"])
    arrays = arrays if has_class_position else merge_class_position(arrays)
    for path, array in arrays.items():
        name = path.removeprefix("backbone.")
        if name in ("class_pos_embed", "class_token", "registers", "pos_embed"):
            continue
        if name == "patch_embed.kernel":
            inputs, width = array.shape
            side = round((inputs / 3) ** 0.5)
            kernel = array.reshape(side, side, 3, width).transpose(3, 2, 0, 1)
            state["patch_embed.proj.weight"] = kernel
            continue
        if name.endswith(".kernel"):
            array = array.transpose(1, 0)
        for pattern, replacement in TO_TIMM:
            name = re.sub(pattern, replacement, name)
        state[name] = array
    state |= _prefix_to_timm(arrays, has_class_position)
    is_of_eva = is_eva(arrays, keys)
    if is_of_eva or any("rel_pos" in path for path in arrays):
        # The scales of BEiT's and of EVA's classes.
        state = {re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", name): state[name] for name in state}
    if is_beit(arrays) and table_grid(arrays) is not None:
        blocks = report.get("recipe", {}).get("model.vit.global_blocks")
        state = _tables_to_timm(state, blocks or quarter_ends(keys["depth"]), keys["depth"])
    has_gate = keys["activation"] == "swiglu"
    if has_gate and (keys["norm"] == "rms" or (is_of_eva and _has_separate_gate(keys))):
        state = _split_gate(state)
    return _split_projections(state) if is_of_eva and keys["mlp_norm"] else state


def _has_separate_gate(keys: Mapping[str, Any]) -> bool:
    """Whether EVA's class has gate and value of such an MLP in two layers."""
    return keys["mlp_norm"] or keys["rope"] == "dinov3"


def _with_patch_bias(arrays: State, has_pre_norm: bool) -> State:
    """The patches' bias as timm's classes have it: none before a norm (CLIP), else always one.

    What there is is added to the positions; what there is not is zero.
    """
    bias, position = "backbone.patch_embed.bias", arrays.get("backbone.pos_embed")
    if not has_pre_norm and bias not in arrays:
        return {**arrays, bias: zeros(arrays["backbone.patch_embed.kernel"].shape[1])}
    if has_pre_norm and bias in arrays and position is not None:
        others = {path: array for path, array in arrays.items() if path != bias}
        return {**others, "backbone.pos_embed": add(position, arrays[bias])}
    return arrays


def merge_class_position(arrays: State) -> State:
    """Arrays without a class token's position, which becomes part of the token, as in a class that
    has none for it.
    """
    token, position = "backbone.class_token", "backbone.class_pos_embed"
    if position not in arrays or token not in arrays:
        return arrays
    merged = {**arrays, token: add(arrays[token], arrays[position])}
    return {path: array for path, array in merged.items() if path != position}


def _tables_to_timm(state: State, global_blocks: Collection[int], depth: int) -> State:
    """One table a block, and zeros for the class token and its positions, which BEiT's class has
    and detectors do without.
    """
    state = dict(state)
    tables = {kind: state.pop(f"rel_pos_{kind}.table", None) for kind in ("window", "global")}
    for i in range(depth):
        table = tables["global" if i in global_blocks else "window"] or tables["global"]
        rows = zeros(CLASS_TOKEN_ROWS, table.shape[1])
        state[BLOCK_TABLE.format(i)] = concatenate([table, rows])
    width = state["patch_embed.proj.weight"].shape[0]
    state["cls_token"] = zeros(1, 1, width)
    if "pos_embed" in state:
        rows = state["pos_embed"].reshape(-1, width)
        state["pos_embed"] = concatenate([zeros(1, width), rows]).reshape(1, -1, width)
    return state


def _prefix_to_timm(arrays: State, has_class_position: bool) -> State:
    """Class token, registers, and positions with the class token's in front where it has one."""
    state = {}
    token, registers, position = (
        arrays.get(f"backbone.{name}") for name in ("class_token", "registers", "pos_embed")
    )
    if token is not None:
        state["cls_token"] = token.reshape(1, 1, token.size)
    if registers is not None:
        state["reg_token"] = registers.reshape(1, *registers.shape)
    if position is not None:
        height, columns, width = position.shape
        rows = position.reshape(height * columns, width)
        if has_class_position and token is not None:
            first = [arrays["backbone.class_pos_embed"].reshape(1, width)]
            # A register's position is part of it.
            first += [] if registers is None else [zeros(registers.shape[0], width)]
            rows = concatenate([*first, rows])
        state["pos_embed"] = rows.reshape(1, *rows.shape)
    return state


def _split_gate(state: State) -> State:
    """The inner layer of a gated MLP as the two of EVA-02's and AIMv2's classes."""
    return _split(state, r"\.mlp\.fc1\.", (".mlp.fc1_g.", ".mlp.fc1_x."))


def _split_projections(state: State) -> State:
    """Query, key and value apart, as in EVA-02's larger classes."""
    state = _split(state, r"\.attn\.qkv\.", tuple(f".attn.{part}_proj." for part in "qkv"))
    return {
        re.sub(r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias", name): state[name] for name in state
    }


def _split(state: State, pattern: str, parts: Sequence[str]) -> State:
    """Tensors whose names have the pattern cut along their first axis into equal parts."""
    result = {}
    for name, tensor in state.items():
        if not re.search(pattern, name):
            result[name] = tensor
            continue
        size = tensor.shape[0] // len(parts)
        for i, part in enumerate(parts):
            result[re.sub(pattern, part, name)] = tensor.rows(i * size, (i + 1) * size)
    return result


TO_TIMM = (
    (r"^patch_embed\.bias$", "patch_embed.proj.bias"),
    (r"^patch_norm\.", "patch_embed.norm."),
    (r"\.(kernel|scale)$", ".weight"),
    (r"\.gamma([12])$", r".ls\1.gamma"),
    (r"\.rel_pos\.height$", ".rel_pos_h"),
    (r"\.rel_pos\.width$", ".rel_pos_w"),
)
